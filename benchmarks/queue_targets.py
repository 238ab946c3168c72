"""Three brokers behind one small interface, each through its own Python client as its users would write it."""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import cast

import nats
import nats.errors
import redis.asyncio
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, RetentionPolicy, StreamConfig
from redis.exceptions import ResponseError

from meshway.client import Delivery, MeshwayClient, RequestMessage

__all__ = ["TARGETS", "Target"]

# Told how many messages were settled or received.
Counted = Callable[[int], None]
_BATCH = 256
# Stream, then entries of id and fields: what redis-py answers where its types say "anything".
_Entries = list[tuple[str, list[tuple[str, object]]]]
_QUEUE, _STREAM, _EVENTS, _COMMAND = "bench.work", "bench.log", "bench.news", "bench.ask"


class Target(ABC):
    """One broker. Used as an async context; every sending call returns when the broker has answered."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    async def __aenter__(self) -> "Target": ...

    @abstractmethod
    async def __aexit__(self, *failure: object) -> None: ...

    @abstractmethod
    async def enqueue(self, body: str) -> None:
        """Put one message into the work queue, durably."""

    async def append(self, body: str) -> None:
        """Append one message to the replayable log, durably."""
        await self.enqueue(body)

    @abstractmethod
    async def publish(self, body: str) -> None:
        """Tell whoever listens."""

    async def command(self, body: str) -> None:
        """Ask the responder and wait for its reply."""
        raise LookupError("this broker has no request and reply")

    @abstractmethod
    def working(self, settled: Counted) -> AbstractAsyncContextManager[None]:
        """One worker that takes batches of 256 and settles each message."""

    @abstractmethod
    def tailing(self, count: int, received: Counted) -> AbstractAsyncContextManager[None]:
        """So many readers of the log, from now on."""

    @abstractmethod
    def listening(self, count: int, received: Counted) -> AbstractAsyncContextManager[None]:
        """So many subscribers to the events."""

    @asynccontextmanager
    async def responding(self) -> AsyncIterator[None]:
        """One responder."""
        yield


class _Hub(Target):
    async def __aenter__(self) -> Target:
        url, _, key = self.url.partition("#")
        self._client = await MeshwayClient(url, key or None).__aenter__()
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._client.aclose()

    async def enqueue(self, body: str) -> None:
        await self._client.enqueue(_QUEUE, body)

    async def append(self, body: str) -> None:
        await self._client.append(_STREAM, body)

    async def publish(self, body: str) -> None:
        await self._client.publish(_EVENTS, body)

    async def command(self, body: str) -> None:
        await self._client.command(_COMMAND, body)

    @asynccontextmanager
    async def working(self, settled: Counted) -> AsyncIterator[None]:
        async def handle(message: Delivery) -> None:
            settled(1)

        async with self._client.worker(_QUEUE, handle, concurrency=_BATCH):
            yield

    @asynccontextmanager
    async def tailing(self, count: int, received: Counted) -> AsyncIterator[None]:
        async def read() -> None:
            async with self._client.tail(_STREAM) as messages:
                async for _ in messages:
                    received(1)

        async with _many(count, read):
            yield

    @asynccontextmanager
    async def listening(self, count: int, received: Counted) -> AsyncIterator[None]:
        async def read() -> None:
            async with self._client.subscribe(_EVENTS) as messages:
                async for _ in messages:
                    received(1)

        async with _many(count, read):
            yield

    @asynccontextmanager
    async def responding(self) -> AsyncIterator[None]:
        async def answer(message: RequestMessage) -> object:
            return message.data

        async with self._client.responder(_COMMAND, answer, kind="commands") as responder:
            await responder.ready()
            yield


class _Redis(Target):
    """Streams; a message that is acknowledged is deleted too, as a queue would."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        # A blocking read of this client outlives its cancellation; it ends by itself within its second.
        self._is_reading = True

    async def __aenter__(self) -> Target:
        # A connection a caller: "not pipelined" means that each waits for its own answer.
        self._redis = redis.asyncio.Redis.from_url(self.url, max_connections=1_000)
        with contextlib.suppress(ResponseError):
            await self._redis.xgroup_create(_QUEUE, "workers", mkstream=True)
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._redis.aclose()

    async def enqueue(self, body: str) -> None:
        await self._redis.xadd(_QUEUE, {"data": body})

    async def append(self, body: str) -> None:
        await self._redis.xadd(_STREAM, {"data": body})

    async def publish(self, body: str) -> None:
        await self._redis.publish(_EVENTS, body)

    @asynccontextmanager
    async def working(self, settled: Counted) -> AsyncIterator[None]:
        async def work() -> None:
            while self._is_reading:
                answer = cast(
                    "_Entries", await self._redis.xreadgroup("workers", "one", {_QUEUE: ">"}, count=_BATCH, block=1_000)
                )
                if not answer:
                    continue
                ids = [entry[0] for entry in answer[0][1]]
                async with self._redis.pipeline(transaction=False) as pipeline:
                    pipeline.xack(_QUEUE, "workers", *ids)
                    pipeline.xdel(_QUEUE, *ids)
                    await pipeline.execute()
                settled(len(ids))

        async with _many(1, work):
            yield
            self._is_reading = False

    @asynccontextmanager
    async def tailing(self, count: int, received: Counted) -> AsyncIterator[None]:
        async def read() -> None:
            last = "$"
            while self._is_reading:
                answer = cast("_Entries", await self._redis.xread({_STREAM: last}, count=_BATCH, block=1_000))
                if answer:
                    last = answer[0][1][-1][0]
                    received(len(answer[0][1]))

        async with _many(count, read):
            yield
            self._is_reading = False

    @asynccontextmanager
    async def listening(self, count: int, received: Counted) -> AsyncIterator[None]:
        async def read() -> None:
            async with self._redis.pubsub() as pubsub:
                await pubsub.subscribe(_EVENTS)
                async for message in pubsub.listen():
                    if message["type"] == "message":
                        received(1)

        async with _many(count, read):
            yield


