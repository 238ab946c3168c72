"""Everything below `/a2a/`: from a raw exchange to a call of the gateway and back.

One request reads top to bottom: `handle` finds agent and route, `_read` makes an A2ARequest of it, `_answer` calls the
gateway, `_relay` writes a stream. Errors are rendered once, in `handle`, in the dialect of the caller.
"""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from urllib.parse import unquote

from meshway.edges.a2a.cards import CardRoute, answer_card, card_route
from meshway.edges.a2a.meter import CallMeter
from meshway.edges.a2a.ports import A2AServices
from meshway.edges.http.exchange import Exchange, RequestHead
from meshway.edges.http.headers import timeout_ms_of
from meshway.gateway.ports import AgentCall, AgentReply, AgentStream, CoreReply, Credentials, TaskStream
from meshway.kernel.deadline import Deadline
from meshway.kernel.errors import AgentNotFound, DeadlineExceeded, Draining, MeshwayError, UpstreamBroken
from meshway.kernel.ids import AgentId, ContextId, TaskId
from meshway.kernel.operations import AgentOperation
from meshway.kernel.principal import Principal
from meshway.protocols.a2a.canonical import (
    encode_event,
    encode_result,
    read_push_config,
    read_send,
    read_task_query,
    strip_push_config,
)
from meshway.protocols.a2a.card import serve_extended_card
from meshway.protocols.a2a.dialect import JSONRPC_0_3, JSONRPC_1_0, REST_0_3, REST_1_0, Dialect
from meshway.protocols.a2a.errors import render_error, render_stream_error
from meshway.protocols.a2a.inbound import WireReply
from meshway.protocols.a2a.requests import A2ARequest, RequestRefused, read_jsonrpc, read_rest
from meshway.protocols.a2a.tasklist import encode_task_list, read_list_query
from meshway.tasks.owners import ListFilter
from meshway.tasks.send_terms import SendTerms
from meshway.tasks.values import TaskEvent

__all__ = ["A2AEdge"]

_SSE_HEADERS = ((b"cache-control", b"no-store"), (b"x-accel-buffering", b"no"))
_PREFIX = len(b"/a2a/")
# Compared for each call: a member of an enum class costs more to reach than a name of the module.
_LIST_TASKS, _GET_EXTENDED_CARD = AgentOperation.LIST_TASKS, AgentOperation.GET_EXTENDED_CARD
_STREAM_MESSAGE, _SUBSCRIBE_TASK = AgentOperation.STREAM_MESSAGE, AgentOperation.SUBSCRIBE_TASK


class _CallHead:
    """What the edge makes of a request's head, once per connection while the client repeats itself."""

    __slots__ = (
        "agent",
        "card",
        "chain",
        "content_type",
        "credentials",
        "dialect",
        "extensions",
        "idempotency_key",
        "is_durable",
        "last_event_id",
        "rest",
        "timeout_ms",
        "version",
    )

    def __init__(self, head: RequestHead) -> None:
        """Raises nothing that depends on the moment; a wrong header is remembered as well as a right one."""
        headers = head.headers
        path = head.path[_PREFIX:].decode("ascii", "replace")
        self.agent, _, self.rest = path.partition("/")
        self.card = card_route(self.rest, headers, head.query) if head.method in (b"GET", b"HEAD") else None
        self.version = _text(headers.get(b"a2a-version"))
        if self.version is None and head.query:
            self.version = _query_version(head.query.decode("ascii", "replace"))
        self.extensions = _text(headers.get(b"a2a-extensions") or headers.get(b"x-a2a-extensions"))
        self.content_type = _text(headers.get(b"content-type"))
        self.dialect = _presumed_dialect(self.rest, self.version)
        self.idempotency_key = _text(headers.get(b"idempotency-key"))
        self.chain = _text(headers.get(b"meshway-chain"))
        self.last_event_id = _text(headers.get(b"last-event-id"))
        self.is_durable = headers.get(b"meshway-delivery", b"").strip().lower() == b"durable"
        self.credentials: Credentials | None = None
        self.timeout_ms: int | None = None


