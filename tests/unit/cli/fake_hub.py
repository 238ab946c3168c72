"""A hub's answers over a real socket, as far as the commands need them; it keeps what it was asked."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from meshway.testing.tiny_http import HttpReply, HttpRequest, serve_http

__all__ = ["AGENT", "FakeHub", "TaskEvents", "problem"]

AGENT = {
    "id": "billing",
    "name": "Billing",
    "description": "Writes invoices [and] answers questions about them.",
    "state": "online",
    "skills": [{"id": "invoice", "name": "Invoice", "description": "Write an invoice", "tags": ["money"]}],
    "card": {"name": "Billing"},
    "instances": [
        {
            "id": "i1",
            "url": "http://127.0.0.1:9000",
            "state": "online",
            "labels": {"zone": "eu"},
            "capacity": 4,
            "in_flight": 2,
            "last_seen": "2026-11-22T07:00:00.000Z",
        }
    ],
    "registered_at": "2026-11-22T07:00:00.000Z",
    "last_seen": "2026-11-22T07:00:00.000Z",
}


class TaskEvents(list[dict[str, object]]):
    """The events of a task: numbered, and without an envelope."""


@dataclass
class FakeHub:
    """`answers` by "METHOD path"; a list is sent as an event stream."""

    answers: dict[str, tuple[int, object]] = field(default_factory=dict)
    asked: list[HttpRequest] = field(default_factory=list)
    url: str = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["FakeHub"]:
        async with serve_http(self._answer) as self.url:
            yield self

    async def _answer(self, request: HttpRequest) -> HttpReply:
        self.asked.append(request)
        status, body = self.answers.get(
            f"{request.method} {request.path}", (404, problem(404, "not_found", "No such page."))
        )
        if isinstance(body, TaskEvents):
            after = int(request.headers.get("last-event-id", "0"))
            return HttpReply(_numbered(body, after), content_type="text/event-stream")
        if isinstance(body, list):
            return HttpReply(_events(body), content_type="text/event-stream")
        return HttpReply(json.dumps(body).encode(), status=status)


def problem(status: int, code: str, detail: str, **more: object) -> dict[str, object]:
    return {
        "type": "about:blank",
        "title": code,
        "status": status,
        "detail": detail,
        "code": code,
        "errors": [],
        **more,
    }


async def _events(results: list[object]) -> AsyncGenerator[bytes, None]:
    for result in results:
        yield f"data: {json.dumps({'jsonrpc': '2.0', 'id': 1, 'result': result})}\n\n".encode()


async def _numbered(events: TaskEvents, after: int) -> AsyncGenerator[bytes, None]:
    for number, event in enumerate(events, 1):
        if number > after:
            yield f"id: {number}\ndata: {json.dumps(event)}\n\n".encode()
