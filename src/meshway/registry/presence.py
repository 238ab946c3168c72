"""What a sign of life, or of its absence, does to an instance. Pure; the only place that sets a state.

Drawn in docs/internals/presence.md. Three states say what the hub believes (online, suspect, offline) and one what the
operator wants (draining). Under a drain the belief goes on moving, unseen, so that a resume shows the truth at once.
An instance that never sent a heartbeat has no lease: nothing but traffic and probes moves it.
"""

import enum
from collections.abc import Mapping
from typing import Final

import msgspec

from meshway.registry.settings import RegistrySettings
from meshway.registry.values import Agent, AgentState, Instance

__all__ = [
    "MOVES",
    "Signal",
    "after_signal",
    "agent_state",
    "believed",
    "is_given_up",
    "last_seen_ms",
    "with_presence",
]


class Signal(enum.Enum):
    """What was observed of one instance, or asked for it."""

    # It said so itself.
    HEARTBEAT = "heartbeat"
    # It answered a call; any answer counts, an error too.
    TRAFFIC_OK = "traffic_ok"
    # It took no connection; nothing was sent.
    TRAFFIC_REFUSED = "traffic_refused"
    # The connection broke under a call. Something had accepted it, so this alone never leads to offline.
    TRAFFIC_BROKEN = "traffic_broken"
    PROBE_OK = "probe_ok"
    PROBE_FAILED = "probe_failed"
    # Refusals and failed probes in a row reached `offline_after_failures` and span `offline_after_ms`.
    GIVEN_UP = "given_up"
    LEASE_ENDED = "lease_ended"
    DRAIN = "drain"
    RESUME = "resume"


_ONLINE, _SUSPECT, _OFFLINE = AgentState.ONLINE, AgentState.SUSPECT, AgentState.OFFLINE

# Total over the states of belief and the signals of life; DRAIN and RESUME are not here: they leave belief alone.
MOVES: Final[Mapping[AgentState, Mapping[Signal, AgentState]]] = {
    _ONLINE: {
        Signal.HEARTBEAT: _ONLINE,
        Signal.TRAFFIC_OK: _ONLINE,
        Signal.TRAFFIC_REFUSED: _SUSPECT,
        Signal.TRAFFIC_BROKEN: _SUSPECT,
        Signal.PROBE_OK: _ONLINE,
        Signal.PROBE_FAILED: _SUSPECT,
        Signal.GIVEN_UP: _OFFLINE,
        Signal.LEASE_ENDED: _OFFLINE,
    },
    _SUSPECT: {
        Signal.HEARTBEAT: _ONLINE,
        Signal.TRAFFIC_OK: _ONLINE,
        Signal.TRAFFIC_REFUSED: _SUSPECT,
        Signal.TRAFFIC_BROKEN: _SUSPECT,
        Signal.PROBE_OK: _ONLINE,
        Signal.PROBE_FAILED: _SUSPECT,
        Signal.GIVEN_UP: _OFFLINE,
        Signal.LEASE_ENDED: _OFFLINE,
    },
    _OFFLINE: {
        Signal.HEARTBEAT: _ONLINE,
        Signal.TRAFFIC_OK: _ONLINE,
        Signal.TRAFFIC_REFUSED: _OFFLINE,
        Signal.TRAFFIC_BROKEN: _OFFLINE,
        Signal.PROBE_OK: _ONLINE,
        Signal.PROBE_FAILED: _OFFLINE,
        Signal.GIVEN_UP: _OFFLINE,
        Signal.LEASE_ENDED: _OFFLINE,
    },
}

_CONTACT = frozenset({Signal.HEARTBEAT, Signal.TRAFFIC_OK, Signal.PROBE_OK})
# The best instance speaks for the agent.
_RANK = {AgentState.ONLINE: 0, AgentState.SUSPECT: 1, AgentState.DRAINING: 2, AgentState.OFFLINE: 3}


def after_signal(instance: Instance, signal: Signal, now_ms: int, *, lease_ttl_ms: int | None = None) -> Instance:
    """The instance after one signal; the same object when nothing that is kept has changed.

    `lease_ttl_ms` belongs to HEARTBEAT, which always renews the lease. Contact without a change of state does not
    stamp `last_seen_ms`: that is the tracker's business, in memory.
    """
    if signal is Signal.DRAIN:
        return _drained(instance, now_ms)
    if signal is Signal.RESUME:
        return _resumed(instance, now_ms)
    draining = instance.state is AgentState.DRAINING
    before = believed(instance)
    belief = MOVES[before][signal]
    changes: dict[str, object] = {}
    if belief is not before:
        if draining:
            changes["state_under_drain"] = belief
        else:
            changes |= {"state": belief, "state_since_ms": now_ms}
        if signal in _CONTACT:
            changes["last_seen_ms"] = now_ms
    if signal is Signal.HEARTBEAT and lease_ttl_ms is not None:
        changes |= {"lease_until_ms": now_ms + lease_ttl_ms, "lease_ttl_ms": lease_ttl_ms, "last_seen_ms": now_ms}
    elif signal is Signal.LEASE_ENDED:
        # From here it is like one that never had a lease, until its next heartbeat.
        changes |= {"lease_until_ms": None, "lease_ttl_ms": None}
    return msgspec.structs.replace(instance, **changes) if changes else instance


def is_given_up(failures: int, first_failure_ms: float, monotonic_ms: float, rules: RegistrySettings) -> bool:
    """Have refusals in a row gone on for long enough to give the instance up? The one that just failed counts.

    Both bounds must be met: a hundred calls that meet one restart at the same moment are not a hundred signs.
    """
    return failures >= rules.offline_after_failures and monotonic_ms - first_failure_ms >= rules.offline_after_ms


def believed(instance: Instance) -> AgentState:
    """What the hub thinks of the instance, whatever the operator wants."""
    if instance.state is AgentState.DRAINING:
        return instance.state_under_drain or AgentState.SUSPECT
    return instance.state


def with_presence(stored: Instance, live: Instance) -> Instance:
    """`stored` with what `live` knows of life: belief and lease from the live one, drain or not from the stored one."""
    belief = believed(live)
    draining = stored.state is AgentState.DRAINING
    return msgspec.structs.replace(
        stored,
        state=AgentState.DRAINING if draining else belief,
        state_since_ms=stored.state_since_ms if draining or stored.state is belief else live.state_since_ms,
        state_under_drain=belief if draining else None,
        last_seen_ms=live.last_seen_ms,
        lease_until_ms=live.lease_until_ms,
        lease_ttl_ms=live.lease_ttl_ms,
    )


def agent_state(agent: Agent) -> AgentState:
    """That of its best instance: online, suspect, draining, offline; one without instances is offline."""
    return min((instance.state for instance in agent.instances), key=_RANK.__getitem__, default=AgentState.OFFLINE)


def last_seen_ms(agent: Agent) -> int | None:
    """The latest contact with any of its instances."""
    return max((seen for i in agent.instances if (seen := i.last_seen_ms) is not None), default=None)


def _drained(instance: Instance, now_ms: int) -> Instance:
    if instance.state is AgentState.DRAINING:
        return instance
    return msgspec.structs.replace(
        instance, state=AgentState.DRAINING, state_since_ms=now_ms, state_under_drain=instance.state
    )


def _resumed(instance: Instance, now_ms: int) -> Instance:
    if instance.state is not AgentState.DRAINING:
        return instance
    return msgspec.structs.replace(instance, state=believed(instance), state_since_ms=now_ms, state_under_drain=None)
