"""Reads of KeyValue: by direct get, which any replica answers, and from the leader where a replica may be behind.

A hub reads what it was answered before, or something newer: a replica that is behind that is not believed. On a single
server there are no replicas, and nothing to remember.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence

from meshway.engine.nats.failures import ApiError, Unanswered
from meshway.engine.nats.jetstream import JetStream, Page, Stored
from meshway.engine.nats.retries import Retries
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout

__all__ = ["KvReads"]

# Up to here one question per key is faster: a question for many makes the server look through its blocks.
_EACH_MAX = 64
# More subjects in one question are refused; a question must fit into a message, whose limit may be small.
_SUBJECTS_MAX = 1_024
_QUESTION_BYTES_MAX = 256 * 1024
_SUBJECT_OVERHEAD_BYTES = 3

_ReadEach = Callable[[str, Sequence[str]], Awaitable[Sequence[Stored | ApiError | Unanswered | None]]]


class KvReads:
    """What the keys hold, never older than what this hub was answered before."""

    def __init__(self, jetstream: JetStream, layout: Layout, settings: NatsSettings) -> None:
        self._jetstream = jetstream
        self._stream = layout.kv_stream
        self._beginning = layout.kv
        self._settings = settings
        # By key, the newest sequence that this hub was told of; least recently written first.
        self._answered: OrderedDict[str, int] = OrderedDict()
        # The highest one that was dropped: what keys that are not there need at most.
        self._dropped = 0

    def answered(self, key: str, seq: int) -> None:
        """This hub was told that the key is at `seq`: from now on it reads that, or something newer."""
        if not self._has_replicas or seq < self._answered.get(key, 0):
            return
        self._answered[key] = seq
        self._answered.move_to_end(key)
        while len(self._answered) > self._settings.subjects_cached_max:
            _key, dropped = self._answered.popitem(last=False)
            self._dropped = max(self._dropped, dropped)

    async def read(self, keys: Sequence[str]) -> Mapping[str, Stored]:
        """Values and markers by key; nothing for keys that have neither. Raises: EngineUnavailable."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Stored] = {}
        if len(wanted) <= _EACH_MAX:
            behind = await self._read_few(wanted, found)
        else:
            behind = await self._read_many(wanted, found)
        for begin in range(0, len(behind), self._settings.in_flight_max):
            part = behind[begin : begin + self._settings.in_flight_max]
            await self._read_each(self._jetstream.last_of_each, part, found)
        return found

    @property
    def _has_replicas(self) -> bool:
        """Another domain may be anything."""
        return self._settings.domain is not None or bool(self._jetstream.link.server_info.cluster)

    def _needed(self, key: str) -> int:
        return self._answered.get(key, self._dropped)

    async def _read_few(self, keys: Sequence[str], found: dict[str, Stored]) -> Sequence[str]:
        """Returns the keys that the leader must be asked for: an answer for one key does not say how far it was."""
        certain = [key for key in keys if not self._dropped or key in self._answered]
        await self._read_each(self._jetstream.read_each, certain, found)
        return [key for key in keys if self._needed(key) > _seq_of(found.get(key))]

    async def _read_many(self, keys: Sequence[str], found: dict[str, Stored]) -> Sequence[str]:
        """Returns the keys that the leader must be asked for."""
        behind: list[str] = []
        rest = list(keys)
        while rest:
            asked = rest[: self._fitting(rest)]
            page = await self._read_page([self._beginning + key for key in asked])
            messages = {message.subject.removeprefix(self._beginning): message for message in page.messages}
            found.update(messages)
            # An answer ends at 64 MiB: then those that are missing may be there all the same.
            left_out = {key for key in asked if key not in messages} if page.more and messages else set()
            believed = {key: max(page.up_to, _seq_of(messages.get(key))) for key in asked if key not in left_out}
            behind += [key for key, seq in believed.items() if self._needed(key) > seq]
            rest = [*(key for key in asked if key in left_out), *rest[len(asked) :]]
        return behind

    def _fitting(self, keys: Sequence[str]) -> int:
        """How many of them fit into one question; at least one."""
        room = min(_QUESTION_BYTES_MAX, self._jetstream.link.max_payload // 2)
        for number, key in enumerate(keys[:_SUBJECTS_MAX]):
            room -= len(self._beginning) + len(key) + _SUBJECT_OVERHEAD_BYTES
            if room < 0:
                return max(1, number)
        return min(len(keys), _SUBJECTS_MAX)

    async def _read_page(self, subjects: Sequence[str]) -> Page:
        retries = Retries(self._settings.request_timeout_ms)
        while True:
            try:
                return await self._jetstream.read(self._stream, {"multi_last": subjects, "batch": _SUBJECTS_MAX})
            except (ApiError, Unanswered) as failure:
                await retries.pause_or_raise(failure)

    async def _read_each(self, read: _ReadEach, keys: Sequence[str], found: dict[str, Stored]) -> None:
        retries = Retries(self._settings.request_timeout_ms)
        rest = list(keys)
        while rest:
            answers = await read(self._stream, [self._beginning + key for key in rest])
            failure: ApiError | Unanswered | None = None
            unread: list[str] = []
            for key, answer in zip(rest, answers, strict=True):
                if isinstance(answer, ApiError | Unanswered):
                    failure = answer
                    unread.append(key)
                elif answer is not None:
                    found[key] = answer
                else:
                    found.pop(key, None)
            rest = unread
            if failure is not None:
                await retries.pause_or_raise(failure)


def _seq_of(message: Stored | None) -> int:
    return 0 if message is None else message.seq
