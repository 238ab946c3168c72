"""Which subjects of the log hold entries. The server tells names and counts, in no order and 100,000 at a time."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from meshway.engine.nats.failures import ApiError, Unanswered
from meshway.engine.nats.jetstream import JetStream, Stored
from meshway.engine.nats.log_entries import is_entry
from meshway.engine.nats.retries import Retries
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout

__all__ = ["LogNames"]

_CHECKED_AT_ONCE = 500
# So many names are kept for a moment, for the next pages of whoever goes through them.
_KEPT_MIN = 10_000
_KEPT_S = 30.0


class _Listing(NamedTuple):
    """Names in order, each with the number of its messages."""

    pattern: str
    names: Sequence[tuple[str, int]]
    ends_at: float


class LogNames:
    """Later pages of a long list may be up to half a minute old."""

    def __init__(self, jetstream: JetStream, layout: Layout, settings: NatsSettings) -> None:
        self._jetstream = jetstream
        self._layout = layout
        self._timeout_ms = settings.request_timeout_ms
        self._kept: _Listing | None = None

    async def list(self, pattern: str, after: str | None, limit: int) -> Sequence[str]:
        """Names that match and hold entries, ordered, after `after`. Raises: EngineUnavailable."""
        kept, now = self._kept, asyncio.get_running_loop().time()
        if after is None or kept is None or kept.pattern != pattern or kept.ends_at < now:
            names = sorted((await self._ask(pattern)).items())
            kept = _Listing(pattern, names, now + _KEPT_S)
        waiting = [each for each in kept.names if after is None or each[0] > after]
        found: list[str] = []
        for begin in range(0, len(waiting), _CHECKED_AT_ONCE):
            part = waiting[begin : begin + _CHECKED_AT_ONCE]
            markers = await self._markers([name for name, count in part if count == 1])
            found.extend(name for name, _ in part if name not in markers)
            if len(found) >= limit:
                break
        self._kept = kept if len(kept.names) >= _KEPT_MIN and len(found) >= limit else None
        return found[:limit]

    async def _ask(self, pattern: str) -> dict[str, int]:
        retries = Retries(self._timeout_ms)
        prefix = self._layout.log
        names: dict[str, int] = {}
        offset = 0
        while True:
            body = {"subjects_filter": prefix + pattern, "offset": offset}
            try:
                said = await self._jetstream.api(f"STREAM.INFO.{self._layout.log_stream}", body)
            except (ApiError, Unanswered) as failure:
                await retries.pause_or_raise(failure)
                continue
            page = said.state.subjects
            names.update({name[len(prefix) :]: count for name, count in page.items()})
            offset += len(page)
            if not page or offset >= said.total:
                return names

    async def _markers(self, names: Sequence[str]) -> set[str]:
        """Those whose only message tells that everything was trimmed, or that are empty by now."""
        if not names:
            return set()
        full = [self._layout.log + name for name in names]
        retries = Retries(self._timeout_ms)
        while True:
            found = await self._jetstream.last_of_each(self._layout.log_stream, full)
            failures = [each for each in found if isinstance(each, ApiError | Unanswered)]
            if not failures:
                break
            await retries.pause_or_raise(failures[0])
        return {
            name
            for name, last in zip(names, found, strict=True)
            if last is None or (isinstance(last, Stored) and not is_entry(last))
        }
