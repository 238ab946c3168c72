"""Appending: entries of one subject one after the other, of many subjects at once.

What waits for a subject stands in its lane. The call that opens lanes starts one round of work after the other for all
of them: look up ends that are not known, plan, publish everything, hear what came of it. Calls that come meanwhile add
to the lanes, so that many small ones for one subject become one atomic batch. A write says which message of the subject
it follows; so it is stored once at most, however often it is tried, and a lost answer is found out by looking.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence

from meshway.engine.nats.failures import FULL_CODES, UNDECIDED_CODES, WRONG_LAST, ApiError, Unanswered, error_of
from meshway.engine.nats.jetstream import Ack, JetStream
from meshway.engine.nats.link import Ask
from meshway.engine.nats.log_ends import NEVER_WRITTEN, LogEnds
from meshway.engine.nats.log_entries import EXPECTED_LAST, End, as_batch, headers_of, number_of, wire_bytes
from meshway.engine.nats.log_plan import Item, Looked, Need, Plan, Repeats, Write, make_plan
from meshway.engine.nats.log_reader import LogReader
from meshway.engine.nats.owned_tasks import OwnedTasks
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import Appended, LogAppend, LogOutcome, Undecided
from meshway.kernel.errors import EngineUnavailable, MeshwayError, PayloadTooLarge

__all__ = ["LogWriter"]

# A batch waits for the disk of a single server, so that few entries are quicker one by one.
_BATCH_ENTRIES_MIN = 4
# JetStream keeps the length of headers in two bytes.
_HEADER_BYTES_MAX = 60_000
_CONFLICTS_AT_ONCE = 4
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.01, 0.25
_DOUBTS_MAX = 20_000


class _Call:
    """One `append`: its outcomes as they come."""

    def __init__(self, count: int, ends_at: float) -> None:
        self.ends_at = ends_at
        self.finished: asyncio.Future[Sequence[LogOutcome]] = asyncio.get_running_loop().create_future()
        self._outcomes: list[LogOutcome | None] = [None] * count
        self._errors: list[MeshwayError] = []
        self._failed: dict[int, str] = {}
        self._left = count

    def decide(self, place: int, outcome: LogOutcome) -> None:
        self._outcomes[place] = outcome
        self._count()

    def fail(self, place: int, error: MeshwayError) -> None:
        """It is certain that the entry was not stored."""
        self._errors.append(error)
        self._outcomes[place] = Undecided(reason=error.detail)
        self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left or self.finished.done():
            return
        if len(self._errors) == len(self._outcomes):
            self.finished.set_exception(self._errors[0])
        else:
            self.finished.set_result([outcome for outcome in self._outcomes if outcome is not None])


class _Lane:
    """What waits for one subject, and what is known of it while it is written."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.items: deque[Item] = deque()
        self.end: End | None = None
        # Whether the end was asked for, or was made by our own write, since the lane was opened.
        self.is_fresh = False
        # Items to be written by themselves: a batch with them was refused as a whole.
        self.alone = 0
        self.conflicts = 0
        self.pause_s = 0.0
        self.reason = ""

    def plan(self, doubts: "OrderedDict[tuple[str, str], int]") -> Plan:
        assert self.end is not None
        most = 1 if self.alone or len(self.items) < _BATCH_ENTRIES_MIN else len(self.items)
        plan = make_plan(self.items, self.end, is_fresh=self.is_fresh, writes_max=most, doubts=doubts)
        if 1 < len(plan.writes) < _BATCH_ENTRIES_MIN:
            plan = make_plan(self.items, self.end, is_fresh=self.is_fresh, writes_max=1, doubts=doubts)
        return plan

    def slow_down(self, reason: str) -> None:
        self.reason = reason
        self.pause_s = min(max(self.pause_s * 2, _PAUSE_FIRST_S), _PAUSE_MAX_S)
        self.forget_end()

    def forget_end(self) -> None:
        self.end, self.is_fresh = None, False


