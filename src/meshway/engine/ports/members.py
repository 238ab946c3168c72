"""Who listens to a bus at one hub: buffers of single readers, and teams of which one member gets a message.

Pure: what fills them is the adapter's.
"""

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Sequence

from meshway.engine.ports.bus import BusGap, BusMessage
from meshway.engine.ports.checks import check_between
from meshway.engine.ports.outcomes import SubscriptionLost
from meshway.engine.ports.wakeup import Wakeup

__all__ = ["BUFFER_MAX", "Member", "Team", "Teams"]

# A buffer is memory that one slow reader may hold.
BUFFER_MAX = 1_000_000


class Member:
    """See `engine.ports.BusSubscription`: a bounded buffer. What did not fit is shown where it is missing."""

    __slots__ = ("_buffer", "_buffer_max", "_lost", "_missed", "_torn", "_wakeup", "team")

    def __init__(self, buffer_max: int) -> None:
        self._buffer_max = buffer_max
        self._buffer: deque[BusMessage | BusGap] = deque()
        self._missed = 0
        # What brings the messages broke behind what is in the buffer: nobody knows what else was sent.
        self._torn = False
        self._lost: str | None = None
        self._wakeup = Wakeup()
        self.team: Team | None = None

    def __aiter__(self) -> AsyncIterator[BusMessage | BusGap]:
        return self

    async def __anext__(self) -> BusMessage | BusGap:
        return (await self.take(1))[0]

    async def take(self, count_max: int) -> Sequence[BusMessage | BusGap]:
        check_between("count_max", count_max, 1, BUFFER_MAX)
        buffer = self._buffer
        while not (buffer or self._missed or self._torn):
            if self._lost is not None:
                raise SubscriptionLost(self._lost)
            await self._wakeup.wait()
        taken: list[BusMessage | BusGap]
        if len(buffer) <= count_max:
            taken = list(buffer)
            buffer.clear()
        else:
            taken = [buffer.popleft() for _ in range(count_max)]
        if (self._missed or self._torn) and len(taken) < count_max:
            taken.append(self._take_gap())
        if self.team is not None:
            self.team.has_room_again(self)
        return taken

    def has_room(self) -> bool:
        return len(self._buffer) < self._buffer_max

    def offer(self, message: BusMessage) -> None:
        """Never waits."""
        buffer = self._buffer
        if len(buffer) >= self._buffer_max:
            self._missed += 1
            return
        if self._missed or self._torn:
            buffer.append(self._take_gap())
        buffer.append(message)
        self._wakeup.set()

    def tear(self) -> None:
        """From here on an unknown number is missing, until the next message comes."""
        self._torn = True
        self._wakeup.set()

    def lose(self, reason: str) -> None:
        """No more will come; what is there is still given."""
        self._lost = reason
        self._wakeup.set()

    def _take_gap(self) -> BusGap:
        gap = BusGap(missed=None if self._torn else self._missed)
        self._missed, self._torn = 0, False
        return gap


class Team:
    """Members of one group and pattern: each message goes to one, in turn, passing over those whose buffer is full."""

    __slots__ = ("members", "with_room")

    def __init__(self) -> None:
        self.members: OrderedDict[Member, None] = OrderedDict()
        # Those among them that can take a message, in the order of their turn: full ones cost nothing to pass over.
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


class Teams:
    """Chooses among teams of one group that listen to different patterns, all of which match a message."""

    __slots__ = ("_turn",)

    def __init__(self) -> None:
        self._turn = 0

    def offer(self, teams: Sequence[Team], message: BusMessage) -> None:
        """To one member: in turn by the number that have room; where none has, each team in turn misses one."""
        self._turn += 1
        room = sum(len(team.with_room) for team in teams)
        if not room:
            teams[self._turn % len(teams)].offer(message)
            return
        number = self._turn % room
        for team in teams:
            if number < len(team.with_room):
                team.offer(message)
                return
            number -= len(team.with_room)
