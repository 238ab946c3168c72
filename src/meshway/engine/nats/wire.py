"""What a NATS server sends, read faster than the client library reads it: messages go straight to who listens.

    MSG <subject> <sid> [reply] <bytes>\\r\\n<data>\\r\\n
    HMSG <subject> <sid> [reply] <header bytes> <bytes>\\r\\n<headers><data>\\r\\n

Every other line is left to the library. Headers are taken apart when somebody looks at them.
"""

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from nats.errors import ProtocolError
from nats.protocol.parser import Parser

if TYPE_CHECKING:
    from meshway.engine.nats.client import NatsClient

__all__ = ["Incoming", "IncomingParser", "headers_of"]

_log = logging.getLogger(__name__)

_LINE_END = b"\r\n"
# A server refuses a longer line, and so do we what has none.
_LINE_BYTES_MAX = 65_536
_VERSION = "NATS/1.0"


class Incoming:
    """A message. `reply` is empty where nobody waits for an answer."""

    __slots__ = ("_headers", "_raw", "data", "reply", "subject")

    def __init__(self, subject: str, reply: str, raw: bytes, data: bytes) -> None:
        """`raw`: the header block, empty where there is none."""
        self.subject = subject
        self.reply = reply
        self.data = data
        self._raw = raw
        self._headers: Mapping[str, str] | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """Empty where there are none; a status of the server is `Status`, with `Description` where it says why."""
        if self._headers is None:
            self._headers = headers_of(self._raw)
        return self._headers


def headers_of(block: bytes) -> dict[str, str]:
    """Of a `NATS/1.0` header block."""
    first, *lines = block.decode("utf-8", "replace").rstrip("\r\n").split("\r\n")
    try:
        # As servers and hubs write them.
        headers = dict([line.split(": ", 1) for line in lines])
    except ValueError:
        pairs = [line.partition(":") for line in lines if line]
        headers = {name.strip(): value.strip() for name, _, value in pairs}
    if len(first) > len(_VERSION):
        status, _, description = first[len(_VERSION) :].strip().partition(" ")
        if status:
            headers["Status"] = status
        if description:
            headers["Description"] = description
    return headers


class IncomingParser(Parser):
    """The library's, but for messages.

    `direct`: who is called for each message of a subscription, by its number in ASCII; the messages of all others are
    given to the library.
    """

    def __init__(self, client: "NatsClient") -> None:
        self.direct: dict[bytes, Callable[[Incoming], None]] = {}
        self._client = client
        self._connections = 0
        super().__init__(client)

    def reset(self) -> None:
        """For a new connection."""
        super().reset()
        self._connections += 1
        # What is there of a line, or message, that is not there as a whole, and with how many bytes it can be.
        self._parts: list[bytes] = []
        self._length = 0
        self._needed = 0

    async def parse(self, data: bytes = b"") -> None:
        """Raises: ProtocolError."""
        if not self._client.is_connected:
            # Of a connection that was given up while this was on its way.
            return
        self._parts.append(data)
        self._length += len(data)
        if self._length < self._needed:
            return
        text = data if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self._length, self._needed = [], 0, 0
        connection = self._connections
        begin = await self._read_all(text, connection)
        if begin < len(text) and connection == self._connections:
            self._parts, self._length = [text[begin:]], len(text) - begin
            self._needed -= begin

    async def _read_all(self, text: bytes, connection: int) -> int:
        """Read what is whole, as long as the connection is the same; where the rest begins."""
        begin, length = 0, len(text)
        while begin < length and connection == self._connections:
            end = text.find(_LINE_END, begin)
            if end < 0:
                if length - begin > _LINE_BYTES_MAX:
                    raise ProtocolError("nats: a line without an end")
                break
            data_from = end + 2
            words = text[begin:end].split(b" ")
            has_headers = words[:1] == [b"HMSG"]
            if not has_headers and words[:1] != [b"MSG"]:
                await super().parse(text[begin:data_from])
                begin = data_from
                continue
            data_to = data_from + int(words[-1])
            if data_to + 2 > length:
                self._needed = data_to + 2
                break
            begin, headers_to = data_to + 2, data_from + (int(words[-2]) if has_headers else 0)
            subject, number = words[1], words[2]
            reply = words[3] if len(words) > (5 if has_headers else 4) else b""
            headers, data = text[data_from:headers_to], text[headers_to:data_to]
            heard = self.direct.get(number)
            if heard is None:
                await self._client._process_msg(int(number), subject, reply, data, headers)
                continue
            try:
                heard(Incoming(subject.decode(), reply.decode(), headers, data))
            except Exception as error:  # noqa: BLE001  the boundary of one message: it must not end the reading of others
                _log.error("nats_message_not_taken", extra={"subject": repr(subject)}, exc_info=error)
        return begin
