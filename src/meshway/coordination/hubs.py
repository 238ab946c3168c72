"""Who is in the mesh: every hub says on the bus that it is there, and each remembers whom it heard.

    heard -- silent for lost_after_ms, while this hub hears itself --> lost -- heard again --> heard
      '-- says goodbye --> gone

It is a matter of the bus alone, so an election of the store's leaders makes nobody look dead. Nothing is decided by it
that must hold: who takes over work of a lost hub meets the fences of the store.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from meshway.coordination.settings import MeshSettings
from meshway.engine.ports import Bus, BusMessage, hear_always
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineError

__all__ = ["HeardHub", "HubId", "HubRecord", "MeshHubs"]

_log = logging.getLogger(__name__)

_SUBJECT = "_mesh.beat"
# Hubs that are gone are shown for a while: what an operator looks for after a failure.
_GONE_SHOWN_MS = 60_000

HubId = str


class HubRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a hub says of itself in each beat. `v` is the format of the beats; newer hubs may add fields."""

    id: str
    url: str
    version: str
    host: str
    pid: int
    started_at_ms: int
    # Processes that serve one port together have one name here.
    group: str = ""
    is_draining: bool = False
    is_leaving: bool = False
    v: int = 1


class HeardHub(msgspec.Struct, frozen=True, kw_only=True):
    """`state`: `up`, `draining`, `lost` (it fell silent) or `gone` (it said goodbye)."""

    record: HubRecord
    state: Literal["up", "draining", "lost", "gone"]
    silent_ms: int


class _Heard:
    __slots__ = ("at_ms", "is_lost", "record")

    def __init__(self, record: HubRecord, at_ms: float) -> None:
        self.record = record
        self.at_ms = at_ms
        self.is_lost = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(HubRecord).decode


