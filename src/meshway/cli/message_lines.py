"""Messages on standard output, one a line, each out before the next is asked for."""

import os
import stat
import sys
import time
from types import TracebackType
from typing import BinaryIO

import msgspec
from rich.progress import Progress, SpinnerColumn, TextColumn

from meshway.cli.output import console
from meshway.cli.printable import printable
from meshway.client import ChannelMessage, MeshwayClient

__all__ = ["MessageLines"]


# The count on the terminal is renewed at most this often; each message would cost more than it shows.
_SHOW_EVERY_S = 0.1


class MessageLines:
    """Whole messages as JSON, or with `data_only` their data: JSON as it was sent, strings and bytes bare.

    As a context it counts on standard error, where that is a terminal and the messages go into a file.
    """

    def __init__(self, *, data_only: bool = False) -> None:
        self._data_only = data_only
        self._is_terminal = sys.stdout.isatty()
        self._out = sys.stdout.buffer
        self._count = 0
        self._shown_s = self._started_s = time.monotonic()
        self._progress: Progress | None = None
        if sys.stderr.isatty() and _is_file(sys.stdout.buffer):
            columns = (SpinnerColumn(), TextColumn("{task.fields[count]:,} messages  {task.fields[rate]:,.0f}/s"))
            self._progress = Progress(*columns, console=console(stderr=True), transient=True)
            self._row = self._progress.add_task("receive", total=None, count=0, rate=0.0)

    def __enter__(self) -> "MessageLines":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    async def write(self, client: MeshwayClient, message: ChannelMessage) -> None:
        """Flushed when this returns; data in the blob store is fetched where it is what is printed.

        Raises: BrokenPipeError when the reader has gone, ClientError.
        """
        self.write_line(_data_line(await client.fetch(message)) if self._data_only else message.document)

    def write_line(self, line: bytes) -> None:
        """As `write`, of anything on one line."""
        if self._is_terminal:
            # What somebody else wrote must not steer the terminal it is shown on.
            line = printable(line.decode("utf-8", "replace")).encode()
        self._out.write(line + b"\n")
        self._out.flush()
        self._count += 1
        if self._progress is not None and (now_s := time.monotonic()) - self._shown_s > _SHOW_EVERY_S:
            self._shown_s = now_s
            self._progress.update(self._row, count=self._count, rate=self._count / (now_s - self._started_s))


def _is_file(stream: BinaryIO) -> bool:
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError):
        return False


def _data_line(message: ChannelMessage) -> bytes:
    content = message.bytes
    if content[:1] != b'"' or message.data_base64 is not None:
        return content
    text = msgspec.json.decode(content)
    return text.encode() if isinstance(text, str) else content
