"""A pump, and what is read of the events that pass through it. No I/O."""

from dataclasses import dataclass

import msgspec

from meshway.kernel.errors import EngineUnavailable, MeshwayError, UpstreamError
from meshway.tasks.track import Track
from meshway.tasks.values import TaskOwner, TaskSeen, TaskState

__all__ = ["NotKept", "Pump", "ReadElsewhere", "is_task", "state_after", "state_of", "task_of"]

# Compared for each event: a member of an enum class costs more to reach than a name of the module.
_UNSPECIFIED = TaskState.UNSPECIFIED


class _Core(msgspec.Struct):
    task: msgspec.Raw = msgspec.Raw(b"")


_decode_core = msgspec.json.Decoder(_Core).decode


@dataclass(slots=True, eq=False)
class Pump:
    """The reading of one task's stream, here or at another hub. `error` says why it ended before its turn did."""

    track: Track
    owner: TaskOwner
    # Another hub has written to the task: it may have taken the stream up.
    is_doubted: bool = False
    # Another hub reads it; this one sees to it that somebody does.
    is_watched: bool = False
    # Refused events of the track that were made up for.
    refusals: int = 0
    # When the last event was taken (monotonic ms).
    taken_ms: float = 0.0
    is_over: bool = False
    error: MeshwayError | None = None


class NotKept(UpstreamError):
    """What was read could not be written; not the agent's fault, but mended by it."""


class ReadElsewhere(EngineUnavailable):
    """Another hub has taken the stream up."""


def task_of(core: bytes) -> bytes:
    """The task that a StreamResponse holds; empty where it holds something else."""
    return bytes(_decode_core(core).task)


def state_of(task: bytes) -> TaskState:
    """The state of a task in A2A 1.0 JSON."""
    return _decode_state(task).status.state


class _StatusHead(msgspec.Struct, frozen=True):
    state: TaskState = TaskState.UNSPECIFIED


class _TaskHead(msgspec.Struct):
    status: _StatusHead = _StatusHead()


_decode_state = msgspec.json.Decoder(_TaskHead).decode


def is_task(core: bytes) -> bool:
    """Whether a StreamResponse holds a task, as far as its beginning says."""
    return b'"task"' in core[:16]


def state_after(track: Track, seen: TaskSeen | None) -> TaskState:
    """The state of the task once this was seen of it."""
    if seen is not None and seen.state is not _UNSPECIFIED:
        return seen.state
    return TaskState.SUBMITTED if track.state is _UNSPECIFIED else track.state
