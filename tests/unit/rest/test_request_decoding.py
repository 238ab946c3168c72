"""Decoding bodies and queries: errors name fields by dotted paths, and no bytes make it fail otherwise."""

import contextlib
from typing import Annotated

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshway.edges.rest.bodies import decode_body, decode_query
from meshway.edges.rest.models import AgentListQuery, AgentPatchBody, AgentRegistration, HeartbeatBody, KeyCreation
from meshway.kernel.errors import InvalidRequest, MalformedBody


class Part(msgspec.Struct, forbid_unknown_fields=True):
    n: Annotated[int, msgspec.Meta(ge=1)]


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    parts: list[Part] = []
    labels: dict[str, str] = {}
    at: tuple[str, ...] = ()
    count: int | None = None


def errors_of(body):
    with pytest.raises(InvalidRequest) as caught:
        decode_body(body, Whole)
    return {each.field: each.message for each in caught.value.fields}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"{}", {"name": "is missing"}),
        (b'{"name":1}', {"name": "expected `str`, got `int`"}),
        (b'{"name":"a","parts":[{"n":1},{"n":0}]}', {"parts.1.n": "expected `int` >= 1"}),
        (b'{"name":"a","parts":[{}]}', {"parts.0.n": "is missing"}),
        (b'{"name":"a","parts":[{"n":1,"m":2}]}', {"parts.0.m": "is unknown"}),
        (b'{"name":"a","labels":{"k":null}}', {"labels": "expected `str`, got `null`"}),
        (b'{"nmae":"a"}', {"name": "is missing", "nmae": "is unknown; did you mean name?"}),
        (b'{"name":1,"count":"x"}', {"name": "expected `str`, got `int`", "count": "expected `int | null`, got `str`"}),
        (b"[]", {"": "expected `object`, got `array`"}),
        (b"null", {"": "expected `object`, got `null`"}),
    ],
)
def test_every_wrong_field_is_named_by_its_path(body, expected):
    assert errors_of(body) == expected


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"name":"a"} x', "not valid JSON"),
        (b'{"name":"\xff"}', "not valid UTF-8"),
        (b'{"name":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"name":"\\ud800"}', "not valid JSON"),
    ],
)
def test_what_is_no_json_is_malformed(body, says):
    with pytest.raises(MalformedBody, match=says):
        decode_body(body, Whole)


def test_ten_thousand_unknown_names_get_an_answer_of_readable_length():
    body = msgspec.json.encode({"x" * 1000 + str(number): 1 for number in range(10_000)})
    wrong = errors_of(body)
    assert len(wrong) <= 20
    assert all(len(field) < 100 for field in wrong)


def test_a_query_reads_numbers_and_repeated_names():
    query = decode_query([("name", "a"), ("at", "x"), ("at", "y"), ("count", "7")], Whole)
    assert (query.at, query.count) == (("x", "y"), 7)


def test_a_query_names_every_wrong_parameter():
    with pytest.raises(InvalidRequest) as caught:
        decode_query([("count", "x"), ("nam", "a"), ("count", "2")], Whole)
    assert {each.field for each in caught.value.fields} == {"count", "nam", "name"}


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
containers = st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=8), scalars, max_size=3)
json_values = scalars | containers | st.lists(containers, max_size=3)
MODELS = st.sampled_from([AgentRegistration, AgentPatchBody, HeartbeatBody, KeyCreation])


@given(MODELS, st.binary(max_size=64))
def test_arbitrary_bytes_are_read_or_refused(model, body):
    with_refusals(lambda: decode_body(body, model))


@given(
    MODELS, st.dictionaries(st.sampled_from(["id", "url", "card", "labels", "settings", "scopes", "x"]), json_values)
)
def test_arbitrary_json_is_read_or_refused(model, value):
    with_refusals(lambda: decode_body(msgspec.json.encode(value), model))


@given(st.lists(st.tuples(st.sampled_from(["q", "limit", "label", "state", "x"]), st.text(max_size=12)), max_size=5))
def test_arbitrary_queries_are_read_or_refused(pairs):
    with_refusals(lambda: decode_query(pairs, AgentListQuery))


def with_refusals(decode):
    with contextlib.suppress(InvalidRequest, MalformedBody):
        decode()


def test_a_word_outside_a_closed_choice_is_answered_with_the_choice():
    with pytest.raises(InvalidRequest) as caught:
        decode_query([("state", "lost")], AgentListQuery)
    assert [each.field for each in caught.value.fields] == ["state"]
    assert caught.value.fields[0].message == "must be one of online, suspect, draining, offline"


def test_a_text_of_the_wrong_form_is_answered_with_the_form():
    with pytest.raises(InvalidRequest) as caught:
        decode_body(b'{"id":"Echo!","url":"http://a.test"}', AgentRegistration)
    assert [each.field for each in caught.value.fields] == ["id"]
    assert caught.value.fields[0].message.startswith("must have the form ^[a-z0-9]")


def test_the_word_null_is_no_way_to_leave_a_parameter_out():
    with pytest.raises(InvalidRequest) as caught:
        decode_query([("name", "null"), ("count", "null")], Whole)
    assert [(each.field, each.message) for each in caught.value.fields] == [
        ("count", "has no value; leave the parameter out")
    ]
