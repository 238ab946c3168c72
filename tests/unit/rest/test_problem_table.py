"""The table from error codes to HTTP statuses, and the document made of an error."""

from http import HTTPStatus

import msgspec
import pytest

from meshway.edges.http.problems import render_problem
from meshway.edges.rest.problems import STATUS_BY_CODE, problem_response
from meshway.kernel.errors import (
    ChannelFull,
    FieldError,
    InvalidRequest,
    StorageFull,
    TooManyInFlight,
    Unauthenticated,
    error_leaves,
)


def test_every_error_of_the_tree_has_a_status_and_no_row_is_left_over():
    assert set(STATUS_BY_CODE) == {leaf.code for leaf in error_leaves()}


def test_every_status_is_a_known_refusal():
    assert all(400 <= HTTPStatus(status) < 600 for status in STATUS_BY_CODE.values())


def test_a_problem_document_names_code_status_and_fields():
    response = problem_response(InvalidRequest("Wrong.", fields=[FieldError("card.name", "is missing")]))
    assert response.media_type == "application/problem+json"
    assert msgspec.json.decode(response.body) == {
        "type": "urn:meshway:problem:invalid_request",
        "title": "Invalid request",
        "status": 400,
        "detail": "Wrong.",
        "code": "invalid_request",
        "errors": [{"field": "card.name", "message": "is missing"}],
    }


@pytest.mark.parametrize(("retry_after_ms", "seconds"), [(1, "1"), (1000, "1"), (1001, "2"), (0, "1")])
def test_retry_after_is_whole_seconds_rounded_up(retry_after_ms, seconds):
    response = problem_response(TooManyInFlight("Full.", retry_after_ms=retry_after_ms))
    assert (response.status_code, response.headers["retry-after"]) == (429, seconds)


def test_an_unauthenticated_answer_says_how_to_authenticate():
    assert problem_response(Unauthenticated("No key.")).headers["www-authenticate"].startswith("Bearer")


def test_a_full_disk_is_507():
    assert problem_response(StorageFull("Full.")).status_code == 507


def test_further_members_stand_beside_the_known_ones_and_never_replace_them():
    error = ChannelFull("Full.", retry_after_ms=1, extensions={"receipts": [None], "code": "other"})
    rendered = render_problem(error)
    document = msgspec.json.decode(rendered.body)
    assert (document["receipts"], document["code"]) == ([None], "channel_full")
    assert (rendered.status, rendered.headers) == (429, {"Retry-After": "1"})
