"""Errors of the hub on the A2A wire."""

import msgspec
import pytest
from a2a.client.transports.rest import _parse_rest_error
from a2a.utils.errors import A2A_ERROR_MAPPING, JSON_RPC_ERROR_CODE_MAP

from meshway.kernel.errors import (
    AgentNotFound,
    DeadlineExceeded,
    FieldError,
    Forbidden,
    InvalidRequest,
    MalformedBody,
    MeshwayError,
    OperationUnsupported,
    PayloadTooLarge,
    TaskNotFound,
    TooManyInFlight,
    Unauthenticated,
    UpstreamUnreachable,
    error_leaves,
)
from meshway.protocols.a2a.dialect import JSONRPC_0_3, JSONRPC_1_0, REST_0_3, REST_1_0, Binding
from meshway.protocols.a2a.errors import ERROR_TABLE, render_error
from meshway.protocols.jsonrpc import EnvelopeInvalid
from support.a2a_wire_samples import DIALECTS

# What HTTP says better than JSON-RPC, and only before an agent was asked (API.md, "Everywhere").
HTTP_STATUSES_OF_JSONRPC = {401, 403, 404, 413, 429}


def test_the_table_has_a_row_for_every_error_and_no_other():
    assert {leaf.code for leaf in error_leaves()} | {MeshwayError.code} == ERROR_TABLE.keys()


def test_the_rows_of_the_protocol_are_those_of_the_stock_sdk():
    ours = {kind.reason: kind for kind in ERROR_TABLE.values() if kind.domain == "a2a-protocol.org"}
    theirs = {mapping.reason: (JSON_RPC_ERROR_CODE_MAP[error], mapping) for error, mapping in A2A_ERROR_MAPPING.items()}
    for reason in ours.keys() & theirs.keys():
        code, mapping = theirs[reason]
        assert (ours[reason].jsonrpc, ours[reason].http, ours[reason].status) == (
            code,
            mapping.http_code,
            mapping.grpc_status,
        )
    assert ours.keys() - theirs.keys() == {"INVALID_JSON"}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("leaf", [*error_leaves(), MeshwayError], ids=lambda leaf: leaf.__name__)
def test_every_error_can_be_said_in_every_dialect(leaf, dialect):
    reply = render_error(leaf("it went wrong"), dialect, b'"r-1"', agent="echo")
    body = msgspec.json.decode(reply.body)
    assert body["error"]["message"] == "it went wrong"
    assert reply.content_type == b"application/json"
    if dialect.binding is Binding.JSONRPC:
        assert (body["jsonrpc"], body["id"]) == ("2.0", "r-1")
        assert reply.status == 200 or reply.status in HTTP_STATUSES_OF_JSONRPC
        details = body["error"]["data"]
        if dialect is JSONRPC_0_3:
            assert not -32099 <= body["error"]["code"] < -32007
    else:
        assert reply.status == body["error"]["code"] >= 400
        details = body["error"]["details"]
        assert ("type" in body) is (dialect is REST_0_3)
    assert details[0]["metadata"] == {"code": leaf.code, "agent": "echo"}
    assert details[0]["domain"] in ("a2a-protocol.org", "meshway")


@pytest.mark.parametrize(
    ("error", "code", "jsonrpc_status", "http_status"),
    [
        (TaskNotFound("x"), -32001, 200, 404),
        (OperationUnsupported("x"), -32004, 200, 400),
        (InvalidRequest("x"), -32602, 200, 400),
        (MalformedBody("x"), -32700, 200, 400),
        (EnvelopeInvalid("x"), -32600, 200, 400),
        (Unauthenticated("x"), -32000, 401, 401),
        (Forbidden("x"), -32000, 403, 403),
        (AgentNotFound("x"), -32000, 404, 404),
        (PayloadTooLarge("x"), -32600, 413, 413),
        (TooManyInFlight("x"), -32000, 429, 429),
        (UpstreamUnreachable("x"), -32603, 200, 503),
        (DeadlineExceeded("x"), -32603, 200, 504),
        (MeshwayError("x"), -32603, 200, 500),
    ],
)
def test_codes_and_statuses_are_those_of_the_contract(error, code, jsonrpc_status, http_status):
    reply = render_error(error, JSONRPC_1_0)
    assert (msgspec.json.decode(reply.body)["error"]["code"], reply.status) == (code, jsonrpc_status)
    assert msgspec.json.decode(reply.body)["id"] is None
    assert render_error(error, REST_1_0).status == http_status


def test_a_caller_is_told_when_to_come_back():
    reply = render_error(TooManyInFlight("busy", retry_after_ms=1_200), JSONRPC_1_0)
    assert reply.headers == ((b"retry-after", b"2"),)
    details = msgspec.json.decode(reply.body)["error"]["data"]
    assert {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1.2s"} in details


def test_a_caller_without_a_key_is_told_how_to_send_one():
    assert render_error(Unauthenticated("no key"), JSONRPC_1_0).headers == (
        (b"www-authenticate", b'Bearer realm="meshway"'),
    )


def test_wrong_fields_are_listed_and_the_stock_client_knows_the_error():
    fault = FieldError("message.parts", "is required")
    body = msgspec.json.decode(render_error(InvalidRequest("bad", fields=[fault]), REST_1_0).body)
    violations = body["error"]["details"][1]
    assert violations["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert violations["fieldViolations"] == [{"field": "message.parts", "description": "is required"}]
    assert type(_parse_rest_error(body, "")).__name__ == "InvalidParamsError"
