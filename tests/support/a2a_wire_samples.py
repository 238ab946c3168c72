"""Requests and interfaces the A2A protocol tests are made of."""

from typing import Any

import msgspec

from meshway.protocols.a2a.dialect import JSONRPC_0_3, JSONRPC_1_0, REST_0_3, REST_1_0, Dialect
from meshway.protocols.a2a.requests import A2ARequest, read_jsonrpc, read_rest
from meshway.registry.values import AgentInterface

DIALECTS = (JSONRPC_1_0, JSONRPC_0_3, REST_1_0, REST_0_3)
PAIRS = [(client, agent) for client in DIALECTS for agent in DIALECTS]
PAIR_NAMES = [
    "-".join(f"{d.version.value}{'rpc' if d.binding.value == 'JSONRPC' else 'rest'}" for d in pair) for pair in PAIRS
]

MESSAGE = {"messageId": "m-1", "role": "ROLE_USER", "parts": [{"text": "hi"}], "x-vendor": 1}
MESSAGE_0_3 = {
    "kind": "message",
    "messageId": "m-1",
    "role": "user",
    "parts": [{"kind": "text", "text": "hi"}],
    "x-vendor": 1,
}
MESSAGE_0_3_PROTO = {"messageId": "m-1", "role": "ROLE_USER", "content": [{"text": "hi"}], "x-vendor": 1}
MOMENT = "2026-11-22T07:00:00.123Z"


def interface(dialect: Dialect, tenant: str | None = None) -> AgentInterface:
    return AgentInterface(
        url="http://agent.test/a2a", binding=dialect.binding.value, version=dialect.version.value, tenant=tenant
    )


def envelope(method: str, params: Any, request_id: Any = 7) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": request_id, "method": method, "params": params})


def rpc(method: str, params: Any, request_id: Any = 7) -> A2ARequest:
    """A JSON-RPC request of the version that has this method."""
    version = None if "/" in method else "1.0"
    return read_jsonrpc(envelope(method, params, request_id), version=version, content_type="application/json")


def rest(method: str, path: str, body: Any = None, query: str = "") -> A2ARequest:
    """A request of the HTTP+JSON binding, of the version that has this path."""
    raw = b"" if body is None else msgspec.json.encode(body)
    version = None if path.startswith("/v1/") else "1.0"
    return read_rest(method, path, query, raw, version=version, content_type="application/json")


def send(dialect: Dialect, *, stream: bool = False, **message: Any) -> A2ARequest:
    """The same message in any dialect; further fields go into the message."""
    if dialect is JSONRPC_1_0:
        return rpc("SendStreamingMessage" if stream else "SendMessage", {"message": MESSAGE | message})
    if dialect is JSONRPC_0_3:
        return rpc("message/stream" if stream else "message/send", {"message": MESSAGE_0_3 | message})
    verb = "stream" if stream else "send"
    if dialect is REST_1_0:
        return rest("POST", f"/message:{verb}", {"message": MESSAGE | message})
    return rest("POST", f"/v1/message:{verb}", {"message": MESSAGE_0_3_PROTO | message})


def get_task(dialect: Dialect, task_id: str = "t-1", history: int | None = 3) -> A2ARequest:
    if dialect is JSONRPC_1_0:
        return rpc("GetTask", {"id": task_id, "historyLength": history})
    if dialect is JSONRPC_0_3:
        return rpc("tasks/get", {"id": task_id, "historyLength": history})
    prefix = "/v1" if dialect is REST_0_3 else ""
    return rest("GET", f"{prefix}/tasks/{task_id}", query=f"historyLength={history}")
