"""The ids of requests that responders hold: where the answer goes, readable by every hub and by nobody else.

`<sealed key>~<what it says>~<mark>`, see `marking_keys`; the mark is BLAKE2b with a key (RFC 7693, 2.9).
"""

import hmac
from dataclasses import dataclass
from hashlib import blake2b

from meshway.gateway.marking_keys import MarkingKeys
from meshway.gateway.ports import SecretBox
from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.messaging.names import ChannelKind, ChannelName

__all__ = ["ReplyTicket", "ReplyTickets"]

_CONTEXT = "reply"
_KINDS = (ChannelKind.COMMANDS, ChannelKind.QUERIES)
# A guess is right with 2**-128.
_MARK_BYTES = 16
# Ours are about 200 characters; a longer one is not worth a look.
_TICKET_CHARACTERS_MAX = 2_048


@dataclass(frozen=True, slots=True)
class ReplyTicket:
    """What a request id says. `deadline_ms`: epoch, by the clock of the hub that handed the request out."""

    reply_to: str
    deadline_ms: int
    channel: ChannelName


class ReplyTickets:
    """One per hub."""

    def __init__(self, secret_box: SecretBox) -> None:
        self._keys = MarkingKeys(secret_box, context=_CONTEXT)

    def write(self, kind: ChannelKind, ticket: ReplyTicket) -> str:
        """An id that only `read` of a hub with the same secret key understands."""
        sealed_key, key = self._keys.own()
        said = f"{ticket.deadline_ms} {ticket.reply_to} {ticket.channel}".encode().hex()
        return f"{sealed_key}~{said}~{_mark(key, kind, said)}"

    def read(self, kind: ChannelKind | None, text: str) -> ReplyTicket:
        """None is any kind. Raises: InvalidRequest naming `request_id` when it is no id of a request of this kind."""
        parts = text.split("~")
        if len(parts) != 3 or len(text) > _TICKET_CHARACTERS_MAX or not text.isascii():
            raise _unknown()
        sealed_key, said, mark = parts
        key = self._keys.open(sealed_key)
        if key is None:
            raise _unknown()
        kinds = _KINDS if kind is None else (kind,)
        if not any(hmac.compare_digest(mark, _mark(key, each, said)) for each in kinds):
            raise _unknown()
        deadline, reply_to, channel = bytes.fromhex(said).decode().split(" ")
        return ReplyTicket(reply_to, int(deadline), ChannelName(channel))


def _mark(key: bytes, kind: ChannelKind, said: str) -> str:
    return blake2b(f"{kind.value} {said}".encode(), key=key, digest_size=_MARK_BYTES).hexdigest()


def _unknown() -> InvalidRequest:
    message = "is no id of a request of this kind; send back the request_id that the request came with, unchanged"
    return InvalidRequest(f"request_id: {message}", fields=[FieldError("request_id", message)])
