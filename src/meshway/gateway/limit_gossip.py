"""Limits that hold for the whole mesh: each hub tells the others what it has let through, a few times a second.

Between two tellings a hub takes no more than its slice of what was free: the free places of an instance divided by the
hubs there are, one at least. So a limit is exceeded by one slice of each other hub at most, and no call waits for the
bus. What a hub had let through is forgotten when it is lost; its calls have ended with it.
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from meshway.coordination.hubs import MeshHubs
from meshway.engine.ports import Bus, BusMessage, hear_always
from meshway.gateway.root_ledger import RootLedger, RootShare
from meshway.kernel.errors import EngineError
from meshway.routing.balancer import Balancer
from meshway.routing.hub_loads import InstanceLoad

__all__ = ["LimitGossip"]

_log = logging.getLogger(__name__)

_SUBJECT = "_mesh.limits"
# How long a hub lives with a used-up slice, and how long at most nothing is said of what changed.
_SOON_S, _INTERVAL_S = 0.010, 0.100
# Everything is said again so often: for hubs that have just come, and for what was lost.
_WHOLE_EVERY_S = 2.0
_ITEMS_MAX = 2_000


class _Limits(msgspec.Struct, frozen=True, array_like=True):
    """`v` is the format; a hub leaves alone what it does not know."""

    v: int
    hub: str
    loads: Sequence[InstanceLoad] = ()
    roots: Sequence[RootShare] = ()
    # Everything follows from here on; what was said of loads before counts no more, for an end may have been lost.
    begins_anew: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Limits).decode


class LimitGossip:
    """`run` is a duty of a hub whose engine is shared."""

    def __init__(self, bus: Bus, hubs: MeshHubs, balancer: Balancer, ledger: RootLedger) -> None:
        self._bus = bus
        self._hubs = hubs
        self._balancer = balancer
        self._ledger = ledger
        hubs.on_lost(balancer.forget_hub)
        balancer.share_with(lambda: 1 + len(hubs.others()))
        ledger.share()

    async def run(self) -> None:
        """Speak and listen, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(hear_always(self._bus, _SUBJECT, self.heard))
            loop = asyncio.get_running_loop()
            whole_at = 0.0
            while True:
                await self._balancer.wait_to_tell(_INTERVAL_S)
                is_whole = loop.time() >= whole_at
                if is_whole:
                    whole_at = loop.time() + _WHOLE_EVERY_S
                try:
                    await self.speak(is_whole=is_whole)
                except EngineError as error:
                    _log.debug("limits_not_told", extra={"reason": error.detail})
                await asyncio.sleep(_SOON_S)

    async def speak(self, *, is_whole: bool) -> None:
        """Tell what changed, or everything. Raises: EngineUnavailable; then it comes with the next whole."""
        loads = self._balancer.loads_to_tell(is_whole=is_whole)
        roots = self._ledger.shares_to_tell(is_whole=is_whole)
        parts = max(len(loads), len(roots), int(is_whole))
        limits = [
            _Limits(
                1,
                self._hubs.me,
                loads[start : start + _ITEMS_MAX],
                roots[start : start + _ITEMS_MAX],
                begins_anew=is_whole and start == 0,
            )
            for start in range(0, parts, _ITEMS_MAX)
        ]
        await self._bus.publish([BusMessage(subject=_SUBJECT, data=_encode(each)) for each in limits])

    def heard(self, data: bytes) -> None:
        """What another hub said, or this one."""
        try:
            limits = _decode(data)
        except msgspec.DecodeError:
            return
        if limits.hub == self._hubs.me:
            return
        self._ledger.heard_shares(limits.hub, limits.roots)
        if limits.begins_anew:
            self._balancer.forget_hub(limits.hub)
        if self._hubs.is_alive(limits.hub):
            # The last words of one that is gone would count for ever.
            self._balancer.heard_loads(limits.hub, limits.loads)
