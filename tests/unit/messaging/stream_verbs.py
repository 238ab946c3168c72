"""The verbs of streams, readers, channels and blobs over an embedded engine, for the tests of this room."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from meshway.engine.embedded import EmbeddedSettings, open_embedded_engine
from meshway.engine.ports import BlobRef
from meshway.gateway.admission import Admission
from meshway.gateway.append_to_stream import AppendToStream
from meshway.gateway.channel_places import ChannelPlaces
from meshway.gateway.fetch_blob import FetchBlob
from meshway.gateway.manage_channels import ManageChannels
from meshway.gateway.manage_readers import ManageReaders
from meshway.gateway.read_stream import ReadStream
from meshway.gateway.store_blob import StoreBlob
from meshway.kernel.errors import StorageFull
from meshway.kernel.ids import PrincipalId
from meshway.kernel.metrics import NullMetrics
from meshway.kernel.principal import Principal, Scope
from meshway.messaging.activity import Activity
from meshway.messaging.channels import ChannelBook
from meshway.messaging.incoming import IncomingMessage
from meshway.messaging.payloads import PayloadStore
from meshway.messaging.readers import ReaderStore
from meshway.messaging.retention import StreamRetention
from meshway.messaging.settings import MessagingSettings
from meshway.messaging.subscription_places import SubscriptionPlaces

ANN = Principal(PrincipalId("ann"), frozenset({Scope("call")}))
BOB = Principal(PrincipalId("bob"), frozenset({Scope("call")}))
ADMIN = Principal(PrincipalId("root"), frozenset({Scope("admin")}))


class WatchedLog:
    """A log that tells what is done with it, where nothing else tells a test; `fail_trims` makes so many trims fail."""

    def __init__(self, log):
        self._log = log
        self.open_tails = 0
        self.looked = []
        self.trimmed = []
        self.dropped = 0
        self.fail_trims = 0

    def __getattr__(self, name):
        return getattr(self._log, name)

    def forget(self):
        self.looked, self.trimmed = [], []

    async def bounds(self, subjects):
        self.looked += subjects
        return await self._log.bounds(subjects)

    async def trim(self, trims):
        self.trimmed += [trim.subject for trim in trims]
        if self.fail_trims:
            self.fail_trims -= 1
            raise StorageFull("asked for by the test")
        dropped = await self._log.trim(trims)
        self.dropped += sum(dropped)
        return dropped

    @asynccontextmanager
    async def tail(self, pattern, start):
        async with self._log.tail(pattern, start) as tail:
            self.open_tails += 1
            try:
                yield tail
            finally:
                self.open_tails -= 1


class StreamHub:
    """What assembly wires, with tests' clock; one ChannelBook that follows the store."""

    def __init__(self, engine, clock, **settings):
        self.engine = engine
        self.clock = clock
        self.settings = MessagingSettings(**settings)
        self.log = WatchedLog(engine.log)
        self.book = ChannelBook(engine.key_value, engine.queue_admin, settings=self.settings, clock=clock)
        self.payloads = PayloadStore(engine.blobs, self.settings, clock=clock)
        self.readers_store = ReaderStore(engine.key_value, engine.log, clock=clock)
        self.retention = StreamRetention(self.log, self.book, settings=self.settings, clock=clock)
        self.activity = Activity(NullMetrics())
        self.subscriptions = SubscriptionPlaces(subscriptions_max=self.settings.subscriptions_max)
        admission = Admission(calls_in_flight_max=10)
        places = ChannelPlaces(
            admission=admission,
            channels=self.book,
            readers=self.readers_store,
            payloads=self.payloads,
            log=self.log,
            clock=clock,
            settings=self.settings,
        )
        self.append = AppendToStream(places, self.retention)
        self.read = ReadStream(places, self.subscriptions)
        self.readers = ManageReaders(places)
        self.channels = ManageChannels(places, engine.queue, engine.queue_admin, self.activity)
        self.store_blob = StoreBlob(engine.blobs, admission, settings=self.settings)
        self.fetch_blob = FetchBlob(engine.blobs, admission)

    async def post(self, channel, *data, who=ANN):
        """Append each value as a message; the receipts."""
        return await self.append.execute(who, channel, [a_message(each) for each in data])

    async def page(self, channel, start="first", *, limit=500, **more):
        """What a page holds, as (sequence, data), and the page."""
        page = await self.read.page(ANN, channel, start=start, limit=limit, **more)
        return [(item.sequence, data_of(item)) for item in page.items], page

    async def page_of_documents(self, channel):
        """All messages of a stream, whole."""
        page = await self.read.page(ANN, channel, start="first", limit=500)
        return [json.loads(item.document) for item in page.items]

    async def content(self, sha256):
        """The bytes of a blob."""
        async with self.fetch_blob.open(ANN, sha256) as blob:
            return b"".join([chunk async for chunk in blob.chunks])

    async def blob(self, content) -> BlobRef:
        return await self.store_blob.execute(ANN, pieces(content))


async def pieces(content, size=1000) -> AsyncIterator[bytes]:
    for begin in range(0, len(content), size):
        yield content[begin : begin + size]


def a_message(data=None, **members):
    return IncomingMessage(data=msgspec.Raw(json.dumps(data).encode()), **members)


def data_of(item):
    return json.loads(item.document)["data"]


@asynccontextmanager
async def stream_hub(folder, clock, **settings):
    engine = await open_embedded_engine(folder, settings=EmbeddedSettings(), clock=clock, metrics=NullMetrics())
    try:
        async with following(StreamHub(engine, clock, **settings)) as hub:
            yield hub
    finally:
        await engine.close()


@asynccontextmanager
async def following(hub):
    """The hub while its book follows the store."""
    async with asyncio.TaskGroup() as group:
        duty = group.create_task(hub.book.run())
        async with asyncio.timeout(10):
            await hub.book.wait_ready()
        try:
            yield hub
        finally:
            duty.cancel()


async def until(condition):
    for _ in range(5_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")
