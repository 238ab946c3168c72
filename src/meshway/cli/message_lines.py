"""Messages on standard output, one a line, each out before the next is asked for."""

import sys

import msgspec

from meshway.cli.printable import printable
from meshway.client import ChannelMessage, MeshwayClient

__all__ = ["MessageLines"]


class MessageLines:
    """Whole messages as JSON, or with `data_only` their data: JSON as it was sent, strings and bytes bare."""

    def __init__(self, *, data_only: bool = False) -> None:
        self._data_only = data_only
        self._is_terminal = sys.stdout.isatty()
        self._out = sys.stdout.buffer

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


def _data_line(message: ChannelMessage) -> bytes:
    content = message.bytes
    if content[:1] != b'"' or message.data_base64 is not None:
        return content
    text = msgspec.json.decode(content)
    return text.encode() if isinstance(text, str) else content
