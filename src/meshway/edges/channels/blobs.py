"""Blobs over HTTP: fetched by the hash of their content, which therefore never changes."""

from meshway.edges.channels.call import Call
from meshway.edges.http.exchange import Exchange
from meshway.gateway.channel_use_cases import ChannelUseCases
from meshway.kernel.principal import Principal

__all__ = ["BlobReads"]

# Whoever stored it chose the bytes: no browser shall take them for a page of this hub.
_HEADERS = (
    (b"cache-control", b"private, max-age=31536000, immutable"),
    (b"x-content-type-options", b"nosniff"),
    (b"content-disposition", b"attachment"),
)


class BlobReads:
    """Streamed as the client reads. Storing is a call of the control plane, which streams what comes in."""

    def __init__(self, use_cases: ChannelUseCases) -> None:
        self._fetch = use_cases.fetch_blob

    async def fetch(self, exchange: Exchange, call: Call, principal: Principal) -> int:
        async with self._fetch.open(principal, call.name) as blob:
            etag = b'"%b"' % blob.ref.sha256.encode()
            if call.head.headers.get(b"if-none-match") == etag:
                exchange.respond(304, b"", b"", (*_HEADERS, (b"etag", etag)))
                return 304
            headers = (*_HEADERS, (b"etag", etag))
            exchange.start_stream(200, b"application/octet-stream", headers, content_length=blob.ref.size)
            missing = blob.ref.size
            async for chunk in blob.chunks:
                missing -= len(chunk)
                exchange.send(chunk)
                if exchange.must_drain:
                    await exchange.drain()
        if missing:
            # The client counts too, and must not take the next answer for the rest of this one.
            exchange.abort()
        else:
            exchange.end()
        return 200
