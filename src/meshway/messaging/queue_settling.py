"""What a worker's word about a delivery means for the engine. Pure but for the dice, which are passed in."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from meshway.engine.ports import Ack, Extend, Settlement, ToDeadLetters, ToRetry
from meshway.kernel.errors import wrong_field
from meshway.kernel.retry import GiveUp, RetryAt, decide_after_failure
from meshway.messaging.channel import QueueChannelSettings
from meshway.messaging.deliveries import DELIVERY_ID_CHARACTERS_MAX, EngineDelivery, parse_delivery_id
from meshway.messaging.settlements import DELAY_MAX_MS, REASON_CHARACTERS_MAX, SettlementItem

__all__ = ["REJECTED", "SettlingPlan", "check_settlements", "give_up", "plan_settlements"]

# Kept with a dead letter whose worker gave no reason.
REJECTED = "rejected by the worker"


@dataclass(slots=True)
class SettlingPlan:
    """`settlements` for the engine, and at which places of the request they stand; the other places are stale."""

    settlements: list[Settlement] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    # Places, within `settlements`, of attempts that were the last.
    given_up: list[int] = field(default_factory=list)


def check_settlements(items: Sequence[SettlementItem]) -> None:
    """Raises: InvalidRequest naming the first wrong member (`settlements.3.delay_ms`)."""
    for index, item in enumerate(items):
        if len(item.delivery_id) > DELIVERY_ID_CHARACTERS_MAX:
            text = f"has more than {DELIVERY_ID_CHARACTERS_MAX} characters; use a delivery_id as it was handed out"
            raise wrong_field(f"settlements.{index}.delivery_id", text)
        if item.reason is not None and len(item.reason) > REASON_CHARACTERS_MAX:
            text = f"has {len(item.reason)} characters, more than {REASON_CHARACTERS_MAX}; keep the rest in your log"
            raise wrong_field(f"settlements.{index}.reason", text)
        if item.delay_ms is None:
            continue
        if item.action != "retry":
            raise wrong_field(
                f"settlements.{index}.delay_ms", f"goes with the action retry only, not with {item.action}"
            )
        if not 0 <= item.delay_ms <= DELAY_MAX_MS:
            raise wrong_field(f"settlements.{index}.delay_ms", f"choose 0 to {DELAY_MAX_MS:,} (365 days)")


def plan_settlements(
    queue: str,
    items: Sequence[SettlementItem],
    *,
    settings: QueueChannelSettings,
    now_ms: int,
    chance: Callable[[], float],
) -> SettlingPlan:
    """For checked items; `chance` gives numbers in [0, 1)."""
    plan = SettlingPlan()
    for index, item in enumerate(items):
        delivery = parse_delivery_id(queue, item.delivery_id)
        if delivery is None:
            continue
        plan.places.append(index)
        match item.action:
            case "ack":
                plan.settlements.append(Ack(delivery_id=delivery.engine_id))
            case "extend":
                plan.settlements.append(Extend(delivery_id=delivery.engine_id))
            case "dead_letter":
                plan.settlements.append(ToDeadLetters(delivery_id=delivery.engine_id, reason=item.reason or REJECTED))
            case "retry":
                _plan_retry(plan, delivery, item, settings, now_ms, chance())
    return plan


def give_up(engine_id: str, settings: QueueChannelSettings, reason: str) -> Settlement:
    """The end of a message whose attempts are used up: kept for inspection, or dropped where the queue keeps none."""
    if settings.dead_letter:
        return ToDeadLetters(delivery_id=engine_id, reason=reason)
    return Ack(delivery_id=engine_id)


def _plan_retry(
    plan: SettlingPlan,
    delivery: EngineDelivery,
    item: SettlementItem,
    settings: QueueChannelSettings,
    now_ms: int,
    chance: float,
) -> None:
    reason = item.reason or ""
    decision = decide_after_failure(
        settings.retry_policy(), delivery.attempt, reason=reason, now_ms=now_ms, chance=chance, delay_ms=item.delay_ms
    )
    match decision:
        case RetryAt():
            settlement: Settlement = ToRetry(
                delivery_id=delivery.engine_id, visible_at_ms=decision.visible_at_ms, reason=reason
            )
        case GiveUp():
            plan.given_up.append(len(plan.settlements))
            settlement = give_up(delivery.engine_id, settings, decision.reason)
    plan.settlements.append(settlement)
