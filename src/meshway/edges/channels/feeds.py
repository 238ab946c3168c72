"""Reading channels over HTTP: feeds of events and streams, and pages of a stream."""

import msgspec

from meshway.edges.channels.call import Call, KeyCheck
from meshway.edges.channels.feed import relay_feed
from meshway.edges.channels.meter import ChannelMeter
from meshway.edges.channels.ports import ChannelEdgeServices
from meshway.edges.http.exchange import Exchange
from meshway.edges.rest.channel_models import EventsQuery, StreamPageQuery, TailQuery
from meshway.kernel.principal import Principal
from meshway.messaging.events import MissedEvents
from meshway.messaging.stream_items import StreamItem, StreamPage
from meshway.protocols.sse import frame

__all__ = ["Feeds"]

_JSON = b"application/json"
_NO_STORE = ((b"cache-control", b"no-store"),)
_encode = msgspec.json.Encoder().encode


class Feeds:
    """A feed is answered once its subscription is active: what is sent after its head arrives."""

    def __init__(self, services: ChannelEdgeServices, meter: ChannelMeter) -> None:
        self._services = services
        self._events = services.use_cases.subscribe_events
        self._streams = services.use_cases.read_stream
        self._meter = meter

    async def subscribe(self, exchange: Exchange, call: Call, principal: Principal) -> int:
        query = call.query(EventsQuery)
        async with self._events.open(principal, call.name, group=query.group) as events:
            self._meter.open_feeds += 1
            try:
                welcome = KeyCheck(call, self._services)
                await relay_feed(exchange, events.take, _event_frame, still_welcome=welcome)
            finally:
                self._meter.open_feeds -= 1
        return 200

    async def tail(self, exchange: Exchange, call: Call, principal: Principal) -> int:
        query = call.query(TailQuery)
        # Browsers repeat the URL they began with when they come back: where they stopped counts more.
        cursor = call.head.headers.get(b"last-event-id", b"").decode("latin-1") or None
        tailed = self._streams.tail(principal, call.name, start=query.start, cursor=cursor, reader=query.reader)
        async with tailed as tail:
            self._meter.open_feeds += 1
            try:
                welcome = KeyCheck(call, self._services)
                await relay_feed(exchange, tail.take, _stream_frame, still_welcome=welcome)
            finally:
                self._meter.open_feeds -= 1
        return 200

    async def page(self, exchange: Exchange, call: Call, principal: Principal) -> int:
        query = call.query(StreamPageQuery)
        page: StreamPage | None = None
        if query.wait_ms:
            with exchange.until_drain():
                page = await self._page(call, principal, query, wait_ms=query.wait_ms)
        if page is None:
            page = await self._page(call, principal, query, wait_ms=0)
        exchange.respond(200, _JSON, _rendered(page), _NO_STORE)
        return 200

    async def _page(self, call: Call, principal: Principal, query: StreamPageQuery, *, wait_ms: int) -> StreamPage:
        return await self._streams.page(
            principal,
            call.name,
            start=query.cursor or query.start,
            reader=None if query.cursor else query.reader,
            limit=query.limit,
            wait_ms=wait_ms,
        )


def _rendered(page: StreamPage) -> bytes:
    """A page that was not cut ends at the present end: lists are over where there is no next cursor."""
    documents = b",".join([item.document for item in page.items])
    next_from = _encode(page.next_start)
    next_cursor = next_from if page.is_cut else b"null"
    return b'{"items":[%b],"next_cursor":%b,"next_from":%b}' % (documents, next_cursor, next_from)


def _event_frame(item: bytes | MissedEvents) -> bytes:
    if isinstance(item, bytes):
        # Documents hold no line break.
        return b"data: %b\n\n" % item
    return frame(_encode(item), event=b"missed")


def _stream_frame(item: StreamItem) -> bytes:
    return b"id: %b\ndata: %b\n\n" % (item.cursor.encode(), item.document)
