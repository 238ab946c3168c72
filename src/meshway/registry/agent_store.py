"""Agents in the store: one record each under `agents.<id>`, changed by compare-and-set.

Every write is visible in this hub's Directory before the call returns; other hubs see it through their watch.
"""

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from meshway.engine.ports import (
    Durability,
    KeyValue,
    KvConflict,
    KvCreate,
    KvDelete,
    KvEntry,
    KvUpdate,
    KvWrite,
    KvWritten,
    Undecided,
)
from meshway.kernel.errors import Conflict, EngineUnavailable, StoreCorrupt
from meshway.kernel.ids import AgentId
from meshway.registry.directory import AGENTS_PREFIX, Directory
from meshway.registry.values import Agent

__all__ = ["AgentChanged", "AgentStore"]

# Writers of one agent are few; one that loses this often meets a fault, not competition.
_ROUNDS_MAX = 16

_encode = msgspec.json.Encoder().encode
_decode_agent = msgspec.json.Decoder(Agent).decode


class AgentChanged(NamedTuple):
    """The record before and after a change; None where there was none."""

    before: Agent | None
    after: Agent | None


class AgentStore:
    """Typed store of agents over KeyValue."""

    def __init__(self, key_value: KeyValue, directory: Directory) -> None:
        self._key_value = key_value
        self._directory = directory

    async def read(self, agent_id: AgentId) -> Agent | None:
        """The stored record, past the Directory. Raises: EngineUnavailable, StoreCorrupt."""
        (entry,) = await self._key_value.get([_key(agent_id)])
        return None if entry is None else _decode(entry)

    async def change(
        self,
        agent_id: AgentId,
        decide: Callable[[Agent | None], Agent | None],
        *,
        durability: Durability = Durability.SYNCED,
    ) -> AgentChanged:
        """Store what `decide` makes of the present record; None deletes. Returned unchanged, nothing is written.

        `decide` is called again when somebody else wrote in between, so it must be pure; what it raises is raised.
        Raises: Conflict after too many rounds, StorageFull, EngineUnavailable, StoreCorrupt.
        """
        key = _key(agent_id)
        (entry,) = await self._key_value.get([key])
        for _ in range(_ROUNDS_MAX):
            before = None if entry is None else _decode(entry)
            after = decide(before)
            if after is before:
                return AgentChanged(before, after)
            value = None if after is None else _encode(after)
            outcome = await self._write_decided(_write(key, value, entry, durability))
            if isinstance(outcome, KvWritten):
                self._show(agent_id, value, outcome.revision)
                return AgentChanged(before, after)
            entry = outcome.current
        raise Conflict(f"Agent {agent_id!r} is being changed by others at this moment; try again.", agent=agent_id)

    async def _write_decided(self, write: KvWrite) -> KvWritten | KvConflict:
        """Repeat a write of unknown outcome until it is known; one that turns out to have happened is no conflict."""
        repeated = False
        for _ in range(_ROUNDS_MAX):
            (outcome,) = await self._key_value.write([write])
            if isinstance(outcome, Undecided):
                repeated = True
                continue
            if repeated and isinstance(outcome, KvConflict):
                return _as_written(write, outcome)
            return outcome
        raise EngineUnavailable("The store does not say whether the agent's record was written; try again.")

    def _show(self, agent_id: AgentId, value: bytes | None, revision: int) -> None:
        if value is None:
            self._directory.apply_deleted(agent_id, revision)
        else:
            self._directory.apply(KvEntry(key=_key(agent_id), value=value, revision=revision))


def _key(agent_id: AgentId) -> str:
    return f"{AGENTS_PREFIX}.{agent_id}"


def _write(key: str, value: bytes | None, entry: KvEntry | None, durability: Durability) -> KvWrite:
    if entry is None:
        return KvCreate(key=key, value=value or b"", durability=durability)
    if value is None:
        return KvDelete(key=key, revision=entry.revision, durability=durability)
    return KvUpdate(key=key, value=value, revision=entry.revision, durability=durability)


def _as_written(write: KvWrite, conflict: KvConflict) -> KvWritten | KvConflict:
    """A repeated write that meets its own result did happen the first time."""
    current = conflict.current
    if isinstance(write, KvDelete):
        return conflict if current is not None else KvWritten(revision=write.revision or 0)
    return KvWritten(revision=current.revision) if current and current.value == write.value else conflict


def _decode(entry: KvEntry) -> Agent:
    try:
        return _decode_agent(entry.value)
    except msgspec.DecodeError as error:
        text = f"The stored record {entry.key!r} cannot be read ({error}); a newer Meshway wrote it, or it is damaged."
        raise StoreCorrupt(text) from error
