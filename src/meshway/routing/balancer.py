"""Which instance takes the next call: the less loaded of two random ones among the healthiest that have room.

Not here: who is well (registry), and trying elsewhere after a refusal (gateway, through `exclude`).
"""

import asyncio
import random
from bisect import bisect
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from itertools import accumulate

from meshway.kernel.clock import Clock
from meshway.kernel.errors import TooManyInFlight, UpstreamUnreachable
from meshway.kernel.ids import InstanceId
from meshway.registry.values import Agent, AgentState, Instance
from meshway.routing.breaker import Breaker, BreakerState
from meshway.routing.hub_loads import HubLoads, InstanceLoad
from meshway.routing.settings import RoutingSettings

__all__ = ["Balancer"]

_NOBODY: frozenset[str] = frozenset()
# Records of instances that nobody calls any more are dropped when so many have gathered.
_LOADS_BEFORE_PRUNING = 1_024
# Draws before all instances are looked at: two suffice while most are free.
_DRAWS_MAX = 6
# Agents whose spread is kept; beyond that they are made anew.
_SPREADS_MAX = 10_000


class _Load:
    """What this hub has with one instance: calls under way, calls of others it reported, and its breaker."""

    __slots__ = ("breaker", "elsewhere", "elsewhere_until_ms", "failed_at_ms", "hubs", "in_flight")

    def __init__(self) -> None:
        self.in_flight = 0
        # What other hubs have with it; None: nothing was heard or told.
        self.hubs: HubLoads | None = None
        self.elsewhere = 0
        self.elsewhere_until_ms = 0.0
        self.breaker = Breaker()
        # Wall time of the last failure, to be compared with the registry's `state_since_ms`.
        self.failed_at_ms = 0


class _Spread:
    """The online instances of one version of an agent, laid end to end by weight."""

    __slots__ = ("agent", "drawable", "ends", "online")

    def __init__(self, agent: Agent, *, drawable: bool) -> None:
        self.agent = agent
        self.online = [instance for instance in agent.instances if instance.state is AgentState.ONLINE]
        self.ends = list(accumulate(instance.weight for instance in self.online))
        self.drawable = drawable and len(self.online) > 1


