"""What a blob is made of, in its stream: subjects, the manifest that makes it visible, and how long its parts live.

    <sha256>.m               the manifest: size, and the copy that has the bytes; without content: deleted
    <sha256>.<copy>.<n>      chunk n of a copy
    mark.<sha256>.<copy>     this copy may be nobody's: looked at again later (`blob_sweep.py`)

Each copy has a name of its own, so that a deletion never takes chunks of a put that runs beside it; which copy counts
is decided by a test-and-set of the manifest. Chunks outlive their manifest by a quarter of its time to live: until
then storing the same content again is one small message, behind it the content is written anew.
"""

import re
import secrets
from typing import NamedTuple

import msgspec

from meshway.engine.nats.jetstream import Stored
from meshway.engine.ports.checks import refused

__all__ = [
    "Current",
    "Manifest",
    "check_sha256",
    "chunk_ttl_s",
    "covers",
    "current_of",
    "encoded",
    "is_long_lived",
    "new_copy",
    "ttl_header",
    "whole_seconds",
]

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Chunks live longer by at least so much: longer than any put may take from its first chunk to its manifest.
_SLACK_S = 3_600
_SLACK_SHARE = 4
# What a broken put leaves behind for longer than this is looked for.
_LEFT_BEHIND_S = 86_400 + _SLACK_S
# Of the server's clock, which counts nanoseconds from 1970 in 64 bits: a century is for ever.
_TTL_S_MAX = 100 * 365 * 86_400


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`until_ms`: when it goes, by the servers' clock, or a little later; None: never. `chunks_until_ms` alike."""

    size: int
    chunks: int
    chunk_bytes: int
    copy: str
    until_ms: int | None
    chunks_until_ms: int | None


class Current(NamedTuple):
    """The manifest that counts, None where there is none, and the sequence that the next one must expect."""

    seq: int
    manifest: Manifest | None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Manifest).decode


def check_sha256(sha256: str) -> str:
    """Raises: InvalidRequest."""
    if not _SHA256.fullmatch(sha256):
        raise refused("sha256", f"{sha256[:80]!r} is not a SHA-256 in lower-case hex")
    return sha256


def new_copy() -> str:
    return secrets.token_hex(8)


def current_of(stored: Stored | None) -> Current:
    if stored is None:
        return Current(0, None)
    return Current(stored.seq, _decode(stored.data) if stored.data else None)


def whole_seconds(ttl_ms: int | None) -> int | None:
    """Rounded up, at least one."""
    return None if ttl_ms is None else min(max(1, -(-ttl_ms // 1000)), _TTL_S_MAX)


def chunk_ttl_s(ttl_s: int | None) -> int | None:
    """Of the chunks of a blob with this time to live."""
    return None if ttl_s is None else ttl_s + max(ttl_s // _SLACK_SHARE, _SLACK_S)


def is_long_lived(ttl_s: int | None) -> bool:
    """Whether chunks with this time to live would stay for too long if nothing named them."""
    return ttl_s is None or ttl_s > _LEFT_BEHIND_S


def covers(has_until_ms: int | None, until_ms: int | None) -> bool:
    """Whether what lives until the one moment is there at the other; None is for ever."""
    return has_until_ms is None or (until_ms is not None and has_until_ms >= until_ms)


def ttl_header(ttl_s: int | None) -> dict[str, str]:
    return {} if ttl_s is None else {"Nats-TTL": f"{ttl_s}s"}


def encoded(manifest: Manifest) -> bytes:
    return _encode(manifest)
