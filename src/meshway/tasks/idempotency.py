"""Acting once: what became of a request whose key was seen before.

One record per key under `idem.<digest>`, stored and synced before anything is done, so that a retry after a crash of
the hub finds it. Retries that come while the first is under way at this hub share its `Flight`: they cost no write.

    nothing ──begin──> running ──remember_task──> running, with its task ──finish──> done
                          ├────────── abandon ──> nothing: it certainly did not happen
                          └──────────── lose ───> lost: nobody will say how it ended

A record that still says `running` after a crash, without a task, has an unknown outcome: the agent may have acted. One
that another hub is at, which is alive, is waited for; so what could not be written when it ended is written later.
"""

import asyncio
import copy
import hashlib
import logging
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from meshway.engine.ports import (
    Durability,
    KeyValue,
    KvConflict,
    KvCreate,
    KvDelete,
    KvEntry,
    KvUpdate,
    KvWritten,
    Undecided,
)
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable, MeshwayError, StorageFull, StoreCorrupt, wrong_field
from meshway.kernel.ids import AgentId, TaskId, new_id
from meshway.tasks.flights import Begun, Conflicting, Flight, Joined, KeyedRequest, Unknown

__all__ = ["IdempotencyKeys", "check_idempotency_key", "content_digest", "dedupe_key"]

_log = logging.getLogger(__name__)

_PREFIX = "idem"
_HEADER = "Idempotency-Key"
# Visible ASCII; 255 is what other services that know the header take.
_KEY_TEXT = re.compile(r"[!-~]{1,255}")
_ROUNDS_MAX = 16
# A client that retries for longer than a day has other troubles.
_RETENTION_MS = 86_400_000
# Records are read whole; for a longer answer a retry is given the task, where there is one.
_ANSWER_BYTES_MAX = 65_536
# Records behind which nothing was done: calls cut off in the very moment of their first write, abandoned ones.
_VOID_MAX = 1_000
# Before what could not be written is tried again.
_RETRY_S = 1.0
# Between two looks at what another hub is at.
_LOOK_S = 0.2


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """As stored. `flight` tells one beginning from another, `hub` who began; `v` is the record's format."""

    content: str
    flight: str
    state: Literal["running", "done", "lost"] = "running"
    begun_at_ms: int
    task_id: TaskId | None = None
    answer: str | None = None
    hub: str = ""
    v: int = 1


_encode = msgspec.json.Encoder().encode
_decode_record = msgspec.json.Decoder(_Record).decode


