"""Bus over core NATS: the server is told once per pattern what this hub listens to, the hub hands it on in memory.

A message of this hub comes back by way of the server, like those of other hubs: all of one publisher take one way, so
they keep their order. Groups are queue groups of the server, which gives a message to one of all subscriptions with the
group's name, whatever their patterns; among the members of the hub that got it, the hub chooses.

Names are subjects below the prefix of the bus. Answers have a prefix of their own, so that no pattern hears them; the
`_inbox` names that callers see stand for it, at every hub alike.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from nats.aio.subscription import Subscription

from meshway.engine.nats.link import Link
from meshway.engine.nats.streams import Layout
from meshway.engine.nats.wire import Incoming
from meshway.engine.ports import BusMessage, BusSubscription, NoResponder, ReplyTimedOut, subject_token
from meshway.engine.ports.checks import check_between, check_name, check_pattern
from meshway.engine.ports.members import BUFFER_MAX, Member, Team, Teams
from meshway.engine.ports.pattern_map import PatternMap
from meshway.kernel.errors import EngineUnavailable, PayloadTooLarge

__all__ = ["NatsBus"]

_INBOX = "_inbox."
_HEADERS = "Mw-H"
# An answer of the hub that has the inbox: nobody waits there any more.
_NOBODY = "Mw-Nobody"
_NO_RESPONDERS = "503"
# Of a message besides data and headers of its own, as the server counts it.
_FRAME_BYTES = 64
_CLOSED = "the bus was closed"


class NatsBus:
    """See `engine.ports.Bus`. The loop's thread only."""

    def __init__(self, link: Link, layout: Layout) -> None:
        self._link = link
        self._subjects = layout.bus
        self._inboxes = layout.inbox
        self._interests: dict[tuple[str, str | None], _Interest] = {}
        self._groups: dict[str, _Group] = {}
        self._members: set[Member] = set()
        # Whoever finds an interest of somebody else must find one that the server was told of.
        self._telling = asyncio.Lock()
        # By the last token of their inbox.
        self._answers: dict[str, asyncio.Future[BusMessage | NoResponder]] = {}
        self._asked = 0
        # A name of before a restart must not be the inbox of another request: answers may come that late.
        self._inbox = f"{_INBOX}{secrets.token_hex(8)}"
        self._closed = False

    async def start(self) -> None:
        """Raises: EngineUnavailable."""
        self._link.listen(self._on_link)
        await self._link.hear(f"{self._subject_of(self._inbox)}.*", self._on_answer)
        await self._link.flush()

    async def close(self) -> None:
        """End all subscriptions and waiting requests. Idempotent."""
        self._closed = True
        for member in self._members:
            member.lose(_CLOSED)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(EngineUnavailable(_CLOSED))

    async def publish(self, messages: Sequence[BusMessage]) -> None:
        for message in messages:
            await self._send(message, message.reply_to)

    def subscribe(
        self, pattern: str, *, group: str | None = None, buffer_max: int = 1_000
    ) -> AbstractAsyncContextManager[BusSubscription]:
        check_pattern(pattern)
        check_between("buffer_max", buffer_max, 1, BUFFER_MAX)
        return self._subscribe(pattern, group, buffer_max)

    async def request(self, message: BusMessage, *, timeout_ms: int) -> BusMessage | NoResponder | ReplyTimedOut:
        self._asked += 1
        number = str(self._asked)
        answer: asyncio.Future[BusMessage | NoResponder] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                await self._send(message, f"{self._inbox}.{number}")
                return await answer
        except TimeoutError:
            return ReplyTimedOut()
        finally:
            del self._answers[number]

    # Sending

    async def _send(self, message: BusMessage, reply_to: str | None) -> None:
        if self._closed:
            raise EngineUnavailable(_CLOSED)
        check_name(message.subject, "subject")
        reply = "" if reply_to is None else self._subject_of(check_name(reply_to, "reply_to"))
        headers = _encode(message.headers)
        size = len(message.data) + _FRAME_BYTES + (len(headers[_HEADERS]) if headers else 0)
        if size > self._link.max_payload:
            # The server would close the connection.
            text = f"{size:,} bytes are more than this NATS server takes (max_payload {self._link.max_payload:,})"
            raise PayloadTooLarge(text)
        await self._link.publish_with_reply(
            self._subject_of(message.subject), message.data, reply=reply, headers=headers
        )

    def _subject_of(self, name: str) -> str:
        if name.startswith(_INBOX):
            return self._inboxes + name[len(_INBOX) :]
        return self._subjects + name

    def _name_of(self, subject: str) -> str | None:
        """None for a subject that is not of the bus."""
        if subject.startswith(self._subjects):
            return subject[len(self._subjects) :]
        if subject.startswith(self._inboxes):
            return _INBOX + subject[len(self._inboxes) :]
        return None

    # Hearing

    def _received(self, message: Incoming) -> BusMessage:
        return BusMessage(
            subject=self._name_of(message.subject) or message.subject,
            data=message.data,
            headers=_decode(message.headers),
            reply_to=self._name_of(message.reply) if message.reply else None,
        )

    def _on_message(self, interest: "_Interest", message: Incoming) -> None:
        if not interest.members:
            return
        received = self._received(message)
        for member in interest.members:
            member.offer(received)

    def _on_group_message(self, name: str, message: Incoming) -> None:
        group = self._groups.get(name)
        if group is not None:
            group.offer(self._received(message))

    def _on_answer(self, message: Incoming) -> None:
        answer = self._answers.get(message.subject.rpartition(".")[2])
        if answer is None:
            if message.reply and not self._closed:
                # A request to an inbox: its sender must not wait in vain.
                self._link.post(message.reply, headers={_NOBODY: "1"})
        elif not answer.done():
            is_nobody = message.headers.get("Status") == _NO_RESPONDERS or _NOBODY in message.headers
            answer.set_result(NoResponder() if is_nobody else self._received(message))

    def _on_link(self, is_connected: bool) -> None:  # noqa: FBT001  the signature of a listener
        if not is_connected:
            for member in self._members:
                member.tear()

    # Subscribing

    @asynccontextmanager
    async def _subscribe(self, pattern: str, group: str | None, buffer_max: int) -> AsyncIterator[BusSubscription]:
        interest = await self._begin(pattern, group)
        member = Member(buffer_max)
        try:
            # Behind everything that was published before: none of it is heard.
            await self._link.flush()
            self._join(interest, member)
            yield member
        finally:
            await self._end(interest, member)

    async def _begin(self, pattern: str, group: str | None) -> "_Interest":
        """What the server was told about this pattern, held once more."""
        async with self._telling:
            if self._closed:
                raise EngineUnavailable(_CLOSED)
            if not self._link.is_connected:
                raise EngineUnavailable(self._link.trouble)
            interest = self._interests.get((pattern, group))
            if interest is None:
                interest = _Interest(pattern, group)
                if group is None:
                    heard = partial(self._on_message, interest)
                    interest.subscription = await self._link.hear(self._subjects + pattern, heard)
                else:
                    heard = partial(self._on_group_message, group)
                    interest.subscription = await self._link.hear(
                        self._subjects + pattern, heard, group=subject_token(group)
                    )
                self._interests[pattern, group] = interest
            interest.holders += 1
            return interest

    def _join(self, interest: "_Interest", member: Member) -> None:
        if self._closed:
            raise EngineUnavailable(_CLOSED)
        self._members.add(member)
        if interest.group is None:
            interest.members[member] = None
        else:
            self._groups.setdefault(interest.group, _Group()).add(interest.pattern, member)

    async def _end(self, interest: "_Interest", member: Member) -> None:
        """The last one of a pattern still hears what the server had sent to it: in a group nobody else gets that."""
        interest.holders -= 1
        try:
            if not interest.holders and interest.subscription is not None:
                del self._interests[interest.pattern, interest.group]
                await self._link.leave(interest.subscription)
        finally:
            self._members.discard(member)
            interest.members.pop(member, None)
            group = None if interest.group is None else self._groups.get(interest.group)
            if group is not None and interest.group is not None:
                group.discard(interest.pattern, member)
                if not group:
                    del self._groups[interest.group]
            member.lose("the subscription was closed")