class Balancer:
    """One per hub; used from the event loop only. Counts are this hub's own, and what other hubs told of theirs."""

    def __init__(
        self, *, clock: Clock, settings: RoutingSettings, chance: random.Random, hub_probes: bool = True
    ) -> None:
        """`hub_probes`: does the hub probe at all? Where it does not, calls must find out who came back."""
        self._clock = clock
        self._settings = settings
        self._chance = chance
        self._hub_probes = hub_probes
        self._loads: dict[tuple[str, str], _Load] = {}
        self._prune_at = _LOADS_BEFORE_PRUNING
        self._spreads: dict[str, _Spread] = {}
        # How many hubs share the instances; None: this one has them to itself, and tells nobody anything.
        self._hubs: Callable[[], int] | None = None
        self._changed: dict[tuple[str, str], None] = {}
        self._tell_soon = asyncio.Event()

    # With other hubs

    def share_with(self, hubs: Callable[[], int]) -> None:
        """From now on the instances are shared by as many hubs as `hubs` says, this one included."""
        self._hubs = hubs

    async def wait_to_tell(self, most_s: float) -> None:
        """Until a slice is used up, at most so long."""
        try:
            async with asyncio.timeout(most_s):
                await self._tell_soon.wait()
        except TimeoutError:
            pass
        self._tell_soon.clear()

    def loads_to_tell(self, *, is_whole: bool) -> Sequence[InstanceLoad]:
        """What changed since this was asked last, or everything there is. The others are taken to know it."""
        changed, self._changed = self._changed, {}
        monotonic_ms = self._clock.monotonic_ms()
        if is_whole:
            changed |= {key: None for key, load in self._loads.items() if load.in_flight or not load.breaker.is_clean}
        told = []
        for key in changed:
            load = self._loads.get(key)
            if load is None:
                continue
            shared = self._shared(load)
            shared.told, shared.free = load.in_flight, None
            due_in_ms = load.breaker.due_in_ms(monotonic_ms)
            told.append(InstanceLoad(*key, load.in_flight, due_in_ms, load.failed_at_ms))
        return told

    def heard_loads(self, hub_id: str, loads: Iterable[InstanceLoad]) -> None:
        """Another hub told what it has under way, and whom it leaves alone."""
        monotonic_ms = self._clock.monotonic_ms()
        for told in loads:
            load = self._loads.get((told.agent_id, told.instance_id)) or self._new_load(told.agent_id, told.instance_id)
            others = self._shared(load).others
            if told.in_flight:
                others[hub_id] = told.in_flight
            else:
                others.pop(hub_id, None)
            if told.refused_for_ms and told.failed_at_ms > load.failed_at_ms:
                load.failed_at_ms = told.failed_at_ms
                if load.breaker.state is BreakerState.CLOSED:
                    load.breaker.open_until(monotonic_ms + told.refused_for_ms)

    def forget_hub(self, hub_id: str) -> None:
        """It is gone, and its calls with it."""
        for load in self._loads.values():
            if load.hubs is not None:
                load.hubs.others.pop(hub_id, None)

    def _shared(self, load: _Load) -> HubLoads:
        if load.hubs is None:
            load.hubs = HubLoads()
        return load.hubs

    def pick(self, agent: Agent, *, exclude: AbstractSet[str] = _NOBODY, wanted: InstanceId | None = None) -> Instance:
        """The instance for one call; `begin` it, tell what you `saw`, `end` it.

        Online instances first, then suspect ones, then one that is offline or refused lately if its next trial is due.
        Draining ones get nothing new. `exclude` names instances already tried for this call. `wanted` is the owner of
        a task: it alone is meant, draining or full (what frees it must get through); one that no longer exists is
        replaced by any other.

        Raises: TooManyInFlight (all that could take it are at their capacity), UpstreamUnreachable (nobody is there).
        """
        instances = agent.instances
        if len(instances) == 1 and not exclude and wanted is None:
            only = instances[0]
            load = self._loads.get((agent.id, only.id))
            if only.state is AgentState.ONLINE and (load is None or self._is_free(only, load)):
                return only
        if wanted is not None and (owner := agent.instance(wanted)) is not None:
            return self._owner(agent, owner, exclude)
        return (not exclude and self._two_at_random(agent)) or self._choose(agent, exclude)

    def begin(self, agent_id: str, instance_id: str) -> None:
        """A call goes to the instance."""
        load = self._loads.get((agent_id, instance_id))
        if load is None:
            load = self._new_load(agent_id, instance_id)
        load.in_flight += 1
        if self._hubs is not None:
            self._changed[agent_id, instance_id] = None

    def end(self, agent_id: str, instance_id: str) -> None:
        """It is over, however it ended."""
        load = self._loads.get((agent_id, instance_id))
        if load is not None and load.in_flight:
            load.in_flight -= 1
            if self._hubs is not None:
                self._changed[agent_id, instance_id] = None

    def saw(self, agent_id: str, instance_id: str, *, ok: bool) -> None:
        """The instance answered (`ok`, whatever it said), or took no connection."""
        load = self._loads.get((agent_id, instance_id))
        if ok:
            if load is not None and not load.breaker.is_clean:
                load.breaker.succeeded()
            return
        if load is None:
            load = self._new_load(agent_id, instance_id)
        load.failed_at_ms = self._clock.now_ms()
        load.breaker.failed(self._clock.monotonic_ms(), self._settings, self._chance)
        if self._hubs is not None:
            self._changed[agent_id, instance_id] = None

    def report(self, agent_id: str, instance_id: str, in_flight: int, *, ttl_ms: int) -> None:
        """The instance says how many calls it has, those of other callers included; believed for `ttl_ms`."""
        load = self._loads.get((agent_id, instance_id)) or self._new_load(agent_id, instance_id)
        load.elsewhere = max(0, in_flight - load.in_flight)
        load.elsewhere_until_ms = self._clock.monotonic_ms() + ttl_ms

    def in_flight(self, agent_id: str, instance_id: str) -> int:
        """Calls under way: this hub's own, and those that the instance or other hubs reported."""
        load = self._loads.get((agent_id, instance_id))
        return 0 if load is None else self._calls(load)

    # Choosing

    def _two_at_random(self, agent: Agent) -> Instance | None:
        """The usual case without looking at all of many instances; None when it takes a closer look.

        Drawing again on an instance that cannot be taken leaves the shares of the others as their weights say.
        """
        spread = self._spreads.get(agent.id)
        if spread is None or spread.agent is not agent:
            spread = self._new_spread(agent)
        if not spread.drawable:
            return None
        first: Instance | None = None
        for _ in range(_DRAWS_MAX):
            drawn = spread.online[bisect(spread.ends, self._chance.random() * spread.ends[-1])]
            load = self._loads.get((agent.id, drawn.id))
            if drawn is first or (load is not None and not self._is_free(drawn, load)):
                continue
            if first is not None:
                return self._freer(agent, first, drawn)
            first = drawn
        if first is None:
            return None
        # The first draw stands: drawing it again would give heavy instances less than their share.
        others = [i for i in spread.online if i is not first and self._is_free_now(agent, i)]
        return self._freer(agent, first, self._by_weight(others)) if others else first

    def _new_spread(self, agent: Agent) -> "_Spread":
        if len(self._spreads) >= _SPREADS_MAX:
            self._spreads.clear()
        doubted = any(i.state in (AgentState.SUSPECT, AgentState.OFFLINE) for i in agent.instances)
        spread = self._spreads[agent.id] = _Spread(agent, drawable=self._is_probed(agent) or not doubted)
        return spread

    def _choose(self, agent: Agent, exclude: AbstractSet[str]) -> Instance:
        monotonic_ms = self._clock.monotonic_ms()
        online: list[Instance] = []
        suspect: list[Instance] = []
        trials: list[Instance] = []
        full = False
        for instance in agent.instances:
            if instance.state is AgentState.DRAINING or instance.id in exclude:
                continue
            load = self._loads.get((agent.id, instance.id))
            closed = load is None or self._is_trusted(instance, load)
            if load is not None and not self._has_room(instance, load):
                # Full counts as full only where it would have been called: a dead one is not "busy".
                full = full or (closed and instance.state is not AgentState.OFFLINE)
            elif closed and instance.state is not AgentState.OFFLINE:
                (online if instance.state is AgentState.ONLINE else suspect).append(instance)
            elif load is None or load.breaker.trial_due(monotonic_ms):
                trials.append(instance)
        if online and (doubtful := self._unprobed(agent, suspect, trials)):
            return self._on_trial(agent, self._chance.choice(doubtful), monotonic_ms)
        if online or suspect:
            return self._less_loaded(agent, online or suspect)
        if full:
            raise self._too_many(agent)
        if trials:
            return self._on_trial(agent, self._chance.choice(trials), monotonic_ms)
        raise self._unreachable(agent, agent.instances, exclude)

    def _owner(self, agent: Agent, owner: Instance, exclude: AbstractSet[str]) -> Instance:
        load = self._loads.get((agent.id, owner.id))
        if owner.id in exclude:
            raise self._unreachable(agent, [owner], exclude)
        if load is None or self._is_trusted(owner, load):
            return owner
        monotonic_ms = self._clock.monotonic_ms()
        if not load.breaker.trial_due(monotonic_ms):
            raise self._unreachable(agent, [owner], exclude)
        return self._on_trial(agent, owner, monotonic_ms)

    def _unprobed(self, agent: Agent, suspect: Sequence[Instance], trials: Sequence[Instance]) -> Sequence[Instance]:
        """Instances in doubt that nobody probes: a call must try them, or beside a well one they never come back."""
        if self._is_probed(agent):
            return ()
        # A suspect one has a closed breaker, so it may be tried at once; failing opens it.
        return (*suspect, *trials)

    def _is_probed(self, agent: Agent) -> bool:
        return self._hub_probes and agent.by_url and agent.settings.probe

    def _on_trial(self, agent: Agent, instance: Instance, monotonic_ms: float) -> Instance:
        load = self._loads.get((agent.id, instance.id)) or self._new_load(agent.id, instance.id)
        load.breaker.begin_trial(monotonic_ms, self._settings)
        return instance

    def _less_loaded(self, agent: Agent, candidates: Sequence[Instance]) -> Instance:
        """Two at random by weight, then the one with fewer calls for its weight; the first on a tie."""
        if len(candidates) == 1:
            return candidates[0]
        first = self._by_weight(candidates)
        second = self._by_weight([candidate for candidate in candidates if candidate is not first])
        return self._freer(agent, first, second)

    def _freer(self, agent: Agent, first: Instance, second: Instance) -> Instance:
        """The one with fewer calls for its weight; the first on a tie, so that idle instances share by weight."""
        return second if self._share(agent, second) < self._share(agent, first) else first

    def _by_weight(self, candidates: Sequence[Instance]) -> Instance:
        point = self._chance.random() * sum(candidate.weight for candidate in candidates)
        for candidate in candidates:
            point -= candidate.weight
            if point < 0:
                return candidate
        return candidates[-1]

    def _share(self, agent: Agent, instance: Instance) -> float:
        load = self._loads.get((agent.id, instance.id))
        return 0.0 if load is None else self._calls(load) / instance.weight

    # Loads

    def _is_free_now(self, agent: Agent, instance: Instance) -> bool:
        load = self._loads.get((agent.id, instance.id))
        return load is None or self._is_free(instance, load)

    def _is_free(self, instance: Instance, load: _Load) -> bool:
        return self._is_trusted(instance, load) and self._has_room(instance, load)

    def _is_trusted(self, instance: Instance, load: _Load) -> bool:
        """Closed, or the registry had a sign of life after the last failure: that is news the breaker lacks."""
        breaker = load.breaker
        if breaker.is_clean:
            return True
        if instance.state is AgentState.ONLINE and instance.state_since_ms > load.failed_at_ms:
            breaker.succeeded()
        return breaker.state is BreakerState.CLOSED

    def _has_room(self, instance: Instance, load: _Load) -> bool:
        if instance.capacity is None:
            return True
        free = instance.capacity - self._calls(load)
        if free <= 0 or self._hubs is None:
            return free > 0
        if self._shared(load).has_slice(load.in_flight, free, capacity=instance.capacity, hubs=self._hubs()):
            return True
        self._tell_soon.set()
        return False

    def _calls(self, load: _Load) -> int:
        if load.elsewhere and self._clock.monotonic_ms() >= load.elsewhere_until_ms:
            load.elsewhere = 0
        if load.hubs is None:
            return load.in_flight + load.elsewhere
        # What an instance reports of itself holds the calls of all hubs.
        return load.in_flight + max(load.elsewhere, load.hubs.elsewhere)

    def _new_load(self, agent_id: str, instance_id: str) -> _Load:
        if len(self._loads) >= self._prune_at:
            self._loads = {k: v for k, v in self._loads.items() if self._calls(v) or not v.breaker.is_clean}
            self._prune_at = max(_LOADS_BEFORE_PRUNING, 2 * len(self._loads))
        load = self._loads[agent_id, instance_id] = _Load()
        return load

    # Refusals

    def _too_many(self, agent: Agent) -> TooManyInFlight:
        return TooManyInFlight(
            f"Every instance of agent {agent.id!r} has as many calls as its capacity allows.",
            agent=agent.id,
            retry_after_ms=self._settings.full_retry_after_ms,
        )

    def _unreachable(
        self, agent: Agent, instances: Iterable[Instance], exclude: AbstractSet[str]
    ) -> UpstreamUnreachable:
        monotonic_ms = self._clock.monotonic_ms()
        waits = []
        states = []
        for instance in instances:
            load = self._loads.get((agent.id, instance.id))
            wait_ms = 0 if load is None else load.breaker.due_in_ms(monotonic_ms)
            if instance.id in exclude:
                states.append(f"{instance.id} refused this call")
            elif wait_ms:
                states.append(f"{instance.id} {instance.state.value}, refused lately")
                waits.append(wait_ms)
            else:
                states.append(f"{instance.id} {instance.state.value}")
        shown = ", ".join(states[:8]) + (f" and {len(states) - 8} more" if len(states) > 8 else "")
        return UpstreamUnreachable(
            f"No instance of agent {agent.id!r} takes calls now ({shown or 'it has none'}).",
            agent=agent.id,
            retry_after_ms=max(1, min(waits)) if waits else None,
        )
