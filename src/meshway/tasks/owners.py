"""Whose task is whose: one record per task under `tasks.<agent>.<task>`, lazily synced.

The first principal whose call showed a task owns it, for good: no later answer moves it, not even after the record fell
out of memory, because a first sight is stored with create-if-absent. Only the state, and its time, follow the agent.

Records of tasks whose events are recorded follow them: `keep` shows them at once, and `write_kept` stores many of them
together. What a crash leaves unwritten is made again from the inbox, the marks of streams, and the log.

On an engine that hubs share, what is remembered of a task that goes on is believed for a moment only, and of two hubs
that write one record the one that knows more of the task is right.
"""

import heapq
import logging
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from meshway.engine.ports import (
    Durability,
    KeyValue,
    KvConflict,
    KvCreate,
    KvEntry,
    KvOutcome,
    KvUpdate,
    KvWrite,
    KvWritten,
    Undecided,
)
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable, FieldError, InvalidRequest, StoreCorrupt
from meshway.kernel.ids import AgentId, ContextId, InstanceId, PrincipalId, TaskId
from meshway.kernel.pages import decode_cursor, encode_cursor
from meshway.kernel.principal import Principal
from meshway.tasks.settings import TaskSettings
from meshway.tasks.tokens import record_key, task_token
from meshway.tasks.values import TaskCause, TaskOwner, TaskSeen, TaskState

__all__ = ["ListFilter", "OwnedPage", "TaskOwners"]

_log = logging.getLogger(__name__)

_PREFIX = "tasks"
_ROUNDS_MAX = 16
# A page of the store, decoded in about 2 ms, between two turns of the event loop.
_SCAN_PAGE = 1_000
# Owners kept in memory, about 1 KB each: follow-ups to tasks that are under way need no read.
_OWNERS_CACHED = 10_000
# How long a record of a task that another hub may change is believed: one look for the calls of one exchange.
_BELIEVED_MS = 250
# Records of one write of the store.
_WRITE_MAX = 500
# A2A 1.0, ListTasks: pageSize is 1 to 100, 50 when absent.
_PAGE_SIZE_DEFAULT, _PAGE_SIZE_MAX = 50, 100
# An agent whose clock runs ahead by more than this does not decide the order of lists.
_AHEAD_MAX_MS = 86_400_000

_encode = msgspec.json.Encoder().encode
_decode_owner = msgspec.json.Decoder(TaskOwner).decode


@dataclass(frozen=True, slots=True, kw_only=True)
class ListFilter:
    """What ListTasks asks for. `status_after_ms`: statuses at or after this time."""

    context_id: ContextId | None = None
    state: TaskState | None = None
    status_after_ms: int | None = None
    page_size: int = _PAGE_SIZE_DEFAULT
    page_token: str | None = None


@dataclass(frozen=True, slots=True)
class OwnedPage:
    """Latest status first. `total_size` counts everything the filter matches; `next_page_token` is "" at the end."""

    tasks: Sequence[TaskOwner]
    next_page_token: str
    total_size: int


class _Remembered:
    """An owner record and the revision it was read or written at."""

    __slots__ = ("at_ms", "owner", "revision")

    def __init__(self, owner: TaskOwner, revision: int, at_ms: float) -> None:
        self.owner = owner
        self.revision = revision
        self.at_ms = at_ms


