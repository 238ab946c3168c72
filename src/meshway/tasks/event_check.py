"""Whether a worker may say this about its task. Only the head of the event is read; the rest stays bytes."""

from typing import Annotated

import msgspec

from meshway.tasks.lifecycle import MOVES
from meshway.tasks.values import TaskState

__all__ = ["CheckedEvent", "EventRefused", "check_event"]

_ABSENT = msgspec.Raw(b"")


# Ten digits say as much as anybody can mean; beyond them sums lose the small numbers.
_COST_MAX = 1e10


class EventRefused(Exception):
    """The event is none its task may have. `detail` tells the author of the worker why."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class CheckedEvent(msgspec.Struct, frozen=True, gc=False):
    """`state` is the task's after the event; `cost` the units that the worker says were spent (`metadata.cost`)."""

    state: TaskState
    is_status: bool
    cost: float = 0.0


class _Object(msgspec.Struct):
    """Any object: what is in it is for others."""


class _Status(msgspec.Struct):
    state: TaskState
    message: _Object | None = None


class _Metadata(msgspec.Struct):
    cost: Annotated[float, msgspec.Meta(ge=0, le=_COST_MAX)] = 0.0


class _StatusUpdate(msgspec.Struct):
    status: _Status
    taskId: str = ""  # noqa: N815 - the wire's own name, here and below
    contextId: str = ""  # noqa: N815
    metadata: _Metadata | None = None


class _Artifact(msgspec.Struct):
    artifactId: str  # noqa: N815
    parts: list[_Object]
    metadata: _Object | None = None


class _ArtifactUpdate(msgspec.Struct):
    artifact: _Artifact
    taskId: str = ""  # noqa: N815
    contextId: str = ""  # noqa: N815
    append: bool | None = None
    lastChunk: bool | None = None  # noqa: N815
    metadata: _Object | None = None


class _Event(msgspec.Struct):
    statusUpdate: _StatusUpdate | None = None  # noqa: N815
    artifactUpdate: _ArtifactUpdate | None = None  # noqa: N815
    task: msgspec.Raw = _ABSENT
    message: msgspec.Raw = _ABSENT


_decode = msgspec.json.Decoder(_Event).decode


def check_event(body: bytes, *, task_id: str, context_id: str, before: TaskState) -> CheckedEvent:
    """Check an A2A 1.0 StreamResponse against the task it is said of, whose state is `before`. Raises: EventRefused."""
    try:
        event = _decode(body)
        if not body.isascii():
            body.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise EventRefused(f"the event is not an A2A 1.0 StreamResponse: {error}") from None
    status_update, artifact_update = event.statusUpdate, event.artifactUpdate
    update = status_update or artifact_update
    if update is None or event.task or event.message:
        raise EventRefused("report a statusUpdate or an artifactUpdate: the task itself is the hub's to show")
    if update.taskId != task_id or update.contextId != context_id:
        raise EventRefused(f"the event must carry taskId {task_id!r} and contextId {context_id!r}")
    if status_update is None:
        if before.ends_turn:
            raise EventRefused(f"no artifact may follow {before.value}")
        return CheckedEvent(before, is_status=False)
    if artifact_update is not None:
        raise EventRefused("a statusUpdate and an artifactUpdate are two events")
    after = status_update.status.state
    if after not in MOVES[before]:
        raise EventRefused(f"{after.value} may not follow {before.value}")
    return CheckedEvent(
        after, is_status=True, cost=status_update.metadata.cost if status_update.metadata is not None else 0.0
    )
