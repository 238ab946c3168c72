"""The work of one connection, begun in the order in which it came.

A worker takes the next piece and runs it to its first wait before any other worker takes one. A verb whose channel is
known and whose data is small first waits when its messages stand in the engine's line, so pieces reach the engine in
order while many of them are under way. A piece that waits earlier (the first use of a channel, data that goes to the
blobs) runs alone: later ones of its channel begin when it has ended.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from meshway.edges.link.limits import IN_WORK_MAX
from meshway.protocols.link.frames import Ack, Bye, Publish, Reply, Report, Settle, SettleTasks

__all__ = ["Lane", "LaneFrame", "Work"]

LaneFrame = Ack | Bye | Publish | Reply | Report | Settle | SettleTasks

# Channels of which a connection has sent before; a publisher to more of them now and then runs one frame alone.
_KNOWN_MAX = 1_000


@dataclass(slots=True)
class Work:
    """`line` is what order is kept within (kind and channel), None where there is none; `alone` by its size."""

    frame: LaneFrame
    line: str | None = None
    alone: bool = False


class Lane:
    """`perform` never raises and says whether all went well; `hold` and `release` stop and start reading; `rested` is
    called whenever nothing is left."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        perform: Callable[[LaneFrame], Awaitable[bool]],
        *,
        hold: Callable[[], None],
        release: Callable[[], None],
        rested: Callable[[], None],
    ) -> None:
        self._tasks = tasks
        self._perform = perform
        self._hold = hold
        self._release = release
        self._rested = rested
        self._ready: deque[Work] = deque()
        # Lines on which a piece runs alone, and what waits behind it.
        self._blocked: dict[str, deque[Work]] = {}
        self._known: set[str] = set()
        self._workers = 0
        self._open = 0
        self._held = False

    @property
    def is_idle(self) -> bool:
        return not self._open

    def add(self, work: Work) -> None:
        self._ready.append(work)
        self._open += 1
        self._staff()
        if self._open >= IN_WORK_MAX and not self._held:
            self._held = True
            self._hold()

    def _staff(self) -> None:
        wanted = min(len(self._ready), IN_WORK_MAX - self._workers)
        for _each in range(wanted):
            self._workers += 1
            self._tasks.create_task(self._work())

    async def _work(self) -> None:
        while (work := self._next()) is not None:
            went_well = await self._perform(work.frame)
            self._open -= 1
            self._done(work, went_well=went_well)
            if self._held and self._open <= IN_WORK_MAX // 2:
                self._held = False
                self._release()
            if not self._open:
                self._rested()
        self._workers -= 1

    def _next(self) -> Work | None:
        while self._ready:
            work = self._ready.popleft()
            line = work.line
            if line is None:
                return work
            waiting = self._blocked.get(line)
            if waiting is not None:
                waiting.append(work)
                continue
            work.alone = work.alone or line not in self._known
            if work.alone:
                self._blocked[line] = deque()
            return work
        return None

    def _done(self, work: Work, *, went_well: bool) -> None:
        line = work.line
        if line is None:
            return
        if went_well and line not in self._known:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known.add(line)
        if work.alone:
            self._ready.extendleft(reversed(self._blocked.pop(line)))
            self._staff()
