"""What the hubs of a mesh tell each other of channels that keep nothing: who listens there, and what was counted.

For people who ask, not for deciding anything. What a hub that is lost had counted stays counted; its listeners are
gone.
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from meshway.engine.ports import Bus, BusMessage, hear_always
from meshway.kernel.errors import EngineError
from meshway.messaging.activity import Activity, ActivityShare

__all__ = ["ActivityGossip"]

_log = logging.getLogger(__name__)

_SUBJECT = "_mesh.activity"
_INTERVAL_S = 0.5
# Everything is said again so often: for hubs that have just come, and for what was lost.
_WHOLE_EVERY_S = 10.0
# Of one message: some 200 KB, which every engine takes.
_SHARES_MAX = 1_000


class _Gossip(msgspec.Struct, frozen=True, array_like=True):
    """`v` is the format; a hub leaves alone what it does not know."""

    v: int
    hub: str
    shares: Sequence[ActivityShare]
    # Everything follows from here on; who was said to listen before does no more, for an end may have been lost.
    begins_anew: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Gossip).decode


class ActivityGossip:
    """`run` is a duty of a hub whose engine is shared."""

    def __init__(self, bus: Bus, activity: Activity, *, hub_id: str) -> None:
        self._bus = bus
        self._activity = activity
        self._hub_id = hub_id

    async def run(self) -> None:
        """Speak and listen, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(hear_always(self._bus, _SUBJECT, self.heard))
            loop = asyncio.get_running_loop()
            whole_at = 0.0
            while True:
                is_whole = loop.time() >= whole_at
                if is_whole:
                    whole_at = loop.time() + _WHOLE_EVERY_S
                try:
                    await self.speak(is_whole=is_whole)
                except EngineError as error:
                    _log.debug("activity_not_told", extra={"reason": error.detail})
                await asyncio.sleep(_INTERVAL_S)

    async def speak(self, *, is_whole: bool) -> None:
        """Tell what changed, or everything. Raises: EngineUnavailable; then it comes with the next whole."""
        shares = self._activity.shares_to_tell(is_whole=is_whole)
        gossip = [
            _Gossip(1, self._hub_id, shares[start : start + _SHARES_MAX], begins_anew=is_whole and start == 0)
            for start in range(0, max(len(shares), int(is_whole)), _SHARES_MAX)
        ]
        await self._bus.publish([BusMessage(subject=_SUBJECT, data=_encode(each)) for each in gossip])

    def heard(self, data: bytes) -> None:
        """What another hub said, or this one."""
        try:
            gossip = _decode(data)
        except msgspec.DecodeError:
            return
        if gossip.hub == self._hub_id:
            return
        if gossip.begins_anew:
            self._activity.forget_listeners(gossip.hub)
        self._activity.heard_shares(gossip.hub, gossip.shares)
