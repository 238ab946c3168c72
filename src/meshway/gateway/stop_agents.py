"""Stop an agent, or everything: no new work, what waits is held, what runs is cancelled. And let it go on."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from meshway.gateway.admission import Admission
from meshway.kernel.errors import AgentNotFound, Forbidden
from meshway.kernel.ids import AgentId
from meshway.kernel.principal import Principal
from meshway.registry.directory import Directory
from meshway.tasks.audit import AuditLog
from meshway.tasks.stops import Stop, StopBook

__all__ = ["CancelRunning", "StopAgents", "Stopped"]

# Cancels what runs at the agent, None: everywhere, and what that caused; says how many tasks.
CancelRunning = Callable[[AgentId | None], Awaitable[int]]

# Of the entry that must be written even when the caller hangs up.
_AUDIT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Stopped:
    """`stop` is the first one where it was stopped already; `cancelled` counts tasks that ran all the same."""

    stop: Stop
    cancelled: int


class StopAgents:
    """For admins; a single agent also for the key that registered it, which cannot lift the stop of an admin."""

    def __init__(
        self,
        directory: Directory,
        admission: Admission,
        stops: StopBook,
        audit: AuditLog,
        *,
        cancel_running: CancelRunning,
    ) -> None:
        self._directory = directory
        self._admission = admission
        self._stops = stops
        self._audit = audit
        self._cancel_running = cancel_running

    async def stop(self, principal: Principal, agent_id: AgentId | None, *, reason: str = "") -> Stopped:
        """Stop the agent, None: everything. New work is refused from before the first task is cancelled.

        Stopping again cancels what still runs. Raises: AgentNotFound, Forbidden, StorageFull, EngineUnavailable.
        """
        self._admit(principal, agent_id)
        stop = await self._stops.stop(agent_id, principal, reason=reason)
        details: dict[str, str | int] = {"reason": reason} if reason else {}
        try:
            details["cancelled"] = cancelled = await self._cancel_running(agent_id)
        finally:
            await self._note(principal, _action(agent_id, "stopped"), agent_id, details)
        return Stopped(stop, cancelled)

    async def resume(self, principal: Principal, agent_id: AgentId | None) -> bool:
        """Lift the stop; held work goes on, what was cancelled stays so. False: it was not stopped.

        A stop of everything is lifted as a whole, and the stops of single agents outlive it.
        Raises: AgentNotFound, Forbidden, StorageFull, EngineUnavailable.
        """
        self._admit(principal, agent_id)

        def check(stop: Stop) -> None:
            if stop.by_admin and not principal.is_admin:
                text = f"An admin stopped agent {agent_id!r}; letting it go on needs the scope 'admin'."
                raise Forbidden(text, agent=agent_id)

        was_stopped = await self._stops.resume(agent_id, check=check)
        if was_stopped:
            await self._note(principal, _action(agent_id, "resumed"), agent_id, {})
        return was_stopped

    def _admit(self, principal: Principal, agent_id: AgentId | None) -> None:
        if agent_id is None:
            self._admission.admit_admin(principal)
            return
        agent = self._directory.get(agent_id)
        if agent is not None:
            self._admission.admit_manage(principal, agent)
        elif not principal.is_admin or self._stops.stop_of(agent_id) is None:
            # An admin may lift the stop of an agent that was removed since.
            raise AgentNotFound(f"There is no agent {agent_id!r} at this hub.", agent=agent_id)

    async def _note(
        self, principal: Principal, action: str, agent_id: AgentId | None, details: dict[str, str | int]
    ) -> None:
        async with asyncio.timeout(_AUDIT_TIMEOUT_S):
            await self._audit.append(principal.id, action, agent_id=agent_id, details=details)


def _action(agent_id: AgentId | None, what: str) -> str:
    return f"all_{what}" if agent_id is None else f"agent_{what}"