class TaskOwners:
    """Owner records over KeyValue, with the latest ones in memory."""

    def __init__(
        self,
        key_value: KeyValue,
        *,
        settings: TaskSettings,
        clock: Clock,
        is_shared: bool = False,
        owners_cached: int = _OWNERS_CACHED,
    ) -> None:
        """`is_shared`: other hubs may change records too."""
        self._key_value = key_value
        self._clock = clock
        self._is_shared = is_shared
        self._settings = settings
        self._owners_cached = owners_cached
        self._remembered: OrderedDict[tuple[str, str], _Remembered] = OrderedDict()
        # Records as they should be, until the store has them.
        self._kept: dict[tuple[AgentId, str], TaskOwner] = {}

    async def record(
        self,
        seen: TaskSeen,
        *,
        agent_id: AgentId,
        instance_id: InstanceId,
        principal_id: PrincipalId,
        now_ms: int,
        cause: TaskCause | None = None,
        along: Sequence[KvWrite] = (),
    ) -> TaskOwner:
        """Remember a task that an answer to `principal_id` showed; stored before this returns. The record as it is.

        Costs one write at first sight, with `along` in it, and one at each change of state, nothing otherwise. A task
        that has an owner keeps it; a finished task keeps its state; a status older than the known one is late news and
        ignored. The record has the `call_id` of this `cause` if it was made here and now.
        Raises: StorageFull, EngineUnavailable; then the task's id must not be shown to the caller.
        """
        key = (agent_id, seen.task_id)
        kept = self._kept.get(key)
        if kept is not None:
            followed = _after_status(kept, seen, now_ms)
            if followed is not kept:
                self._kept[key] = followed
                await self._write_kept([key])
            return followed
        known = self._remembered.get((agent_id, seen.task_id))
        if known is None:
            owner = TaskOwner(
                task_id=seen.task_id,
                context_id=seen.context_id,
                agent_id=agent_id,
                instance_id=instance_id,
                principal_id=principal_id,
                state=seen.state,
                created_at_ms=now_ms,
                status_at_ms=_status_time(seen, now_ms),
            )
            if cause is not None:
                owner = msgspec.structs.replace(owner, parent=cause.parent, root=cause.root, call_id=cause.call_id)
            known = await self._create(owner, along)
            if known is None:
                return owner
        elif seen.state is known.owner.state:
            return known.owner
        if known.owner.principal_id != principal_id:
            _log.warning(
                "task_of_another_principal_answered",
                extra={"agent": agent_id, "task": seen.task_id, "owner": known.owner.principal_id, "to": principal_id},
            )
        return await self._follow(known, seen, now_ms)

    async def owner_of(self, agent_id: AgentId, task_id: TaskId) -> TaskOwner | None:
        """The record, or None for a task never seen, or seen longer ago than records are kept.

        Whether the caller may know is the caller's question. Raises: EngineUnavailable, StoreCorrupt.
        """
        kept = self._kept.get((agent_id, task_id))
        if kept is not None:
            return kept
        known = self._remembered.get((agent_id, task_id))
        if known is not None and self._is_believed(known):
            self._remembered.move_to_end((agent_id, task_id))
            return known.owner
        (entry,) = await self._key_value.get([record_key(agent_id, task_id)])
        return None if entry is None else self._remember_entry(entry).owner

    async def owner_of_first(self, agent_id: AgentId, task_id: TaskId) -> TaskOwner | None:
        """The record of a task that nobody has had yet; None also where another hub is about to write it.

        What is kept then is put on top of what that one wrote. Raises: as `owner_of`.
        """
        if not self._is_shared:
            return await self.owner_of(agent_id, task_id)
        known = self._remembered.get((agent_id, task_id))
        return self._kept.get((agent_id, task_id)) or (None if known is None else known.owner)

    def doubt(self, agent_id: AgentId, task_id: TaskId) -> None:
        """Another hub may have changed the record just now: it is read when it is asked for next."""
        if self._is_shared:
            self._remembered.pop((agent_id, task_id), None)

    async def find(self, agent_ids: Sequence[AgentId], task_id: TaskId) -> Sequence[TaskOwner]:
        """Records of this id at any of the agents: ids of agents' own making may meet. Raises: EngineUnavailable."""
        found = [kept for agent_id in agent_ids if (kept := self._kept.get((agent_id, task_id))) is not None]
        left = [agent_id for agent_id in agent_ids if (agent_id, task_id) not in self._kept]
        for start in range(0, len(left), _SCAN_PAGE):
            keys = [record_key(agent_id, task_id) for agent_id in left[start : start + _SCAN_PAGE]]
            found += [self._remember_entry(entry).owner for entry in await self._key_value.get(keys) if entry]
        return found

    async def without_record(self, tokens: Sequence[tuple[AgentId, str]]) -> set[tuple[AgentId, str]]:
        """Of these agents and tokens of tasks, those the hub knows nothing of. Raises: EngineUnavailable."""
        entries = await self._key_value.get([f"{_PREFIX}.{agent_id}.{token}" for agent_id, token in tokens])
        kept = {(agent_id, task_token(task_id)) for agent_id, task_id in self._kept}
        return {each for each, entry in zip(tokens, entries, strict=True) if entry is None} - kept

    async def list_owned(self, agent_id: AgentId | None, principal: Principal, query: ListFilter) -> OwnedPage:
        """The principal's tasks at the agent (None: at all), an admin's view being everybody's; latest status first.

        A page goes on after the last task of the page before, so tasks that begin or move meanwhile repeat none.
        Reads every record of the agent once, in bounded memory. Raises: InvalidRequest, EngineUnavailable.
        """
        if not 1 <= query.page_size <= _PAGE_SIZE_MAX:
            message = f"use 1 to {_PAGE_SIZE_MAX}"
            raise InvalidRequest(f"pageSize: {message}", fields=[FieldError("pageSize", message)])
        after = _place_of_token(query.page_token) if query.page_token else None
        wanted = query.page_size + 1
        # Smallest places first out of a heap of at most one page: `nsmallest` would need all of them at once.
        page: list[tuple[int, str, TaskOwner]] = []
        total = 0
        cursor: str | None = None
        # Some may not be in the store yet, and others are behind there.
        unseen = {key: owner for key, owner in self._kept.items() if agent_id in (None, owner.agent_id)}
        prefix = _PREFIX if agent_id is None else f"{_PREFIX}.{agent_id}"
        while True:
            found = await self._key_value.page(prefix, after=cursor, limit=_SCAN_PAGE)
            present = [self._present(entry, unseen) for entry in found.entries]
            if found.next_after is None:
                present += unseen.values()
            owners = [owner for owner in present if _is_listed(owner, principal, query)]
            total += len(owners)
            fresh = [(-owner.status_at_ms, str(owner.task_id), owner) for owner in owners]
            page += [place for place in fresh if after is None or place[:2] > after]
            if len(page) > wanted:
                page = heapq.nsmallest(wanted, page, key=_place_key)
            cursor = found.next_after
            if cursor is None:
                break
        page.sort(key=_place_key)
        tasks = [owner for _, _, owner in page[: query.page_size]]
        more = encode_cursor(f"{tasks[-1].status_at_ms}:{tasks[-1].task_id}") if len(page) > query.page_size else ""
        return OwnedPage(tasks, more, total)

    def _present(self, entry: KvEntry, unseen: dict[tuple[AgentId, str], TaskOwner]) -> TaskOwner:
        owner = _decode(entry)
        unseen.pop((owner.agent_id, owner.task_id), None)
        return self._kept.get((owner.agent_id, owner.task_id), owner)

    # Records that are shown before they are stored

    def keep(self, owner: TaskOwner) -> None:
        """Show this record from now on; `write_kept` stores it."""
        self._kept[owner.agent_id, owner.task_id] = owner

    def keep_status(self, owner: TaskOwner, seen: TaskSeen, now_ms: int) -> TaskOwner:
        """Show what was seen of the task whose record was `owner`; the record it now has. Late news is ignored."""
        key = (owner.agent_id, owner.task_id)
        known = self._remembered.get(key)
        latest = self._kept.get(key) or (owner if known is None else known.owner)
        followed = _after_status(latest, seen, now_ms)
        if followed is not latest:
            self._kept[key] = followed
        return followed

    @property
    def has_kept(self) -> bool:
        """Whether some records wait to be stored."""
        return bool(self._kept)

    async def write_kept(self, along: Sequence[KvWrite] = ()) -> None:
        """Store all records that were kept so far, lazily synced, and `along` with them, which is not looked at again.

        Raises: StorageFull, EngineUnavailable.
        """
        await self._write_kept(list(self._kept), along)

    async def write_kept_of(self, owners: Sequence[TaskOwner], *, are_new: bool = False) -> None:
        """Store what is kept of these tasks. `are_new`: most likely they have no records. Raises: as `write_kept`."""
        await self._write_kept([(owner.agent_id, owner.task_id) for owner in owners], are_new=are_new)

    async def _write_kept(
        self, keys: Sequence[tuple[AgentId, str]], along: Sequence[KvWrite] = (), *, are_new: bool = False
    ) -> None:
        """These, and what is kept of them meanwhile. Others that come meanwhile have their own time."""
        left, rounds = deque(keys), 0
        while left or along:
            taken = [key for key in _taken(left, _WRITE_MAX) if key in self._kept]
            if self._is_shared and not are_new:
                await self._look_up([key for key in taken if key not in self._remembered])
            batch = [self._kept[key] for key in taken if key in self._kept]
            batch = [owner for owner in batch if not self._is_behind(owner)]
            last, along = (along, ()) if not left else ((), along)
            if not batch and not last:
                continue
            outcomes = await self._key_value.write([*(self._write_of(owner) for owner in batch), *last])
            again = [
                (owner.agent_id, owner.task_id)
                for owner, outcome in zip(batch, outcomes, strict=False)
                if not self._is_kept_written(owner, outcome)
            ]
            rounds += bool(again)
            if rounds >= _ROUNDS_MAX:
                raise _no_answer()
            left.extend(again)

    async def _look_up(self, keys: Sequence[tuple[AgentId, str]]) -> None:
        """Another hub has made these records, or is about to: one look for all is cheaper than each write in vain."""
        if not keys:
            return
        for entry in await self._key_value.get([record_key(*key) for key in keys]):
            if entry is not None:
                self._meet(entry)

    def _meet(self, current: KvEntry) -> bool:
        """Put what is kept on top of what another hub wrote; False: that says more, and nothing is kept any more."""
        present = self._remember_entry(current).owner
        key = (present.agent_id, present.task_id)
        owner = self._kept.get(key)
        if owner is None or present.state.is_terminal or present.turn > owner.turn:
            self._kept.pop(key, None)
            return False
        if self._is_shared:
            self._kept[key] = _on_top_of(present, owner)
        return True

    def _is_behind(self, owner: TaskOwner) -> bool:
        """Whether it would have a task that has ended go on. Then it is kept no longer."""
        key = (owner.agent_id, owner.task_id)
        known = self._remembered.get(key)
        if known is None or owner.state.is_terminal or not known.owner.state.is_terminal:
            return False
        if self._kept.get(key) is owner:
            del self._kept[key]
        return True

    def _write_of(self, owner: TaskOwner) -> KvCreate | KvUpdate:
        known = self._remembered.get((owner.agent_id, owner.task_id))
        key, ttl_ms = record_key(owner.agent_id, owner.task_id), self._retention_ms(owner.state)
        if known is None:
            return KvCreate(key=key, value=_encode(owner), ttl_ms=ttl_ms, durability=Durability.LAZY)
        return KvUpdate(
            key=key, value=_encode(owner), revision=known.revision, ttl_ms=ttl_ms, durability=Durability.LAZY
        )

    def _is_kept_written(self, owner: TaskOwner, outcome: KvOutcome) -> bool:
        """False: it must be written again."""
        key = (owner.agent_id, owner.task_id)
        match outcome:
            case KvWritten():
                self._remember(_Remembered(owner, outcome.revision, self._clock.monotonic_ms()))
                if self._kept.get(key) is owner:
                    del self._kept[key]
                return True
            case KvConflict(current=KvEntry() as current):
                # Somebody wrote in between.
                return not self._meet(current)
            case KvConflict():
                self._remembered.pop(key, None)
            case Undecided():
                pass
        return False

    # Writing

    async def _create(self, owner: TaskOwner, along: Sequence[KvWrite] = ()) -> _Remembered | None:
        """Store a first sight. The record that was there already, or None when this one is now the record."""
        write = KvCreate(
            key=record_key(owner.agent_id, owner.task_id),
            value=_encode(owner),
            ttl_ms=self._retention_ms(owner.state),
            durability=Durability.LAZY,
        )
        for _ in range(_ROUNDS_MAX):
            outcome, *_ = await self._key_value.write([write, *along])
            match outcome:
                case KvWritten():
                    self._remember(_Remembered(owner, outcome.revision, self._clock.monotonic_ms()))
                    return None
                case KvConflict(current=KvEntry() as current):
                    # Also where a write of unknown outcome, repeated, meets its own result.
                    return self._remember_entry(current)
                case KvConflict() | Undecided():
                    continue
        raise _no_answer()

    async def _follow(self, known: _Remembered, seen: TaskSeen, now_ms: int) -> TaskOwner:
        """Bring the stored state up to what was seen; somebody else's write in between is looked at first."""
        for _ in range(_ROUNDS_MAX):
            owner = _after_status(known.owner, seen, now_ms)
            if owner is known.owner:
                return owner
            write = KvUpdate(
                key=record_key(owner.agent_id, owner.task_id),
                value=_encode(owner),
                revision=known.revision,
                ttl_ms=self._retention_ms(owner.state),
                durability=Durability.LAZY,
            )
            (outcome,) = await self._key_value.write([write])
            match outcome:
                case KvWritten():
                    self._remember(_Remembered(owner, outcome.revision, self._clock.monotonic_ms()))
                    return owner
                case KvConflict(current=None):
                    # Expired under our eyes; the same owner begins again.
                    again = await self._create(owner)
                    if again is None:
                        return owner
                    known = again
                case KvConflict(current=KvEntry() as current):
                    known = self._remember_entry(current)
                case Undecided():
                    continue
        raise _no_answer()

    def _retention_ms(self, state: TaskState) -> int:
        return self._settings.finished_retention_ms if state.is_terminal else self._settings.open_retention_ms

    # Remembering

    def _is_believed(self, known: _Remembered) -> bool:
        """What an agent owns is looked up there; of the hub's own tasks only the end is for good."""
        owner = known.owner
        if not self._is_shared or not owner.hub_owned or owner.state.is_terminal:
            return True
        return self._clock.monotonic_ms() - known.at_ms < _BELIEVED_MS

    def _remember_entry(self, entry: KvEntry) -> _Remembered:
        known = _Remembered(_decode(entry), entry.revision, self._clock.monotonic_ms())
        self._remember(known)
        return known

    def _remember(self, known: _Remembered) -> None:
        key = (known.owner.agent_id, known.owner.task_id)
        present = self._remembered.get(key)
        if present is not None and present.revision > known.revision:
            return
        self._remembered[key] = known
        self._remembered.move_to_end(key)
        if len(self._remembered) > self._owners_cached:
            self._remembered.popitem(last=False)


