"""Who wants to be told of the events of which task: one record per config under `taskpush.<agent>.<task>.<config>`.

Every append to a task asks whether anybody does, so which tasks have configs is also in memory, in step with the store
at every hub. Not here: what is sent, and how far a receiver has come beyond `last_queued`.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from meshway.engine.ports import (
    Durability,
    KeyValue,
    KvConflict,
    KvCreate,
    KvDelete,
    KvDeleted,
    KvEntry,
    KvUpdate,
    KvWritten,
    PrefixFollower,
    Undecided,
)
from meshway.kernel.errors import CapacityReached, EngineUnavailable, StoreCorrupt
from meshway.kernel.ids import AgentId, PrincipalId, TaskId
from meshway.tasks.settings import TaskSettings
from meshway.tasks.tokens import task_token

__all__ = ["PushConfig", "PushConfigStore", "push_config_key"]

# Receivers of one task: each event is sent to all of them. A task with more feeds an audience; that is a channel.
_CONFIGS_MAX = 32
_log = logging.getLogger(__name__)

_PREFIX = "taskpush"
# Writes that met somebody else's, or an engine that could not say; more is no coincidence.
_ROUNDS_MAX = 16

_encode = msgspec.json.Encoder().encode


class PushConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One receiver of one task's events. Stored; `v` is the record's format."""

    agent_id: AgentId
    task_id: TaskId
    config_id: str
    # Whose it is: nobody else is shown its secrets.
    principal_id: PrincipalId
    url: str
    # Tells a config that was deleted and made again from its predecessor.
    created_at_ms: int
    tenant: str = ""
    # Of the Authorization header.
    scheme: str = ""
    # Token and credentials, under the hub's key; empty where there are none.
    sealed: str = ""
    # The A2A version its creator spoke, which is what the receiver understands.
    version: str = "1.0"
    # Number of the last event that was handed to the queue; stored now and then, so it may be behind, never ahead.
    last_queued: int = 0
    v: int = 1

    @property
    def key(self) -> str:
        return push_config_key(self.agent_id, self.task_id, self.config_id)


_decode_config = msgspec.json.Decoder(PushConfig).decode


def push_config_key(agent_id: str, task_id: str, config_id: str) -> str:
    """Where a config is kept; also its name on the queue of notifications."""
    return f"{_task_prefix(agent_id, task_id)}.{task_token(config_id)}"