class A2AEdge:
    """The raw handler of the first path segment `a2a`."""

    def __init__(self, services: A2AServices) -> None:
        self._services = services
        self._meter = CallMeter(services.metrics)

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request. Never raises but for bugs and cancellation."""
        services = self._services
        head = exchange.head.memo
        if head is None:
            head = exchange.head.memo = _CallHead(exchange.head)
        assert isinstance(head, _CallHead)
        started = services.clock.monotonic_ms()
        request: A2ARequest | None = None
        method, outcome = "unknown", "ok"
        is_known = services.is_agent(head.agent)
        self._meter.in_flight += 1
        try:
            if head.card is not None:
                method = "GetAgentCard"
                self._card(exchange, head.agent, head.card)
                return
            principal = self._principal(exchange.head, head)
            if not is_known:
                raise AgentNotFound(f"There is no agent {head.agent!r} at this hub.", agent=head.agent)
            request = _read(exchange, head)
            method = request.operation.value
            await self._answer(exchange, head, request, principal)
        except RequestRefused as refused:
            outcome = refused.error.code
            _refuse(exchange, refused.error, refused.dialect, refused.request_id, head.agent)
        except MeshwayError as error:
            outcome = error.code
            _refuse(exchange, error, *_dialect_and_id(request, head), head.agent)
        except asyncio.CancelledError:
            outcome = "cancelled"
            cut: MeshwayError = Draining("The hub is shutting down.", retry_after_ms=1_000)
            if not exchange.response_started:
                # A call that began is none that was not taken: its client must not try again without a thought.
                text = "The hub has shut down before the answer came; the agent may have acted."
                cut = UpstreamBroken(text, may_have_acted=True, agent=head.agent)
            _refuse(exchange, cut, *_dialect_and_id(request, head), head.agent)
            raise
        finally:
            self._meter.in_flight -= 1
            # An unknown agent's name is the caller's text: as a label it would grow without bound.
            self._meter.count(
                head.agent if is_known else "", method, outcome, (services.clock.monotonic_ms() - started) / 1000
            )

    def _principal(self, request_head: RequestHead, head: _CallHead) -> Principal:
        if head.credentials is None:
            headers = request_head.headers
            head.timeout_ms = timeout_ms_of(headers)
            head.credentials = self._services.credentials_of(headers)
        return self._services.authenticate(head.credentials)

    def _card(self, exchange: Exchange, agent: str, route: CardRoute) -> None:
        card = self._services.serve_card.execute(
            AgentId(agent), host=exchange.head.headers.get(b"host", b""), want=route
        )
        answer_card(exchange, card)

    async def _answer(self, exchange: Exchange, head: _CallHead, request: A2ARequest, principal: Principal) -> None:
        agent, operation = head.agent, request.operation
        if operation is _LIST_TASKS:
            await self._list_tasks(exchange, agent, request, principal)
            return
        base_url = None
        if operation is _GET_EXTENDED_CARD:
            host = exchange.head.headers.get(b"host", b"")
            base_url = self._services.serve_card.extended_base_url(AgentId(agent), host=host)
            own = self._services.serve_card.own_extended_card(AgentId(agent), host=host)
            if own is not None:
                reply = encode_result(request, own)
                exchange.respond(reply.status, reply.content_type, reply.body)
                return
        call = _call_of(agent, request, head, principal, self._services.trace_of(exchange.head.headers))
        if operation is _STREAM_MESSAGE or operation is _SUBSCRIBE_TASK:
            call.outlet = partial(_pass_on, exchange, request)
        answer = await self._services.call_agent.execute(call, timeout_ms=head.timeout_ms)
        if isinstance(answer, AgentReply):
            if base_url is not None:
                self._extended_card(exchange, answer, request, base_url)
            else:
                exchange.respond(answer.status, answer.content_type, answer.body, answer.headers)
        elif isinstance(answer, CoreReply):
            reply = encode_result(request, answer.core)
            exchange.respond(reply.status, reply.content_type, reply.body)
        else:
            await self._relay(exchange, answer, request, call)

    def _extended_card(self, exchange: Exchange, answer: AgentReply, request: A2ARequest, base_url: str) -> None:
        """The agent's own answer, rewritten as the public card is."""
        given = WireReply(answer.status, answer.content_type, answer.body, None)
        demands_key = self._services.serve_card.demands_key
        reply = serve_extended_card(request, given, base_url=base_url, hub_requires_key=demands_key)
        exchange.respond(reply.status, reply.content_type, reply.body, answer.headers)

    async def _list_tasks(self, exchange: Exchange, agent: str, request: A2ARequest, principal: Principal) -> None:
        query = read_list_query(request)
        wanted = ListFilter(
            context_id=ContextId(query.context_id) if query.context_id is not None else None,
            state=query.status,
            status_after_ms=query.status_timestamp_after_ms,
            page_size=query.page_size,
            page_token=query.page_token,
        )
        page = await self._services.list_tasks.execute(principal, AgentId(agent), wanted)
        documents = await self._services.list_tasks.documents(
            page, history_length=query.history_length, include_artifacts=query.include_artifacts
        )
        body = encode_task_list(
            request,
            page.tasks,
            documents=documents,
            next_page_token=page.next_page_token,
            page_size=query.page_size,
            total_size=page.total_size,
        )
        exchange.respond(200, b"application/json", body)

    async def _relay(
        self, exchange: Exchange, stream: AgentStream | TaskStream, request: A2ARequest, call: AgentCall
    ) -> None:
        """Write events as they come, no faster than the client reads; an error after the head becomes an event.

        The caller's time bounds its wait, not the task.
        """
        self._meter.open_streams += 1
        deadline = call.deadline
        try:
            exchange.start_stream(200, b"text/event-stream", _SSE_HEADERS)
            async with asyncio.timeout_at(None if deadline is None else deadline.at_ms / 1000):
                async for frames in _frames(stream, request):
                    exchange.send(frames)
                    if exchange.must_drain:
                        await exchange.drain()
            exchange.end()
        except TimeoutError:
            exchange.send(render_stream_error(_too_late(deadline), request.dialect, request.request_id))
            exchange.end()
        except MeshwayError as error:
            exchange.send(render_stream_error(error, request.dialect, request.request_id))
            exchange.end()
        finally:
            self._meter.open_streams -= 1
            await stream.aclose()


