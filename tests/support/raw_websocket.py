"""A WebSocket client on bare sockets: it says what a test wants said, rules broken included, and shows what came."""

import asyncio
import os
import struct
from dataclasses import dataclass

__all__ = ["CLOSE", "CONT", "HANDSHAKE", "PING", "PONG", "TEXT", "RawWebSocket", "frame", "handshake", "read_head"]

CONT, TEXT, CLOSE, PING, PONG = 0, 1, 8, 9, 10
_PATIENCE_S = 5.0
HANDSHAKE = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}


def handshake(path: str = "/v1/ws", *, method: str = "GET", version: str = "1.1", **changes: str | None) -> bytes:
    """The head; `changes` replace headers (`Sec_WebSocket_Key=...`), None leaves one out."""
    headers: dict[str, str | None] = {**HANDSHAKE}
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value is not None)
    return f"{method} {path} HTTP/{version}\r\n{lines}\r\n".encode()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    async with asyncio.timeout(_PATIENCE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}


@dataclass
class RawWebSocket:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int, head: bytes | None = None) -> "RawWebSocket":
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head or handshake())
        status, _ = await read_head(reader)
        assert status == 101
        return cls(reader, writer)

    def send(self, payload: bytes, *, opcode: int = TEXT, fin: bool = True, masked: bool = True) -> None:
        self.writer.write(frame(payload, opcode=opcode, fin=fin, masked=masked))

    async def receive(self) -> tuple[int, bytes]:
        """Opcode and payload of the next frame."""
        async with asyncio.timeout(_PATIENCE_S):
            first, second = await self.reader.readexactly(2)
            assert not second & 0x80, "a server never masks"
            length = second
            if length == 126:
                (length,) = struct.unpack("!H", await self.reader.readexactly(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
            return first & 0x0F, await self.reader.readexactly(length)

    async def closed(self) -> int:
        """The code of the close frame that comes next, after which the server has closed."""
        opcode, payload = await self.receive()
        while opcode in (TEXT, PING, PONG):
            opcode, payload = await self.receive()
        assert opcode == CLOSE
        return struct.unpack("!H", payload[:2])[0]

    async def ended(self) -> bool:
        """Whether the server closes the transport, without a word or after its close frame."""
        async with asyncio.timeout(_PATIENCE_S):
            try:
                while await self.reader.read(65_536):
                    pass
            except ConnectionResetError:
                return True
            return True

    def abort(self) -> None:
        self.writer.transport.abort()


def frame(payload: bytes, *, opcode: int = TEXT, fin: bool = True, masked: bool = True) -> bytes:
    head = bytes([(0x80 if fin else 0) | opcode])
    mark = 0x80 if masked else 0
    length = len(payload)
    if length < 126:
        head += bytes([mark | length])
    elif length < 65_536:
        head += bytes([mark | 126]) + struct.pack("!H", length)
    else:
        head += bytes([mark | 127]) + struct.pack("!Q", length)
    if not masked:
        return head + payload
    # Nothing is changed by masking with zeros, and megabytes would take Python seconds.
    mask = os.urandom(4) if length < 65_536 else bytes(4)
    masking = (mask * (length // 4 + 1))[:length]
    changed = int.from_bytes(payload, "big") ^ int.from_bytes(masking, "big")
    return head + mask + changed.to_bytes(length, "big")
