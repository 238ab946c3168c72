"""May this call be made in the course of that task? Stops loops of agents that call each other.

Asked for each call that makes an agent work, after admission; synchronous. A call with a chain spends the budget of the
chain's root task. One without is a new root; with a key that serves agents it counts against that key besides.
"""

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

from meshway.gateway.chain_tokens import ChainTokens
from meshway.gateway.delegation_settings import DelegationSettings
from meshway.gateway.own_calls import OwnCalls
from meshway.gateway.root_ledger import RootLedger
from meshway.kernel.clock import Clock
from meshway.kernel.delegation import HOPS_MAX, TASK_ID_BYTES_MAX, Chain, DelegationLimits, Hop
from meshway.kernel.errors import DeadlineExceeded, DelegationRefused
from meshway.kernel.ids import AgentId
from meshway.kernel.principal import Principal

__all__ = ["Admitted", "DelegationGuard"]

_NO_LIMIT = sys.maxsize


def _nothing_to_end() -> None:
    """Calls in a chain, and those of clients, hold no place."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A call that may be made. `chain_above` is None for a new root.

    `end` must be called when the call, or the task that it began, is over; a second time changes nothing.
    """

    chain_above: Chain | None
    end: Callable[[], None] = _nothing_to_end

    @property
    def is_counted(self) -> bool:
        """Whether `end` does anything."""
        return self.end is not _nothing_to_end


_NEW_ROOT = Admitted(None)


class DelegationGuard:
    """One per hub."""

    def __init__(
        self,
        tokens: ChainTokens,
        ledger: RootLedger,
        settings: DelegationSettings,
        clock: Clock,
        *,
        limits_of: Callable[[AgentId], DelegationLimits | None] = lambda _: None,
    ) -> None:
        """`limits_of`: what the operator set for an agent; None for one that is unknown or has nothing of its own."""
        self._tokens = tokens
        self._ledger = ledger
        self._settings = settings
        self._clock = clock
        self._limits_of = limits_of
        self._own_calls = OwnCalls(settings, clock)

    def admit(self, principal: Principal, agent_id: AgentId, token: str | None) -> Admitted:
        """Let `principal` call the agent; `token` is the chain it sent along, None where it sent none.

        Raises: InvalidRequest for a chain that no hub wrote, DelegationRefused, DeadlineExceeded, OwnLimitReached;
        nothing was counted then.
        """
        if token is None:
            if not OwnCalls.counts(principal):
                return _NEW_ROOT
            return Admitted(None, self._own_calls.begin(principal.id))
        above = self._tokens.read(token)
        now_ms = self._clock.now_ms()
        self._check(above, agent_id, now_ms)
        self._ledger.count_call(above.root, now_ms)
        return Admitted(above)

    def child(self, above: Chain | None, agent_id: AgentId, task_id: str, deadline_ms: int | None) -> Chain:
        """The chain of the work that an admitted call makes; `deadline_ms` is that work's own, the earlier one holds.

        `deadline_ms`: epoch ms, None for no limit. A task id longer than any sane one is replaced by its hash.
        """
        hop = Hop(agent_id, task_id if len(task_id.encode()) <= TASK_ID_BYTES_MAX else _hashed(task_id))
        if above is None:
            return Chain((hop,), self._clock.now_ms(), deadline_ms)
        deadlines = [each for each in (above.deadline_ms, deadline_ms) if each is not None]
        return Chain((*above.hops, hop), above.started_at_ms, min(deadlines, default=None))

    def token(self, chain: Chain) -> str:
        """The chain as the agent at its end gets it, and sends it back."""
        return self._tokens.write(chain)

    def _check(self, above: Chain, agent_id: AgentId, now_ms: int) -> None:
        if above.deadline_ms is not None and now_ms >= above.deadline_ms:
            text = f"{above.shown()} -> {agent_id}: the time that the chain's first caller gave is over."
            raise DeadlineExceeded(text, agent=agent_id, extensions={"chain": _listed(above), "limit": "deadline"})
        limits = self._limits(above.root.agent_id, agent_id)
        if above.depth >= limits.depth:
            text = f"that would be {above.depth + 1} agents in a row, the limit is {limits.depth}"
            raise _refused(above, agent_id, "depth", text)
        if not limits.allow_cycles and agent_id in above.agents:
            raise _refused(above, agent_id, "cycle", f"agent {agent_id!r} is at work further up in this chain already")
        usage = self._ledger.usage(above.root)
        if usage.calls >= limits.calls:
            text = f"task {above.root.task_id} at {above.root.agent_id} led to {usage.calls} calls, as many as it may"
            raise _refused(above, agent_id, "calls", text)
        if now_ms - above.started_at_ms > limits.wall_ms:
            text = f"the chain began more than {limits.wall_ms} ms ago, the limit for calls in its course"
            raise _refused(above, agent_id, "wall_time", text)
        if limits.cost is not None and usage.cost >= limits.cost:
            text = f"the agents reported a cost of {usage.cost:g} units, the limit is {limits.cost:g}"
            raise _refused(above, agent_id, "cost", text)

    def _limits(self, root_id: AgentId, called_id: AgentId) -> "_Limits":
        """The root's own limits in place of the hub's, and the called agent's besides."""
        hub = self._settings
        root, called = self._limits_of(root_id), self._limits_of(called_id)
        if root is None and called is None:
            return _Limits(hub.depth_max, hub.calls_max, hub.wall_ms_max, hub.cost_max, hub.allow_cycles)
        root, called = root or DelegationLimits(), called or DelegationLimits()
        cycles = [each for each in (called.allow_cycles, root.allow_cycles) if each is not None]
        return _Limits(
            min(_least(hub.depth_max, root.depth_max, called.depth_max), HOPS_MAX),
            _least(hub.calls_max, root.calls_max, called.calls_max),
            _least(hub.wall_ms_max, root.wall_ms_max, called.wall_ms_max),
            _least_cost(hub.cost_max, root.cost_max, called.cost_max),
            cycles[0] if cycles else hub.allow_cycles,
        )


@dataclass(frozen=True, slots=True)
class _Limits:
    """What holds for one call."""

    depth: int
    calls: int
    wall_ms: int
    cost: float | None
    allow_cycles: bool


def _least(hub: int, root: int | None, called: int | None) -> int:
    return min(hub if root is None else root, _NO_LIMIT if called is None else called)


def _least_cost(hub: float | None, root: float | None, called: float | None) -> float | None:
    return min([each for each in (hub if root is None else root, called) if each is not None], default=None)


def _hashed(task_id: str) -> str:
    return hashlib.sha256(task_id.encode()).hexdigest()


def _refused(above: Chain, agent_id: AgentId, limit: str, why: str) -> DelegationRefused:
    extensions = {"chain": _listed(above), "limit": limit}
    return DelegationRefused(f"{above.shown()} -> {agent_id}: {why}.", agent=agent_id, extensions=extensions)


def _listed(chain: Chain) -> list[dict[str, str]]:
    return [{"agent": hop.agent_id, "task": hop.task_id} for hop in chain.hops]
