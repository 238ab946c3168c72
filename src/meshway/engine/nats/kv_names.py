"""Which keys are under a prefix, for pages: asked of the server once per walk, not once per page.

The names of a walk are kept for a short time. Keys that this hub writes meanwhile are added to them, so a hub's own
writes are seen; keys that other hubs make meanwhile are seen by walks that begin later.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from meshway.engine.nats.failures import ApiError, Unanswered
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.retries import Retries
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout

__all__ = ["KvNames", "subjects_under"]

_KEPT_S = 30.0
# Of all walks that are kept (about 150 bytes each); the oldest walk is forgotten first and asked for again.
_NAMES_KEPT_MAX = 400_000
# So many names before the end of one answer are asked for again with the next: keys that went meanwhile move the rest.
_OVERLAP = 1_024


class _Walk:
    """Names in order, those of gone keys among them."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.names: list[str] = []

    def add(self, key: str) -> None:
        place = bisect_left(self.names, key)
        if self.names[place : place + 1] != [key]:
            self.names.insert(place, key)


class KvNames:
    """The names under prefixes. One event loop."""

    def __init__(self, jetstream: JetStream, layout: Layout, settings: NatsSettings) -> None:
        self._jetstream = jetstream
        self._stream = layout.kv_stream
        self._beginning = layout.kv
        self._settings = settings
        # By prefix, oldest first.
        self._kept: dict[str, _Walk] = {}
        # Being asked for: what is written meanwhile may not be in the answer.
        self._asking: set[_Walk] = set()

    def wrote(self, key: str) -> None:
        """This hub was told that the key is there."""
        for walk in (*self._kept.values(), *self._asking):
            if not walk.prefix or key == walk.prefix or key.startswith(walk.prefix + "."):
                walk.add(key)

    async def after(self, prefix: str, after: str | None, limit: int) -> Sequence[str]:
        """At most `limit` names behind `after`, in order; fewer only at the end. Raises: EngineUnavailable.

        None begins a walk: its names are up to date.
        """
        walk = None if after is None else self._kept.get(prefix)
        if walk is None:
            walk = await self._ask(prefix)
        begin = 0 if after is None else bisect_right(walk.names, after)
        if begin + limit < len(walk.names):
            self._keep(walk)
        elif self._kept.get(prefix) is walk:
            del self._kept[prefix]
        return walk.names[begin : begin + limit]

    def _keep(self, walk: _Walk) -> None:
        if self._kept.get(walk.prefix) is walk:
            return
        self._kept.pop(walk.prefix, None)
        self._kept[walk.prefix] = walk
        while len(self._kept) > 1 and sum(len(kept.names) for kept in self._kept.values()) > _NAMES_KEPT_MAX:
            del self._kept[next(iter(self._kept))]
        asyncio.get_running_loop().call_later(_KEPT_S, self._forget, walk)

    def _forget(self, walk: _Walk) -> None:
        if self._kept.get(walk.prefix) is walk:
            del self._kept[walk.prefix]

    async def _ask(self, prefix: str) -> _Walk:
        walk = _Walk(prefix)
        self._asking.add(walk)
        try:
            found = await self._names(prefix)
        finally:
            self._asking.discard(walk)
        walk.names = sorted(found.union(walk.names))
        return walk

    async def _names(self, prefix: str) -> set[str]:
        """The server gives so many a time, in order."""
        pattern = subjects_under(self._beginning, prefix)[-1]
        found: set[str] = {prefix} if prefix else set()
        last, offset, back = "", 0, _OVERLAP
        while True:
            subjects, total = await self._subjects(pattern, offset)
            if last and offset and (not subjects or subjects[0] > last):
                # More keys went meanwhile than the overlap has: some may have moved before this answer.
                back *= 2
                offset = max(0, offset - back)
                continue
            found.update(subject.removeprefix(self._beginning) for subject in subjects)
            end = offset + len(subjects)
            if not subjects or end >= total:
                return found
            last, offset = subjects[-1], max(offset + 1, end - _OVERLAP)

    async def _subjects(self, pattern: str, offset: int) -> tuple[Sequence[str], int]:
        """Those from `offset` on, as many as the server gives at once, and how many there are in all."""
        retries = Retries(self._settings.request_timeout_ms)
        while True:
            try:
                said = await self._jetstream.api(
                    f"STREAM.INFO.{self._stream}", {"subjects_filter": pattern, "offset": offset}
                )
                return sorted(said.state.subjects), said.total
            except (ApiError, Unanswered) as failure:
                await retries.pause_or_raise(failure)


def subjects_under(beginning: str, prefix: str) -> Sequence[str]:
    """What a prefix means: the key itself, and everything that continues it by a token."""
    return [f"{beginning}{prefix}", f"{beginning}{prefix}.>"] if prefix else [f"{beginning}>"]
