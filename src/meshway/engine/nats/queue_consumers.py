"""Lanes and their consumers: made when somebody first leases, asked by pulls that are answered to one inbox.

A pull that is parked waits at the server until a message comes; any other one takes what is there and ends. A message
says by its reply subject which consumer it is from; which pull it answers does not matter, except for its age: a lease
counts from when the oldest pull that it may answer was sent, because the server hands nothing out before.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import msgspec
from nats.aio.subscription import Subscription

from meshway.engine.nats.consumer_elections import Elections, doubted_s
from meshway.engine.nats.failures import CONSUMER_NOT_FOUND, ApiError, Unanswered
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.queue_deliveries import consumer_of
from meshway.engine.nats.queue_subjects import KEYLESS, LANES, ORDERED_LANES, PLAIN_LANES, QueueSubjects
from meshway.engine.nats.wire import Incoming
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable

__all__ = ["Arrival", "Consumers", "Inbox", "Lane"]

_NANOSECONDS_PER_MS = 1_000_000
# The server forgets a consumer that nobody asks for so long.
_INACTIVE_MS = 300_000
# Held and backing off messages of one consumer; more are not handed out.
_PENDING_MAX = 100_000
_ANSWER_TIMEOUT_S = 2.0
# A cluster does not answer whoever makes or deletes a consumer that is being deleted or made at that moment. Either is
# safe to repeat, so neither is waited for long.
_CHANGE_TIMEOUT_MS = 1_000
# How long a part of an ordered queue is asked; one whose message is held does not answer.
_PART_WAIT_MS = 50
# A parked pull of which nothing was heard for so long after its end is over.
_LATE_MS = 1_000
# Of the same, a part of, or more than another consumer's filter.
_OVERLAPPING = frozenset({10099, 10100})
# Nobody answers: no such consumer, or no leader.
_NOBODY = "503"
# Ours: the connection that it was sent on broke.
_LOST = "lost"
_CONSUMER_GONE = frozenset({_NOBODY, "409"})


class _Pull:
    """One request for messages, until it has got them all or the server ended it."""

    __slots__ = ("ended", "lane", "left", "sent_ms", "status", "token", "until_ms")

    def __init__(self, lane: "Lane", token: str, count: int, sent_ms: int, until_ms: int) -> None:
        self.lane = lane
        self.token = token
        self.left = count
        self.sent_ms = sent_ms
        self.until_ms = until_ms
        self.status = ""
        self.ended = asyncio.Event()


class Inbox(NamedTuple):
    """Where the answers of parked pulls come to."""

    subject: str
    subscription: Subscription


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """A message that came, and since when at the earliest the server counts its lease, of `lease_ms`."""

    lane: "Lane"
    message: Incoming
    leased_at_ms: int
    lease_ms: int
    stored_at_ms: int
    # In the order of hand-out: the place of its lane, its sequence, how often it was delivered.
    rank: int
    seq: int
    delivered: int


class Lane:
    """What one consumer hands out. `arrived` is called for each message, `ended` when a parked pull is over."""

    def __init__(self, queue: str, name: str, arrived: Callable[[Arrival], None], ended: Callable[[], None]) -> None:
        self.queue = queue
        self.name = name
        self.arrived = arrived
        self.ended = ended
        self.rank = PLAIN_LANES.index(name) if name in PLAIN_LANES else 0
        # It hands out one message at a time, and does not answer while that one is held.
        self.is_part = name in ORDERED_LANES and name != KEYLESS
        # The lease time of its consumer, and whether there is one as far as known.
        self.lease_ms = 0
        self.is_made = False
        # Since when (loop time) its server may not know what was handed out before.
        self.doubted_since_s = -math.inf
        # By the clock of the servers. What was handed out before that is no delivery to them.
        self.made_at_ms = 0
        self.parked: _Pull | None = None
        self.asking: _Pull | None = None
        self.last_sent_ms = 0

    @property
    def is_doubted(self) -> bool:
        """Whether somebody may hold what is handed out here as if for the first time."""
        return _now_s() - self.doubted_since_s < doubted_s(self.lease_ms)

    def doubt(self, since_s: float | None = None) -> None:
        """Another server leads its consumer since then, or may do so: it may not know what was handed out last."""
        self.doubted_since_s = max(self.doubted_since_s, _now_s() if since_s is None else since_s)


class Consumers:
    """Of all queues that this hub leases from."""

    def __init__(self, jetstream: JetStream, subjects: QueueSubjects, clock: Clock) -> None:
        self._jetstream = jetstream
        self._subjects = subjects
        self._clock = clock
        self._inbox = ""
        self._asked = 0
        self._pulls: dict[str, _Pull] = {}
        self._lanes: dict[str, Lane] = {}
        self._elections = Elections(subjects.stream)
        # Until then (loop time) nothing was heard of elections.
        self._deaf_until_s = -math.inf

    async def start(self) -> None:
        """Raises: EngineUnavailable."""
        link = self._jetstream.link
        self._inbox = link.new_inbox()
        await link.hear(f"{self._inbox}.*", self._heard)
        await link.hear(self._elections.subject, self._on_election)
        self._deaf_until_s = _now_s()
        link.listen(self._on_connection)

    def add(self, lane: Lane) -> None:
        self._lanes[self._subjects.consumer(lane.queue, lane.name)] = lane
        lane.doubt(self._deaf_until_s)

    def remove(self, lane: Lane) -> None:
        self._lanes.pop(self._subjects.consumer(lane.queue, lane.name), None)
        for pull in (lane.parked, lane.asking):
            if pull is not None:
                self._end(pull, "")

    async def take(self, lane: Lane, count: int, *, lease_ms: int) -> None:
        """Have up to `count` messages arrive that are due. Raises: ApiError, Unanswered."""
        for _ in range(2):
            if not lane.is_made or lane.lease_ms != lease_ms:
                await self._make(lane, lease_ms)
            pull = lane.asking = self._new_pull(lane, count, 0)
            await self._send(pull, {"no_wait": True}, self._inbox)
            try:
                async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                    await pull.ended.wait()
            except TimeoutError:
                await self._check_room(lane)
                return
            finally:
                self._end(pull, pull.status)
            if pull.status == _LOST:
                raise Unanswered("the connection to NATS broke", nothing_happened=True)
            if pull.status != _NOBODY:
                return
            lane.is_made = False
            lane.doubt()
        raise Unanswered("nobody at NATS hands out the messages of this queue: its stream has no leader at this moment")

    async def take_parts(self, lanes: Sequence[Lane], count: int, *, lease_ms: int) -> None:
        """The same for parts of an ordered queue: those first that surely have something due.

        Raises: ApiError, Unanswered.
        """
        for lane in lanes:
            if not lane.is_made or lane.lease_ms != lease_ms:
                await self._make(lane, lease_ms)
        free = [lane for lane in lanes if not self._is_parked(lane)]
        verb = f"CONSUMER.INFO.{self._subjects.stream}."
        names = [self._subjects.consumer(lane.queue, lane.name) for lane in free]
        answers = await self._jetstream.api_all([(verb + name, None) for name in names])
        sure: list[Lane] = []
        maybe: list[Lane] = []
        for lane, answer in zip(free, answers, strict=True):
            if isinstance(answer, Unanswered):
                raise answer
            if isinstance(answer, ApiError):
                lane.is_made = False
                lane.doubt()
            elif answer.num_ack_pending:
                maybe.append(lane)
            elif answer.num_pending:
                sure.append(lane)
        pulls = [await self._park(lane, self._inbox, _PART_WAIT_MS) for lane in [*sure, *maybe][:count]]
        for pull in pulls:
            try:
                async with asyncio.timeout(2 * _PART_WAIT_MS / 1000):
                    await pull.ended.wait()
            except TimeoutError:
                self._end(pull, "")

    async def open_inbox(self) -> Inbox:
        """For pulls that are parked: without it the server serves them no more. Raises: EngineUnavailable."""
        subject = self._jetstream.link.new_inbox()
        return Inbox(subject, await self._jetstream.link.hear(f"{subject}.*", self._heard))

    async def park(self, lane: Lane, inbox: Inbox, wait_ms: int) -> None:
        """Have one message arrive as soon as it is due, for so long. Raises: Unanswered."""
        if lane.is_made and not self._is_parked(lane):
            await self._park(lane, inbox.subject, wait_ms)

    async def close_inbox(self, inbox: Inbox, lanes: Sequence[Lane]) -> None:
        """What is on its way still arrives, before this returns."""
        await self._jetstream.link.leave(inbox.subscription)
        for lane in lanes:
            if lane.parked is not None:
                self._end(lane.parked, "")

    def _is_parked(self, lane: Lane) -> bool:
        pull = lane.parked
        if pull is not None and pull.until_ms < self._clock.now_ms():
            # Its end was lost on the way.
            self._end(pull, "")
        return lane.parked is not None

    async def _park(self, lane: Lane, inbox: str, wait_ms: int) -> _Pull:
        pull = lane.parked = self._new_pull(lane, 1, self._clock.now_ms() + wait_ms + _LATE_MS)
        await self._send(pull, {"expires": wait_ms * _NANOSECONDS_PER_MS}, inbox)
        return pull

    async def drop(self, queue: str) -> None:
        """Have all its consumers deleted, as far as there are any. Raises: ApiError, Unanswered."""
        calls = [self._delete(queue, lane) for lane in LANES]
        for answer in await self._jetstream.api_all(calls, timeout_ms=_CHANGE_TIMEOUT_MS):
            if isinstance(answer, Unanswered) or (isinstance(answer, ApiError) and answer.code != CONSUMER_NOT_FOUND):
                raise answer

    async def _make(self, lane: Lane, lease_ms: int) -> None:
        """Make it, or give it another lease time."""
        name = self._subjects.consumer(lane.queue, lane.name)
        config = {
            "name": name,
            "durable_name": name,
            "filter_subject": self._subjects.lane(lane.queue, lane.name),
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": lease_ms * _NANOSECONDS_PER_MS,
            "max_deliver": -1,
            "max_ack_pending": 1 if lane.is_part else _PENDING_MAX,
            "inactive_threshold": _INACTIVE_MS * _NANOSECONDS_PER_MS,
            "replay_policy": "instant",
        }
        # A shorter time may hold from now on, a longer one when it is answered.
        lane.lease_ms = min(lane.lease_ms or lease_ms, lease_ms)
        stream = self._subjects.stream
        verb, body = f"CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config}
        try:
            made = await self._jetstream.api(verb, body, timeout_ms=_CHANGE_TIMEOUT_MS)
        except ApiError as error:
            if error.code not in _OVERLAPPING:
                raise
            # The queue became ordered, or is so no more: the lanes of before make room.
            others = PLAIN_LANES if lane.name in ORDERED_LANES else ORDERED_LANES
            calls = [self._delete(lane.queue, other) for other in others]
            await self._jetstream.api_all(calls, timeout_ms=_CHANGE_TIMEOUT_MS)
            # What they had handed out, this one does not know.
            lane.doubt()
            made = await self._jetstream.api(verb, body, timeout_ms=_CHANGE_TIMEOUT_MS)
        lane.lease_ms, lane.is_made = lease_ms, True
        self._elections.made(name, made.created)
        lane.made_at_ms = 0 if made.created is None else int(made.created.timestamp() * 1_000)
        elected_s = self._elections.latest(name)
        if elected_s is not None:
            lane.doubt(elected_s)

    async def _check_room(self, lane: Lane) -> None:
        """A consumer with too much handed out does not answer. Raises: ApiError, Unanswered: that is not why."""
        name = self._subjects.consumer(lane.queue, lane.name)
        said = await self._jetstream.api(f"CONSUMER.INFO.{self._subjects.stream}.{name}")
        if said.num_ack_pending < _PENDING_MAX:
            raise Unanswered("NATS does not say whether messages are due")

    def _delete(self, queue: str, lane: str) -> tuple[str, object]:
        return f"CONSUMER.DELETE.{self._subjects.stream}.{self._subjects.consumer(queue, lane)}", None

    def _new_pull(self, lane: Lane, count: int, until_ms: int) -> _Pull:
        self._asked += 1
        token = str(self._asked)
        lane.last_sent_ms = self._clock.now_ms()
        pull = self._pulls[token] = _Pull(lane, token, count, lane.last_sent_ms, until_ms)
        return pull

    async def _send(self, pull: _Pull, terms: Mapping[str, object], inbox: str) -> None:
        lane, body = pull.lane, {"batch": pull.left, **terms}
        consumer = self._subjects.consumer(lane.queue, lane.name)
        try:
            await self._jetstream.pull(self._subjects.stream, consumer, body, reply=f"{inbox}.{pull.token}")
        except EngineUnavailable as error:
            self._end(pull, "")
            raise Unanswered(error.detail, nothing_happened=True) from None

    def _heard(self, message: Incoming) -> None:
        if not message.reply:
            pull = self._pulls.get(message.subject.rpartition(".")[2])
            status = message.headers.get("Status", "")
            if pull is not None and status != "100":
                self._end(pull, status)
            return
        lane = self._lanes.get(consumer_of(message.reply))
        if lane is None:
            # Its queue was removed meanwhile.
            with contextlib.suppress(EngineUnavailable):
                self._jetstream.link.post(message.reply, b"-NAK")
            return
        if not self._jetstream.link.hears_events:
            lane.doubt()
        pulls = [pull for pull in (lane.parked, lane.asking) if pull is not None]
        sent_ms = min((pull.sent_ms for pull in pulls), default=lane.last_sent_ms)
        tokens = message.reply.split(".")
        place = 4 if len(tokens) < 11 else 6
        delivered, seq = int(tokens[place]), int(tokens[place + 1])
        stored_at_ms = int(tokens[place + 3]) // _NANOSECONDS_PER_MS
        lane.arrived(Arrival(lane, message, sent_ms, lane.lease_ms, stored_at_ms, lane.rank, seq, delivered))
        if pulls:
            pulls[0].left -= 1
            if not pulls[0].left:
                self._end(pulls[0], "")

    def _end(self, pull: _Pull, status: str) -> None:
        lane = pull.lane
        self._pulls.pop(pull.token, None)
        pull.status = status
        pull.ended.set()
        if lane.asking is pull:
            lane.asking = None
        elif lane.parked is pull:
            lane.parked = None
            if status in _CONSUMER_GONE:
                lane.is_made = False
                lane.doubt()
            lane.ended()

    def _on_election(self, message: Incoming) -> None:
        name = message.subject.rpartition(".")[2]
        self._elections.elected(name, message.data)
        lane = self._lanes.get(name)
        # Before one is made here, it is not known whether this was its first; that is looked at then.
        if lane is not None and lane.is_made:
            elected_s = self._elections.latest(name)
            if elected_s is not None:
                lane.doubt(elected_s)

    def _on_connection(self, is_connected: object) -> None:
        """Pulls live as long as the connection that they were sent on; elections meanwhile were not heard of."""
        self._deaf_until_s = _now_s()
        for lane in self._lanes.values():
            lane.doubt()
        if not is_connected:
            for pull in list(self._pulls.values()):
                self._end(pull, _LOST)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
