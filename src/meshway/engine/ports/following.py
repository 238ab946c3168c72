"""A picture in memory that follows the keys under one prefix: every room that answers from memory keeps it this way.

Not here: what the picture is made of. Pure logic over the port; the room shows and hides, this tells it when.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from meshway.engine.ports.key_value import KeyValue, KvCaughtUp, KvDeleted, KvEntry, KvEvent
from meshway.engine.ports.outcomes import SubscriptionLost
from meshway.kernel.errors import EngineError

__all__ = ["PrefixFollower"]

_log = logging.getLogger(__name__)

# Wait before a lost watch is opened again: the store needs a moment, callers go on with what is known.
_REOPEN_FIRST_S = 0.1
_REOPEN_MAX_S = 5.0


class PrefixFollower:
    """Watches one prefix for ever. What was deleted while nobody watched is told when the next watch has caught up."""

    def __init__(
        self,
        key_value: KeyValue,
        prefix: str,
        *,
        known: Callable[[], Mapping[str, int]],
        entry: Callable[[KvEntry], None],
        deleted: Callable[[KvDeleted], None],
        caught_up: Callable[[], Awaitable[None]] | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`known`: the keys shown, each with the revision it is shown at; asked whenever a watch is opened.

        `deleted` must leave a key that is shown at a later revision: the room's own writes may be ahead of the watch.
        A deletion that nobody saw comes with the revision the key was known at. `caught_up` is waited for, at the end
        of every replay, before `wait_ready` returns and before the next event. `pause` waits for so many seconds.
        """
        self._key_value = key_value
        self._prefix = prefix
        self._known = known
        self._entry = entry
        self._deleted = deleted
        self._caught_up = caught_up
        self._pause = pause
        # What was known when the watch was opened and has not come yet; None once it has caught up.
        self._missing: dict[str, int] | None = None
        self._ready = asyncio.Event()

    @property
    def is_replaying(self) -> bool:
        """Whether a watch is open that has not caught up yet."""
        return self._missing is not None

    async def wait_ready(self) -> None:
        """Until everything that was stored when the first watch began was told, and `caught_up` is through."""
        await self._ready.wait()

    async def run(self) -> None:
        """Follow until cancelled. A lost watch is opened again; meanwhile the last picture stands."""
        wait_s = _REOPEN_FIRST_S
        while True:
            try:
                known = dict(self._known())
                async with self._key_value.watch(self._prefix) as events:
                    self._missing = known
                    async for event in events:
                        wait_s = _REOPEN_FIRST_S
                        await self._tell(event)
            except (EngineError, SubscriptionLost) as error:
                _log.warning("prefix_watch_lost", extra={"prefix": self._prefix, "reason": str(error)})
            finally:
                self._missing = None
            await self._pause(wait_s)
            wait_s = min(wait_s * 2, _REOPEN_MAX_S)

    async def _tell(self, event: KvEvent) -> None:
        match event:
            case KvEntry():
                if self._missing is not None:
                    self._missing.pop(event.key, None)
                self._entry(event)
            case KvDeleted():
                self._deleted(event)
            case KvCaughtUp():
                self._end_replay()
                if self._caught_up is not None:
                    await self._caught_up()
                self._ready.set()

    def _end_replay(self) -> None:
        """What the replay did not show was deleted while nobody watched."""
        missing, self._missing = self._missing, None
        for key, revision in (missing or {}).items():
            self._deleted(KvDeleted(key=key, revision=revision, expired=False))
