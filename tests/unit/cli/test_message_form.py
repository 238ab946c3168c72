"""Lines as messages: values, text and whole messages, the options around them, and what is refused."""

import json

import click
import msgspec
import pytest

from meshway.cli.message_form import Form, MessageForm, MessageOptions, WrongLine, read_pairs


def form(kind: Form = Form.JSON, *, dedupes: bool = False, **options: object) -> MessageForm:
    return MessageForm(kind, MessageOptions(**options), id_prefix="run", dedupes=dedupes)


def test_a_json_line_keeps_its_text_and_gets_an_id_of_its_number():
    message = form().message(7, b' {"a": 1.10} ')
    assert message.id == "run-7"
    assert message.data == msgspec.Raw(b'{"a": 1.10}')
    assert message.content_type is None
    assert message.dedupe_id is None


def test_a_text_line_is_text():
    message = form(Form.TEXT).message(1, '{"not": "json", "ä"'.encode())
    assert message.data == '{"not": "json", "ä"'
    assert message.content_type == "text/plain"


def test_what_read_prints_can_be_sent_on():
    printed = {
        "sequence": 4,
        "id": "m1",
        "channel": "news",
        "data": {"n": 1},
        "content_type": "application/json",
        "attributes": {"zone": "eu"},
        "timestamp": "2026-11-22T07:00:00.000Z",
        "principal": "local",
    }
    message = form(Form.ENVELOPE).message(1, json.dumps(printed).encode())
    assert (message.id, message.attributes) == ("m1", {"zone": "eu"})
    assert json.loads(bytes(message.data)) == {"n": 1}


def test_an_envelopes_bytes_are_bytes():
    assert form(Form.ENVELOPE).message(1, b'{"data_base64": "AAH/"}').data == b"\x00\x01\xff"


def test_options_hold_for_messages_that_do_not_say_otherwise():
    given = form(Form.ENVELOPE, priority="low", delay_ms=5, attributes={"a": "1", "b": "1"}, ordering_key="k")
    message = given.message(1, b'{"data": 1, "priority": "high", "attributes": {"b": "2"}}')
    assert (message.priority, message.delay_ms, message.ordering_key) == ("high", 5, "k")
    assert message.attributes == {"a": "1", "b": "2"}


def test_a_line_that_says_when_is_not_delayed_by_the_option_too():
    message = form(Form.ENVELOPE, delay_ms=5).message(1, b'{"data": 1, "deliver_at": "2026-12-01T00:00:00Z"}')
    assert (message.delay_ms, message.deliver_at) == (None, "2026-12-01T00:00:00Z")


def test_a_repeatable_run_marks_messages_of_queues_as_repeats_for_the_queues_window():
    assert form(dedupes=True).message(3, b"1").dedupe_id == "run-3"
    assert form(Form.ENVELOPE, dedupes=True).message(3, b'{"data": 1, "dedupe_id": "own"}').dedupe_id == "own"


@pytest.mark.parametrize(
    ("kind", "line", "reason"),
    [
        (Form.JSON, b"hello", "--text"),
        (Form.JSON, b'{"a": 1', "not JSON"),
        (Form.JSON, b"1 2", "not JSON"),
        (Form.JSON, b"[" * 100_000, "not JSON"),
        (Form.JSON, b'"\xff"', "UTF-8 (byte 2)"),
        (Form.TEXT, b"\xff", "UTF-8"),
        (Form.ENVELOPE, b'"data"', "no message"),
        (Form.ENVELOPE, b"{}", "exactly one of data and data_base64"),
        (Form.ENVELOPE, b'{"data": 1, "data_base64": "AA=="}', "exactly one"),
        (Form.ENVELOPE, b'{"data_base64": "A"}', "not valid base64"),
        (Form.ENVELOPE, b'{"data": 1, "delay": 5}', "`delay`"),
        (Form.ENVELOPE, b'{"data": 1, "delay_ms": "5"}', "delay_ms"),
    ],
)
def test_a_line_that_is_no_message_is_refused_with_its_number_and_the_reason(kind, line, reason):
    with pytest.raises(WrongLine) as refused:
        form(kind).message(12, line)
    assert refused.value.number == 12
    assert reason in refused.value.reason


def test_pairs_are_split_at_the_first_equals_sign():
    assert read_pairs(["a=1", "b=x=y", "c="], option="--attribute") == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(click.UsageError, match="--attribute zone"):
        read_pairs(["zone"], option="--attribute")
