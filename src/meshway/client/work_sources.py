"""Where a worker's deliveries come from: the link, or long polls for those who cannot hold a socket."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import quote

import msgspec

from meshway.client.channel_messages import Delivery, read_message
from meshway.client.connection import HubConnection
from meshway.client.errors import ClientError, HubError, HubUnreachable, UnexpectedAnswer
from meshway.client.link import Backoff, LinkSession, SubscriptionFrame, passes_in_time
from meshway.messaging.settlements import SettlementItem
from meshway.protocols.link import frames

__all__ = ["HttpSource", "LinkSource", "TakenDelivery", "WorkDesk", "WorkSource"]

_log = logging.getLogger(__name__)

# Below the usual 60 s of load balancers, and the hub's own bound.
_POLL_WAIT_MS = 20_000
# The hub leases at most so many at once.
_LEASE_COUNT_MAX = 1_000
# On top of `wait_ms`, so that the hub's empty answer arrives before we give up.
_POLL_MARGIN_S = 10.0
# The shortest lease a queue may have: where clocks differ so much that nothing seems to be left.
_LEASE_MIN_S = 0.1


class TakenDelivery(msgspec.Struct, frozen=True):
    """One delivery and how long it is ours."""

    delivery: Delivery
    lease_s: float


class WorkDesk(Protocol):
    """The worker, as its source sees it."""

    @property
    def free_slots(self) -> int:
        """Handlers that could run beside those that do."""

    def take(self, deliveries: Sequence[TakenDelivery]) -> None:
        """Begin work on these; never more than there were free slots."""

    def fail(self, error: ClientError) -> None:
        """The hub refuses for good: no more work will come."""


class WorkSource(Protocol):
    async def run(self, desk: WorkDesk) -> None:
        """Hand deliveries to the desk until cancelled; comes back from lost connections by itself."""

    def freed(self) -> None:
        """The desk has more free slots than before."""

    async def settle(self, settlements: Sequence[SettlementItem], *, deadline: float) -> Sequence[str]:
        """`done` or `stale` for each, in order. Raises: HubError; HubUnreachable after `deadline` (loop time)."""

    async def stop(self) -> None:
        """No more deliveries come once this returns; settling goes on."""


class LinkSource:
    """A subscription whose credit is the number of free slots: the hub never leases what would wait here."""

    def __init__(self, session: LinkSession, queue: str) -> None:
        self._session = session
        self._queue = queue
        self._desk: WorkDesk | None = None
        self._id: str | None = None
        self._outstanding = 0
        self._changed = asyncio.Event()

    async def run(self, desk: WorkDesk) -> None:
        self._desk = desk
        self._id = await self._session.subscribe(self)
        while True:
            await self._changed.wait()
            self._changed.clear()
            credit = desk.free_slots - self._outstanding
            if credit > 0 and self._session.is_connected:
                self._outstanding += credit
                await self._session.send(frames.Credit(id=self._id, messages=credit))

    def freed(self) -> None:
        self._changed.set()

    async def settle(self, settlements: Sequence[SettlementItem], *, deadline: float) -> Sequence[str]:
        frame = frames.Settle(ref="", queue=self._queue, settlements=list(settlements))
        answer = await self._session.call(frame, deadline=deadline, is_repeatable=True, is_closing=True)
        if not isinstance(answer, frames.Settled) or len(answer.outcomes) != len(settlements):
            raise UnexpectedAnswer("The hub did not answer settlements with their outcomes.", url="")
        return answer.outcomes

    async def stop(self) -> None:
        if self._id is not None:
            await self._session.unsubscribe(self._id)

    def subscribe_frame(self, subscription_id: str) -> frames.Subscribe:
        """As LinkSubscription."""
        self._outstanding = 0 if self._desk is None else self._desk.free_slots
        return frames.Subscribe(id=subscription_id, kind="queues", channel=self._queue, credit=self._outstanding)

    def accept(self, frame: SubscriptionFrame) -> None:
        """As LinkSubscription."""
        if not isinstance(frame, frames.Deliveries) or self._desk is None:
            return
        self._outstanding -= len(frame.deliveries)
        self._desk.take(_readable(frame.deliveries))
        # Where one could not be read, its slot is free again.
        self._changed.set()

    def lost(self) -> None:
        """As LinkSubscription."""
        self._outstanding = 0

    def fail(self, error: ClientError) -> None:
        """As LinkSubscription."""
        if self._desk is not None:
            self._desk.fail(error)


class _WireDeliveries(msgspec.Struct):
    deliveries: list[frames.Delivery] = []


class _WireOutcomes(msgspec.Struct):
    outcomes: list[str] = []


class HttpSource:
    """Long polls for as many as there are free slots."""

    def __init__(self, connection: HubConnection, queue: str) -> None:
        self._connection = connection
        self._path = f"/v1/queues/{quote(queue, safe='')}"
        self._freed = asyncio.Event()
        self._is_stopped = False

    async def run(self, desk: WorkDesk) -> None:
        backoff = Backoff()
        while not self._is_stopped:
            if desk.free_slots < 1:
                self._freed.clear()
                await self._freed.wait()
                continue
            try:
                await self._poll(desk)
                backoff.reset()
            except HubError as error:
                if not passes_in_time(error):
                    desk.fail(error)
                    return
                await asyncio.sleep(backoff.next_s())
            except HubUnreachable as error:
                _log.info("hub_unreachable", extra={"error": error.detail})
                await asyncio.sleep(backoff.next_s())
            except UnexpectedAnswer as error:
                desk.fail(error)
                return

    async def _poll(self, desk: WorkDesk) -> None:
        answer = await self._connection.request(
            "POST",
            f"{self._path}/lease",
            _WireDeliveries,
            body={"count": min(desk.free_slots, _LEASE_COUNT_MAX), "wait_ms": _POLL_WAIT_MS},
            timeout_s=_POLL_WAIT_MS / 1000 + _POLL_MARGIN_S,
        )
        desk.take(_readable(answer.deliveries))

    def freed(self) -> None:
        self._freed.set()

    async def settle(self, settlements: Sequence[SettlementItem], *, deadline: float) -> Sequence[str]:
        body = {"settlements": settlements}
        backoff = Backoff()
        while True:
            try:
                answer = await self._connection.request("POST", f"{self._path}/settle", _WireOutcomes, body=body)
            except HubUnreachable:
                if asyncio.get_running_loop().time() >= deadline:
                    raise
                await asyncio.sleep(backoff.next_s())
                continue
            if len(answer.outcomes) != len(settlements):
                raise UnexpectedAnswer("The hub did not answer settlements with their outcomes.", url="")
            return answer.outcomes

    async def stop(self) -> None:
        # A poll under way ends with its task; what the hub had just leased to it is due again when that lease ends.
        self._is_stopped = True
        self._freed.set()


def _readable(deliveries: Sequence[frames.Delivery]) -> list[TakenDelivery]:
    taken = []
    for each in deliveries:
        try:
            lease_until = msgspec.convert(each.lease_until, datetime)
            delivery = read_message(
                each.message,
                Delivery,
                delivery_id=each.delivery_id,
                attempt=each.attempt,
                lease_until=lease_until,
            )
        except msgspec.MsgspecError as error:
            # Its lease ends by itself, and another worker, perhaps a newer one, has it.
            _log.error("delivery_unreadable", extra={"delivery_id": each.delivery_id, "error": str(error)})
            continue
        lease_s = each.lease_ms / 1000 or (lease_until - datetime.now(UTC)).total_seconds()
        taken.append(TakenDelivery(delivery, max(lease_s, _LEASE_MIN_S)))
    return taken
