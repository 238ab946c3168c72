"""Who may get no new work: agents, or everything, stopped by an operator until somebody resumes them.

A record per stop, `stops.agent.<id>` and `stops.all`; every hub of a mesh follows them and answers from memory.
"""

import logging
from collections.abc import Callable, Mapping

import msgspec

from meshway.engine.ports import (
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
from meshway.kernel.clock import Clock
from meshway.kernel.errors import AgentStopped, EngineUnavailable
from meshway.kernel.ids import AgentId, PrincipalId
from meshway.kernel.principal import Principal

__all__ = ["Stop", "StopBook"]

_log = logging.getLogger(__name__)

_PREFIX = "stops"
_ALL = f"{_PREFIX}.all"
_AGENT_PREFIX = f"{_PREFIX}.agent."
_ROUNDS_MAX = 16
# Somebody looks at what happened first; who asks more often only makes noise.
_RETRY_AFTER_MS = 30_000


class Stop(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who stopped it, when (epoch ms) and why. Stored; `v` is the record's format.

    `by_admin` False: the key that registered the agent stopped it.
    """

    by: PrincipalId
    at_ms: int
    by_admin: bool
    reason: str = ""
    v: int = 1


_encode = msgspec.json.Encoder().encode
_decode_stop = msgspec.json.Decoder(Stop).decode


class StopBook:
    """The stops there are. One per hub; used from the event loop only."""

    def __init__(self, key_value: KeyValue, clock: Clock) -> None:
        self._key_value = key_value
        self._clock = clock
        self._stops: dict[str, Stop] = {}
        # Of the last change shown, removals included: a watch that lags behind our own writes changes nothing.
        self._revisions: dict[str, int] = {}
        self._listeners: list[Callable[[AgentId | None, Stop | None], None]] = []
        self._follower = PrefixFollower(
            key_value, _PREFIX, known=self._revisions_shown, entry=self._show_entry, deleted=self._show_deleted
        )

    # Asking

    def is_stopped(self, agent_id: AgentId) -> bool:
        """Whether the agent, or everything, is stopped. Constant time: it stands in the path of every call."""
        return bool(self._stops) and self.stop_of(agent_id) is not None

    def stop_of(self, agent_id: AgentId | None) -> Stop | None:
        """The stop that holds for the agent, its own first; None asks for the stop of everything."""
        everything = self._stops.get(_ALL)
        return everything if agent_id is None else self._stops.get(_AGENT_PREFIX + agent_id, everything)

    def check(self, agent_id: AgentId) -> None:
        """Refuse new work of a stopped agent. Raises: AgentStopped."""
        if not self._stops or (stop := self.stop_of(agent_id)) is None:
            return
        is_own = _AGENT_PREFIX + agent_id in self._stops
        what, takes = (f"Agent {agent_id!r} was", "takes") if is_own else ("All agents of this hub were", "take")
        why = f" ({stop.reason})" if stop.reason else ""
        text = f"{what} stopped by an operator{why} and {takes} no new work until somebody resumes them."
        raise AgentStopped(text, agent=agent_id, retry_after_ms=_RETRY_AFTER_MS)

    def listen(self, listener: Callable[[AgentId | None, Stop | None], None]) -> None:
        """Call `listener` at each change, in the same turn of the loop: whose stop (None: all), and None when lifted.

        For life. Stops that other hubs made are told too.
        """
        self._listeners.append(listener)

    # Changing

    async def stop(self, agent_id: AgentId | None, principal: Principal, *, reason: str = "") -> Stop:
        """Stop one agent, None: everything; the stop that stands now.

        The first stop stands, but an admin's replaces that of an agent's own key, which could lift it otherwise.
        Holds here when it returns, and at other hubs with their watch. Raises: StorageFull, EngineUnavailable.
        """
        key = _key(agent_id)
        now_ms = self._clock.now_ms()
        stop = Stop(by=principal.id, at_ms=now_ms, by_admin=principal.is_admin, reason=reason)
        value = _encode(stop)
        write: KvCreate | KvUpdate = KvCreate(key=key, value=value)
        for _ in range(_ROUNDS_MAX):
            (outcome,) = await self._key_value.write([write])
            match outcome:
                case KvWritten():
                    self._show(key, stop, outcome.revision)
                    return stop
                case KvConflict(current=KvEntry() as current):
                    present = _read(current)
                    if present.by_admin or not stop.by_admin:
                        self._show(key, present, current.revision)
                        return present
                    write = KvUpdate(key=key, value=value, revision=current.revision)
                case KvConflict():
                    write = KvCreate(key=key, value=value)
                case Undecided():
                    continue
        raise EngineUnavailable("The store does not say whether the stop was recorded; try again.")

    async def resume(self, agent_id: AgentId | None, *, check: Callable[[Stop], None]) -> bool:
        """Lift the stop of one agent, None: the one of everything. False: there was none.

        `check` sees the stop that is about to be lifted, and raises where it must stand.
        Raises: StorageFull, EngineUnavailable.
        """
        key = _key(agent_id)
        revision: int | None = None
        for _ in range(_ROUNDS_MAX):
            (present,) = await self._key_value.get([key])
            if present is None:
                if revision is not None:
                    # Our own deletion, whose outcome was not known.
                    self._show(key, None, revision)
                return revision is not None
            check(_read(present))
            revision = present.revision
            (outcome,) = await self._key_value.write([KvDelete(key=key, revision=present.revision)])
            if isinstance(outcome, KvWritten):
                self._show(key, None, max(outcome.revision, present.revision))
                return True
        raise EngineUnavailable("The store does not say whether the stop was lifted; try again.")

    # Following the store

    async def wait_ready(self) -> None:
        """Until everything that was stored when the watch began is here; no call is let through before."""
        await self._follower.wait_ready()

    async def run(self) -> None:
        """Follow the store until cancelled. A lost watch is opened again; meanwhile the last picture stands."""
        await self._follower.run()

    def _show_entry(self, entry: KvEntry) -> None:
        self._show(entry.key, _read(entry), entry.revision)

    def _show_deleted(self, event: KvDeleted) -> None:
        self._show(event.key, None, event.revision)

    def _revisions_shown(self) -> Mapping[str, int]:
        return {key: self._revisions[key] for key in self._stops}

    def _show(self, key: str, stop: Stop | None, revision: int) -> None:
        if revision < self._revisions.get(key, 0):
            return
        self._revisions[key] = revision
        if self._stops.get(key) == stop:
            return
        if stop is None:
            del self._stops[key]
        else:
            self._stops[key] = stop
        agent_id = None if key == _ALL else AgentId(key.removeprefix(_AGENT_PREFIX))
        for listener in self._listeners:
            listener(agent_id, stop)


def _key(agent_id: AgentId | None) -> str:
    return _ALL if agent_id is None else _AGENT_PREFIX + agent_id


def _read(entry: KvEntry) -> Stop:
    try:
        return _decode_stop(entry.value)
    except msgspec.DecodeError as error:
        # Nobody can say who wrote it, but somebody wanted it to stop.
        _log.error("stop_record_unreadable", extra={"key": entry.key, "reason": str(error)})
        return Stop(by=PrincipalId("unknown"), at_ms=0, by_admin=True)
