"""Messages through the SDK: events, streams, queues, commands and queries of one hub. MeshwayClient has all of it."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Literal, TypeVar, Unpack

from meshway.client.channel_messages import (
    ChannelInfo,
    ChannelMessage,
    DeadLetter,
    Delivery,
    MessagePage,
    Receipt,
    RedriveStarted,
    RequestMessage,
    RequestReply,
)
from meshway.client.channels import ChannelCalls, ChannelKindName, ReadersApi, start_text
from meshway.client.connection import HubConnection
from meshway.client.errors import HubError
from meshway.client.feeds import EventFeed, StreamFeed
from meshway.client.link import LinkSession
from meshway.client.link_calls import LinkCalls
from meshway.client.outgoing import (
    MessageOptions,
    NewMessage,
    Outgoing,
    is_large,
    large_content,
    outgoing,
    request_body,
)
from meshway.client.owned_tasks import OwnedTasks
from meshway.client.responder import RequestKind, Responder
from meshway.client.sending import Sender, SendKind
from meshway.client.values import Page
from meshway.client.work_sources import HttpSource, LinkSource
from meshway.client.worker import Worker, WorkerOptions
from meshway.messaging.settlements import SettlementItem

__all__ = ["MessagingClient", "Transport"]

Transport = Literal["websocket", "http"]
Message = TypeVar("Message", bound=ChannelMessage)
# Messages of one post of a long list: below the hub's usual bound, and few enough that a refusal is near its cause.
_PART_MESSAGES = 500
_PART_BYTES = 4 * 1024 * 1024


class MessagingClient:
    """What MeshwayClient can do with messages. Names of channels are dot-separated: `orders.eu`.

    Data is anything JSON can say, or bytes; a NewMessage where more than data is to be said. Sends that fail on the way
    (a broken connection, a hub that restarts) are repeated with the same ids for `send_timeout_s`, so that a message is
    kept once. All methods raise the errors of `meshway.client.errors`.
    """

    def __init__(self, connection: HubConnection, *, send_timeout_s: float, transport: Transport) -> None:
        self._connection = connection
        self._tasks = OwnedTasks()
        self._session = LinkSession(connection, self._tasks)
        self._channels = ChannelCalls(connection)
        self._link_calls = LinkCalls(self._session, reach_timeout_s=send_timeout_s)
        self._send_timeout_s = send_timeout_s
        self._transport: Transport = transport
        carrier = self._channels if transport == "http" else self._link_calls
        self._sender = Sender(carrier, self._tasks, timeout_s=send_timeout_s)
        # Positions in streams that the hub keeps.
        self.readers = ReadersApi(connection)

    # --- events ---

    async def publish(self, channel: str, *messages: object) -> list[Receipt]:
        """Send events to whoever listens now: `await client.publish("news.ai", {"title": "..."})`."""
        return await self._send("events", channel, messages)

    def subscribe(self, pattern: str, *, group: str | None = None) -> EventFeed:
        """Listen to events: `async with client.subscribe("news.>") as feed: async for event in feed: ...`.

        `*` stands for one token, a last `>` for the rest. Each event goes to one member of a `group`. Yields
        ChannelMessage, and Missed where events came faster than they were taken, or while the hub was away.
        """
        return EventFeed(self._session, pattern, group=group, start_timeout_s=self._send_timeout_s)

    # --- streams ---

    async def append(self, channel: str, *messages: object) -> list[Receipt]:
        """Add to a stream; each receipt has the message's `sequence`. Kept when this returns."""
        return await self._send("streams", channel, messages)

    async def read(
        self,
        channel: str,
        *,
        from_: str | int | datetime = "first",
        limit: int = 100,
        reader: str | None = None,
        wait_ms: int = 0,
    ) -> MessagePage:
        """A page of a stream from `first`, `new`, `last:N`, a sequence or a time; go on with `from_=page.next_from`.

        An empty page waits up to `wait_ms` for the first message.
        """
        params = {"limit": str(limit), "wait_ms": str(wait_ms)}
        if reader is not None:
            params["reader"] = reader
        else:
            params["from"] = start_text(from_)
        items, next_from = await self._channels.page("streams", channel, params, wait_ms=wait_ms)
        return MessagePage(items=tuple(items), next_from=next_from)

    def tail(
        self,
        pattern: str,
        *,
        from_: str | int | datetime | None = None,
        cursor: str | None = None,
        reader: str | None = None,
    ) -> StreamFeed:
        """Follow streams, first what is kept, then live: `async with client.tail("log", from_="first") as feed: ...`.

        No gap and no repetition, whatever happens to connections. `from_` as in `read`, `new` without it; `cursor` goes
        on after a message (`message.cursor`, `feed.cursor`). With a `reader` the hub keeps the position: a message
        counts as read when the loop comes back for the next one.
        """
        start = None if from_ is None else start_text(from_)
        return StreamFeed(
            self._session, pattern, start=start, cursor=cursor, reader=reader, start_timeout_s=self._send_timeout_s
        )

    # --- queues ---

    async def enqueue(self, queue: str, data: object, **options: Unpack[MessageOptions]) -> Receipt:
        """Put one message into a queue: `await client.enqueue("orders", order, delay_ms=500)`. Kept when this returns.

        The options are the members of NewMessage. Many calls at once travel together, each with its own answer.
        """
        return (await self._send("queues", queue, (NewMessage(data=data, **options),)))[0]

    async def enqueue_many(self, queue: str, messages: Iterable[object]) -> list[Receipt]:
        """Put a list into a queue, in parts of at most 500, each taken or refused as a whole; receipts in order.

        Raises: HubError, whose `accepted` has the ids that were kept before; the rest was not.
        """
        return await self._send("queues", queue, messages)

    def worker(
        self,
        queue: str,
        handler: Callable[[Delivery], Awaitable[object] | object],
        *,
        concurrency: int = 10,
        dead_letter_on: tuple[type[Exception], ...] = (),
        drain_timeout_s: float = 25.0,
        transport: Transport | None = None,
    ) -> Worker:
        """Work on a queue: `await client.worker("orders", handle, concurrency=20).run()`.

        `handler(delivery)` may be async or plain (then it runs in a thread). It leases as many as it has free slots,
        keeps extending what it holds, and drains on SIGTERM. Exceptions in `dead_letter_on` go to the dead letters at
        once, others are retried. `transport="http"` polls, for networks that do not let WebSockets through.
        """
        options = WorkerOptions(concurrency=concurrency, dead_letter_on=dead_letter_on, drain_timeout_s=drain_timeout_s)
        is_polling = (transport or self._transport) == "http"
        source = HttpSource(self._connection, queue) if is_polling else LinkSource(self._session, queue)
        return Worker(queue, handler, source, fetch=self.fetch, options=options)

    async def lease(self, queue: str, *, count: int = 1, wait_ms: int = 0) -> list[Delivery]:
        """Take up to `count` messages by hand, waiting up to `wait_ms` for the first; settle each in its lease."""
        return await self._channels.lease(queue, count=count, wait_ms=wait_ms)

    async def settle(self, queue: str, *settlements: SettlementItem) -> list[Literal["done", "stale"]]:
        """Say what became of deliveries: `SettlementItem(delivery_id=delivery.delivery_id, action="ack")`."""
        return await self._channels.settle(queue, settlements)

    async def ack(self, queue: str, *deliveries: Delivery) -> list[Literal["done", "stale"]]:
        """Acknowledge deliveries. `stale`: the lease was over, somebody else may have the message."""
        items = [SettlementItem(delivery_id=each.delivery_id, action="ack") for each in deliveries]
        return await self._channels.settle(queue, items)

    async def peek(self, queue: str, *, limit: int = 100, cursor: str | None = None) -> Page[ChannelMessage]:
        """Look at waiting messages without taking them."""
        params = {"limit": str(limit)} | ({} if cursor is None else {"cursor": cursor})
        items, next_cursor = await self._channels.page("queues", queue, params)
        return Page(items=tuple(items), next_cursor=next_cursor)

    async def dead_letters(self, queue: str, *, limit: int = 100, cursor: str | None = None) -> Page[DeadLetter]:
        """Messages that used up their attempts or were rejected, with the reason and their history, oldest first."""
        return await self._channels.dead_letters(queue, limit=limit, cursor=cursor)

    async def redrive(
        self, queue: str, *, ids: Sequence[str] | None = None, rate_per_s: float | None = None
    ) -> RedriveStarted:
        """Put dead letters back into their queue, all without `ids`; attempts start again at 1."""
        return await self._channels.redrive(queue, ids=ids, rate_per_s=rate_per_s)

    async def purge(self, queue: str) -> int:
        """Drop all waiting messages of a queue. How many there were."""
        return await self._channels.purge(queue)

    # --- commands and queries ---

    async def command(
        self,
        channel: str,
        data: object = None,
        *,
        timeout_ms: int | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> RequestReply:
        """Have one responder do something, and wait for its answer. Sent once, never repeated.

        Raises: HubError `no_responder` at once where nobody answers on the channel, `deadline_exceeded` after
        `timeout_ms`; ConnectionLost: it may have been done.
        """
        return await self._request("commands", channel, data, timeout_ms=timeout_ms, attributes=attributes)

    async def query(
        self,
        channel: str,
        data: object = None,
        *,
        timeout_ms: int | None = None,
        attributes: Mapping[str, str] | None = None,
        cache_key: str | None = None,
        cache_ttl_ms: int | None = None,
    ) -> RequestReply:
        """Ask one responder. With `cache_key` and `cache_ttl_ms` the hub keeps the reply and gives it to all who ask
        with the same key; `reply.cache` says `hit` or `miss`. Raises: as `command`."""
        return await self._request(
            "queries",
            channel,
            data,
            timeout_ms=timeout_ms,
            attributes=attributes,
            cache_key=cache_key,
            cache_ttl_ms=cache_ttl_ms,
        )

    def responder(
        self,
        channel: str,
        handler: Callable[[RequestMessage], Awaitable[object] | object],
        *,
        kind: RequestKind = "queries",
        concurrency: int = 10,
        drain_timeout_s: float = 25.0,
    ) -> Responder:
        """Answer commands or queries: `await client.responder("prices.>", look_up).run()`.

        What `handler(request)` returns is the reply's data; `Refused("why")` and other exceptions say that it was not
        done.
        """
        return Responder(
            channel,
            handler,
            self._session,
            kind=kind,
            concurrency=concurrency,
            drain_timeout_s=drain_timeout_s,
            fetch=self.fetch,
        )

    # --- channels ---

    async def put_channel(self, kind: ChannelKindName, channel: str, **settings: object) -> ChannelInfo:
        """Settings of a channel, all of them: `await client.put_channel("queues", "orders", lease_ms=60_000)`."""
        return await self._channels.put_channel(kind, channel, settings)

    async def channel_info(self, kind: ChannelKindName, channel: str) -> ChannelInfo:
        """Settings and live figures."""
        return await self._channels.channel_info(kind, channel)

    async def list_channels(
        self,
        kind: ChannelKindName,
        *,
        prefix: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[ChannelInfo]:
        """Channels of one kind, by name."""
        return await self._channels.list_channels(kind, prefix=prefix, limit=limit, cursor=cursor)

    async def delete_channel(self, kind: ChannelKindName, channel: str) -> None:
        """Forget a channel with everything in it."""
        await self._channels.delete_channel(kind, channel)

    async def fetch(self, message: Message) -> Message:
        """The message with its data where that lies in the hub's blob store (`message.data_ref`), else as it is."""
        return await self._channels.fetch(message)

    async def aclose(self) -> None:
        """End what runs in the background, close all connections. Feeds and workers must have been left before."""
        await self._tasks.aclose()
        await self._connection.aclose()

    async def _send(self, kind: SendKind, channel: str, messages: Iterable[object]) -> list[Receipt]:
        receipts: list[Receipt] = []
        part: list[Outgoing] = []
        size = 0
        for message in messages:
            one = await self._outgoing(message)
            if part and (len(part) >= _PART_MESSAGES or size + len(one.document) > _PART_BYTES):
                receipts += await self._send_part(kind, channel, part, receipts)
                part, size = [], 0
            part.append(one)
            size += len(one.document)
        if part:
            receipts += await self._send_part(kind, channel, part, receipts)
        return receipts

    async def _send_part(
        self, kind: SendKind, channel: str, part: Sequence[Outgoing], before: Sequence[Receipt]
    ) -> Sequence[Receipt]:
        try:
            return await self._sender.send(kind, channel, part)
        except HubError as error:
            if before:
                error.accepted = (*(receipt.id for receipt in before), *error.accepted)
            raise

    async def _outgoing(self, message: object) -> Outgoing:
        one = outgoing(message)
        if not is_large(one):
            return one
        content, encoding = large_content(message)
        sha256 = await self._channels.store_blob(content)
        return outgoing(
            message, message_id=one.id, data_ref={"sha256": sha256, "size": len(content), "encoding": encoding}
        )

    async def _request(
        self,
        kind: RequestKind,
        channel: str,
        data: object,
        *,
        timeout_ms: int | None,
        attributes: Mapping[str, str] | None,
        cache_key: str | None = None,
        cache_ttl_ms: int | None = None,
    ) -> RequestReply:
        if self._transport == "http" or isinstance(data, bytes | bytearray | memoryview):
            body = request_body(
                data, timeout_ms=timeout_ms, attributes=attributes, cache_key=cache_key, cache_ttl_ms=cache_ttl_ms
            )
            return await self._channels.request(kind, channel, body)
        return await self._link_calls.request(
            kind,
            channel,
            data,
            timeout_ms=timeout_ms,
            attributes=attributes,
            cache_key=cache_key,
            cache_ttl_ms=cache_ttl_ms,
        )
