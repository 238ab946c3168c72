"""What is checked about a post as a whole, and about members that belong to another kind of channel."""

from collections.abc import Sequence

from meshway.kernel.errors import wrong_field
from meshway.messaging.incoming import IncomingMessage

__all__ = ["check_batch", "refuse_queue_members"]

_QUEUE_MEMBERS = ("delay_ms", "deliver_at", "expires_in_ms", "priority", "dedupe_id", "ordering_key")


def check_batch(messages: Sequence[IncomingMessage], *, batch_max: int) -> None:
    """A post carries 1 to `batch_max` messages. Raises: InvalidRequest naming `messages`."""
    if not 0 < len(messages) <= batch_max:
        wrong = "is empty" if not messages else f"has {len(messages)} messages"
        raise wrong_field("messages", f"{wrong}; send 1 to {batch_max} in one post")


def refuse_queue_members(messages: Sequence[IncomingMessage]) -> None:
    """For the kinds that hand out at once. Raises: InvalidRequest naming the member (`messages.3.delay_ms`)."""
    for number, message in enumerate(messages):
        if not (
            message.delay_ms is None
            and message.deliver_at is None
            and message.expires_in_ms is None
            and message.priority is None
            and message.dedupe_id is None
            and message.ordering_key is None
        ):
            name = next(name for name in _QUEUE_MEMBERS if getattr(message, name) is not None)
            raise wrong_field(f"messages.{number}.{name}", "is for queues only; leave it out")
