"""The entrance of all data calls of channels: who is asked, what is answered when it fails, and what is counted."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from meshway.edges.channels.blobs import BlobReads
from meshway.edges.channels.call import Call
from meshway.edges.channels.feeds import Feeds
from meshway.edges.channels.meter import ChannelMeter
from meshway.edges.channels.paths import DataCall, find_data_call
from meshway.edges.channels.ports import ChannelEdgeServices
from meshway.edges.channels.posts import Posts
from meshway.edges.channels.queues import Queues
from meshway.edges.channels.requests import Requests
from meshway.edges.http.exchange import Exchange, ExchangeHandler
from meshway.edges.http.problems import PROBLEM_MEDIA_TYPE, render_problem
from meshway.kernel.errors import Draining, EngineError, MeshwayError
from meshway.kernel.principal import Principal

__all__ = ["ChannelsEdge"]

_log = structlog.get_logger()

# Answers one call and says with which status. Raises: MeshwayError where nothing was answered yet.
_Operation = Callable[[Exchange, Call, Principal], Awaitable[int]]

_PROBLEM = PROBLEM_MEDIA_TYPE.encode()
# What the metrics count a client as that left before its answer (nginx's number for it).
_CLIENT_LEFT = 499
# How long these take is up to their callers, so their times would say nothing about the hub.
_WAITING = frozenset(
    {"fetch_blob", "lease_messages", "lease_requests", "read_stream", "subscribe_events", "tail_stream"}
)


class ChannelsEdge:
    """`route` is what the HTTP server asks with each new request head."""

    def __init__(self, services: ChannelEdgeServices) -> None:
        self._services = services
        self._meter = ChannelMeter(services.metrics)
        posts, queues = Posts(services.use_cases), Queues(services.use_cases, services.clock)
        requests, feeds = Requests(services.use_cases), Feeds(services, self._meter)
        self._operations: Mapping[str, _Operation] = {
            "append_to_stream": posts.append,
            "enqueue_messages": posts.enqueue,
            "fetch_blob": BlobReads(services.use_cases).fetch,
            "lease_messages": queues.lease,
            "lease_requests": requests.lease,
            "peek_queue": queues.peek,
            "publish_events": posts.publish,
            "read_stream": feeds.page,
            "reply_to_request": requests.reply,
            "send_request": requests.send,
            "settle_deliveries": queues.settle,
            "subscribe_events": feeds.subscribe,
            "tail_stream": feeds.tail,
        }

    def route(self, method: bytes, path: bytes) -> ExchangeHandler | None:
        """The handler of a data call; None for everything else."""
        place = find_data_call(method, path)
        if place is None:
            return None
        return _Entrance(self._services, self._meter, self._operations[place.operation], place).handle


class _Entrance:
    """One place for requests with one head; lives as long as its client repeats it."""

    __slots__ = ("_answer", "_is_timed", "_meter", "_place", "_services")

    def __init__(self, services: ChannelEdgeServices, meter: ChannelMeter, answer: _Operation, place: DataCall) -> None:
        self._services = services
        self._meter = meter
        self._answer = answer
        self._place = place
        self._is_timed = place.operation not in _WAITING

    async def handle(self, exchange: Exchange) -> None:
        """Answer one request. Never raises but for bugs and cancellation."""
        services = self._services
        started = services.clock.monotonic_ms()
        status = 500
        try:
            call = exchange.head.memo
            if call is None:
                call = exchange.head.memo = Call(self._place, exchange.head, services)
            assert isinstance(call, Call)
            principal = services.authenticate(call.credentials)
            status = await self._answer(exchange, call, principal)
        except MeshwayError as error:
            status = self._refuse(exchange, error)
        except asyncio.CancelledError:
            status = _CLIENT_LEFT
            if not exchange.response_complete:
                # Not the client: the hub has waited for this call as long as it may.
                status = self._refuse(exchange, Draining("The hub is shutting down.", retry_after_ms=1_000))
            raise
        finally:
            seconds = (services.clock.monotonic_ms() - started) / 1000 if self._is_timed else None
            self._meter.count(self._place.operation, status, seconds)

    def _refuse(self, exchange: Exchange, error: MeshwayError) -> int:
        rendered = render_problem(error)
        if isinstance(error, EngineError):
            _log.warning(
                "channel_request_not_served", operation=self._place.operation, code=error.code, detail=error.detail
            )
        if exchange.response_complete:
            return rendered.status
        if exchange.response_started:
            # An answer that broke off must not look whole.
            exchange.abort()
            return rendered.status
        headers = [(name.lower().encode(), value.encode()) for name, value in rendered.headers.items()]
        exchange.respond(rendered.status, _PROBLEM, rendered.body, [*headers, (b"cache-control", b"no-store")])
        return rendered.status
