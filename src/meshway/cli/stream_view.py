"""What a person sees while an agent streams: its words as they come, and below them how the task stands."""

import sys
import time
from types import TracebackType
from typing import Protocol

import click
import msgspec
from rich.console import Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from meshway.cli.output import console, shown
from meshway.cli.printable import printable
from meshway.cli.task_states import STATE_WORDS
from meshway.client import EventKind, StreamEvent

__all__ = ["JsonStreamView", "LiveStreamView", "PlainStreamView", "StreamView", "open_stream_view"]

# The live area redraws at most this often; more would cost more than it shows.
_REDRAWS_PER_S = 12


class StreamView(Protocol):
    def show(self, event: StreamEvent) -> None: ...

    def __enter__(self) -> "StreamView": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_stream_view(agent: str, *, as_json: bool) -> StreamView:
    """JSON lines where asked for, a live display on a terminal, bare text in a pipe."""
    if as_json:
        return JsonStreamView()
    return LiveStreamView(agent) if sys.stdout.isatty() else PlainStreamView()


class _View:
    """Nothing to open or close."""

    def __enter__(self) -> "StreamView":
        return self  # type: ignore[return-value]  # each subclass has `show`

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class JsonStreamView(_View):
    """One A2A StreamResponse a line, unchanged, at once."""

    def show(self, event: StreamEvent) -> None:
        click.echo(msgspec.json.encode(event.raw).decode())


class PlainStreamView(_View):
    """What the agent says, as it comes; what it asks; and nothing else, so that a pipe gets the answer alone."""

    def __init__(self) -> None:
        self._artifact_id: str | None = None
        self._at_line_start = True

    def show(self, event: StreamEvent) -> None:
        if event.kind is EventKind.ARTIFACT and event.artifact_id != self._artifact_id:
            self._new_line()
            self._artifact_id = event.artifact_id
        if _is_said(event):
            self._write(event.text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._new_line()

    def _write(self, text: str) -> None:
        if text:
            click.echo(text, nl=False)
            self._at_line_start = text.endswith("\n")

    def _new_line(self) -> None:
        if not self._at_line_start:
            self._write("\n")


class LiveStreamView(_View):
    """The answer grows in place; a line below it says state, progress, events and time. At the end the answer stays."""

    def __init__(self, agent: str) -> None:
        self._agent = agent
        self._texts: dict[str, str] = {}
        self._state = "sent"
        self._progress = ""
        self._events = 0
        self._started_s = time.monotonic()
        self._spinner = Spinner("dots")
        self._console = console()
        self._live = Live(
            get_renderable=self._render, console=self._console, refresh_per_second=_REDRAWS_PER_S, transient=True
        )

    def __enter__(self) -> "StreamView":
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        if self._said:
            self._console.print(shown(self._said))
        self._console.print(Text(printable(self._summary()), style="dim"))

    def show(self, event: StreamEvent) -> None:
        self._events += 1
        if event.state is not None:
            self._state = STATE_WORDS.get(event.state, event.state)
            self._progress = event.text if event.kind is EventKind.STATUS else self._progress
        if _is_said(event):
            key = event.artifact_id or f"event {self._events}"
            self._texts[key] = self._texts.get(key, "") + event.text if event.append else event.text

    @property
    def _said(self) -> str:
        return "\n".join(text for text in self._texts.values() if text)

    def _render(self) -> RenderableType:
        """The end of a long answer: a live area cannot be taller than the terminal."""
        lines_max = max(self._console.height - 4, 3)
        tail = self._said.splitlines()[-lines_max:]
        self._spinner.update(text=Text(printable(self._summary()), style="dim"))
        return Group(shown("\n".join(tail)), self._spinner) if tail else self._spinner

    def _summary(self) -> str:
        parts = [
            self._agent,
            self._state,
            self._progress,
            f"{self._events} events",
            f"{time.monotonic() - self._started_s:.1f} s",
        ]
        return " · ".join(part for part in parts if part)


def _is_said(event: StreamEvent) -> bool:
    """Is this the agent's answer, or a question to us (rather than news about the task)?"""
    if event.kind is EventKind.STATUS:
        return event.state in {"TASK_STATE_INPUT_REQUIRED", "TASK_STATE_AUTH_REQUIRED"}
    return True
