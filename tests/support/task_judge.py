"""Judges what a client saw of one stream, over however many connections. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["SeenEvent", "SnapshotEvent", "faults_of", "snapshot_faults_of"]

_TERMINAL = frozenset({"TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED", "TASK_STATE_REJECTED"})


@dataclass(frozen=True, slots=True)
class SeenEvent:
    """`kind`: task, status or artifact. `text` is what an artifact adds, or replaces where `append` is False.

    A task may begin with text: of an agent that had gone on before anybody could write down what it said.
    """

    number: int
    kind: str
    text: str = ""
    append: bool = False
    state: str | None = None
    # Announced by a status.
    attempt: int | None = None


@dataclass(frozen=True, slots=True)
class SnapshotEvent:
    """As a client sees it who knows no numbers. A task says all that was said so far: it replaces."""

    kind: str
    text: str = ""
    append: bool = False
    state: str | None = None

    @property
    def is_terminal(self) -> bool:
        return self.state in _TERMINAL


def faults_of(seen: Sequence[SeenEvent], *, expected_text: str) -> list[str]:
    """Everything that is wrong with a sequence; nothing where it is complete, in order, without duplicate."""
    faults = []
    numbers = [event.number for event in seen]
    if numbers != list(range(1, len(seen) + 1)):
        faults.append(f"numbers are {numbers}, not 1 to {len(seen)}")
    if not seen or seen[0].kind != "task":
        faults.append("the first event is no task")
    terminal = [event.number for event in seen if event.state in _TERMINAL]
    if len(terminal) != 1 or terminal[0] != len(seen):
        faults.append(f"terminal events are {terminal}, not the last one alone")
    if not seen or seen[-1].state != "TASK_STATE_COMPLETED":
        faults.append("it did not complete")
    faults += _text_faults(seen, expected_text)
    return faults


def snapshot_faults_of(seen: Sequence[SnapshotEvent], *, expected_text: str) -> list[str]:
    """Of a client that subscribes again by hand: snapshots and what follows each add up to the whole, and it ends once.

    The text it has never shrinks: what was seen is not taken back.
    """
    faults = []
    if not seen or seen[0].kind != "task":
        faults.append("the first event is no task")
    ends = [place for place, event in enumerate(seen) if event.is_terminal]
    if ends != [len(seen) - 1]:
        faults.append(f"terminal events are at {ends}, not at the end of {len(seen)} alone")
    if not seen or seen[-1].state != "TASK_STATE_COMPLETED":
        faults.append("it did not complete")
    text = ""
    for event in seen:
        before, text = text, _text_after(text, event)
        if event.kind == "task" and not text.startswith(before):
            faults.append(f"a snapshot says {text!r} after {before!r}")
    if text != expected_text:
        faults.append(f"the text is {text!r}, not {expected_text!r}")
    return faults


def _text_faults(seen: Sequence[SeenEvent], expected_text: str) -> list[str]:
    text = ""
    for event in seen:
        if event.kind != "status":
            text = text + event.text if event.append else event.text
    return [] if text == expected_text else [f"the text is {text!r}, not {expected_text!r}"]


def _text_after(text: str, event: SnapshotEvent) -> str:
    match event.kind:
        case "task":
            return event.text
        case "artifact":
            return text + event.text if event.append else event.text
        case _:
            return text
