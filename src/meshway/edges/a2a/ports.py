"""What the A2A edge is given by assembly."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from meshway.gateway.call_agent import CallAgent
from meshway.gateway.list_tasks import ListTasks
from meshway.gateway.ports import Credentials
from meshway.gateway.serve_card import ServeCard
from meshway.kernel.clock import Clock
from meshway.kernel.metrics import Metrics
from meshway.kernel.principal import Principal

__all__ = ["A2AServices"]


@dataclass(frozen=True, slots=True)
class A2AServices:
    """`credentials_of` and `authenticate` raise Unauthenticated; `trace_of` gives the trace headers for the agent."""

    call_agent: CallAgent
    list_tasks: ListTasks
    serve_card: ServeCard
    credentials_of: Callable[[Mapping[bytes, bytes]], Credentials]
    authenticate: Callable[[Credentials], Principal]
    trace_of: Callable[[Mapping[bytes, bytes]], tuple[tuple[bytes, bytes], ...]]
    # Is there an agent of this id at this moment?
    is_agent: Callable[[str], bool]
    clock: Clock
    metrics: Metrics
