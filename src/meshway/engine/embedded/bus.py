"""Bus in one process: hands messages straight into the buffers of whoever listens."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from meshway.engine.ports import BusMessage, BusSubscription, NoResponder, ReplyTimedOut
from meshway.engine.ports.checks import check_between, check_name, check_pattern
from meshway.engine.ports.members import BUFFER_MAX, Member, Team, Teams
from meshway.engine.ports.pattern_map import PatternMap
from meshway.kernel.errors import EngineUnavailable

__all__ = ["EmbeddedBus"]

_INBOX = "_inbox"
_TIMED_OUT = ReplyTimedOut()


class EmbeddedBus:
    """See `engine.ports.Bus`. The loop's thread only; publishing never waits."""

    def __init__(self) -> None:
        self._audiences: PatternMap[_Audience] = PatternMap()
        self._subscriptions: set[Member] = set()
        # Answers go to one place each; looking them up beside the patterns keeps requests cheap.
        self._inboxes: dict[str, asyncio.Future[BusMessage | ReplyTimedOut]] = {}
        self._inbox_number = 0
        # A name of before a restart must not be the inbox of another request: answers may come that late.
        self._inbox_prefix = f"{_INBOX}.{secrets.token_hex(8)}"
        self._teams = Teams()
        self._closed = False

    async def publish(self, messages: Sequence[BusMessage]) -> None:
        for message in messages:
            self._deliver(message)

    def subscribe(
        self, pattern: str, *, group: str | None = None, buffer_max: int = 1_000
    ) -> AbstractAsyncContextManager[BusSubscription]:
        check_pattern(pattern)
        check_between("buffer_max", buffer_max, 1, BUFFER_MAX)
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
        by_name: dict[str, list[Team]] = {}
        for audience in audiences:
            for name, team in audience.groups.items():
                by_name.setdefault(name, []).append(team)
        for teams in by_name.values():
            self._teams.offer(teams, message)

    @asynccontextmanager
    async def _subscribe(self, pattern: str, group: str | None, buffer_max: int) -> AsyncIterator[BusSubscription]:
        subscription = Member(buffer_max)
        self._subscriptions.add(subscription)
        self._join(pattern, group, subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)
            self._leave(pattern, group, subscription)
            subscription.lose("the subscription was closed")

    def _join(self, pattern: str, group: str | None, subscription: Member) -> None:
        audience = self._audiences.get(pattern)
        if audience is None:
            audience = _Audience()
            self._audiences.put(pattern, audience)
        if group is None:
            audience.alone[subscription] = None
        else:
            audience.groups.setdefault(group, Team()).add(subscription)

    def _leave(self, pattern: str, group: str | None, subscription: Member) -> None:
        audience = self._audiences.get(pattern)
        if audience is None:
            return
        if group is None:
            audience.alone.pop(subscription, None)
        else:
            if audience.groups[group].discard(subscription):
                del audience.groups[group]
        if not audience.alone and not audience.groups:
            self._audiences.remove(pattern)


class _Audience:
    """All who listen to one pattern: dictionaries for sets that keep their order."""

    __slots__ = ("alone", "groups")

    def __init__(self) -> None:
        self.alone: dict[Member, None] = {}
        self.groups: dict[str, Team] = {}


def _time_out(answer: "asyncio.Future[BusMessage | ReplyTimedOut]") -> None:
    if not answer.done():
        answer.set_result(_TIMED_OUT)
