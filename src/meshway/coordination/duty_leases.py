"""Duties that are done once in the mesh: a record `duties.<name>` says which hub does each.

    free -- create --> owned -- the owner leaves, or is lost: taken at its revision --> owned by another

A hub that was taken for lost learns from its watch that it owns no more, and stops. For a moment two may do the same
duty, so a duty must bear that; what it must not bear is that nobody does it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from meshway.coordination.hubs import MeshHubs
from meshway.engine.ports import (
    KeyValue,
    KvConflict,
    KvCreate,
    KvDelete,
    KvDeleted,
    KvEntry,
    KvUpdate,
    KvWritten,
    PrefixFollower,
)
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineError

__all__ = ["DutyLeases", "DutyRecord"]

_log = logging.getLogger(__name__)

_PREFIX = "duties"
_RETRY_S = 0.5
# Between two looks at who does what, where nothing is heard.
_LOOK_S = 1.0


class DutyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Who does a duty, and since when."""

    hub: str
    since_ms: int
    v: int = 1


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(DutyRecord).decode
_NOBODYS = DutyRecord(hub="", since_ms=0)


class DutyLeases:
    """`follow` is a duty of the hub; `run` wraps each duty that is done once."""

    def __init__(self, key_value: KeyValue, hubs: MeshHubs, clock: Clock) -> None:
        self._key_value = key_value
        self._hubs = hubs
        self._clock = clock
        self._known: dict[str, tuple[DutyRecord, int]] = {}
        self._changed = asyncio.Event()
        self._is_leaving = False
        self._follower = PrefixFollower(key_value, _PREFIX, known=self._revisions, entry=self._show, deleted=self._hide)
        hubs.on_lost(lambda hub_id: self._wake())

    def all(self) -> Mapping[str, DutyRecord]:
        """Every duty that somebody does, by name."""
        return {name: record for name, (record, _) in sorted(self._known.items())}

    def owns(self, name: str) -> bool:
        """Whether this hub does it at this moment."""
        if not self._hubs.is_shared:
            return True
        known = self._known.get(name)
        return known is not None and known[0].hub == self._hubs.me and not self._hubs.is_cut_off

    async def follow(self) -> None:
        """Follow the records for ever."""
        if self._hubs.is_shared:
            await self._follower.run()

    async def run(self, name: str, duty: Callable[[], Awaitable[None]]) -> None:
        """Do `duty` whenever it is this hub's, for ever; it is cancelled when it is no more. Raises: what it raises."""
        if not self._hubs.is_shared:
            await duty()
            return
        await self._hubs.wait_ready()
        await self._follower.wait_ready()
        while True:
            await self._until(lambda: self.owns(name), trying=name)
            async with asyncio.TaskGroup() as group:
                work = group.create_task(_done(duty))
                await self._until(lambda: not self.owns(name))
                work.cancel()
            _log.info("duty_lost", extra={"duty": name})

    async def leave(self) -> None:
        """Give up everything this hub does, for others to take at once. Failures are logged."""
        self._is_leaving = True
        mine = [
            KvDelete(key=f"{_PREFIX}.{name}", revision=revision)
            for name, (record, revision) in self._known.items()
            if record.hub == self._hubs.me
        ]
        if not mine:
            return
        try:
            await self._key_value.write(mine)
        except EngineError as error:
            _log.info("duties_not_given_up", extra={"reason": error.detail})

    async def _until(self, holds: Callable[[], bool], *, trying: str | None = None) -> None:
        while not holds():
            changed = self._changed
            if trying is not None:
                await self._try(trying)
                if holds():
                    return
            try:
                async with asyncio.timeout(_LOOK_S):
                    await changed.wait()
            except TimeoutError:
                continue

    async def _try(self, name: str) -> None:
        """Take the duty if nobody does it."""
        known = self._known.get(name)
        if self._is_leaving or self._hubs.is_cut_off or (known is not None and self._hubs.is_alive(known[0].hub)):
            return
        value = _encode(DutyRecord(hub=self._hubs.me, since_ms=self._clock.now_ms()))
        key = f"{_PREFIX}.{name}"
        write = KvCreate(key=key, value=value) if known is None else KvUpdate(key=key, value=value, revision=known[1])
        try:
            (outcome,) = await self._key_value.write([write])
        except EngineError as error:
            _log.info("duty_not_taken", extra={"duty": name, "reason": error.detail})
            return
        match outcome:
            case KvWritten():
                _log.info("duty_taken", extra={"duty": name})
                self._show(KvEntry(key=key, value=value, revision=outcome.revision))
            case KvConflict(current=KvEntry() as current):
                self._show(current)
            case KvConflict():
                self._known.pop(name, None)

    def _revisions(self) -> Mapping[str, int]:
        return {f"{_PREFIX}.{name}": revision for name, (_, revision) in self._known.items()}

    def _show(self, entry: KvEntry) -> None:
        name = entry.key[len(_PREFIX) + 1 :]
        known = self._known.get(name)
        if known is not None and known[1] >= entry.revision:
            return
        try:
            record = _decode(entry.value)
        except msgspec.DecodeError as error:
            # Nobody's: what nobody could take would never be done, and be tried without a pause.
            record = _NOBODYS
            _log.error("duty_record_unreadable", extra={"duty": name, "reason": str(error)})
        self._known[name] = (record, entry.revision)
        self._wake()

    def _hide(self, event: KvDeleted) -> None:
        name = event.key[len(_PREFIX) + 1 :]
        known = self._known.get(name)
        if known is not None and known[1] <= event.revision:
            del self._known[name]
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


async def _done(duty: Callable[[], Awaitable[None]]) -> None:
    await duty()
