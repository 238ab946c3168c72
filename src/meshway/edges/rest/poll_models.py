"""What instances send and get that take tasks by long poll. Deliveries and outcomes are those of the WebSocket."""

from typing import Annotated

import msgspec

from meshway.edges.rest.models import Capacity, CardDocument, InstanceIdText, Labels
from meshway.protocols.link.frames import Hold, HoldState, ReportItem, ReportOutcome, TaskDelivery, TaskSettlement

__all__ = [
    "InstanceBody",
    "TaskLeaseBody",
    "TaskLeaseView",
    "TaskReportsBody",
    "TaskReportsView",
    "TaskSettlementsBody",
    "TaskSettlementsView",
]

# Proxies cut requests that are silent for a minute.
WAIT_MS_MAX = 55_000
# Of one call: what one process works on at once.
_BATCH_MAX = 1_000

CancelledIds = Annotated[
    tuple[str, ...],
    msgspec.Meta(description="Deliveries that ended since the last call: stop; what is reported of them is stale."),
]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request: fields that are not named are refused."""

    instance: InstanceIdText


class _View(msgspec.Struct, frozen=True, kw_only=True):
    """An answer."""


class InstanceBody(_Body, frozen=True, kw_only=True):
    """Who speaks: the same name for as long as the process lives."""


class TaskLeaseBody(_Body, frozen=True, kw_only=True):
    """How many tasks to take, and who takes them. `holds`: what it works on, to be shown after the hub was away.

    The card is A2A 1.0, its `supportedInterfaces` left out; without one the agent must be known.
    """

    card: CardDocument | msgspec.UnsetType = msgspec.UNSET
    labels: Labels | msgspec.UnsetType = msgspec.UNSET
    capacity: Capacity | msgspec.UnsetType | None = msgspec.UNSET
    count: Annotated[int, msgspec.Meta(ge=1, le=_BATCH_MAX)] = 1
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=WAIT_MS_MAX, description="Wait so long for the first one.")] = 0
    holds: Annotated[list[Hold], msgspec.Meta(max_length=_BATCH_MAX)] = []


class TaskLeaseView(_View, frozen=True, kw_only=True):
    """Tasks for this instance, each for `lease_ms` unless it is extended. `holds`: what became of those shown."""

    instance: str
    lease_ms: int
    grace_ms: int
    holds: tuple[HoldState, ...]
    tasks: tuple[TaskDelivery, ...]
    cancelled: CancelledIds


class TaskReportsBody(_Body, frozen=True, kw_only=True):
    """What happened, in order for each delivery; `source` numbers the reports of one from 1 without gaps."""

    reports: Annotated[list[ReportItem], msgspec.Meta(min_length=1, max_length=_BATCH_MAX)]


class TaskReportsView(_View, frozen=True, kw_only=True):
    """One outcome for each delivery, in order of first mention."""

    outcomes: tuple[ReportOutcome, ...]
    cancelled: CancelledIds


class TaskSettlementsBody(_Body, frozen=True, kw_only=True):
    """What is to become of deliveries."""

    settlements: Annotated[list[TaskSettlement], msgspec.Meta(min_length=1, max_length=_BATCH_MAX)]


class TaskSettlementsView(_View, frozen=True, kw_only=True):
    """`done` or `stale` for each, in order."""

    outcomes: tuple[str, ...]
    cancelled: CancelledIds
