"""The subjects of the queue stream, and the lanes that messages are handed out by. Pure.

    mw.q.m.<queue>.<priority>.<part>.<size>          messages
    mw.q.s.<queue>.<priority>.<part>.<size>-<uid>    schedules: messages that are delivered later
    mw.q.d.<queue>.<sequence>.<hash of the id>       dead letters
    mw.q.x.<queue>.<hash of the id>                  dedupe ids that hold
    mw.q.h.<hash of the queue>.<sequence>            histories of messages that were given back
    mw.q.e.<hash of the queue>.<sequence>            leases that were extended

A lane is what one consumer hands out: a priority, or in an ordered queue one of the parts that its keys fall into.
"""

import zlib
from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b

from meshway.engine.nats.streams import Layout, one_token
from meshway.engine.ports import Priority

__all__ = [
    "KEYLESS",
    "LANES",
    "ORDERED_LANES",
    "PLAIN_LANES",
    "QueueSubjects",
    "hash_of",
    "part_of",
    "queue_of",
    "size_of",
]

KEYLESS = "k"
# Keys that fall into one part wait for each other; each part of a queue that is worked on costs a consumer.
_PARTS = 16
# In order of hand-out.
PLAIN_LANES: Sequence[str] = tuple(str(int(priority)) for priority in sorted(Priority, reverse=True))
ORDERED_LANES: Sequence[str] = (KEYLESS, *(f"p{number}" for number in range(_PARTS)))
LANES: Sequence[str] = (*PLAIN_LANES, *ORDERED_LANES)

_HASH_BYTES = 10
_NAMES_CACHED = 4_096
# Sizes are told apart to an eighth of a power of two.
_SIZE_BITS = 4
_UNSIZED = "0"


class QueueSubjects:
    def __init__(self, layout: Layout) -> None:
        self._queue = layout.queue
        self._notice = layout.lane
        self.holders = layout.held
        self.stream = layout.queue_stream
        self.all_messages = f"{layout.queue}m.>"
        self.all_schedules = f"{layout.queue}s.>"

    def message(self, queue: str, priority: int, part: str, size: str) -> str:
        return f"{self._queue}m.{_token(queue)}.{priority}.{part}.{size}"

    def schedule(self, queue: str, priority: int, part: str, unique: str) -> str:
        """`unique` begins with the size and a dash."""
        return f"{self._queue}s.{_token(queue)}.{priority}.{part}.{unique}"

    def messages(self, queue: str) -> str:
        """Filter of all of them."""
        return f"{self._queue}m.{_token(queue)}.>"

    def schedules(self, queue: str, *, lane: str | None = None) -> str:
        """Filter of all of them, or of those that fall into one lane."""
        if lane is None:
            return f"{self._queue}s.{_token(queue)}.>"
        return f"{self._queue}s.{_token(queue)}.{_lane_tokens(lane)}"

    def undone(self, queue: str, *, priority: int | None = None) -> str:
        """Filter of messages and schedules together."""
        return f"{self._queue}*.{_token(queue)}.{'*' if priority is None else priority}.*.*"

    def lane(self, queue: str, lane: str) -> str:
        """Filter of what one lane hands out."""
        return f"{self._queue}m.{_token(queue)}.{_lane_tokens(lane)}"

    def dead_letter(self, queue: str, seq: int | str, message_id: str) -> str:
        """`seq`: of the message; of one that was copied here, what no sequence is."""
        return f"{self._queue}d.{_token(queue)}.{seq}.{hash_of(message_id)}"

    def dead_letters(self, queue: str, *, message_id: str | None = None) -> str:
        """Filter of all of them, or of those of one message id."""
        return f"{self._queue}d.{_token(queue)}.*.{'*' if message_id is None else hash_of(message_id)}"

    def dedupe(self, queue: str, dedupe_id: str) -> str:
        return f"{self._queue}x.{_token(queue)}.{hash_of(dedupe_id)}"

    def history(self, queue_hash: str, seq: int) -> str:
        return f"{self._queue}h.{queue_hash}.{seq}"

    def extension(self, queue_hash: str, seq: int) -> str:
        return f"{self._queue}e.{queue_hash}.{seq}"

    def notice(self, queue: str) -> str:
        """Where hubs tell each other which lanes are in use; in no stream."""
        return f"{self._notice}{_token(queue)}"

    def held_records(self, queue: str) -> Sequence[str]:
        """Filters of what is kept about messages that are, or were, held."""
        return [f"{self._queue}{kind}.{hash_of(queue)}.>" for kind in ("h", "e")]

    def everything(self, queue: str) -> Sequence[str]:
        """Filters of all that a queue has in the stream."""
        token = _token(queue)
        return [*(f"{self._queue}{kind}.{token}.>" for kind in ("m", "s", "d", "x")), *self.held_records(queue)]

    def consumer(self, queue: str, lane: str) -> str:
        return f"q-{hash_of(queue)}-{lane}"


def part_of(ordering_key: str | None) -> str:
    """The token of a key, or of none."""
    return KEYLESS if ordering_key is None else f"p{zlib.crc32(ordering_key.encode()) % _PARTS}"


def size_of(size_bytes: int) -> str:
    """A size rounded up, as a token: few enough subjects, exact enough to add up."""
    grain = 1 << max(0, size_bytes.bit_length() - _SIZE_BITS)
    return str(-(-size_bytes // grain) * grain) if size_bytes else _UNSIZED


def queue_of(subject: str) -> str:
    """The name of the queue in the subject of a message, a schedule or a dead letter."""
    return subject.split(".")[3].replace("=2E", ".").replace("=3D", "=")


@lru_cache(_NAMES_CACHED)
def hash_of(text: str) -> str:
    return blake2b(text.encode(), digest_size=_HASH_BYTES).hexdigest()


@lru_cache(_NAMES_CACHED)
def _token(queue: str) -> str:
    return one_token(queue)


def _lane_tokens(lane: str) -> str:
    return f"{lane}.*.*" if lane in PLAIN_LANES else f"*.{lane}.*"