class IdempotencyKeys:
    """One per hub; used from the event loop only. There are as many flights as calls with a key under way.

    `run` is a duty of the hub.
    """

    def __init__(
        self,
        key_value: KeyValue,
        clock: Clock,
        *,
        retention_ms: int = _RETENTION_MS,
        hub_id: str = "",
        is_alive: Callable[[str], Awaitable[bool]] | None = None,
    ) -> None:
        """`retention_ms` counts from the last thing that happened under a key. `is_alive`: is another hub there?"""
        self._hub_id = hub_id
        self._is_alive = is_alive
        self._key_value = key_value
        self._retention_ms = retention_ms
        self._clock = clock
        self._flights: dict[str, _KeptFlight] = {}
        # Name -> flight of a record behind which nothing was done, should it be found.
        self._void: OrderedDict[str, str] = OrderedDict()
        # Ends of flights that the store does not have yet; without a write: their record is void, if it is there.
        self._unsaid: dict[str, tuple[_KeptFlight, KvUpdate | KvDelete | None]] = {}
        self._unsaid_work = asyncio.Event()

    async def run(self) -> None:
        """Write what could not be written when it happened, for ever."""
        while True:
            await self._unsaid_work.wait()
            self._unsaid_work.clear()
            unsaid, self._unsaid = self._unsaid, {}
            for kept, write in unsaid.values():
                if write is None:
                    await self._remove_void(kept)
                else:
                    await self._write(kept, write)
            if self._unsaid:
                await asyncio.sleep(_RETRY_S)

    async def _remove_void(self, kept: "_KeptFlight") -> None:
        """Nothing was done behind a record of which nobody knows whether it was kept."""
        try:
            (entry,) = await self._key_value.get([kept.name])
        except EngineUnavailable:
            self._say_later(kept, None)
            return
        if entry is not None and _decode(entry).flight == kept.record.flight:
            await self._write(kept, KvDelete(key=kept.name, revision=entry.revision))

    def _say_later(self, kept: "_KeptFlight", write: KvUpdate | KvDelete | None) -> None:
        if len(self._unsaid) < _VOID_MAX:
            self._unsaid[kept.name] = (kept, write)
            self._unsaid_work.set()

    async def begin(self, request: KeyedRequest) -> Begun | Joined | Conflicting | Unknown:
        """Begun: this caller acts, and ends the flight with `finish`, `abandon` or `lose`, whatever happens.

        Joined: it was done, or is being done; `flight` is there where it is under way at this hub.
        Raises: EngineUnavailable, StorageFull, StoreCorrupt; nothing was begun then.
        """
        name = _name_of(request)
        while (kept := self._flights.get(name)) is not None:
            await kept.flight.wait_begun()
            judged = kept.judge(request)
            if judged is not None:
                return judged
        kept = self._flights[name] = _KeptFlight(name, request, self._clock.now_ms(), self._hub_id)
        try:
            return await self._begin(kept, request)
        except MeshwayError as error:
            # Whoever waits asked for the same and would be told the same, one after the other.
            kept.flight.fail(error)
            raise
        finally:
            if not kept.is_ours:
                self._flights.pop(name, None)
                if kept.found is None:
                    self._remember_void(kept)
                    if self._is_alive is not None:
                        # Other hubs would wait for it.
                        self._say_later(kept, None)
            kept.flight.set_begun()

    async def _begin(self, kept: "_KeptFlight", request: KeyedRequest) -> Begun | Joined | Conflicting | Unknown:
        ttl_ms = self._retention_ms
        value = _encode(kept.record)
        write: KvCreate | KvUpdate = KvCreate(key=kept.name, value=value, ttl_ms=ttl_ms)
        for _ in range(_ROUNDS_MAX):
            (outcome,) = await self._key_value.write([write])
            match outcome:
                case KvWritten():
                    return self._begun(kept, outcome.revision)
                case KvConflict(current=KvEntry() as current):
                    found = _decode(current)
                    if found.flight == kept.record.flight:
                        # Our own write, whose outcome was not known.
                        return self._begun(kept, current.revision)
                    if self._void.get(kept.name) != found.flight:
                        known = await self._known_elsewhere(kept.name, found)
                        if known is not None:
                            return kept.settle(known, request)
                        continue
                    write = KvUpdate(key=kept.name, value=value, revision=current.revision, ttl_ms=ttl_ms)
                case KvConflict():
                    write = KvCreate(key=kept.name, value=value, ttl_ms=ttl_ms)
                case Undecided():
                    continue
        raise EngineUnavailable("The store does not say whether the idempotency key was recorded; try again.")

    async def _known_elsewhere(self, name: str, found: _Record) -> _Record | None:
        """The record, once the hub that is at it has said how it ended, or which task it is; None: it was abandoned."""
        is_alive = True
        while is_alive and found.state == "running" and found.task_id is None and found.hub not in ("", self._hub_id):
            is_alive = self._is_alive is not None and await self._is_alive(found.hub)
            if is_alive:
                await asyncio.sleep(_LOOK_S)
            # Once more where it is gone: it may have said how it ended, and left.
            (entry,) = await self._key_value.get([name])
            if entry is None:
                return None
            found = _decode(entry)
        return found

    def _begun(self, kept: "_KeptFlight", revision: int) -> Begun:
        self._void.pop(kept.name, None)
        kept.is_ours, kept.revision = True, revision
        return Begun(kept.flight)

    def _remember_void(self, kept: "_KeptFlight") -> None:
        if len(self._void) >= _VOID_MAX:
            self._void.popitem(last=False)
        self._void[kept.name] = kept.record.flight

    # What becomes of it

    async def remember_task(self, flight: Flight, task_id: TaskId) -> None:
        """The task that the request began, once: from here on retries join it, after a crash too. Raises nothing."""
        kept = self._flights.get(flight.name)
        if kept is None or kept.flight is not flight or flight.task_id is not None:
            return
        flight.set_task(task_id)
        await self._update(kept, msgspec.structs.replace(kept.record, task_id=task_id))

    async def finish(self, flight: Flight, answer: bytes | None) -> None:
        """Done: retries get `answer`, or the task where it is None or too long to be kept. Raises nothing."""
        kept = self._flights.get(flight.name)
        if kept is None or kept.flight is not flight:
            return
        flight.finish(answer)
        done = msgspec.structs.replace(kept.record, state="done", answer=_text_to_keep(answer))
        try:
            await self._update(kept, done)
        finally:
            self._forget(kept)

    async def abandon(self, flight: Flight, error: MeshwayError) -> None:
        """It certainly did not happen: the next one with the key begins anew. Those who wait get `error`."""
        kept = self._flights.get(flight.name)
        if kept is None or kept.flight is not flight:
            return
        flight.fail(error)
        # Should the record outlive this, it binds nobody.
        self._remember_void(kept)
        try:
            async with kept.writing:
                await self._write(kept, KvDelete(key=kept.name, revision=kept.revision))
        except asyncio.CancelledError:
            self._say_later(kept, None)
            raise
        finally:
            self._forget(kept)

    def lose(self, flight: Flight) -> None:
        """Nobody will say how it ended. Retries join its task where that is known, else they learn that much."""
        kept = self._flights.get(flight.name)
        if kept is not None and kept.flight is flight:
            flight.lose()
            self._forget(kept)
            if self._is_alive is not None:
                # Other hubs would wait for it.
                kept.record = msgspec.structs.replace(kept.record, state="lost")
                self._say_later(kept, self._update_of(kept))

    def _forget(self, kept: "_KeptFlight") -> None:
        if self._flights.get(kept.name) is kept:
            del self._flights[kept.name]

    async def _update(self, kept: "_KeptFlight", record: _Record) -> None:
        kept.record = record
        try:
            async with kept.writing:
                await self._write(kept, self._update_of(kept))
        except asyncio.CancelledError:
            # Its caller has left; other hubs would wait for it as long as this one is alive.
            self._say_later(kept, self._update_of(kept))
            raise

    def _update_of(self, kept: "_KeptFlight") -> KvUpdate:
        return KvUpdate(
            key=kept.name,
            value=_encode(kept.record),
            revision=kept.revision,
            ttl_ms=self._retention_ms,
            # A crash of the hub loses nothing of it, and a power cut no more than that a retry is not told.
            durability=Durability.LAZY,
        )

    async def _write(self, kept: "_KeptFlight", write: KvUpdate | KvDelete) -> None:
        """What was done is done, whether it can be noted or not; so this raises nothing, and tries again later."""
        reason = "no clear outcome"
        for _ in range(_ROUNDS_MAX):
            try:
                (outcome,) = await self._key_value.write([write])
            except (EngineUnavailable, StorageFull) as error:
                reason = error.detail
                break
            match outcome:
                case KvWritten():
                    kept.revision = outcome.revision
                    return
                case KvConflict(current=KvEntry() as current) if _is_done(write, current):
                    kept.revision = current.revision
                    return
                case KvConflict():
                    # Expired under our eyes; whoever came since has begun anew.
                    return
                case Undecided():
                    continue
        _log.warning("idempotency_record_not_written", extra={"key": kept.name, "reason": reason})
        self._say_later(kept, write)


