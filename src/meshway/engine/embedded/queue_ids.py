"""Ids of recently appended messages, so that a repeated call adds nothing. In plain dictionaries: every append asks.

Two generations: the older is dropped whole. They are rebuilt from `queue_recent` when the database is opened.
"""

import struct
from collections.abc import Iterable
from hashlib import blake2b

__all__ = ["MessageIds", "message_key", "split_key"]

# A dictionary grows by copying itself while everything else stands still; a part of this many copies a part of it.
_PARTS = 64
_PART_MASK = _PARTS - 1

_split = struct.Struct("qq").unpack
_join = struct.Struct("qq").pack


def message_key(queue_id: int, message_id: str) -> bytes:
    """128 bits that stand for an id in a queue: ids may be long, and a collision would lose a message.

    By the queue's number: one that was removed and comes back under its name knows nothing of its predecessor's.
    """
    return blake2b(f"queue\0{queue_id}\0{message_id}".encode(errors="surrogatepass"), digest_size=16).digest()


def split_key(key: bytes) -> tuple[int, int]:
    """As the two integers that the database keeps."""
    first, rest = _split(key)
    return first, rest


class MessageIds:
    """Remembers ids for `window_ms`, or at least the last `ids_max / 2` of them. Writer's thread only.

    What a transaction adds counts at once, for the calls after it in the same group; `rolled_back` takes it away.
    """

    def __init__(self, *, window_ms: int, ids_max: int, now_ms: int) -> None:
        self._window_ms = window_ms
        self._generation_max = max(1, ids_max // 2)
        self._begun_ms = now_ms
        self._count = 0
        self._newer = _new_parts()
        self._older = _new_parts()
        self._added: list[int] = []

    def begin(self, now_ms: int) -> None:
        """A new transaction: what the last one added stands."""
        self._added.clear()
        if self._count >= self._generation_max or now_ms - self._begun_ms >= self._window_ms:
            self._older = self._newer
            self._newer = _new_parts()
            self._count = 0
            self._begun_ms = now_ms

    def add(self, key: bytes, now_ms: int) -> bool:
        """Remember an id; False when it is remembered already."""
        number = int.from_bytes(key, "little")
        part = number & _PART_MASK
        newer = self._newer[part]
        at_ms = newer.get(number)
        if at_ms is None:
            at_ms = self._older[part].get(number)
        if at_ms is not None and at_ms > now_ms - self._window_ms:
            return False
        newer[number] = now_ms
        self._added.append(number)
        self._count += 1
        return True

    def discard_last(self) -> None:
        """Forget the id added last, whose message was not kept after all."""
        number = self._added.pop()
        self._newer[number & _PART_MASK].pop(number, None)
        self._count -= 1

    def rolled_back(self) -> None:
        """An id that had outlived its window and came back is forgotten with the rest, as if its time were over."""
        for number in self._added:
            self._newer[number & _PART_MASK].pop(number, None)
        self._count -= len(self._added)
        self._added.clear()

    def load(self, rows: Iterable[tuple[int, int, int]]) -> None:
        """Fill at opening: both halves of the key and the time, the newest first, as many as one generation holds."""
        for first, rest, at_ms in rows:
            if self._count >= self._generation_max:
                break
            number = int.from_bytes(_join(first, rest), "little")
            self._newer[number & _PART_MASK].setdefault(number, at_ms)
            self._count += 1


def _new_parts() -> list[dict[int, int]]:
    return [{} for _ in range(_PARTS)]
