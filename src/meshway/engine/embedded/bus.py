"""Bus in one process: hands messages straight into the buffers of whoever listens."""

import asyncio
import secrets
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from meshway.engine.embedded.pattern_map import PatternMap
from meshway.engine.embedded.wakeup import Wakeup
from meshway.engine.ports import BusGap, BusMessage, BusSubscription, NoResponder, ReplyTimedOut, SubscriptionLost
from meshway.engine.ports.checks import check_between, check_name, check_pattern
from meshway.kernel.errors import EngineUnavailable

__all__ = ["EmbeddedBus"]

_INBOX = "_inbox"
# A buffer is memory that one slow reader may hold.
_BUFFER_MAX = 1_000_000
_TIMED_OUT = ReplyTimedOut()


class EmbeddedBus:
    """See `engine.ports.Bus`. The loop's thread only; publishing never waits."""

    def __init__(self) -> None:
        self._audiences: PatternMap[_Audience] = PatternMap()
        self._subscriptions: set[_Subscription] = set()
        # Answers go to one place each; looking them up beside the patterns keeps requests cheap.
        self._inboxes: dict[str, asyncio.Future[BusMessage | ReplyTimedOut]] = {}
        self._inbox_number = 0
        # A name of before a restart must not be the inbox of another request: answers may come that late.
        self._inbox_prefix = f"{_INBOX}.{secrets.token_hex(8)}"
        # Spreads messages over the members of a group that listen to different patterns.
        self._turn = 0
        self._closed = False

    async def publish(self, messages: Sequence[BusMessage]) -> None:
        for message in messages:
            self._deliver(message)

    def subscribe(
        self, pattern: str, *, group: str | None = None, buffer_max: int = 1_000
    ) -> AbstractAsyncContextManager[BusSubscription]:
        check_pattern(pattern)
        check_between("buffer_max", buffer_max, 1, _BUFFER_MAX)
        return self._subscribe(pattern, group, buffer_max)

    async def request(self, message: BusMessage, *, timeout_ms: int) -> BusMessage | NoResponder | ReplyTimedOut:
        loop = asyncio.get_running_loop()
        self._inbox_number += 1
        inbox = f"{self._inbox_prefix}.{self._inbox_number}"
        answer: asyncio.Future[BusMessage | ReplyTimedOut] = loop.create_future()
        self._inboxes[inbox] = answer
        asked = BusMessage(subject=message.subject, data=message.data, headers=message.headers, reply_to=inbox)
        timer: asyncio.TimerHandle | None = None
        try:
            if not self._deliver(asked):
                return NoResponder()
            timer = loop.call_later(timeout_ms / 1000, _time_out, answer)
            return await answer
        finally:
            if timer is not None:
                timer.cancel()
            del self._inboxes[inbox]

    def close(self) -> None:
        """End all subscriptions and waiting requests."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.lose("the bus was closed")
        for answer in self._inboxes.values():
            if not answer.done():
                answer.set_exception(EngineUnavailable("the bus was closed"))

    def _deliver(self, message: BusMessage) -> bool:
        """Whether anybody listens."""
        if self._closed:
            raise EngineUnavailable("the bus is closed")
        subject = message.subject
        inbox = self._inboxes.get(subject)
        if inbox is not None:
            if not inbox.done():
                inbox.set_result(message)
            return True
        if not self._audiences.is_known(subject):
            check_name(subject, "subject")
        audiences = self._audiences.matching(subject)
        for audience in audiences:
            for subscription in audience.alone:
                subscription.offer(message)
        if len(audiences) == 1:
            for group in audiences[0].groups.values():
                group.offer(message)
        elif audiences:
            self._deliver_to_groups(audiences, message)
        return bool(audiences)

    def _deliver_to_groups(self, audiences: Sequence["_Audience"], message: BusMessage) -> None:
        """One member of each group name, whichever of the patterns it listens to."""
        by_name: dict[str, list[_Group]] = {}
        for audience in audiences:
            for name, group in audience.groups.items():
                by_name.setdefault(name, []).append(group)
        for groups in by_name.values():
            self._choose(groups).offer(message)

    def _choose(self, groups: Sequence["_Group"]) -> "_Group":
        """In turn by the number of members that have room; the first one where none has."""
        self._turn += 1
        room = sum(len(group.with_room) for group in groups)
        number = self._turn % room if room else 0
        for group in groups:
            if number < len(group.with_room):
                return group
            number -= len(group.with_room)
        return groups[0]

    @asynccontextmanager
    async def _subscribe(self, pattern: str, group: str | None, buffer_max: int) -> AsyncIterator[BusSubscription]:
        subscription = _Subscription(buffer_max)
        self._subscriptions.add(subscription)
        self._join(pattern, group, subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            self._leave(pattern, group, subscription)
            subscription.lose("the subscription was closed")

    def _join(self, pattern: str, group: str | None, subscription: "_Subscription") -> None:
        audience = self._audiences.get(pattern)
        if audience is None:
            audience = _Audience()
            self._audiences.put(pattern, audience)
        if group is None:
            audience.alone[subscription] = None
        else:
            audience.groups.setdefault(group, _Group()).add(subscription)

    def _leave(self, pattern: str, group: str | None, subscription: "_Subscription") -> None:
        audience = self._audiences.get(pattern)
        if audience is None:
            return
        if group is None:
            audience.alone.pop(subscription, None)
        else:
            members = audience.groups[group]
            members.discard(subscription)
            if not members.members:
                del audience.groups[group]
        if not audience.alone and not audience.groups:
            self._audiences.remove(pattern)


class _Audience:
    """All who listen to one pattern: dictionaries for sets that keep their order."""

    __slots__ = ("alone", "groups")

    def __init__(self) -> None:
        self.alone: dict[_Subscription, None] = {}
        self.groups: dict[str, _Group] = {}


class _Subscription:
    """One reader's bounded buffer. What did not fit is counted and shown where it is missing."""

    __slots__ = ("_buffer", "_buffer_max", "_lost", "_missed", "_wakeup", "group")

    def __init__(self, buffer_max: int) -> None:
        self._buffer_max = buffer_max
        self._buffer: deque[BusMessage | BusGap] = deque()
        self._missed = 0
        self._wakeup = Wakeup()
        self._lost: str | None = None
        self.group: _Group | None = None

    def __aiter__(self) -> AsyncIterator[BusMessage | BusGap]:
        return self

    async def __anext__(self) -> BusMessage | BusGap:
        return (await self.take(1))[0]

    async def take(self, count_max: int) -> Sequence[BusMessage | BusGap]:
        check_between("count_max", count_max, 1, _BUFFER_MAX)
        buffer = self._buffer
        while not buffer and not self._missed:
            if self._lost is not None:
                raise SubscriptionLost(self._lost)
            await self._wakeup.wait()
        taken: list[BusMessage | BusGap]
        if len(buffer) <= count_max:
            taken = list(buffer)
            buffer.clear()
        else:
            taken = [buffer.popleft() for _ in range(count_max)]
        if self._missed and len(taken) < count_max:
            taken.append(self._take_gap())
        if self.group is not None:
            self.group.has_room_again(self)
        return taken

    def has_room(self) -> bool:
        return len(self._buffer) < self._buffer_max

    def offer(self, message: BusMessage) -> None:
        buffer = self._buffer
        if len(buffer) >= self._buffer_max:
            self._missed += 1
            return
        if self._missed:
            buffer.append(self._take_gap())
        buffer.append(message)
        self._wakeup.set()

    def lose(self, reason: str) -> None:
        self._lost = reason
        self._wakeup.set()

    def _take_gap(self) -> BusGap:
        gap = BusGap(missed=self._missed)
        self._missed = 0
        return gap


