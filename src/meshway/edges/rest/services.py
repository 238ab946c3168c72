"""What the control plane stands on: use cases and a few live answers, wired by assembly."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from meshway.engine.ports import EngineHealth
from meshway.gateway.channel_use_cases import ChannelUseCases
from meshway.gateway.drain_agent import DrainAgent, ResumeAgent
from meshway.gateway.find_agents import FindAgents, ShowAgent
from meshway.gateway.heartbeat_agent import HeartbeatAgent
from meshway.gateway.manage_instances import ManageInstances
from meshway.gateway.manage_keys import ManageKeys
from meshway.gateway.register_agent import RegisterAgent
from meshway.gateway.remove_agent import RemoveAgent
from meshway.gateway.show_mesh import ShowMesh
from meshway.gateway.task_use_cases import TaskUseCases
from meshway.gateway.update_agent import UpdateAgent
from meshway.gateway.watch_agents import WatchAgents
from meshway.kernel.metrics import Metrics, NullMetrics
from meshway.kernel.principal import Principal
from meshway.tasks.audit import AuditLog

__all__ = ["AgentUseCases", "EngineStatus", "HubStatus", "PrincipalOf", "RestServices"]

# Header pairs as they came, names in lower case. Raises: Unauthenticated.
PrincipalOf = Callable[[Sequence[tuple[bytes, bytes]]], Principal]


class EngineStatus(Protocol):
    """The part of the engine that `/readyz` shows."""

    @property
    def name(self) -> str: ...

    @property
    def durability(self) -> str: ...

    async def health(self) -> EngineHealth: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentUseCases:
    """One use case for each verb under `/v1/agents`."""

    register: RegisterAgent
    find: FindAgents
    show: ShowAgent
    update: UpdateAgent
    remove: RemoveAgent
    drain: DrainAgent
    resume: ResumeAgent
    heartbeat: HeartbeatAgent
    instances: ManageInstances
    watch: WatchAgents
    # Calls under way by agent id and instance id (the Balancer's).
    in_flight: Callable[[str, str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class HubStatus:
    """What the hub knows of itself at this moment."""

    version: str
    engine: EngineStatus
    # True once the registry is loaded and calls are served.
    is_started: Callable[[], bool]
    agents_count: Callable[[], int]
    # Set when the hub begins to shut down: readiness turns, change feeds end.
    shutdown: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestServices:
    """Everything `build_rest_app` needs."""

    agents: AgentUseCases
    channels: ChannelUseCases
    tasks: TaskUseCases
    audit: AuditLog
    keys: ManageKeys
    mesh: ShowMesh
    status: HubStatus
    principal_of: PrincipalOf
    # The scrape's body and its content type.
    render_metrics: Callable[[], Awaitable[tuple[bytes, str]]]
    # The JSON Web Key Set of the keys that sign push notifications.
    push_jwks: Callable[[], bytes]
    metrics: Metrics = field(default_factory=NullMetrics)
