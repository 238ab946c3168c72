"""What a person sees of a task that is followed: a line for each status, and the agent's words as they come."""

import sys

import click
import msgspec
from rich.text import Text

from meshway.cli.printable import printable
from meshway.cli.stream_view import JsonStreamView, LiveStreamView, PlainStreamView, StreamView
from meshway.cli.task_states import STATE_WORDS
from meshway.client import EventKind, StreamEvent

__all__ = ["open_follow_view", "status_line"]


def open_follow_view(task_id: str, *, as_json: bool) -> StreamView:
    """JSON lines where asked for, a live display on a terminal; in a pipe the words, and statuses on standard error."""
    if as_json:
        return JsonStreamView()
    return _LiveFollowView(task_id) if sys.stdout.isatty() else _PlainFollowView()


class _LiveFollowView(LiveStreamView):
    """Statuses scroll by above the growing answer."""

    def __init__(self, task_id: str) -> None:
        super().__init__(task_id)
        self._has_artifacts = False

    def show(self, event: StreamEvent) -> None:
        if line := status_line(event):
            self._console.print(Text(printable(line), style="dim"))
        super().show(_without_repetition(event, has_artifacts=self._has_artifacts))
        self._has_artifacts |= event.kind is EventKind.ARTIFACT


class _PlainFollowView(PlainStreamView):
    """Standard output is the answer alone; another attempt begins it anew, on a line of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._has_artifacts = False

    def show(self, event: StreamEvent) -> None:
        if line := status_line(event):
            self._new_line()
            click.echo(printable(line), err=True)
        super().show(_without_repetition(event, has_artifacts=self._has_artifacts))
        self._has_artifacts |= event.kind is EventKind.ARTIFACT


class _Status(msgspec.Struct, frozen=True):
    timestamp: str = ""


class _Metadata(msgspec.Struct, frozen=True):
    attempt: int | None = None
    attemptFailed: str | None = None  # noqa: N815 - the wire's own name, here and below


class _Update(msgspec.Struct, frozen=True):
    status: _Status = _Status()
    metadata: _Metadata | None = None


class _Event(msgspec.Struct, frozen=True):
    statusUpdate: _Update | None = None  # noqa: N815
    task: _Update | None = None


def status_line(event: StreamEvent) -> str:
    """When, what, and what was said about it; empty for what is no news about the task's state."""
    if event.state is None:
        return ""
    try:
        found = msgspec.convert(event.raw, _Event)
    except msgspec.ValidationError:
        # Metadata is whatever agents make of it.
        found = _Event()
    update = found.statusUpdate or found.task or _Update()
    # What a task event says in words is its whole answer, which is shown as such.
    said = event.text if event.kind is EventKind.STATUS else ""
    what = STATE_WORDS.get(event.state, event.state)
    if found.statusUpdate is not None and update.metadata is not None:
        attempt, failure = update.metadata.attempt, update.metadata.attemptFailed
        if failure is not None:
            what, said = f"attempt {attempt} failed", failure
        elif attempt is not None and attempt > 1:
            what = f"{what}, attempt {attempt}"
    parts = [update.status.timestamp, what + (f": {said}" if said else "")]
    return "  ".join(part for part in parts if part)


def _without_repetition(event: StreamEvent, *, has_artifacts: bool) -> StreamEvent:
    """A further turn begins with the whole task, whose artifacts were shown when they came."""
    if event.kind is EventKind.TASK and has_artifacts:
        return msgspec.structs.replace(event, text="")
    return event
