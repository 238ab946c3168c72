"""What stays on the screen when a stream is over."""

import pytest

from meshway.cli.stream_view import LiveStreamView, PlainStreamView
from meshway.client import EventKind, StreamEvent


def chunk(text: str, artifact_id: str = "a", *, append: bool = False) -> StreamEvent:
    return StreamEvent(kind=EventKind.ARTIFACT, text=text, raw={}, artifact_id=artifact_id, append=append)


def status(state: str, text: str = "") -> StreamEvent:
    return StreamEvent(kind=EventKind.STATUS, text=text, raw={}, state=f"TASK_STATE_{state}")


EVENTS = [
    status("WORKING", "half way"),
    chunk("one "),
    chunk("two", append=True),
    chunk("other", "b"),
    status("COMPLETED"),
]


def test_the_live_view_leaves_the_whole_answer_and_how_it_went(capsys):
    with LiveStreamView("billing") as view:
        for event in EVENTS:
            view.show(event)
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[-3:-1] == ["one two", "other"]
    assert lines[-1].startswith("billing · done · 5 events")


def test_a_chunk_that_does_not_append_replaces_what_the_artifact_held(capsys):
    with LiveStreamView("billing") as view:
        for event in [chunk("first attempt"), chunk("second "), chunk("attempt", append=True)]:
            view.show(event)
    printed = capsys.readouterr().out
    assert "second attempt" in printed
    assert "first attempt" not in printed


def test_a_question_is_part_of_the_answer_and_progress_is_not(capsys):
    with PlainStreamView() as view:
        view.show(status("WORKING", "thinking"))
        view.show(status("INPUT_REQUIRED", "From where?"))
    assert capsys.readouterr().out == "From where?\n"


def test_artifacts_in_a_pipe_stand_on_lines_of_their_own(capsys):
    with PlainStreamView() as view:
        for event in EVENTS:
            view.show(event)
    assert capsys.readouterr().out == "one two\nother\n"


def break_off(view: LiveStreamView) -> None:
    with view:
        view.show(chunk("half of "))
        raise ConnectionError


def test_what_was_said_stays_when_the_stream_breaks(capsys):
    with pytest.raises(ConnectionError):
        break_off(LiveStreamView("billing"))
    assert "half of" in capsys.readouterr().out
