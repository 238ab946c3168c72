"""What the hubs of a mesh tell each other about who is there: signs of life that one of them saw and nobody stores.

Heartbeats and answers come to one hub each. Every second it says on the bus which leases were renewed and who was heard
there, so that no other hub takes them for silent. A message that is lost costs nothing: leases outlast several.
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from meshway.engine.ports import Bus, BusMessage, hear_always
from meshway.kernel.errors import EngineError
from meshway.registry.presence_tracker import PresenceTracker, SignOfLife

__all__ = ["PresenceGossip"]

_log = logging.getLogger(__name__)

_SUBJECT = "_mesh.presence"
# A fifth of the shortest lease that makes sense over a network, and little beside what heartbeats cost themselves.
_INTERVAL_S = 1.0
# Of one message: 150 KB, which every engine takes.
_SIGNS_MAX = 2_000


class _Gossip(msgspec.Struct, frozen=True, array_like=True):
    """`v` is the format; a hub leaves alone what it does not know."""

    v: int
    hub: str
    signs: Sequence[SignOfLife]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Gossip).decode


class PresenceGossip:
    """`run` is a duty of a hub whose engine is shared."""

    def __init__(self, bus: Bus, presence: PresenceTracker, *, hub_id: str) -> None:
        self._bus = bus
        self._presence = presence
        self._hub_id = hub_id

    async def run(self) -> None:
        """Speak and listen, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(hear_always(self._bus, _SUBJECT, self.heard))
            while True:
                await asyncio.sleep(_INTERVAL_S)
                try:
                    await self.speak()
                except EngineError as error:
                    _log.debug("presence_not_told", extra={"reason": error.detail})

    async def speak(self) -> None:
        """Tell what is new since the last time. Raises: EngineUnavailable; then it comes with the next heartbeats."""
        signs = self._presence.signs_of_life()
        await self._bus.publish(
            [
                BusMessage(subject=_SUBJECT, data=_encode(_Gossip(1, self._hub_id, signs[start : start + _SIGNS_MAX])))
                for start in range(0, len(signs), _SIGNS_MAX)
            ]
        )

    def heard(self, data: bytes) -> None:
        """What another hub said, or this one."""
        try:
            gossip = _decode(data)
        except msgspec.DecodeError:
            return
        if gossip.hub != self._hub_id:
            self._presence.heard_elsewhere(gossip.signs)
