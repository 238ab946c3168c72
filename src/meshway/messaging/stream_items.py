"""Messages of streams as their readers get them."""

from collections.abc import Sequence

import msgspec

from meshway.engine.ports import LogEntry
from meshway.messaging.document import with_sequence
from meshway.messaging.stream_start import channel_cursor, pattern_cursor

__all__ = ["ItemMaker", "StreamItem", "StreamPage"]

# Readers of one stream are near its end, within a second or so of each other.
_SHARED_MAX = 2_048
# A large message takes as long to send as to render; remembering it would only cost memory.
_SHARED_BYTES_MAX = 8_192


class StreamItem(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One message: its document with the sequence in it.

    `cursor` goes on after it: the sequence as text for one channel, opaque for a pattern.
    """

    document: bytes
    sequence: int
    cursor: str


class StreamPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of one stream. `next_start` is the `from` of the page that follows; a stream has no last page.

    `is_cut`: the page is full, by number or by size, and more may be there already; else it ends at the present end.
    """

    items: Sequence[StreamItem]
    next_start: str
    is_cut: bool = False


class ItemMaker:
    """Renders entries of the log. Those that many readers get at about the same time are rendered once."""

    def __init__(self, *, by_position: bool) -> None:
        """`by_position`: for readers of patterns, whose cursors are positions in the log."""
        self._by_position = by_position
        self._shared: dict[int, StreamItem] = {}

    def items_of(self, entries: Sequence[LogEntry]) -> list[StreamItem]:
        """One for each entry, in order."""
        shared = self._shared
        items = []
        for entry in entries:
            item = shared.get(entry.position)
            if item is None:
                item = self._make(entry)
            items.append(item)
        return items

    def _make(self, entry: LogEntry) -> StreamItem:
        cursor = pattern_cursor(entry.position) if self._by_position else channel_cursor(entry.sequence)
        document = with_sequence(entry.data, entry.sequence)
        item = StreamItem(document=document, sequence=entry.sequence, cursor=cursor)
        if len(document) <= _SHARED_BYTES_MAX:
            if len(self._shared) >= _SHARED_MAX:
                self._shared.clear()
            self._shared[entry.position] = item
        return item