class LogWriter:
    """All appends of a hub."""

    def __init__(
        self,
        jetstream: JetStream,
        layout: Layout,
        settings: NatsSettings,
        *,
        ends: LogEnds,
        reader: LogReader,
        tasks: OwnedTasks,
    ) -> None:
        self._jetstream = jetstream
        self._layout = layout
        self._settings = settings
        self._ends = ends
        self._reader = reader
        self._tasks = tasks
        self._lanes: dict[str, _Lane] = {}
        # Numbers that entries without `expected_last` have if they were stored by a try whose answer was lost.
        self._doubts: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._is_closed = False

    async def append(self, entries: Sequence[LogAppend]) -> Sequence[LogOutcome]:
        """See `engine.ports.Log`. Cancelled, it goes on in the background."""
        self._check(entries)
        ends_at = asyncio.get_running_loop().time() + self._settings.request_timeout_ms / 1000
        call = _Call(len(entries), ends_at)
        opened: list[_Lane] = []
        for place, entry in enumerate(entries):
            lane = self._lanes.get(entry.subject)
            if lane is None:
                lane = self._lanes[entry.subject] = _Lane(entry.subject)
                opened.append(lane)
            lane.items.append(Item(entry, call, place))
        if opened:
            self._tasks.start(self._work(opened), name="meshway-log-append")
        return await call.finished

    def close(self) -> None:
        """Nothing is taken any more; what is under way ends with the tasks."""
        self._is_closed = True

    def _check(self, entries: Sequence[LogAppend]) -> None:
        if self._is_closed:
            raise EngineUnavailable("the connection to NATS was closed")
        most = self._jetstream.link.max_payload
        for entry in entries:
            headers, whole = wire_bytes(entry)
            if headers > _HEADER_BYTES_MAX or whole > most:
                text = f"{whole} bytes with {headers} of headers are more than this NATS server takes ({most})"
                raise PayloadTooLarge(text)

    async def _work(self, lanes: list[_Lane]) -> None:
        """Until nothing waits in the lanes."""
        try:
            while lanes:
                await self._round(lanes)
                self._give_up_late(lanes)
                for lane in lanes:
                    if not lane.items:
                        del self._lanes[lane.subject]
                lanes = [lane for lane in lanes if lane.items]
                pause_s = max((lane.pause_s for lane in lanes), default=0.0)
                if pause_s:
                    await asyncio.sleep(pause_s)
        finally:
            for lane in lanes:
                if self._lanes.get(lane.subject) is lane:
                    del self._lanes[lane.subject]
                self._fail(lane, list(lane.items), EngineUnavailable(lane.reason or "the log was closed"))

    async def _round(self, lanes: Sequence[_Lane]) -> None:
        await self._know_ends(lanes)
        sending: list[tuple[_Lane, Plan]] = []
        for lane in lanes:
            if lane.end is None:
                continue
            plan = lane.plan(self._doubts)
            if plan.writes:
                sending.append((lane, plan))
                continue
            self._finish(lane, plan, 0)
            if plan.need is Need.FRESH_END:
                lane.forget_end()
                self._ends.drop(lane.subject)
            elif plan.need is Need.LOOK:
                await self._look(lane, plan.look_at)
        while sending:
            part = _fitting(sending, self._settings.in_flight_max)
            await self._send(sending[:part])
            del sending[:part]

    async def _know_ends(self, lanes: Sequence[_Lane]) -> None:
        unknown: list[_Lane] = []
        for lane in lanes:
            if lane.end is None:
                lane.end = self._ends.get(lane.subject)
                if lane.end is None and lane.items[0].entry.is_new_subject and not lane.conflicts:
                    lane.end = NEVER_WRITTEN
                if lane.end is None:
                    unknown.append(lane)
        if not unknown:
            return
        for begin in range(0, len(unknown), self._settings.in_flight_max):
            part = unknown[begin : begin + self._settings.in_flight_max]
            ends = await self._ends.look_up([lane.subject for lane in part])
            for lane, end in zip(part, ends, strict=True):
                if isinstance(end, End):
                    lane.end, lane.is_fresh = end, True
                else:
                    lane.slow_down(_reason(end))

    async def _look(self, lane: _Lane, number: int) -> None:
        try:
            found = await self._reader.at_number(lane.subject, number)
        except EngineUnavailable as error:
            lane.slow_down(error.detail)
            return
        message_id, position = (None, 0) if found is None else (found.message_id, found.position)
        lane.items[0].looked = Looked(number, message_id, position)

    async def _send(self, plans: Sequence[tuple[_Lane, Plan]]) -> None:
        asks: list[Ask] = []
        for lane, plan in plans:
            assert lane.end is not None
            messages: list[tuple[str, dict[str, str], bytes]] = []
            for write in plan.writes:
                headers = headers_of(write.item.entry, write.number, write.total)
                if not messages:
                    headers[EXPECTED_LAST] = str(lane.end.seq)
                messages.append((self._layout.log + lane.subject, headers, write.item.entry.data))
            if len(messages) == 1:
                asks.append(Ask(messages[0][0], messages[0][2], messages[0][1]))
            else:
                *members, commit = as_batch(messages)
                await self._send_members(members)
                asks.append(commit)
        answers = await self._jetstream.publish(asks, timeout_ms=self._settings.try_timeout_ms)
        repeated: list[tuple[_Lane, Plan, int]] = []
        for (lane, plan), answer in zip(plans, answers, strict=True):
            if not isinstance(answer, Ack):
                self._not_written(lane, plan, answer)
            elif answer.duplicate:
                repeated.append((lane, plan, answer.seq))
            else:
                self._finish(lane, plan, answer.seq)
        if repeated:
            await self._resolve(repeated)

    async def _send_members(self, members: Sequence[Ask]) -> None:
        try:
            for member in members:
                await self._jetstream.link.publish(member.subject, member.data, headers=member.headers)
        except EngineUnavailable:
            # The last one is refused without them, or not sent either.
            return

    def _finish(self, lane: _Lane, plan: Plan, seq: int) -> None:
        """The plan is true; `seq` is that of its last write."""
        first = seq - len(plan.writes) + 1
        if plan.writes:
            last = plan.writes[-1]
            lane.end = End(last.number, last.item.entry.message_id, last.total, seq, seq)
            lane.is_fresh = True
            lane.alone = max(0, lane.alone - 1)
            lane.conflicts, lane.pause_s = 0, 0.0
            self._ends.put(lane.subject, lane.end)
        for item, step in plan.steps:
            lane.items.popleft()
            match step:
                case Write(number=number):
                    outcome: LogOutcome = Appended(
                        sequence=number, position=first + number - plan.writes[0].number, duplicate=False
                    )
                case Repeats(write=place):
                    outcome = Appended(
                        sequence=plan.writes[place].number, position=first + place, duplicate=not item.was_sent
                    )
                case _:
                    outcome = step
            self._decide(item, outcome)

    async def _resolve(self, repeated: Sequence[tuple[_Lane, Plan, int]]) -> None:
        """The server knows the message id of a single write: answer as the first append did."""
        stream = self._layout.log_stream
        found = await self._jetstream.get_each(stream, [{"seq": seq} for _, _, seq in repeated])
        for (lane, plan, seq), stored in zip(repeated, found, strict=True):
            if isinstance(stored, ApiError | Unanswered):
                lane.slow_down(_reason(stored))
                continue
            number = self._ends.number_at(seq) if stored is None else number_of(stored)
            if number is None:
                try:
                    number = await self._reader.number_before(lane.subject, seq)
                except EngineUnavailable as error:
                    lane.slow_down(error.detail)
                    continue
            lane.alone = max(0, lane.alone - 1)
            for item, step in plan.steps:
                lane.items.popleft()
                if isinstance(step, Write):
                    self._decide(item, Appended(sequence=number, position=seq, duplicate=not item.was_sent))
                    # What was planned behind it rests on a write that did not happen.
                    break
                assert not isinstance(step, Repeats)
                self._decide(item, step)

    def _not_written(self, lane: _Lane, plan: Plan, failure: ApiError | Unanswered) -> None:
        self._ends.drop(lane.subject)
        if isinstance(failure, Unanswered):
            if not failure.nothing_happened:
                self._doubt(plan)
            lane.slow_down(failure.reason)
        elif failure.code == WRONG_LAST:
            lane.conflicts += 1
            if lane.conflicts > _CONFLICTS_AT_ONCE:
                lane.slow_down("other hubs write to this subject all the time")
            lane.forget_end()
        elif failure.code in UNDECIDED_CODES:
            lane.slow_down(failure.description)
        elif failure.code in FULL_CODES or len(plan.writes) == 1:
            self._fail(lane, list(lane.items), error_of(failure))
        else:
            lane.alone = len(plan.writes)

    def _doubt(self, plan: Plan) -> None:
        for item, number, _ in plan.writes:
            item.was_sent = True
            if item.entry.expected_last is None:
                self._doubts[item.entry.subject, item.entry.message_id] = number
        while len(self._doubts) > _DOUBTS_MAX:
            self._doubts.popitem(last=False)

    def _decide(self, item: Item, outcome: LogOutcome) -> None:
        if self._doubts:
            self._doubts.pop((item.entry.subject, item.entry.message_id), None)
        item.call.decide(item.place, outcome)

    def _give_up_late(self, lanes: Sequence[_Lane]) -> None:
        now = asyncio.get_running_loop().time()
        for lane in lanes:
            # Many entries take their time; only where nothing goes on it is over.
            late = [item for item in lane.items if lane.pause_s and item.call.ends_at <= now]
            if late:
                self._fail(lane, late, EngineUnavailable(lane.reason or "NATS did not answer in time"))

    def _fail(self, lane: _Lane, items: Sequence[Item], error: MeshwayError) -> None:
        gone = set(map(id, items))
        lane.items = deque(item for item in lane.items if id(item) not in gone)
        for item in items:
            if item.was_sent:
                item.call.decide(item.place, Undecided(reason=error.detail))
            else:
                item.call.fail(item.place, error)


def _reason(failure: ApiError | Unanswered) -> str:
    return failure.reason if isinstance(failure, Unanswered) else failure.description


def _fitting(plans: Sequence[tuple[_Lane, Plan]], most: int) -> int:
    """How many of the first plans are few enough messages to be under way at once; one at least."""
    count = 0
    for place, (_, plan) in enumerate(plans):
        count += len(plan.writes)
        if count > most:
            return max(place, 1)
    return len(plans)