class _KeptFlight:
    """A flight and its record. `found` is the record that was there before, where it is not ours."""

    __slots__ = ("flight", "found", "is_ours", "name", "record", "revision", "writing")

    def __init__(self, name: str, request: KeyedRequest, now_ms: int, hub_id: str) -> None:
        self.name = name
        self.flight = Flight(name, request.task_id, now_ms)
        self.record = _Record(
            content=request.content_digest,
            flight=new_id(),
            begun_at_ms=now_ms,
            task_id=request.task_id,
            hub=hub_id,
        )
        self.revision = 0
        # One write after the other: each needs the revision of the one before.
        self.writing = asyncio.Lock()
        self.is_ours = False
        self.found: _Record | None = None

    def settle(self, found: _Record, request: KeyedRequest) -> Joined | Conflicting | Unknown:
        """Somebody else's record stands: everybody who waits is judged by it."""
        self.found = found
        return _judge(found, request)

    def judge(self, request: KeyedRequest) -> Joined | Conflicting | Unknown | None:
        """What a later caller gets; None when nothing was begun here and it must try itself. Raises: as `begin`."""
        if self.found is not None:
            return _judge(self.found, request)
        if self.flight.error is not None:
            raise copy.copy(self.flight.error)
        if not self.is_ours:
            return None
        if request.content_digest != self.record.content:
            return Conflicting(request.key)
        return self.flight.joined()


def _text_to_keep(answer: bytes | None) -> str | None:
    if answer is None or len(answer) > _ANSWER_BYTES_MAX:
        return None
    try:
        return answer.decode()
    except UnicodeDecodeError:
        # No JSON, then; the record is.
        return None


def _is_done(write: KvUpdate | KvDelete, current: KvEntry) -> bool:
    """Whether what is there is this write, repeated because its outcome was not known."""
    return isinstance(write, KvUpdate) and current.value == write.value


def _judge(record: _Record, request: KeyedRequest) -> Joined | Conflicting | Unknown:
    if record.content != request.content_digest:
        return Conflicting(request.key)
    if record.state != "done" and record.task_id is None:
        return Unknown(record.begun_at_ms)
    answer = None if record.answer is None else record.answer.encode()
    return Joined(record.task_id, answer, record.state == "running")


def check_idempotency_key(text: str, *, field: str = _HEADER) -> str:
    """The key as a caller sent it. Raises: InvalidRequest naming `field`."""
    if not _KEY_TEXT.fullmatch(text):
        raise wrong_field(field, "use 1 to 255 visible ASCII characters, a UUID for example")
    return text


def content_digest(agent_id: AgentId, method: str, params: bytes) -> str:
    """What a request asks for, without what differs between retries (the id of the JSON-RPC request)."""
    head = f"{agent_id}\n{method}\n".encode()
    return hashlib.sha256(head + params).hexdigest()


def dedupe_key(message_id: str, digest: str) -> str:
    """A key for a message that came without one, for agents that want it: the same message with the same content.

    Another content under the same message id is another key, as A2A allows it. No caller can send a key like it.
    """
    return f"message {hashlib.sha256(f'{digest} {message_id}'.encode()).hexdigest()}"


def _name_of(request: KeyedRequest) -> str:
    whose = f"{request.principal_id}\n{request.key}"
    return f"{_PREFIX}.{hashlib.sha256(whose.encode()).hexdigest()}"


def _decode(entry: KvEntry) -> _Record:
    try:
        return _decode_record(entry.value)
    except msgspec.DecodeError as error:
        text = f"The stored record {entry.key!r} cannot be read ({error}); a newer Meshway wrote it, or it is damaged."
        raise StoreCorrupt(text) from error