class _Interest:
    """What the server was told: a pattern and a group. A dictionary for a set that keeps its order."""

    __slots__ = ("group", "holders", "members", "pattern", "subscription")

    def __init__(self, pattern: str, group: str | None) -> None:
        self.pattern = pattern
        self.group = group
        self.subscription: Subscription | None = None
        self.holders = 0
        # Of no group.
        self.members: dict[Member, None] = {}


class _Group:
    """The members of one name at this hub."""

    def __init__(self) -> None:
        self._by_pattern: PatternMap[Team] = PatternMap()
        self._teams = Teams()

    def __len__(self) -> int:
        return len(self._by_pattern)

    def add(self, pattern: str, member: Member) -> None:
        team = self._by_pattern.get(pattern)
        if team is None:
            team = Team()
            self._by_pattern.put(pattern, team)
        team.add(member)

    def discard(self, pattern: str, member: Member) -> None:
        """What was never added is no error."""
        team = self._by_pattern.get(pattern)
        if team is not None and team.discard(member):
            self._by_pattern.remove(pattern)

    def offer(self, message: BusMessage) -> None:
        """To one member whose pattern matches; to nobody where none does."""
        teams = self._by_pattern.matching(message.subject)
        if len(teams) == 1:
            teams[0].offer(message)
        elif teams:
            self._teams.offer(teams, message)


def _encode(headers: Mapping[str, str]) -> dict[str, str] | None:
    """In one header, because the library strips values and forbids some characters in names."""
    return {_HEADERS: json.dumps(dict(headers), separators=(",", ":"))} if headers else None


def _decode(headers: Mapping[str, str] | None) -> Mapping[str, str]:
    text = None if headers is None else headers.get(_HEADERS)
    return {} if text is None else json.loads(text)