async def _frames(stream: AgentStream | TaskStream, request: A2ARequest) -> AsyncGenerator[bytes, None]:
    """What is at hand, in the caller's dialect."""
    if isinstance(stream, TaskStream):
        async for events in stream.events:
            yield b"".join([encode_event(request, event.body, event.number) for event in events])
        return
    async for event in stream.events:
        if event.rest is None:
            yield event.frame if event.core is None else encode_event(request, event.core, event.number)
            continue
        async for events in event.rest:
            if len(events) == 1:
                yield encode_event(request, events[0].body, events[0].number)
            else:
                yield b"".join([encode_event(request, each.body, each.number) for each in events])


def _pass_on(exchange: Exchange, request: A2ARequest, event: TaskEvent) -> bool:
    """The outlet of a stream: an event that was just written goes to its client without waking who reads for it."""
    if exchange.must_drain:
        return False
    try:
        frame = encode_event(request, event.body, event.number)
    except Exception:  # noqa: BLE001  others' events are written in this turn of the loop: the reader meets it again
        return False
    exchange.send(frame)
    return True


def _too_late(deadline: Deadline | None) -> DeadlineExceeded:
    wait_ms = 0 if deadline is None else deadline.timeout_ms
    text = f"The stream did not end within {wait_ms} ms (Meshway-Timeout-Ms). A task goes on: subscribe to it."
    return DeadlineExceeded(text, may_have_acted=True)


class _Reader:
    """A CallReader over the wire request."""

    __slots__ = ("_request",)

    def __init__(self, request: A2ARequest) -> None:
        self._request = request

    def send_terms(self) -> SendTerms:
        return read_send(self._request)

    def history_length(self) -> int | None:
        return read_task_query(self._request).history_length

    def push_config(self) -> bytes:
        return read_push_config(self._request)

    def without_push_config(self) -> object:
        return strip_push_config(self._request)


def _call_of(
    agent: str,
    request: A2ARequest,
    head: _CallHead,
    principal: Principal,
    headers: tuple[tuple[bytes, bytes], ...],
) -> AgentCall:
    return AgentCall(
        agent_id=AgentId(agent),
        operation=request.operation,
        principal=principal,
        deadline=None,
        payload=request,
        reader=_Reader(request),
        task_id=TaskId(request.task_id) if request.task_id is not None else None,
        context_id=ContextId(request.context_id) if request.context_id is not None else None,
        message_id=request.message_id,
        config_id=request.config_id,
        version=request.dialect.version.value,
        headers=headers,
        is_durable=head.is_durable,
        idempotency_key=head.idempotency_key,
        chain=head.chain,
        last_event_id=head.last_event_id,
    )


def _read(exchange: Exchange, head: _CallHead) -> A2ARequest:
    version, content_type, extensions = head.version, head.content_type, head.extensions
    if head.rest == "" and exchange.head.method == b"POST":
        return read_jsonrpc(exchange.body, version=version, content_type=content_type, extensions=extensions)
    return read_rest(
        exchange.head.method.decode("ascii"),
        "/" + unquote(head.rest),
        exchange.head.query.decode("ascii", "replace"),
        exchange.body,
        version=version,
        content_type=content_type,
        extensions=extensions,
    )


def _text(value: bytes | None) -> str | None:
    return value.decode("latin-1") if value is not None else None


def _query_version(query: str) -> str | None:
    """`?A2A-Version=1.0` stands for the header (A2A 1.0, 3.6.1)."""
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name.lower() == "a2a-version":
            return unquote(value)
    return None


def _presumed_dialect(rest: str, version: str | None) -> Dialect:
    """The dialect of errors met before the request could be read."""
    if rest == "":
        return JSONRPC_1_0 if (version or "").startswith("1") else JSONRPC_0_3
    return REST_0_3 if rest.startswith("v1/") else REST_1_0


def _dialect_and_id(request: A2ARequest | None, head: _CallHead) -> tuple[Dialect, bytes]:
    return (head.dialect, b"null") if request is None else (request.dialect, request.request_id)


def _refuse(exchange: Exchange, error: MeshwayError, dialect: Dialect, request_id: bytes, agent: str) -> None:
    if exchange.response_complete:
        return
    if exchange.response_started:
        exchange.send(render_stream_error(error, dialect, request_id))
        exchange.end()
        return
    reply = render_error(error, dialect, request_id, agent=agent)
    exchange.respond(reply.status, reply.content_type, reply.body, reply.headers)
