"""What callers see of refusals about acting once and not for ever: the same reason in every protocol."""

import msgspec
import pytest

from meshway.edges.http.problems import render_problem
from meshway.kernel.errors import (
    AgentStopped,
    DelegationRefused,
    InboxFull,
    OwnLimitReached,
    PushNotificationsUnsupported,
    TaskNotCancelable,
)
from meshway.protocols.a2a.dialect import JSONRPC_1_0, REST_1_0
from meshway.protocols.a2a.errors import render_error
from meshway.tasks.flights import Conflicting, Unknown


@pytest.mark.parametrize(
    ("error", "code", "jsonrpc_status", "rest_status", "v1_status", "reason"),
    [
        (Conflicting("k").error(), -32602, 200, 409, 409, "IDEMPOTENCY_KEY_REUSED"),
        (Unknown(1).error(), -32603, 200, 502, 502, "UPSTREAM_BROKEN"),
        (DelegationRefused("x"), -32000, 200, 403, 403, "DELEGATION_REFUSED"),
        (OwnLimitReached("x"), -32000, 429, 429, 429, "OWN_LIMIT_REACHED"),
        (AgentStopped("x"), -32603, 200, 503, 503, "AGENT_STOPPED"),
        (InboxFull("x"), -32000, 429, 429, 429, "INBOX_FULL"),
        (TaskNotCancelable("x"), -32002, 200, 400, 409, "TASK_NOT_CANCELABLE"),
        (PushNotificationsUnsupported("x"), -32003, 200, 400, 400, "PUSH_NOTIFICATION_NOT_SUPPORTED"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_has_its_code_its_statuses_and_its_reason(error, code, jsonrpc_status, rest_status, v1_status, reason):
    reply = render_error(error, JSONRPC_1_0)
    body = msgspec.json.decode(reply.body)["error"]
    assert (body["code"], reply.status, body["data"][0]["reason"]) == (code, jsonrpc_status, reason)
    assert render_error(error, REST_1_0).status == rest_status
    assert render_problem(error).status == v1_status


def test_a_program_learns_which_limit_was_met_and_by_which_chain():
    chain = [{"agent": "a", "task": "t1"}]
    error = DelegationRefused("client -> a (task t1) -> b: no.", extensions={"chain": chain, "limit": "depth"})
    (info,) = msgspec.json.decode(render_error(error, JSONRPC_1_0).body)["error"]["data"]
    assert info["metadata"] == {"code": "delegation_refused", "limit": "depth"}
    document = msgspec.json.decode(render_problem(error).body)
    assert (document["chain"], document["limit"]) == (chain, "depth")
