"""Leasing from one queue: all callers of this hub share one sweep over its lanes, and one parked pull in each.

    callers wait -- sweep, highest lane first -- some found: handed out in order of asking --+
         ^                     |                                                           |
         |                     +-- nothing: a pull is parked in each lane, until one ends --+

What arrives for a caller that is gone goes to the next one, or back to the queue.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence

from nats.aio.subscription import Subscription

from meshway.engine.nats.failures import ApiError, Unanswered, error_of
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.owned_tasks import OwnedTasks
from meshway.engine.nats.queue_admit import Admission, Taken
from meshway.engine.nats.queue_books import QueueBooks
from meshway.engine.nats.queue_consumers import Arrival, Consumers, Inbox, Lane
from meshway.engine.nats.queue_limits import read_subjects
from meshway.engine.nats.queue_subjects import LANES, ORDERED_LANES, PLAIN_LANES, QueueSubjects
from meshway.engine.nats.wire import Incoming
from meshway.engine.ports import Lease, Priority
from meshway.kernel.errors import EngineUnavailable, MeshwayError

__all__ = ["Leasing"]

_log = logging.getLogger(__name__)

_LEASES_MAX = 1_000
# How long a pull is parked at most: with the connection to the server that knows it, it may be lost.
_PARK_MAX_MS = 5_000
# A lease begins when its pull was sent, so it is parked for a part of it only.
_PARK_PARTS = 4
_PARK_MIN_MS = 50
# What may have been missed of the notices of other hubs is found after so long.
_LANES_FRESH_S = 5.0
# What came for a caller that is gone waits so long for another one.
_GRACE_S = 0.05
_RETRY_S = 0.1
# A queue nobody leased from for so long is forgotten here.
_IDLE_S = 60.0


class _Caller:
    __slots__ = ("answered", "count", "ends_at", "patient_until")

    def __init__(self, count: int, now_s: float, wait_s: float, patience_s: float) -> None:
        self.count = count
        self.ends_at = now_s + wait_s
        # Until then an engine that does not answer is asked again.
        self.patient_until = now_s + patience_s
        self.answered: asyncio.Future[list[Taken]] = asyncio.get_running_loop().create_future()


class Leasing:
    """Of all queues that somebody leases from at this hub."""

    def __init__(
        self,
        jetstream: JetStream,
        subjects: QueueSubjects,
        *,
        books: QueueBooks,
        consumers: Consumers,
        admission: Admission,
        tasks: OwnedTasks,
        timeout_ms: int,
    ) -> None:
        self.jetstream = jetstream
        self.subjects = subjects
        self.books = books
        self.consumers = consumers
        self.admission = admission
        self.tasks = tasks
        self.timeout_s = timeout_ms / 1000
        self._pullers: dict[str, _Puller] = {}

    async def lease(self, queue: str, count: int, wait_ms: int) -> Sequence[Lease]:
        """For checked arguments. Raises: StorageFull, EngineUnavailable."""
        if self.tasks.is_closed:
            raise EngineUnavailable("the engine is closed")
        puller = self._pullers.get(queue)
        if puller is None:
            puller = self._pullers[queue] = _Puller(self, queue)
        return [taken.lease for taken in await puller.lease(count, wait_ms)]

    def notice(self, queue: str, lane: str) -> None:
        """The lane is in use."""
        puller = self._pullers.get(queue)
        if puller is not None:
            puller.notice(lane)

    def drop(self, puller: "_Puller") -> None:
        """Nobody used it for long."""
        if self._pullers.get(puller.queue) is puller:
            del self._pullers[puller.queue]


class _Puller:
    def __init__(self, leasing: Leasing, queue: str) -> None:
        self.queue = queue
        self._leasing = leasing
        self._lanes: dict[str, Lane] = {}
        self._ordered = False
        self._callers: deque[_Caller] = deque()
        self._arrived: list[Arrival] = []
        self._woken = asyncio.Event()
        self._is_running = False
        self._asked_at = float("-inf")
        self._notices: Subscription | None = None
        # Of the parked pulls, while there are any.
        self._inbox: Inbox | None = None

    async def lease(self, count: int, wait_ms: int) -> list[Taken]:
        caller = _Caller(count, _now_s(), wait_ms / 1000, self._leasing.timeout_s)
        self._callers.append(caller)
        self._woken.set()
        self._run_if_needed()
        try:
            return await caller.answered
        except asyncio.CancelledError:
            if not caller.answered.cancelled() and caller.answered.exception() is None:
                self._return_soon(caller.answered.result())
            # Where nobody waits any more, nothing may come: it would be away for a lease if this hub died now.
            self._woken.set()
            raise

    def notice(self, name: str) -> None:
        if name not in self._lanes and name in (ORDERED_LANES if self._ordered else PLAIN_LANES):
            self._add_lane(name)
            self._woken.set()

    def _run_if_needed(self) -> None:
        if not self._is_running:
            self._is_running = True
            self._leasing.tasks.start(self._run(), name=f"meshway-nats-lease-{self.queue[:80]}")

    async def _run(self) -> None:
        try:
            while await self._is_wanted():
                self._woken.clear()
                try:
                    await self._round()
                except (ApiError, Unanswered) as failure:
                    await self._failed(error_of(failure))
                except MeshwayError as error:
                    await self._failed(error)
            await self._leave()
        finally:
            self._is_running = False
            for caller in self._callers:
                if not caller.answered.done():
                    caller.answered.set_exception(EngineUnavailable("the engine is closed"))

    async def _is_wanted(self) -> bool:
        """Whether there is somebody to work for; gives back what came for nobody."""
        while not self._callers:
            await self._unpark()
            if self._callers:
                break
            wait_s = _GRACE_S if self._arrived else _IDLE_S
            self._woken.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._woken.wait()
                continue
            except TimeoutError:
                pass
            if self._callers:
                break
            if not self._arrived:
                return False
            await self._return_arrived()
        return True

    async def _round(self) -> None:
        """Hand out what is there; where that is nothing, wait for something to come."""
        callers = self._waiting()
        if not callers:
            return
        await self._know_lanes()
        wanted = min(_LEASES_MAX, sum(caller.count for caller in callers))
        lease_ms = self._leasing.books.settings(self.queue).lease_ms
        await self._sweep(wanted, lease_ms)
        arrived, self._arrived = self._arrived, []
        taken = await self._admit(arrived)
        self._hand_out(taken)
        now_s = _now_s()
        for caller in callers:
            if caller.ends_at <= now_s and not caller.answered.done():
                caller.answered.set_result([])
        callers = self._waiting()
        if callers and len(arrived) < wanted:
            await self._wait(callers, lease_ms)

    async def _sweep(self, wanted: int, lease_ms: int) -> None:
        """Have what is due arrive."""
        lanes = sorted(self._lanes.values(), key=lambda lane: lane.rank)
        for lane in lanes:
            left = wanted - len(self._arrived)
            if left > 0 and not lane.is_part:
                await self._leasing.consumers.take(lane, left, lease_ms=lease_ms)
        parts = [lane for lane in lanes if lane.is_part]
        left = wanted - len(self._arrived)
        if left > 0 and parts:
            await self._leasing.consumers.take_parts(parts, left, lease_ms=lease_ms)

    async def _admit(self, arrived: list[Arrival]) -> list[Taken]:
        if not arrived:
            return []
        try:
            return await self._leasing.admission.admit(self.queue, arrived)
        except (MeshwayError, ApiError, Unanswered):
            # They are tried again, for as long as their leases last.
            self._arrived = arrived + self._arrived
            raise

    def _hand_out(self, taken: list[Taken]) -> None:
        begin = 0
        for caller in self._waiting():
            part = taken[begin : begin + caller.count]
            if not part:
                break
            caller.answered.set_result(part)
            begin += len(part)
        if begin < len(taken):
            self._return_soon(taken[begin:])

    async def _wait(self, callers: Sequence[_Caller], lease_ms: int) -> None:
        """Until a message arrives, a caller comes, a lane is new, or the time of a caller or a pull is over."""
        now_s = _now_s()
        longest_ms = int(1000 * max(caller.ends_at - now_s for caller in callers))
        park_ms = max(_PARK_MIN_MS, min(_PARK_MAX_MS, lease_ms // _PARK_PARTS, longest_ms))
        if self._inbox is None:
            self._inbox = await self._leasing.consumers.open_inbox()
        for lane in self._lanes.values():
            await self._leasing.consumers.park(lane, self._inbox, park_ms)
        shortest_s = min(caller.ends_at for caller in callers) - now_s
        try:
            async with asyncio.timeout(max(0.0, min(shortest_s, 2 * park_ms / 1000))):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _unpark(self) -> None:
        """Nobody waits: what comes is for others."""
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            await self._leasing.consumers.close_inbox(inbox, list(self._lanes.values()))

    async def _failed(self, error: MeshwayError) -> None:
        """The engine did not answer: who has waited long enough is told, the others wait on."""
        now_s = _now_s()
        for caller in self._waiting():
            if now_s >= caller.patient_until:
                caller.answered.set_exception(error)
        self._asked_at = float("-inf")
        await asyncio.sleep(_RETRY_S)

    def _waiting(self) -> list[_Caller]:
        """Callers that are still there, in order of asking."""
        self._callers = deque(caller for caller in self._callers if not caller.answered.done())
        return list(self._callers)

    # Lanes

    async def _know_lanes(self) -> None:
        """Which lanes have messages, or will have."""
        ordered = self._leasing.books.settings(self.queue).ordered
        if ordered != self._ordered:
            self._ordered = ordered
            for lane in self._lanes.values():
                self._leasing.consumers.remove(lane)
            self._lanes.clear()
            self._asked_at = float("-inf")
        now_s = _now_s()
        if now_s - self._asked_at < _LANES_FRESH_S:
            return
        subjects, jetstream = self._leasing.subjects, self._leasing.jetstream
        is_first = self._notices is None
        if is_first:
            link = jetstream.link
            self._notices = await link.hear(subjects.notice(self.queue), self._on_notice)
        if not self._lanes and not ordered:
            self._add_lane(str(int(Priority.NORMAL)))
        for subject in await read_subjects(jetstream, subjects.stream, subjects.messages(self.queue)):
            priority, part = subject.split(".")[-3:-1]
            self.notice(part if ordered else priority)
        if is_first or self._asked_at == float("-inf"):
            await self._know_scheduled_lanes()
        self._asked_at = now_s

    async def _know_scheduled_lanes(self) -> None:
        subjects, jetstream = self._leasing.subjects, self._leasing.jetstream
        for name in ORDERED_LANES if self._ordered else PLAIN_LANES:
            if name not in self._lanes:
                body = {"next_by_subj": subjects.schedules(self.queue, lane=name), "seq": 1, "batch": 1}
                if (await jetstream.read(subjects.stream, body)).messages:
                    self._add_lane(name)

    def _on_notice(self, message: Incoming) -> None:
        name = message.data.decode(errors="replace")
        if name in LANES:
            self.notice(name)

    def _add_lane(self, name: str) -> None:
        lane = Lane(self.queue, name, self._on_arrival, self._woken.set)
        self._lanes[name] = lane
        self._leasing.consumers.add(lane)

    def _on_arrival(self, arrival: Arrival) -> None:
        self._arrived.append(arrival)
        self._woken.set()
        self._run_if_needed()

    # Giving back

    def _return_soon(self, taken: Sequence[Taken]) -> None:
        if taken:
            self._leasing.tasks.start(self._return(taken), name="meshway-nats-give-back")

    async def _return(self, taken: Sequence[Taken]) -> None:
        try:
            await self._leasing.admission.give_back(self.queue, taken)
        except (MeshwayError, ApiError, Unanswered) as error:
            # Their leases run out by themselves.
            _log.warning("nats_messages_not_given_back", extra={"queue": self.queue, "reason": str(error)})

    async def _return_arrived(self) -> None:
        arrived, self._arrived = self._arrived, []
        try:
            taken = await self._leasing.admission.admit(self.queue, arrived)
        except (MeshwayError, ApiError, Unanswered) as error:
            _log.warning("nats_messages_not_given_back", extra={"queue": self.queue, "reason": str(error)})
            return
        if self._callers:
            self._hand_out(taken)
        else:
            await self._return(taken)

    async def _leave(self) -> None:
        self._leasing.drop(self)
        for lane in self._lanes.values():
            self._leasing.consumers.remove(lane)
        notices, self._notices = self._notices, None
        if notices is not None:
            try:
                await notices.unsubscribe()
            except Exception as error:  # noqa: BLE001  the connection is gone, and the subscription with it
                _log.debug("nats_notices_not_left", extra={"reason": str(error)})


def _now_s() -> float:
    return asyncio.get_running_loop().time()
