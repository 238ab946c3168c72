"""Who listens to the bus at this hub: buffers of single readers, and groups of which one member gets a message."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence

from meshway.engine.ports import BusGap, BusMessage, SubscriptionLost
from meshway.engine.ports.checks import check_between, is_literal, pattern_matches

__all__ = ["BUFFER_MAX", "Group", "Member"]

# A buffer is memory that one slow reader may hold.
BUFFER_MAX = 1_000_000
# Answers kept per subject until the patterns of the group change; subjects of tasks are many and short-lived.
_MATCHES_CACHED_MAX = 16_384


class Member:
    """See `engine.ports.BusSubscription`: a bounded buffer. What did not fit is shown where it is missing."""

    __slots__ = ("_buffer", "_buffer_max", "_lost", "_missed", "_torn", "_waiter", "team")

    def __init__(self, buffer_max: int) -> None:
        self._buffer_max = buffer_max
        self._buffer: deque[BusMessage | BusGap] = deque()
        self._missed = 0
        # The connection broke behind what is in the buffer: nobody knows what else was sent.
        self._torn = False
        self._lost: str | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.team: _Team | None = None

    def __aiter__(self) -> AsyncIterator[BusMessage | BusGap]:
        return self

    async def __anext__(self) -> BusMessage | BusGap:
        return (await self.take(1))[0]

    async def take(self, count_max: int) -> Sequence[BusMessage | BusGap]:
        check_between("count_max", count_max, 1, BUFFER_MAX)
        buffer = self._buffer
        while not buffer and not self._is_missing():
            if self._lost is not None:
                raise SubscriptionLost(self._lost)
            await self._wait()
        taken = [buffer.popleft() for _ in range(min(count_max, len(buffer)))]
        if not buffer and len(taken) < count_max and self._is_missing():
            taken.append(self._take_gap())
        if self.team is not None:
            self.team.has_room_again(self)
        return taken

    def has_room(self) -> bool:
        return len(self._buffer) < self._buffer_max

    def offer(self, message: BusMessage) -> None:
        """Never waits."""
        if len(self._buffer) >= self._buffer_max:
            self._missed += 1
            return
        if self._is_missing():
            self._buffer.append(self._take_gap())
        self._buffer.append(message)
        self._wake()

    def tear(self) -> None:
        """From here on an unknown number is missing, until the next message comes."""
        self._torn = True
        self._wake()

    def lose(self, reason: str) -> None:
        """No more will come; what is there is still given."""
        self._lost = reason
        self._wake()

    def _is_missing(self) -> bool:
        return self._missed > 0 or self._torn

    def _take_gap(self) -> BusGap:
        gap = BusGap(missed=None if self._torn else self._missed)
        self._missed, self._torn = 0, False
        return gap

    async def _wait(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("one reader at a time: another call already waits on this subscription")
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Group:
    """The members of one name at this hub, in teams that share a pattern."""

    def __init__(self) -> None:
        self._literal: dict[str, _Team] = {}
        self._wild: dict[str, _Team] = {}
        self._matches: dict[str, Sequence[_Team]] = {}
        # Spreads messages over members that listen to different patterns.
        self._turn = 0

    def __len__(self) -> int:
        return len(self._literal) + len(self._wild)

    def add(self, pattern: str, member: Member) -> None:
        teams = self._literal if is_literal(pattern) else self._wild
        if pattern not in teams:
            teams[pattern] = _Team(pattern)
            self._matches.clear()
        teams[pattern].add(member)

    def discard(self, pattern: str, member: Member) -> None:
        """What was never added is no error."""
        teams = self._literal if is_literal(pattern) else self._wild
        team = teams.get(pattern)
        if team is not None and team.discard(member):
            del teams[pattern]
            self._matches.clear()

    def offer(self, message: BusMessage) -> None:
        """To one member whose pattern matches: in turn, one that has room where there is one. To nobody: to nobody."""
        teams = self._matching(message.subject)
        if len(teams) == 1:
            teams[0].offer(message)
        elif teams:
            self._choose(teams).offer(message)

    def _matching(self, subject: str) -> Sequence["_Team"]:
        if not self._wild:
            team = self._literal.get(subject)
            return () if team is None else (team,)
        found = self._matches.get(subject)
        if found is None:
            tokens = subject.split(".")
            literal = self._literal.get(subject)
            wild = [team for team in self._wild.values() if pattern_matches(team.tokens, tokens)]
            if len(self._matches) >= _MATCHES_CACHED_MAX:
                self._matches.clear()
            found = self._matches[subject] = wild if literal is None else [literal, *wild]
        return found

    def _choose(self, teams: Sequence["_Team"]) -> "_Team":
        """In turn by the number of members that have room; where none has, each team in turn misses one."""
        self._turn += 1
        room = sum(len(team.with_room) for team in teams)
        if not room:
            return teams[self._turn % len(teams)]
        number = self._turn % room
        for team in teams:
            if number < len(team.with_room):
                return team
            number -= len(team.with_room)
        raise AssertionError("unreachable: the number is below the sum")


class _Team:
    """Members of one group and pattern. Ordered dictionaries as sets in the order of their turn."""

    __slots__ = ("members", "tokens", "with_room")

    def __init__(self, pattern: str) -> None:
        self.tokens = pattern.split(".")
        self.members: OrderedDict[Member, None] = OrderedDict()
        # Those that can take a message: full ones cost nothing to pass over.
        self.with_room: OrderedDict[Member, None] = OrderedDict()

    def add(self, member: Member) -> None:
        member.team = self
        self.members[member] = None
        self.with_room[member] = None

    def discard(self, member: Member) -> bool:
        """Whether nobody is left."""
        member.team = None
        self.members.pop(member, None)
        self.with_room.pop(member, None)
        return not self.members

    def has_room_again(self, member: Member) -> None:
        if member not in self.with_room:
            self.with_room[member] = None

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