def _on_top_of(present: TaskOwner, owner: TaskOwner) -> TaskOwner:
    """`owner`, where another hub has written `present` meanwhile: of each, what came later."""
    given_back = max(present.given_back, owner.given_back)
    if present.status_at_ms <= owner.status_at_ms:
        return msgspec.structs.replace(owner, given_back=given_back)
    return msgspec.structs.replace(
        owner,
        state=present.state,
        status_at_ms=present.status_at_ms,
        instance_id=present.instance_id,
        given_back=given_back,
    )


def _taken(keys: deque[tuple[AgentId, str]], count: int) -> list[tuple[AgentId, str]]:
    """The first ones, which leave `keys`."""
    return [keys.popleft() for _ in range(min(count, len(keys)))]


def _after_status(owner: TaskOwner, seen: TaskSeen, now_ms: int) -> TaskOwner:
    """The record after one more sight of its task; the same object when nothing changes."""
    if seen.state is owner.state or owner.state.is_terminal:
        return owner
    if seen.timestamp_ms is not None and seen.timestamp_ms < owner.status_at_ms and not seen.state.is_terminal:
        return owner
    return msgspec.structs.replace(owner, state=seen.state, status_at_ms=_status_time(seen, now_ms))


def _status_time(seen: TaskSeen, now_ms: int) -> int:
    if seen.timestamp_ms is None:
        return now_ms
    return max(0, min(seen.timestamp_ms, now_ms + _AHEAD_MAX_MS))


