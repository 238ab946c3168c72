"""Which streams of agents are read, and by which hub: a key `pumps.<agent>.<task>` for as long as one is.

A hub that starts, or hears that another is lost, takes up the streams whose marks name no hub that is alive. Of several
that try, the one that changes the mark has it.
"""

from collections.abc import AsyncIterator

import msgspec

from meshway.coordination.hubs import HubId, MeshHubs
from meshway.engine.ports import (
    Durability,
    KeyValue,
    KvConflict,
    KvCreate,
    KvEntry,
    KvPut,
    KvUpdate,
    KvWrite,
    KvWritten,
    Undecided,
)
from meshway.kernel.errors import EngineUnavailable
from meshway.kernel.ids import AgentId, TaskId
from meshway.tasks.tokens import task_token
from meshway.tasks.turn_closer import TurnCloser

__all__ = ["PumpMark", "PumpMarks"]

_PREFIX = "pumps"
_PAGE = 500
_ROUNDS_MAX = 16
_LAZY = Durability.LAZY


class PumpMark(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Stored; `v` is the format. Before it had one, a mark was the id of the task alone."""

    task: str
    hub: HubId = ""
    v: int = 1


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(PumpMark).decode


class PumpMarks:
    """All of them raise StorageFull and EngineUnavailable where they wait."""

    def __init__(self, key_value: KeyValue, closer: TurnCloser, hubs: MeshHubs, *, retention_ms: int) -> None:
        self._key_value = key_value
        self._closer = closer
        self._hubs = hubs
        self._retention_ms = retention_ms

    @property
    def is_shared(self) -> bool:
        """Whether other hubs may read streams too."""
        return self._hubs.is_shared

    @property
    def taken_after_ms(self) -> int:
        """Another hub takes up what this one reads no sooner than after so long a silence."""
        return self._hubs.lost_after_ms

    def put(self, agent_id: AgentId, task_id: TaskId) -> KvPut:
        """What makes the stream this hub's."""
        key = _key(agent_id, task_id)
        self._closer.leave_mark(key)
        return KvPut(key=key, value=self._value(task_id), ttl_ms=self._retention_ms, durability=_LAZY)

    def first(self, agent_id: AgentId, task_id: TaskId) -> KvWrite:
        """The same along with the first record of a task; it takes the stream of an earlier one from no other hub."""
        put = self.put(agent_id, task_id)
        if not self._hubs.is_shared:
            return put
        return KvCreate(key=put.key, value=put.value, ttl_ms=put.ttl_ms, durability=put.durability)

    def remove_soon(self, agent_id: AgentId, task_id: TaskId) -> None:
        """The stream is over, and its record was kept."""
        self._closer.unmark(_key(agent_id, task_id))

    async def claim(self, agent_id: AgentId, task_id: TaskId) -> bool:
        """Make the stream this hub's before it is read; False: another one that is alive reads it, or was faster."""
        put = self.put(agent_id, task_id)
        write: KvCreate | KvUpdate = KvCreate(key=put.key, value=put.value, ttl_ms=put.ttl_ms, durability=_LAZY)
        for _ in range(_ROUNDS_MAX):
            (outcome,) = await self._key_value.write([write])
            match outcome:
                case KvWritten():
                    return True
                case KvConflict(current=KvEntry() as current):
                    if await self.is_elsewhere(current):
                        return False
                    revision = current.revision
                    write = KvUpdate(
                        key=put.key, value=put.value, revision=revision, ttl_ms=put.ttl_ms, durability=_LAZY
                    )
                case KvConflict() | Undecided():
                    continue
        raise EngineUnavailable("The store does not say which hub reads the stream of this task; try again.")

    async def write(self, agent_id: AgentId, task_id: TaskId) -> None:
        """Store that the stream is this hub's."""
        await self._key_value.write([self.put(agent_id, task_id)])

    async def read(self, agent_id: AgentId, task_id: TaskId) -> KvEntry | None:
        """The mark, if the stream is read by anybody."""
        (entry,) = await self._key_value.get([_key(agent_id, task_id)])
        return entry

    async def is_elsewhere(self, entry: KvEntry | None) -> bool:
        """Whether another hub that is alive reads it; waits until it is known who is."""
        if entry is None or not self._hubs.is_shared:
            return False
        hub = _read(entry).hub
        return hub != self._hubs.me and (self._hubs.is_alive(hub) or await self._hubs.is_surely_alive(hub))

    async def take(self, entry: KvEntry) -> bool:
        """Make the stream of a hub that is gone this one's; False: another was faster."""
        if not self._hubs.is_shared:
            return True
        update = KvUpdate(
            key=entry.key,
            value=self._value(TaskId(_read(entry).task)),
            revision=entry.revision,
            ttl_ms=self._retention_ms,
            durability=_LAZY,
        )
        for _ in range(_ROUNDS_MAX):
            (outcome,) = await self._key_value.write([update])
            if not isinstance(outcome, Undecided):
                break
        current = outcome.current if isinstance(outcome, KvConflict) else None
        # Also where a write of unknown outcome, repeated, meets its own result.
        return isinstance(outcome, KvWritten) or (current is not None and _read(current).hub == self._hubs.me)

    async def orphans(self) -> AsyncIterator[tuple[AgentId, TaskId, KvEntry]]:
        """Every stream that no other hub reads, once it is known which there are: this hub knows which it reads."""
        await self._hubs.wait_ready()
        after: str | None = None
        while True:
            page = await self._key_value.page(_PREFIX, after=after, limit=_PAGE)
            for entry in page.entries:
                mark = _read(entry)
                is_ours = not self._hubs.is_shared or mark.hub == self._hubs.me
                if is_ours or not self._hubs.is_alive(mark.hub):
                    yield AgentId(entry.key.split(".")[1]), TaskId(mark.task), entry
            after = page.next_after
            if after is None:
                return

    def _value(self, task_id: TaskId) -> bytes:
        return _encode(PumpMark(task=task_id, hub=self._hubs.me if self._hubs.is_shared else ""))


def _read(entry: KvEntry) -> PumpMark:
    try:
        return _decode(entry.value)
    except msgspec.DecodeError:
        return PumpMark(task=entry.value.decode("utf-8", "replace"))


def _key(agent_id: AgentId, task_id: TaskId) -> str:
    return f"{_PREFIX}.{agent_id}.{task_token(task_id)}"
