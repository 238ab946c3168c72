"""What has become of a task, step by step: read from the numbers and marks of its events. Pure."""

from collections.abc import Iterable, Sequence

import msgspec

from meshway.tasks.values import TaskEvent, TaskState

__all__ = ["Receipt", "receipts_of"]

_FAILURES = frozenset({TaskState.FAILED, TaskState.REJECTED, TaskState.CANCELED})


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step: queued, claimed (by an instance), running (its first word), replied, or failed; `at_ms` is when."""

    state: str
    at_ms: int
    attempt: int = 0
    turn: int = 1
    instance: str | None = None
    # Why an attempt, or the task, failed.
    reason: str | None = None


class _Metadata(msgspec.Struct):
    attemptFailed: str | None = None  # noqa: N815 - the wire's own name, here and below


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    parts: list[_Part] = []


class _Status(msgspec.Struct):
    message: _Message | None = None


class _StatusUpdate(msgspec.Struct):
    status: _Status
    metadata: _Metadata | None = None


class _Event(msgspec.Struct):
    statusUpdate: _StatusUpdate | None = None  # noqa: N815


_decode = msgspec.json.Decoder(_Event).decode


def receipts_of(events: Iterable[TaskEvent]) -> Sequence[Receipt]:
    """For all events of a task the hub owns, in order."""
    found: list[Receipt] = []
    place, last_source = (0, 0), 0
    for event in events:
        here = (event.turn, event.attempt)
        if event.attempt == 0:
            if event.state is TaskState.SUBMITTED:
                found.append(Receipt(state="queued", at_ms=event.at_ms, turn=event.turn))
            elif event.state in _FAILURES:
                found.append(_ended(event))
        elif here != place:
            place, last_source = here, 0
            found.append(_of(event, "claimed"))
        elif event.source > last_source:
            if last_source == 0:
                found.append(_of(event, "running"))
            last_source = event.source
            if event.state.ends_turn:
                found.append(_ended(event))
        else:
            found += _hub_said(event)
    return found


def _hub_said(event: TaskEvent) -> Sequence[Receipt]:
    """In the course of an attempt: that it failed and another will follow, or that the task has ended."""
    if event.state.is_terminal:
        return [_ended(event)]
    update = _decode(event.body).statusUpdate
    reason = update.metadata.attemptFailed if update is not None and update.metadata is not None else None
    if reason is None:
        return []
    queued = Receipt(state="queued", at_ms=event.at_ms, turn=event.turn, attempt=event.attempt + 1)
    return [msgspec.structs.replace(_of(event, "failed"), reason=reason), queued]


def _ended(event: TaskEvent) -> Receipt:
    if event.state not in _FAILURES:
        return _of(event, "replied")
    update = _decode(event.body).statusUpdate
    message = update.status.message if update is not None else None
    text = "".join(part.text for part in message.parts) if message is not None else ""
    return msgspec.structs.replace(_of(event, "failed"), reason=text or event.state.value)


def _of(event: TaskEvent, state: str) -> Receipt:
    return Receipt(
        state=state, at_ms=event.at_ms, attempt=event.attempt, turn=event.turn, instance=event.instance or None
    )
