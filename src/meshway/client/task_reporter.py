"""Between the handlers of an agent and the hub: reports in order, settlements, leases that are kept.

A delivery is here from its arrival until the hub has confirmed its end:

    held -> ended (its last report or its settlement waits for the hub) -> gone
      └──── lost (the hub gave it to somebody else, or ended it) -> gone

While the hub is away everything waits; after `connected` the hub says what it has, and the rest is sent again.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meshway.client.agent_values import AgentOptions
from meshway.client.errors import ClientError, HubError, UnexpectedAnswer
from meshway.client.handlers import shortened
from meshway.client.link import Backoff, LinkSession, passes_in_time
from meshway.client.task_outbox import TaskOutbox
from meshway.protocols.link import frames

__all__ = ["TaskReporter"]

_log = logging.getLogger(__name__)

# A lease is extended when a third of it has passed, so that two more tries fit in; looked after four times as often.
_EXTEND_AFTER = 1 / 3
_LOOKS_PER_LEASE = 12
# The shortest lease that is looked after; below it the timer itself would be the work.
_LEASE_MIN_S = 0.1
# One report frame: what the hub writes in one go, and far below the largest frame.
_REPORT_ITEMS_MAX = 256
_REPORT_BYTES_MAX = 512 * 1024
# As many as the hub takes settlements of queues.
_SETTLE_MAX = 1_000
# A hub that does not answer by then has lost the request; it is repeated, and what it has already changes nothing.
_ANSWER_TIMEOUT_S = 30.0
# The hub will say no again: the same frame is not sent twice.
_REFUSALS = frozenset({"payload_too_large", "invalid_request", "malformed_body"})


@dataclass(slots=True)
class _Held:
    lease_s: float
    extend_at: float
    is_extending: bool = False
    # Its last report is in the outbox.
    has_ended: bool = False
    settlement: frames.TaskSettlement | None = None


class TaskReporter:
    """`on_lost` is called with the id of a delivery that is not ours any more, and why. All on one event loop."""

    def __init__(self, session: LinkSession, options: AgentOptions, *, on_lost: Callable[[str, str], None]) -> None:
        self._session = session
        self._on_lost = on_lost
        self._outbox = TaskOutbox(events_max=options.buffer_events_max, bytes_max=options.buffer_bytes_max)
        self._held: dict[str, _Held] = {}
        self._settlements: deque[frames.TaskSettlement] = deque()
        self._subscription_id = ""
        self._served = asyncio.Event()
        self._unsent = asyncio.Event()
        self._unsettled = asyncio.Event()
        self._room = asyncio.Event()
        # Set while nothing is held.
        self._idle = asyncio.Event()
        self._idle.set()
        # One after a refusal, so that the next one names its delivery.
        self._report_items_max = _REPORT_ITEMS_MAX
        self._look_timer: asyncio.TimerHandle | None = None

    # --- for handlers ---

    def hold(self, delivery_id: str, lease_s: float) -> None:
        """A delivery has come."""
        lease_s = max(lease_s, _LEASE_MIN_S)
        now = asyncio.get_running_loop().time()
        self._held[delivery_id] = _Held(lease_s, now + lease_s * _EXTEND_AFTER)
        self._outbox.open(delivery_id)
        self._idle.clear()
        self._look_after(lease_s)

    def append(self, delivery_id: str, event: bytes, *, ends_delivery: bool = False) -> None:
        """Report an event; of a delivery that is over, nothing happens."""
        held = self._held.get(delivery_id)
        if held is None or held.has_ended or held.settlement is not None:
            return
        held.has_ended = ends_delivery
        self._outbox.append(delivery_id, event)
        self._unsent.set()

    async def room(self) -> None:
        """Wait while too much waits for the hub."""
        while not self._outbox.has_room:
            self._room.clear()
            await self._room.wait()

    def settle(self, settlement: frames.TaskSettlement) -> None:
        """Say what is to become of a delivery, after what was reported of it; of one that is over, nothing happens."""
        held = self._held.get(settlement.delivery_id)
        if held is None or held.has_ended or held.settlement is not None:
            return
        held.settlement = settlement
        if self._outbox.is_confirmed(settlement.delivery_id):
            self._say(settlement)

    # --- for the subscription ---

    def holds(self) -> list[frames.Hold]:
        """What this process still works on or has to report."""
        return self._outbox.holds()

    def connected(self, subscription_id: str, states: Sequence[frames.HoldState], shown: Sequence[frames.Hold]) -> None:
        """The hub has answered to the holds that were shown to it: go on, or give up, each of them."""
        self._subscription_id = subscription_id
        self._settlements.clear()
        held_sources = {each.delivery_id: each.source for each in states if each.held}
        now = asyncio.get_running_loop().time()
        for hold in shown:
            held = self._held.get(hold.delivery_id)
            if held is None:
                continue
            if hold.delivery_id not in held_sources:
                self.lose(hold.delivery_id, "the hub does not know of the lease any more")
                continue
            held.is_extending = False
            held.extend_at = now
            self._outbox.confirm(hold.delivery_id, held_sources[hold.delivery_id])
            self._outbox.rewind(hold.delivery_id)
            self._go_on(hold.delivery_id, held)
        self._room.set()
        self._unsent.set()
        self._served.set()
        self._extend_due()

    def disconnected(self) -> None:
        """What was under way may or may not have arrived."""
        self._served.clear()

    def lose(self, delivery_id: str, reason: str) -> None:
        """It is not ours any more: forget it, and tell."""
        if delivery_id in self._held:
            _log.info("task_lost", extra={"delivery_id": delivery_id, "reason": reason})
            self._forget(delivery_id)
        self._on_lost(delivery_id, reason)

    # --- work of the service's group ---

    async def report(self) -> None:
        """Send what handlers say, many at once; while one report is under way, the next gathers."""
        backoff = Backoff()
        while True:
            await self._unsent.wait()
            await self._served.wait()
            batch = self._outbox.next_batch(items_max=self._report_items_max, bytes_max=_REPORT_BYTES_MAX)
            if not batch:
                self._unsent.clear()
            elif await self._report_batch(batch):
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_s())

    async def settle_all(self) -> None:
        """Send settlements, many at once."""
        backoff = Backoff()
        while True:
            await self._unsettled.wait()
            await self._served.wait()
            batch = [self._settlements.popleft() for _ in range(min(len(self._settlements), _SETTLE_MAX))]
            if not batch:
                self._unsettled.clear()
            elif await self._settle_batch(batch):
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next_s())

    async def idle(self) -> None:
        """Wait until the hub has confirmed the end of everything."""
        await self._idle.wait()

    def close(self) -> None:
        """Leases are not looked after any more."""
        if self._look_timer is not None:
            self._look_timer.cancel()

    async def _report_batch(self, batch: Sequence[frames.ReportItem]) -> bool:
        """False: nothing got through, try again later."""
        frame = frames.Report(ref="", id=self._subscription_id, reports=list(batch))
        delivery_ids = {item.delivery_id: None for item in batch}
        try:
            answer = await self._call(frame)
            if not isinstance(answer, frames.Reported):
                raise UnexpectedAnswer("The hub did not answer reports with their outcomes.", url="")
        except ClientError as error:
            for delivery_id in delivery_ids:
                self._outbox.rewind(delivery_id)
            return self._after_refusal(batch, error)
        finally:
            self._room.set()
        self._report_items_max = _REPORT_ITEMS_MAX
        return self._take_outcomes(answer.outcomes, batch)

    def _after_refusal(self, batch: Sequence[frames.ReportItem], error: ClientError) -> bool:
        """Find the report that the hub does not take by sending each alone, and give its delivery up."""
        if not (isinstance(error, HubError) and error.code in _REFUSALS):
            _log.info("report_delayed", extra={"error": error.detail})
            # Without a connection there is nothing to try again before the next one.
            return not self._served.is_set()
        if len(batch) == 1:
            self._refuse(batch[0].delivery_id, error.detail)
        self._report_items_max = 1
        return True

    def _take_outcomes(self, outcomes: Sequence[frames.ReportOutcome], batch: Sequence[frames.ReportItem]) -> bool:
        last = {item.delivery_id: item.source for item in batch}
        is_short = False
        for outcome in outcomes:
            delivery_id = outcome.delivery_id
            if outcome.outcome == "stale":
                self.lose(delivery_id, outcome.detail or "the task is not this instance's any more")
                continue
            held = self._held.get(delivery_id)
            if held is None:
                continue
            self._outbox.confirm(delivery_id, outcome.source)
            if outcome.outcome == "refused":
                self._refuse(delivery_id, outcome.detail or "the hub refused an event")
                continue
            if outcome.source < last.get(delivery_id, 0):
                self._outbox.rewind(delivery_id)
                is_short = True
            self._go_on(delivery_id, held)
        return not is_short

    def _refuse(self, delivery_id: str, detail: str) -> None:
        """An event is none the task may have: no attempt of this code will do better."""
        held = self._held.get(delivery_id)
        if held is None:
            return
        _log.error("task_event_refused", extra={"delivery_id": delivery_id, "detail": detail})
        self._outbox.clear(delivery_id)
        held.has_ended = False
        held.settlement = frames.TaskSettlement(delivery_id=delivery_id, action="fail", reason=shortened(detail))
        self._say(held.settlement)
        self._on_lost(delivery_id, detail)

    def _go_on(self, delivery_id: str, held: _Held) -> None:
        """Take the next step of a delivery whose reports may all be confirmed now."""
        if not self._outbox.is_confirmed(delivery_id):
            return
        if held.has_ended:
            self._forget(delivery_id)
        elif held.settlement is not None:
            self._say(held.settlement)

    async def _settle_batch(self, batch: Sequence[frames.TaskSettlement]) -> bool:
        frame = frames.SettleTasks(ref="", id=self._subscription_id, settlements=list(batch))
        try:
            answer = await self._call(frame)
            if not isinstance(answer, frames.Settled) or len(answer.outcomes) != len(batch):
                raise UnexpectedAnswer("The hub did not answer settlements with their outcomes.", url="")
        except ClientError as error:
            self._unsettle(batch, error)
            return not self._served.is_set()
        for settlement, outcome in zip(batch, answer.outcomes, strict=True):
            self._settled(settlement, is_done=outcome == "done")
        return True

    def _unsettle(self, batch: Sequence[frames.TaskSettlement], error: ClientError) -> None:
        """What the hub may take later waits; what it will not take is left to the lease."""
        is_final = isinstance(error, HubError) and not passes_in_time(error)
        for each in batch:
            held = self._held.get(each.delivery_id)
            if held is None:
                continue
            if each.action == "extend":
                held.is_extending = False
            elif is_final:
                _log.error("settlement_refused", extra={"delivery_id": each.delivery_id, "error": error.detail})
                self._forget(each.delivery_id)
            elif self._served.is_set():
                self._say(each)

    def _settled(self, settlement: frames.TaskSettlement, *, is_done: bool) -> None:
        held = self._held.get(settlement.delivery_id)
        if held is None:
            return
        if settlement.action != "extend":
            if not is_done:
                _log.warning("settlement_stale", extra={"delivery_id": settlement.delivery_id})
            self._forget(settlement.delivery_id)
            return
        held.is_extending = False
        if is_done:
            held.extend_at = asyncio.get_running_loop().time() + held.lease_s * _EXTEND_AFTER
        elif not (held.has_ended or held.settlement):
            self.lose(settlement.delivery_id, "the lease was over")

    async def _call(self, frame: frames.Report | frames.SettleTasks) -> frames.HubFrame:
        deadline = asyncio.get_running_loop().time() + _ANSWER_TIMEOUT_S
        return await self._session.call(frame, deadline=deadline, is_repeatable=False, is_closing=True)

    def _say(self, settlement: frames.TaskSettlement) -> None:
        self._settlements.append(settlement)
        self._unsettled.set()

    def _forget(self, delivery_id: str) -> None:
        self._held.pop(delivery_id, None)
        self._outbox.close(delivery_id)
        self._room.set()
        if not self._held:
            self._idle.set()

    def _look_after(self, lease_s: float) -> None:
        """One timer looks after all leases; it stands still while nothing is held."""
        if self._look_timer is None and self._held:
            loop = asyncio.get_running_loop()
            self._look_timer = loop.call_later(lease_s / _LOOKS_PER_LEASE, self._looked)

    def _looked(self) -> None:
        self._look_timer = None
        self._extend_due()

    def _extend_due(self) -> None:
        now = asyncio.get_running_loop().time()
        shortest_s = float("inf")
        for delivery_id, held in self._held.items():
            shortest_s = min(shortest_s, held.lease_s)
            if held.extend_at <= now and not (held.is_extending or held.settlement) and self._served.is_set():
                held.is_extending = True
                self._say(frames.TaskSettlement(delivery_id=delivery_id, action="extend"))
        self._look_after(shortest_s)