class PushConfigStore:
    """Used from the event loop only. `run` is a duty; `wait_ready` before the first task is served.

    Configs of tasks that come to no end run out with their task's record: each write starts the time again.
    """

    def __init__(self, key_value: KeyValue, *, settings: TaskSettings, configs_max: int = _CONFIGS_MAX) -> None:
        """`configs_max`: of one task. Two hubs that each add the last one at the same moment may exceed it by one."""
        self._key_value = key_value
        self._settings = settings
        self._configs_max = configs_max
        self._revisions: dict[str, int] = {}
        self._task_of: dict[str, tuple[str, str]] = {}
        self._keys_of: dict[tuple[str, str], dict[str, None]] = {}
        self._listeners: list[Callable[[str, PushConfig | None], None]] = []
        self._follower = PrefixFollower(
            key_value,
            _PREFIX,
            known=lambda: self._revisions,
            entry=self._show_readable,
            deleted=self._hide_deleted,
        )

    # From memory

    def has_configs(self, agent_id: AgentId, task_id: TaskId) -> bool:
        """Whether anybody wants to be told of this task."""
        return (agent_id, task_id) in self._keys_of

    def keys_of(self, agent_id: AgentId, task_id: TaskId) -> Collection[str]:
        """The keys of the task's configs."""
        return self._keys_of.get((agent_id, task_id), ())

    def listen(self, listener: Callable[[str, PushConfig | None], None]) -> None:
        """Call `listener` with key and config at each sight of a config, None when it is gone, in the same turn.

        For life; tells of those that are there already only if it listens before `run` begins.
        """
        self._listeners.append(listener)

    # From the store

    async def put(self, config: PushConfig) -> PushConfig:
        """Keep a config, synced. One that is replaced passes on its age and how far its receiver was served.

        Raises: CapacityReached, StorageFull, EngineUnavailable, StoreCorrupt.
        """
        for _ in range(_ROUNDS_MAX):
            (entry,) = await self._key_value.get([config.key])
            ttl_ms = self._settings.open_retention_ms
            write: KvCreate | KvUpdate
            if entry is None:
                await self._check_room(config)
                stored = config
                write = KvCreate(key=config.key, value=_encode(stored), ttl_ms=ttl_ms)
            else:
                before = _decode(entry)
                stored = msgspec.structs.replace(
                    config, created_at_ms=before.created_at_ms, last_queued=before.last_queued
                )
                write = KvUpdate(key=config.key, value=_encode(stored), ttl_ms=ttl_ms, revision=entry.revision)
            (outcome,) = await self._key_value.write([write])
            if isinstance(outcome, KvWritten):
                self._show(config.key, stored, outcome.revision)
                return stored
        raise _no_answer()

    async def read(self, key: str) -> PushConfig | None:
        """Raises: EngineUnavailable, StoreCorrupt."""
        (entry,) = await self._key_value.get([key])
        return None if entry is None else _decode(entry)

    async def get(self, agent_id: AgentId, task_id: TaskId, config_id: str) -> PushConfig | None:
        """Raises: EngineUnavailable, StoreCorrupt."""
        return await self.read(push_config_key(agent_id, task_id, config_id))

    async def list_of(self, agent_id: AgentId, task_id: TaskId) -> Sequence[PushConfig]:
        """All of one task, in no particular order. Raises: EngineUnavailable, StoreCorrupt."""
        page = await self._key_value.page(_task_prefix(agent_id, task_id), limit=1_024)
        return [_decode(entry) for entry in page.entries]

    async def delete(self, key: str) -> None:
        """Forget a config; what waits for its receiver is dropped. Idempotent.

        Raises: StorageFull, EngineUnavailable.
        """
        for _ in range(_ROUNDS_MAX):
            (outcome,) = await self._key_value.write([KvDelete(key=key)])
            if isinstance(outcome, KvWritten):
                self._hide(key, outcome.revision)
                return
        raise _no_answer()

    async def retire(self, key: str) -> None:
        """Keep the config of a finished task a while longer: its dead letters may yet be sent again."""
        for _ in range(_ROUNDS_MAX):
            (entry,) = await self._key_value.get([key])
            if entry is None:
                return
            write = KvUpdate(
                key=key,
                value=entry.value,
                revision=entry.revision,
                ttl_ms=self._settings.finished_retention_ms,
                durability=Durability.LAZY,
            )
            (outcome,) = await self._key_value.write([write])
            if isinstance(outcome, KvWritten):
                return
        raise _no_answer()

    async def save_queued(self, numbers: Mapping[str, int]) -> Sequence[str]:
        """Store, lazily, up to which event each config was served; a number never goes back.

        Returns the keys that somebody else wrote at the same time, to be saved again.
        Raises: StorageFull, EngineUnavailable.
        """
        entries = await self._key_value.get(list(numbers))
        writes = []
        for entry in entries:
            config = None if entry is None else _readable(entry)
            if entry is None or config is None or config.last_queued >= numbers[entry.key]:
                continue
            writes.append(
                KvUpdate(
                    key=entry.key,
                    value=_encode(msgspec.structs.replace(config, last_queued=numbers[entry.key])),
                    revision=entry.revision,
                    ttl_ms=self._settings.open_retention_ms,
                    durability=Durability.LAZY,
                )
            )
        if not writes:
            return []
        outcomes = await self._key_value.write(writes)
        return [
            write.key
            for write, outcome in zip(writes, outcomes, strict=True)
            if isinstance(outcome, KvConflict | Undecided)
        ]

    async def _check_room(self, config: PushConfig) -> None:
        page = await self._key_value.page(_task_prefix(config.agent_id, config.task_id), limit=self._configs_max)
        if len(page.entries) >= self._configs_max:
            text = f"Task {config.task_id!r} has {self._configs_max} push notification configs; delete one first."
            raise CapacityReached(text, agent=config.agent_id)

    # Following the store

    async def wait_ready(self) -> None:
        """Until everything that was stored when the watch began is here."""
        await self._follower.wait_ready()

    async def run(self) -> None:
        """Follow the store until cancelled. A lost watch is opened again; meanwhile the last picture stands."""
        await self._follower.run()

    def _show_readable(self, entry: KvEntry) -> None:
        config = _readable(entry)
        if config is not None:
            self._show(entry.key, config, entry.revision)

    def _hide_deleted(self, event: KvDeleted) -> None:
        self._hide(event.key, event.revision)

    def _show(self, key: str, config: PushConfig, revision: int) -> None:
        """Unless a later write is shown already: our own writes are here before the watch tells of them."""
        if self._revisions.get(key, -1) >= revision:
            return
        self._revisions[key] = revision
        task = (config.agent_id, config.task_id)
        self._task_of[key] = task
        self._keys_of.setdefault(task, {})[key] = None
        for listener in self._listeners:
            listener(key, config)

    def _hide(self, key: str, revision: int) -> None:
        if self._revisions.get(key, revision + 1) > revision:
            return
        del self._revisions[key]
        task = self._task_of.pop(key)
        keys = self._keys_of[task]
        del keys[key]
        if not keys:
            del self._keys_of[task]
        for listener in self._listeners:
            listener(key, None)


def _task_prefix(agent_id: str, task_id: str) -> str:
    return f"{_PREFIX}.{agent_id}.{task_token(task_id)}"


def _decode(entry: KvEntry) -> PushConfig:
    try:
        return _decode_config(entry.value)
    except msgspec.DecodeError as error:
        text = f"The stored record {entry.key!r} cannot be read ({error}); a newer Meshway wrote it, or it is damaged."
        raise StoreCorrupt(text) from error


def _readable(entry: KvEntry) -> PushConfig | None:
    try:
        return _decode(entry)
    except StoreCorrupt as error:
        _log.error("push_config_unreadable", extra={"key": entry.key, "reason": error.detail})
        return None


def _no_answer() -> EngineUnavailable:
    return EngineUnavailable("The store does not say whether the push notification config was written; try again.")
