"""What a client says when it sends a message, whatever version and binding it speaks."""

import msgspec

__all__ = ["SendTerms"]


class SendTerms(msgspec.Struct, frozen=True, kw_only=True):
    """`message` is A2A 1.0 JSON with every unknown field kept; `push_config` likewise, without a task id.

    `blocking`: the answer is wanted at the end of the turn. `history_length` None: all of it.
    """

    message: bytes
    message_id: str
    task_id: str | None = None
    context_id: str | None = None
    blocking: bool = True
    history_length: int | None = None
    push_config: bytes | None = None
    extensions: str | None = None
    metadata: bytes | None = None
