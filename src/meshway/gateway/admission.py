"""May this principal do this, now? Every use case begins here; synchronous, for it stands before every call."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from meshway.kernel.errors import Draining, Forbidden, TooManyInFlight
from meshway.kernel.ids import AgentId
from meshway.kernel.principal import Principal
from meshway.messaging.channel import Channel
from meshway.registry.values import Agent

__all__ = ["Admission"]

# What a refused caller is told to wait: calls end all the time, a hub that drains is replaced in seconds.
_FULL_RETRY_AFTER_MS = 1_000
_DRAINING_RETRY_AFTER_MS = 5_000
# For clients that know other hubs: trying again there does nothing twice.
_NOT_BEGUN = {"begun": "false"}


class Admission:
    """Rights, and the calls under way at this hub. Each `admit_call` that returns needs one `release_call`."""

    def __init__(self, *, calls_in_flight_max: int) -> None:
        """`calls_in_flight_max` counts open streams too."""
        self._calls_in_flight_max = calls_in_flight_max
        self._calls = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._drain_listeners: list[Callable[[], None]] = []

    @property
    def in_flight(self) -> int:
        """Calls and streams under way."""
        return self._calls

    @property
    def is_draining(self) -> bool:
        return self._draining

    def admit_call(self, principal: Principal, agent_id: AgentId) -> None:
        """Take a place for one call. Raises: Forbidden, TooManyInFlight, Draining."""
        if not principal.may_call:
            text = f"Key {principal.id!r} may not call agents; calling needs the scope 'call'."
            raise Forbidden(text, agent=agent_id)
        if self._draining:
            text = "This hub is shutting down and takes no new calls; try again, at another hub if there is one."
            raise Draining(text, agent=agent_id, retry_after_ms=_DRAINING_RETRY_AFTER_MS, extensions=_NOT_BEGUN)
        if self._calls >= self._calls_in_flight_max:
            text = f"The hub has {self._calls} calls under way, as many as it takes."
            raise TooManyInFlight(text, agent=agent_id, retry_after_ms=_FULL_RETRY_AFTER_MS)
        self._calls += 1

    def release_call(self) -> None:
        """Give the place of one call back."""
        self._calls -= 1
        if self._draining and not self._calls:
            self._idle.set()

    def admit_read(self, principal: Principal) -> None:
        """See agents and tasks: any key with a scope may. Raises: Forbidden."""
        if not principal.scopes:
            raise Forbidden(f"Key {principal.id!r} has no scope; seeing agents needs 'call', 'serve:...' or 'admin'.")

    def admit_channel(self, principal: Principal) -> None:
        """Send, read, lease, settle, ask and answer on channels. Raises: Forbidden."""
        if not principal.may_call:
            raise Forbidden(f"Key {principal.id!r} may not use channels; that needs the scope 'call'.")

    def admit_channel_owner(self, principal: Principal, channel: Channel) -> None:
        """Change, purge, redrive or delete a channel: who made it, or an admin. Raises: Forbidden."""
        self.admit_channel(principal)
        if not principal.is_admin and channel.owner is not None and channel.owner != principal.id:
            raise Forbidden(
                f"{channel.kind.value} channel {channel.name!r} was made by another key; "
                "that needs this key, or the scope 'admin'."
            )

    def admit_admin(self, principal: Principal) -> None:
        """Administer the hub. Raises: Forbidden."""
        if not principal.is_admin:
            raise Forbidden(f"Key {principal.id!r} may not administer the hub; that needs the scope 'admin'.")

    def admit_serve(self, principal: Principal, agent_id: AgentId) -> None:
        """Register an agent of this id, or speak for one. Raises: Forbidden."""
        if not principal.may_serve(agent_id):
            text = f"Key {principal.id!r} may not serve agent {agent_id!r}; that needs the scope 'serve:{agent_id}'."
            raise Forbidden(text, agent=agent_id)

    def admit_manage(self, principal: Principal, agent: Agent) -> None:
        """Replace, change, drain or remove this agent. Raises: Forbidden."""
        if not self.may_manage(principal, agent):
            text = (
                f"Agent {agent.id!r} was registered by another key; changing it needs that key, or the scope 'admin'."
            )
            raise Forbidden(text, agent=agent.id)

    def may_manage(self, principal: Principal, agent: Agent) -> bool:
        """An admin may, and the key that registered the agent while it may still serve it."""
        if principal.is_admin:
            return True
        return agent.registered_by == principal.id and principal.may_serve(agent.id)

    def begin_drain(self) -> None:
        """No new calls from here on; for life."""
        self._draining = True
        for listener in tuple(self._drain_listeners):
            listener()
        if self._calls:
            self._idle.clear()

    @contextmanager
    def hearing_of_drain(self, listener: Callable[[], None]) -> Iterator[None]:
        """Inside the block `listener` is called when the hub begins to drain; at once where it does already."""
        if self._draining:
            listener()
        self._drain_listeners.append(listener)
        try:
            yield
        finally:
            self._drain_listeners.remove(listener)

    async def wait_idle(self) -> None:
        """Until no call is under way; the caller bounds the wait. Only after `begin_drain`."""
        await self._idle.wait()
