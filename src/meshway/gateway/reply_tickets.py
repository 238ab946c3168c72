"""The ids of requests that responders hold: where the answer goes, readable by every hub and by nobody else.

`<sealed key>~<what it says>~<mark>`. Each hub makes a random key when it starts, seals it once under the mesh's secret
key, and marks its ids with it (BLAKE2b with a key, RFC 7693, 2.9). Sealing every id would cost more, and would use up
the number of seals that are safe under one key within weeks (NIST SP 800-38D, 8.3), a key that also protects stored
credentials.
"""

import base64
import binascii
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from hashlib import blake2b

from meshway.gateway.ports import SecretBox
from meshway.kernel.errors import FieldError, InvalidRequest, StoreCorrupt
from meshway.messaging.names import ChannelKind, ChannelName

__all__ = ["ReplyTicket", "ReplyTickets"]

_CONTEXT = "reply"
_KINDS = (ChannelKind.COMMANDS, ChannelKind.QUERIES)
# A guess is right with 2**-128.
_MARK_BYTES = 16
_KEY_BYTES = 32
# Hubs of a mesh, those of before a restart included; each key is 32 bytes.
_KEYS_MAX = 256
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
        self._secret_box = secret_box
        self._key = secrets.token_bytes(_KEY_BYTES)
        self._sealed_key: str | None = None
        self._keys: OrderedDict[str, bytes] = OrderedDict()

    def write(self, kind: ChannelKind, ticket: ReplyTicket) -> str:
        """An id that only `read` of a hub with the same secret key understands."""
        if self._sealed_key is None:
            self._sealed_key = self._secret_box.seal(base64.b64encode(self._key).decode(), context=_CONTEXT)
            self._keys[self._sealed_key] = self._key
        said = f"{ticket.deadline_ms} {ticket.reply_to} {ticket.channel}".encode().hex()
        return f"{self._sealed_key}~{said}~{_mark(self._key, kind, said)}"

    def read(self, kind: ChannelKind | None, text: str) -> ReplyTicket:
        """None is any kind. Raises: InvalidRequest naming `request_id` when it is no id of a request of this kind."""
        parts = text.split("~")
        if len(parts) != 3 or len(text) > _TICKET_CHARACTERS_MAX or not text.isascii():
            raise _unknown()
        sealed_key, said, mark = parts
        key = self._key_of(sealed_key)
        kinds = _KINDS if kind is None else (kind,)
        if not any(hmac.compare_digest(mark, _mark(key, each, said)) for each in kinds):
            raise _unknown()
        deadline, reply_to, channel = bytes.fromhex(said).decode().split(" ")
        return ReplyTicket(reply_to, int(deadline), ChannelName(channel))

    def _key_of(self, sealed_key: str) -> bytes:
        known = self._keys.get(sealed_key)
        if known is not None:
            return known
        try:
            key = base64.b64decode(self._secret_box.open(sealed_key, context=_CONTEXT), validate=True)
        except (StoreCorrupt, binascii.Error):
            raise _unknown() from None
        if len(self._keys) >= _KEYS_MAX:
            self._keys.popitem(last=False)
        self._keys[sealed_key] = key
        return key


def _mark(key: bytes, kind: ChannelKind, said: str) -> str:
    return blake2b(f"{kind.value} {said}".encode(), key=key, digest_size=_MARK_BYTES).hexdigest()


def _unknown() -> InvalidRequest:
    message = "is no id of a request of this kind; send back the request_id that the request came with, unchanged"
    return InvalidRequest(f"request_id: {message}", fields=[FieldError("request_id", message)])