class _Nats(Target):
    """JetStream: a work-queue stream and a limits stream; core NATS for events and requests."""

    async def __aenter__(self) -> Target:
        self._nats = await nats.connect(self.url, pending_size=64 * 1024 * 1024)
        self._stream = self._nats.jetstream(publish_async_max_pending=4_000)
        await self._stream.add_stream(
            StreamConfig(name="WORK", subjects=[_QUEUE], retention=RetentionPolicy.WORK_QUEUE)
        )
        await self._stream.add_stream(StreamConfig(name="LOG", subjects=[_STREAM]))
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._nats.close()

    async def enqueue(self, body: str) -> None:
        await self._stream.publish(_QUEUE, body.encode(), timeout=30)

    async def append(self, body: str) -> None:
        await self._stream.publish(_STREAM, body.encode(), timeout=30)

    async def publish(self, body: str) -> None:
        await self._nats.publish(_EVENTS, body.encode())

    async def command(self, body: str) -> None:
        await self._nats.request(_COMMAND, body.encode(), timeout=30)

    @asynccontextmanager
    async def working(self, settled: Counted) -> AsyncIterator[None]:
        config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, max_ack_pending=10_000)
        pulled = await self._stream.pull_subscribe(_QUEUE, durable="workers", stream="WORK", config=config)

        async def work() -> None:
            while True:
                try:
                    messages = await pulled.fetch(_BATCH, timeout=1)
                except nats.errors.TimeoutError:
                    continue
                for message in messages:
                    await message.ack()
                settled(len(messages))

        async with _many(1, work):
            yield

    @asynccontextmanager
    async def tailing(self, count: int, received: Counted) -> AsyncIterator[None]:
        async def each(message: Msg) -> None:
            received(1)

        for _ in range(count):
            await self._stream.subscribe(
                _STREAM,
                stream="LOG",
                cb=each,
                ordered_consumer=True,
                config=ConsumerConfig(deliver_policy=DeliverPolicy.NEW),
            )
        yield

    @asynccontextmanager
    async def listening(self, count: int, received: Counted) -> AsyncIterator[None]:
        async def each(message: Msg) -> None:
            received(1)

        for _ in range(count):
            await self._nats.subscribe(_EVENTS, cb=each, pending_msgs_limit=1_000_000)
        yield

    @asynccontextmanager
    async def responding(self) -> AsyncIterator[None]:
        async def answer(message: Msg) -> None:
            await message.respond(message.data)

        await self._nats.subscribe(_COMMAND, cb=answer)
        yield


@asynccontextmanager
async def _many(count: int, work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """So many tasks beside the block, ended with it."""

    async def one() -> None:
        await work()

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one()) for _ in range(count)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


TARGETS: dict[str, type[Target]] = {"hub": _Hub, "redis": _Redis, "nats": _Nats}
