"""Bus in one process: hands messages straight into the buffers of whoever listens."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from meshway.engine.embedded.arguments import check_between
from meshway.engine.embedded.names import Listeners, check_name, check_pattern
from meshway.engine.ports import BusGap, BusMessage, BusSubscription, NoResponder, ReplyTimedOut, SubscriptionLost
from meshway.kernel.errors import EngineUnavailable

__all__ = ["EmbeddedBus"]

_INBOX = "_inbox"
# A buffer is memory that one slow reader may hold.
_BUFFER_MAX = 1_000_000


class EmbeddedBus:
    """See `engine.ports.Bus`. The loop's thread only; publishing never waits."""

    def __init__(self) -> None:
        self._listeners: Listeners[_Subscription | _Group] = Listeners()
        self._groups: dict[tuple[str, str], _Group] = {}
        self._subscriptions: set[_Subscription] = set()
        # Answers go to one place each; looking them up beside the tree keeps requests cheap.
        self._inboxes: dict[str, asyncio.Future[BusMessage]] = {}
        self._inbox_number = 0
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
        self._inbox_number += 1
        inbox = f"{_INBOX}.{self._inbox_number}"
        answer: asyncio.Future[BusMessage] = asyncio.get_running_loop().create_future()
        self._inboxes[inbox] = answer
        asked = BusMessage(subject=message.subject, data=message.data, headers=message.headers, reply_to=inbox)
        try:
            if not self._deliver(asked):
                return NoResponder()
            async with asyncio.timeout(timeout_ms / 1000):
                return await answer
        except TimeoutError:
            return ReplyTimedOut()
        finally:
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
        inbox = self._inboxes.get(message.subject)
        if inbox is not None:
            if not inbox.done():
                inbox.set_result(message)
            return True
        listeners = self._listeners.matching(check_name(message.subject, "subject"))
        for listener in listeners:
            listener.offer(message)
        return bool(listeners)

    @asynccontextmanager
    async def _subscribe(self, pattern: str, group: str | None, buffer_max: int) -> AsyncIterator[BusSubscription]:
        subscription = _Subscription(buffer_max)
        self._subscriptions.add(subscription)
        if group is None:
            self._listeners.add(pattern, subscription)
        else:
            self._join(pattern, group, subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            if group is None:
                self._listeners.remove(pattern, subscription)
            else:
                self._leave(pattern, group, subscription)
            subscription.lose("the subscription was closed")

    def _join(self, pattern: str, group: str, subscription: "_Subscription") -> None:
        members = self._groups.get((pattern, group))
        if members is None:
            members = self._groups[(pattern, group)] = _Group()
            self._listeners.add(pattern, members)
        members.members.append(subscription)

    def _leave(self, pattern: str, group: str, subscription: "_Subscription") -> None:
        members = self._groups[(pattern, group)]
        members.members.remove(subscription)
        if not members.members:
            del self._groups[(pattern, group)]
            self._listeners.remove(pattern, members)


class _Subscription:
    """One reader's bounded buffer. What did not fit is counted and shown where it is missing."""

    def __init__(self, buffer_max: int) -> None:
        self._buffer_max = buffer_max
        self._buffer: deque[BusMessage | BusGap] = deque()
        self._missed = 0
        self._changed = asyncio.Event()
        self._lost: str | None = None

    def __aiter__(self) -> AsyncIterator[BusMessage | BusGap]:
        return self

    async def __anext__(self) -> BusMessage | BusGap:
        while not self._buffer:
            if self._missed:
                return self._take_gap()
            if self._lost is not None:
                raise SubscriptionLost(self._lost)
            self._changed.clear()
            await self._changed.wait()
        return self._buffer.popleft()

    def has_room(self) -> bool:
        return len(self._buffer) < self._buffer_max

    def offer(self, message: BusMessage) -> None:
        if not self.has_room():
            self._missed += 1
            return
        if self._missed:
            self._buffer.append(self._take_gap())
        self._buffer.append(message)
        self._changed.set()

    def lose(self, reason: str) -> None:
        self._lost = reason
        self._changed.set()

    def _take_gap(self) -> BusGap:
        gap = BusGap(missed=self._missed)
        self._missed = 0
        return gap


class _Group:
    """Members that share a pattern: each message goes to one, in turn, passing over those whose buffer is full."""

    def __init__(self) -> None:
        self.members: deque[_Subscription] = deque()

    def offer(self, message: BusMessage) -> None:
        for _ in range(len(self.members)):
            if self.members[0].has_room():
                break
            self.members.rotate(-1)
        self.members[0].offer(message)
        self.members.rotate(-1)
