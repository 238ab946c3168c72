"""Messages of streams as their readers get them."""

import msgspec

__all__ = ["StreamItem", "StreamPage"]


class StreamItem(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One message: its document with the sequence in it.

    `cursor` goes on after it: the sequence as text for one channel, opaque for a pattern.
    """

    document: bytes
    sequence: int
    cursor: str


class StreamPage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of one stream. `next_start` is the `from` of the page that follows; a stream has no last page.

    Fewer items than asked for mean the present end.
    """

    items: list[StreamItem]
    next_start: str
