"""A worker says what became of its deliveries."""

import logging
import random
from collections.abc import Callable, Sequence

from meshway.engine.ports import SettleOutcome
from meshway.gateway.queue_places import QueuePlaces, check_between
from meshway.kernel.errors import EngineUnavailable
from meshway.kernel.principal import Principal
from meshway.messaging.names import parse_channel_name
from meshway.messaging.queue_repeats import repeat_undecided
from meshway.messaging.queue_settling import SettlingPlan, check_settlements, plan_settlements
from meshway.messaging.settlements import SettlementItem

__all__ = ["SettleDeliveries"]

_log = logging.getLogger(__name__)

# As many as one lease hands out.
_SETTLEMENTS_MAX = 1_000
_DONE, _STALE = SettleOutcome.DONE.value, SettleOutcome.STALE.value


class SettleDeliveries:
    """Of all final settlements of one delivery at most one is `done`."""

    def __init__(self, places: QueuePlaces, *, chance: Callable[[], float] = random.random) -> None:
        """`chance`, in [0, 1), spreads the back-off; it is no secret."""
        self._places = places
        self._chance = chance

    async def execute(self, principal: Principal, queue: str, settlements: Sequence[SettlementItem]) -> Sequence[str]:
        """`done` or `stale` for each, in order; unknown, foreign and malformed deliveries are `stale`.

        `retry` of the last attempt makes a dead letter, or drops the message where the queue keeps none; the action
        `dead_letter` always keeps it. A reason given with `ack` or `extend` is not kept.
        Raises: Forbidden, InvalidRequest naming the member (`settlements.3.delay_ms`) with nothing done, StorageFull,
        EngineUnavailable, with what is known as `outcomes` (null: repeat it).
        """
        places = self._places
        places.admission.admit_channel(principal)
        name = parse_channel_name(queue)
        check_between("settlements", len(settlements), 1, _SETTLEMENTS_MAX)
        check_settlements(settlements)
        plan = plan_settlements(
            name,
            settlements,
            settings=places.settings_of(name),
            now_ms=places.clock.now_ms(),
            chance=self._chance,
        )
        outcomes = [_STALE] * len(settlements)
        if plan.settlements:
            await self._settle(name, plan, outcomes)
        return outcomes

    async def _settle(self, queue: str, plan: SettlingPlan, outcomes: list[str]) -> None:
        """Settle, and put into `outcomes` what was done."""
        engine = self._places.queue
        first = await engine.settle(plan.settlements)
        answers = await repeat_undecided(engine.settle, plan.settlements, first, is_undecided=_is_undecided)
        for place, answer in zip(plan.places, answers, strict=True):
            if answer is SettleOutcome.DONE:
                outcomes[place] = _DONE
        if plan.given_up:
            given_up = sum(answers[index] is SettleOutcome.DONE for index in plan.given_up)
            _log.info("queue_attempts_used_up", extra={"queue": queue, "messages": given_up})
        if SettleOutcome.UNDECIDED in answers:
            known: list[str | None] = list(outcomes)
            for place, answer in zip(plan.places, answers, strict=True):
                if answer is SettleOutcome.UNDECIDED:
                    known[place] = None
            text = "The engine did not say whether these settlements happened; repeat those whose outcome is null."
            raise EngineUnavailable(text, extensions={"outcomes": known})


def _is_undecided(outcome: SettleOutcome) -> bool:
    return outcome is SettleOutcome.UNDECIDED
