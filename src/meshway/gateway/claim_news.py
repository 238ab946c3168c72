"""An instance that worked for one hub goes on at another: that hub says so, and the first lets go of the claim.

The store's lease is the same for both. A hub that is not told takes the instance for lost when its grace is over, and
gives the task to another: an attempt too many, which the fences of the store make harmless.
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from meshway.engine.ports import Bus, BusMessage, hear_always
from meshway.kernel.errors import EngineError
from meshway.tasks.claims import Claims

__all__ = ["ClaimNews"]

_log = logging.getLogger(__name__)

_SUBJECT = "_mesh.claims"


class _News(msgspec.Struct, frozen=True, array_like=True):
    """`v` is the format; a hub leaves alone what it does not know."""

    v: int
    hub: str
    delivery_ids: Sequence[str]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_News).decode


class ClaimNews:
    """`run` is a duty of a hub whose engine is shared."""

    def __init__(self, bus: Bus, claims: Claims, *, hub_id: str) -> None:
        self._bus = bus
        self._claims = claims
        self._hub_id = hub_id
        self._taken_on: list[str] = []
        self._work = asyncio.Event()

    def taken_on(self, delivery_id: str) -> None:
        """What this hub did not hand out is worked on here."""
        self._taken_on.append(delivery_id)
        self._work.set()

    async def run(self) -> None:
        """Speak and listen, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._speak())
            group.create_task(hear_always(self._bus, _SUBJECT, self.heard))

    async def _speak(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            taken_on, self._taken_on = self._taken_on, []
            try:
                await self._bus.publish([BusMessage(subject=_SUBJECT, data=_encode(_News(1, self._hub_id, taken_on)))])
            except EngineError as error:
                _log.info("claims_not_told", extra={"reason": error.detail})

    def heard(self, data: bytes) -> None:
        """What another hub said, or this one."""
        try:
            news = _decode(data)
        except msgspec.DecodeError:
            return
        if news.hub == self._hub_id:
            return
        for delivery_id in news.delivery_ids:
            claim = self._claims.of_delivery(delivery_id)
            if claim is not None:
                self._claims.end(claim)
