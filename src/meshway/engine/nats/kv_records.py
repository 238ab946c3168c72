"""How a key and what is under it lie in the stream: values and markers as messages, revisions as sequences.

    value      the body, with `Nats-TTL` where it expires
    tombstone  empty, with `Mw-Deleted` and `Nats-TTL`: a deletion
    remains    empty, with `Nats-Marker-Reason`: what the server leaves, for as long, where a value or tombstone expired

A tombstone is an expiring message like any other, on purpose: a server that was killed rebuilds a stream from its
blocks, and whose last message was a marker of the server's kind, with a time to live, comes back as it was before that
(nats-server issue 8505). One that was to expire hides what is older, and expires again.

A stream keeps one message per key. A value stored at sequence s has the revision 2s, anything else 2s + 1: so a
revision says by itself whether a value can be there, and an update at the revision of a deletion is never let through.
"""

from meshway.engine.nats.jetstream import Stored
from meshway.engine.ports import KvDeleted, KvEntry

__all__ = [
    "deleted_of",
    "entry_of",
    "headers_of_tombstone",
    "headers_of_value",
    "is_marker",
    "is_tombstone",
    "marker_revision",
    "sequence_of",
    "value_revision",
]

_REMAINS = "Nats-Marker-Reason"
_EXPIRED = "MaxAge"
_TOMBSTONE = "Mw-Deleted"
_TTL = "Nats-TTL"


def value_revision(seq: int) -> int:
    return seq * 2


def marker_revision(seq: int) -> int:
    return seq * 2 + 1


def sequence_of(revision: int) -> int | None:
    """Of the value with this revision; None where no value can have it."""
    return None if revision <= 0 or revision % 2 else revision // 2


def is_marker(message: Stored) -> bool:
    """A tombstone, or remains."""
    return _TOMBSTONE in message.headers or _REMAINS in message.headers


def is_tombstone(message: Stored) -> bool:
    return _TOMBSTONE in message.headers


def entry_of(key: str, message: Stored | None) -> KvEntry | None:
    """None for a marker."""
    if message is None or is_marker(message):
        return None
    return KvEntry(key=key, value=message.data, revision=value_revision(message.seq))


def deleted_of(key: str, marker: Stored) -> KvDeleted:
    expired = marker.headers.get(_REMAINS) == _EXPIRED
    return KvDeleted(key=key, revision=marker_revision(marker.seq), expired=expired)


def headers_of_value(ttl_ms: int | None) -> dict[str, str]:
    return {} if ttl_ms is None else {_TTL: _whole_seconds(ttl_ms)}


def headers_of_tombstone(ttl_ms: int) -> dict[str, str]:
    return {_TOMBSTONE: "1", _TTL: _whole_seconds(ttl_ms)}


def _whole_seconds(duration_ms: int) -> str:
    return f"{max(1, -(-duration_ms // 1000))}s"