class MeshHubs:
    """`run` is a duty of the hub. Used from the event loop only."""

    def __init__(
        self, bus: Bus, *, me: HubRecord, clock: Clock, settings: MeshSettings, is_shared: bool = True
    ) -> None:
        """`is_shared` False: the engine is this hub's own, and it is the mesh."""
        self._bus = bus
        self._me = me
        self._clock = clock
        self._settings = settings
        self._is_shared = is_shared
        self._heard: dict[HubId, _Heard] = {}
        self._listeners: list[Callable[[HubId], None]] = []
        self._ready = asyncio.Event()
        # Since when this hub hears itself without a pause; None: it does not.
        self._hears_since_ms: float | None = None
        if not is_shared:
            self._ready.set()

    @property
    def me(self) -> HubId:
        """This hub's own id, new at each start."""
        return self._me.id

    @property
    def is_shared(self) -> bool:
        return self._is_shared

    @property
    def is_cut_off(self) -> bool:
        """This hub does not hear itself: the bus is away, and others may have taken over what it does."""
        heard = self._heard.get(self.me)
        return self._is_shared and (heard is None or heard.is_lost)

    @property
    def lost_after_ms(self) -> int:
        """Who did nothing for so long may have been taken for lost."""
        return self._settings.lost_after_ms

    async def wait_ready(self) -> None:
        """Until every hub that is there had the time to say so."""
        await self._ready.wait()

    def is_alive(self, hub_id: HubId) -> bool:
        """Heard not long ago. Of a hub never heard: no; wait until `wait_ready` before that counts."""
        if hub_id == self.me:
            return True
        heard = self._heard.get(hub_id)
        return heard is not None and not heard.is_lost

    async def is_surely_alive(self, hub_id: HubId) -> bool:
        """`is_alive`, once that counts."""
        await self.wait_ready()
        return self.is_alive(hub_id)

    def others(self) -> Sequence[HubId]:
        """Other hubs that are alive."""
        return [id_ for id_, heard in self._heard.items() if id_ != self.me and not heard.is_lost]

    @property
    def has_group(self) -> bool:
        """Whether other processes may serve this hub's port too."""
        return bool(self._me.group)

    def siblings(self) -> Sequence[HubId]:
        """Other processes on this hub's port."""
        if not self._me.group:
            return []
        return [id_ for id_ in self.others() if self._heard[id_].record.group == self._me.group]

    def all(self) -> Sequence[HeardHub]:
        """Every hub that was heard in the last minute, by URL and id; this one always."""
        now_ms = self._clock.monotonic_ms()
        seen = {self.me: _Heard(self._me, now_ms), **self._heard}
        found = [
            HeardHub(record=heard.record, state=_state(heard), silent_ms=max(0, int(now_ms - heard.at_ms)))
            for heard in seen.values()
        ]
        return sorted(found, key=lambda hub: (hub.record.url, hub.record.id))

    def on_lost(self, listener: Callable[[HubId], None]) -> None:
        """Call `listener` with each hub that fell silent or said goodbye. For life."""
        self._listeners.append(listener)

    def drain(self) -> None:
        """Say from now on that this hub takes nothing new."""
        self._me = msgspec.structs.replace(self._me, is_draining=True)

    async def leave(self) -> None:
        """Say goodbye: others need not wait to take over. Failures are logged, they notice it by themselves."""
        if not self._is_shared:
            return
        self._me = msgspec.structs.replace(self._me, is_draining=True, is_leaving=True)
        try:
            await self._beat()
        except EngineError as error:
            _log.info("mesh_not_left", extra={"reason": error.detail})

    async def run(self) -> None:
        """Speak and listen, for ever."""
        if not self._is_shared:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(hear_always(self._bus, _SUBJECT, self.heard))
            group.create_task(self._speak())

    async def _speak(self) -> None:
        while True:
            try:
                await self._beat()
            except EngineError as error:
                _log.debug("mesh_beat_not_sent", extra={"reason": error.detail})
            await asyncio.sleep(self._settings.beat_interval_ms / 1000)
            self.look()

    async def _beat(self) -> None:
        await self._bus.publish([BusMessage(subject=_SUBJECT, data=_encode(self._me))])

    def heard(self, data: bytes) -> None:
        """A beat. What cannot be read is another program's, or a much newer hub's: left alone."""
        try:
            record = _decode(data)
        except msgspec.DecodeError:
            return
        known = self._heard.get(record.id)
        now_ms = self._clock.monotonic_ms()
        if known is None:
            if record.is_leaving:
                return
            known = self._heard[record.id] = _Heard(record, now_ms)
            if record.id != self.me:
                _log.info("hub_joined", extra={"hub": record.id, "url": record.url})
        elif known.is_lost and not record.is_leaving:
            known.is_lost = False
            if record.id != self.me:
                _log.info("hub_is_back", extra={"hub": record.id, "url": record.url})
        known.record, known.at_ms = record, now_ms
        if record.is_leaving and record.id != self.me:
            self._lose(record.id, known, "hub_left")

    def look(self) -> None:
        """Who fell silent? A hub that did not hear itself either was asleep or cut off, and blames nobody."""
        now_ms = self._clock.monotonic_ms()
        lost_after_ms = self._settings.lost_after_ms
        own = self._heard.get(self.me)
        if own is None or now_ms - own.at_ms > lost_after_ms / 2:
            self._hears_since_ms = None
            if own is not None and now_ms - own.at_ms > lost_after_ms and not own.is_lost:
                own.is_lost = True
                _log.warning("hub_is_cut_off", extra={"silent_ms": int(now_ms - own.at_ms)})
            return
        if self._hears_since_ms is None:
            self._hears_since_ms = now_ms
        if now_ms - self._hears_since_ms < lost_after_ms:
            return
        self._ready.set()
        for hub_id, heard in list(self._heard.items()):
            silent_ms = now_ms - heard.at_ms
            if hub_id == self.me:
                continue
            if not heard.is_lost and silent_ms > lost_after_ms:
                self._lose(hub_id, heard, "hub_lost")
            elif heard.is_lost and silent_ms > _GONE_SHOWN_MS:
                del self._heard[hub_id]

    def _lose(self, hub_id: HubId, heard: _Heard, event: str) -> None:
        if heard.is_lost:
            return
        heard.is_lost = True
        _log.warning(event, extra={"hub": hub_id, "url": heard.record.url})
        for listener in self._listeners:
            listener(hub_id)


def _state(heard: _Heard) -> Literal["up", "draining", "lost", "gone"]:
    if heard.is_lost:
        return "gone" if heard.record.is_leaving else "lost"
    return "draining" if heard.record.is_draining else "up"
