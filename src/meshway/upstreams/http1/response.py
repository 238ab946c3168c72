"""One answer: its head, and its body as it arrives. The connection fills it, one caller reads it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from meshway.kernel.errors import MeshwayError, UpstreamBroken, UpstreamInvalid

__all__ = ["BodySource", "Http1Response"]


class BodySource(Protocol):
    """The connection, as the reader of a body sees it."""

    def collect(self) -> None:
        """The whole body is wanted now: nothing is held back, and the call's deadline counts again."""

    def resume(self) -> None:
        """The reader has taken everything there was; send on."""

    def abandon(self) -> None:
        """Nobody wants the rest: close."""


class Http1Response:
    """Status and headers are complete; `complete` says whether the body has arrived too.

    Read it with `read()` or iterate `chunks()`, or `close()` it: until then, or until its end, it holds a connection.
    One reader at a time. Errors of the body are raised to the reader, after what arrived before them.
    """

    __slots__ = (
        "_body_bytes_max",
        "_failure",
        "_headers",
        "_loop",
        "_source",
        "_waiter",
        "buffered_bytes",
        "complete",
        "parts",
        "status",
    )

    def __init__(
        self,
        status: int,
        headers: list[tuple[bytes, bytes]],
        source: BodySource,
        loop: asyncio.AbstractEventLoop,
        body_bytes_max: int,
    ) -> None:
        self.status = status
        # As sent: most callers look at one or two, so they are only tidied up when asked for.
        self._headers = headers
        self.complete = False
        # What arrived and was not read yet; the connection appends, the reader takes.
        self.parts: list[bytes] = []
        self.buffered_bytes = 0
        # Until the end of the body: afterwards the connection belongs to somebody else.
        self._source: BodySource | None = source
        self._loop = loop
        self._body_bytes_max = body_bytes_max
        self._failure: MeshwayError | None = None
        self._waiter: asyncio.Future[None] | None = None

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case, values without surrounding blanks, in the order sent, repeated ones too."""
        # llhttp has taken the blanks before the value, not those behind it; it lets no control character but tab pass.
        return [(name.lower(), value.rstrip()) for name, value in self._headers]

    def header(self, name: bytes) -> bytes | None:
        """The first value of a header; `name` in lower case."""
        length = len(name)
        for each, value in self._headers:
            if len(each) == length and each.lower() == name:
                return value.rstrip()
        return None

    async def read(self) -> bytes:
        """The whole body; without suspending when it has already arrived. Reading again gives the same bytes.

        Cancelling it closes the connection.
        Raises: UpstreamInvalid (above `body_bytes_max`, or broken rules), UpstreamBroken, DeadlineExceeded.
        """
        if not self.complete:
            await self._collect()
        if self.buffered_bytes > self._body_bytes_max:
            raise self._too_large()
        if len(self.parts) != 1:
            self.parts = [b"".join(self.parts)]
        return self.parts[0]

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body piece by piece, each as soon as it is here; what arrived together comes together.

        While the reader is busy at most `unread_bytes_max` and one socket read are kept, then the other side must wait.
        Stopping early closes the connection: at once with `close()` or `aclose()` of the iterator.
        Raises: UpstreamInvalid, UpstreamBroken.
        """
        try:
            while True:
                if self.parts:
                    parts, self.parts, self.buffered_bytes = self.parts, [], 0
                    yield parts[0] if len(parts) == 1 else b"".join(parts)
                elif self.complete:
                    return
                else:
                    await self._more()
        finally:
            self.close()

    def close(self) -> None:
        """Give the rest up: the connection is closed now and never used again. After the end of the body: nothing."""
        source = self._source
        if source is not None:
            source.abandon()

    # --- called by the connection ---

    def wake(self) -> None:
        """Something changed that the reader waits for."""
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def finish(self) -> None:
        """The body is complete."""
        self.complete = True
        self._source = None
        if self._waiter is not None:
            self.wake()

    def fail(self, failure: MeshwayError) -> None:
        """There will be no more; the reader gets `failure` after what is buffered."""
        self._failure = failure
        self._source = None
        self.wake()

    async def _collect(self) -> None:
        try:
            if self._announced_bytes() > self._body_bytes_max:
                raise self._too_large()
            if self._source is not None:
                self._source.collect()
            while not self.complete:
                if self.buffered_bytes > self._body_bytes_max:
                    raise self._too_large()
                await self._more()
        finally:
            self.close()

    async def _more(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._waiter is not None:
            raise RuntimeError("an answer has one reader at a time")
        if self._source is None:
            raise UpstreamBroken("The answer was closed before it was read.", may_have_acted=True)
        self._source.resume()
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _announced_bytes(self) -> int:
        length = self.header(b"content-length")
        return int(length) if length is not None else 0

    def _too_large(self) -> UpstreamInvalid:
        return UpstreamInvalid(
            f"The answer is larger than {self._body_bytes_max} bytes; raise body_bytes_max or let the agent stream it.",
            may_have_acted=True,
        )
