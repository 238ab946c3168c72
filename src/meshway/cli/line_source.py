"""Lines of a file or pipe, read ahead in a thread of their own within bounds, so that a slow source delays nobody."""

import asyncio
import io
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["Line", "LineSource", "LineTooLong"]

_BLOCK_BYTES = 262_144
# Read ahead of the sender: enough that the disk never waits for the network, whatever the size of the file.
_AHEAD_BYTES_MAX = 4 * 1024 * 1024
# Four thirds of the largest data a hub can be told to take inline, as base64, and room for the rest of a message.
LINE_BYTES_MAX = 96 * 1024 * 1024


class LineTooLong(Exception):
    """A line beyond what any message takes: perhaps not a file of lines at all."""

    def __init__(self, number: int) -> None:
        super().__init__(f"line {number} is longer than {LINE_BYTES_MAX} bytes")
        self.number = number


@dataclass(frozen=True, slots=True)
class Line:
    """One line that is not empty, without its end; `number` counts all lines from 1, `end` the bytes up to its end."""

    number: int
    content: bytes
    end: int


class LineSource:
    """Reads `stream` to its end; empty lines are counted and left out.

    The thread is a daemon: a terminal or pipe that says nothing more must not keep an interrupted program alive.
    """

    def __init__(self, stream: BinaryIO, *, skip: int = 0) -> None:
        """`skip` leaves out so many lines at the beginning."""
        self._stream = stream
        self._skip = skip
        self._number = 0
        self._bytes = 0
        self._unfinished: list[bytes] = []
        self._unfinished_bytes = 0
        self._state = threading.Condition()
        self._ready: list[Line] = []
        self._ready_bytes = 0
        self._is_over = False
        self._error: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._arrived: asyncio.Event | None = None

    def start(self) -> None:
        """Begin to read; from the event loop that takes the lines."""
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        threading.Thread(target=self._read_all, name="meshway-lines", daemon=True).start()

    async def take(self, *, count_max: int, bytes_max: int) -> Sequence[Line]:
        """At least one line, then those that were read already, up to the bounds; empty at the end.

        Raises: LineTooLong, OSError.
        """
        if self._arrived is None:
            raise RuntimeError("start the source first")
        while True:
            await self._arrived.wait()
            with self._state:
                taken = self._cut(count_max, bytes_max)
                if not self._ready and not self._is_over:
                    self._arrived.clear()
                self._state.notify()
            if taken:
                return taken
            if self._is_over:
                if self._error is not None:
                    raise self._error
                return ()

    def _cut(self, count_max: int, bytes_max: int) -> list[Line]:
        size = count = 0
        for line in self._ready[:count_max]:
            if count and size + len(line.content) > bytes_max:
                break
            size += len(line.content)
            count += 1
        taken, self._ready = self._ready[:count], self._ready[count:]
        self._ready_bytes -= size
        return taken

    def _read_all(self) -> None:
        read = _raw_read(self._stream)
        try:
            while block := read(_BLOCK_BYTES):
                self._hand_on(self._lines_of(block))
            self._hand_on(self._last_line())
        except (OSError, ValueError, LineTooLong) as error:
            # ValueError: the stream was closed under the read, by a program that ends.
            self._error = error
        with self._state:
            self._is_over = True
        self._wake()

    def _lines_of(self, block: bytes) -> list[Line]:
        *whole, rest = block.split(b"\n")
        lines: list[Line] = []
        for content in whole:
            if self._unfinished:
                content = b"".join((*self._unfinished, content))
                self._unfinished, self._unfinished_bytes = [], 0
            self._number += 1
            self._bytes += len(content) + 1
            self._keep(content, lines)
        if rest:
            self._unfinished.append(rest)
            self._unfinished_bytes += len(rest)
            if self._unfinished_bytes > LINE_BYTES_MAX:
                raise LineTooLong(self._number + 1)
        return lines

    def _last_line(self) -> list[Line]:
        lines: list[Line] = []
        if self._unfinished:
            content = b"".join(self._unfinished)
            self._number += 1
            self._bytes += len(content)
            self._keep(content, lines)
        return lines

    def _keep(self, content: bytes, lines: list[Line]) -> None:
        if self._number > self._skip and (content := content.removesuffix(b"\r")) and not content.isspace():
            lines.append(Line(self._number, content, self._bytes))

    def _hand_on(self, lines: list[Line]) -> None:
        if not lines:
            return
        with self._state:
            self._state.wait_for(lambda: self._ready_bytes < _AHEAD_BYTES_MAX)
            self._ready += lines
            self._ready_bytes += sum(len(line.content) for line in lines)
        self._wake()

    def _wake(self) -> None:
        loop, arrived = self._loop, self._arrived
        if loop is None or arrived is None:
            return
        try:
            loop.call_soon_threadsafe(arrived.set)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            return


def _raw_read(stream: BinaryIO) -> Callable[[int], bytes]:
    """One read of the system at a time: what a pipe has is handed on at once, not when a block is full.

    Below the buffer where there is one: a thread that waits inside it holds its lock, over which Python aborts when it
    closes standard input at the end of the process.
    """
    source = stream.raw if isinstance(stream, io.BufferedReader) else stream
    read: Callable[[int], bytes] = getattr(source, "read1", source.read)
    return read