class _Group:
    """Members that share a pattern: each message goes to one, in turn, passing over those whose buffer is full."""

    __slots__ = ("members", "with_room")

    def __init__(self) -> None:
        self.members: OrderedDict[_Subscription, None] = OrderedDict()
        # Those among them that can take a message, in the order of their turn: full ones cost nothing to pass over.
        self.with_room: OrderedDict[_Subscription, None] = OrderedDict()

    def add(self, subscription: _Subscription) -> None:
        subscription.group = self
        self.members[subscription] = None
        self.with_room[subscription] = None

    def discard(self, subscription: _Subscription) -> None:
        subscription.group = None
        self.members.pop(subscription, None)
        self.with_room.pop(subscription, None)

    def has_room_again(self, subscription: _Subscription) -> None:
        if subscription not in self.with_room:
            self.with_room[subscription] = None

    def offer(self, message: BusMessage) -> None:
        if not self.with_room:
            # Somebody has to miss it, and be told: each in turn.
            loser = next(iter(self.members))
            self.members.move_to_end(loser)
            loser.offer(message)
            return
        member = next(iter(self.with_room))
        member.offer(message)
        if member.has_room():
            self.with_room.move_to_end(member)
        else:
            del self.with_room[member]


def _time_out(answer: "asyncio.Future[BusMessage | ReplyTimedOut]") -> None:
    if not answer.done():
        answer.set_result(_TIMED_OUT)
