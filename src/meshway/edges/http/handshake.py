"""The opening handshake of WebSocket (RFC 6455, 4.2), checked by `websockets`. Pure: a head in, an answer out."""

from collections.abc import Sequence
from dataclasses import dataclass

from websockets.datastructures import Headers
from websockets.http11 import Request
from websockets.server import ServerProtocol

from meshway.kernel.errors import InvalidRequest, MeshwayError

__all__ = ["HandshakeRefusal", "answer_handshake"]


@dataclass(frozen=True, slots=True)
class HandshakeRefusal:
    """An ordinary answer instead; `lines` are further header lines, each ended by CRLF."""

    status: int
    error: MeshwayError | str
    lines: bytes = b""


def answer_handshake(
    method: bytes, target: bytes, version: str, lines: Sequence[tuple[bytes, bytes]]
) -> bytes | HandshakeRefusal:
    """The head of the 101, or why there is none. `lines` have lower-case names and trimmed values, repeats included."""
    headers = Headers()
    for name, value in lines:
        text = value.decode("latin-1")
        if name == b"transfer-encoding" or (name == b"content-length" and text != "0"):
            # What follows the head would be a body to one reader and frames to another.
            return HandshakeRefusal(400, InvalidRequest("A WebSocket handshake has no body; send none."))
        headers[name.decode("latin-1")] = text
    request = Request(target.decode("latin-1"), headers, method.decode("latin-1"), f"HTTP/{version}")
    # No extensions: permessage-deflate costs some 300 KB a connection and the CPU of the one process.
    protocol = ServerProtocol()
    response = protocol.accept(request)
    if response.status_code == 101:
        accept = response.headers["Sec-WebSocket-Accept"].encode("ascii")
        return (
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
            b"sec-websocket-accept: %b\r\n\r\n" % accept
        )
    text = f"This path speaks WebSocket, version 13: {protocol.handshake_exc}."
    extra = b"".join(
        b"%b: %b\r\n" % (name.lower().encode(), value.encode())
        for name, value in response.headers.raw_items()
        if name in {"Allow", "Upgrade"}
    )
    if response.status_code == 400:
        # RFC 6455, 4.2.2: a version we do not speak is answered with the one we do.
        return HandshakeRefusal(400, InvalidRequest(text), extra + b"sec-websocket-version: 13\r\n")
    return HandshakeRefusal(response.status_code, text, extra)