def _is_listed(owner: TaskOwner, principal: Principal, query: ListFilter) -> bool:
    return (
        (principal.is_admin or owner.principal_id == principal.id)
        and (query.context_id is None or owner.context_id == query.context_id)
        and (query.state is None or owner.state is query.state)
        and (query.status_after_ms is None or owner.status_at_ms >= query.status_after_ms)
    )


def _place_key(item: tuple[int, str, TaskOwner]) -> tuple[int, str]:
    return item[0], item[1]


def _place_of_token(token: str) -> tuple[int, str]:
    """Raises: InvalidRequest for a token that is none of ours."""
    try:
        status_at, separator, task_id = decode_cursor(token).partition(":")
        if separator and status_at.isascii() and status_at.isdigit() and len(status_at) <= 18:
            return -int(status_at), task_id
    except InvalidRequest:
        pass
    message = "use the nextPageToken of the page before, unchanged"
    raise InvalidRequest(f"pageToken: {message}", fields=[FieldError("pageToken", message)])


def _decode(entry: KvEntry) -> TaskOwner:
    try:
        return _decode_owner(entry.value)
    except msgspec.DecodeError as error:
        text = f"The stored record {entry.key!r} cannot be read ({error}); a newer Meshway wrote it, or it is damaged."
        raise StoreCorrupt(text) from error


def _no_answer() -> EngineUnavailable:
    return EngineUnavailable("The store does not say whether the task's owner was recorded; try again.")
