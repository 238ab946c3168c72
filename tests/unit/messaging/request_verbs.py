"""Events, commands and queries on an engine in memory, wired as a hub wires them; and what tests ask of them."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import msgspec

from meshway.engine.embedded.bus import EmbeddedBus
from meshway.engine.ports import BlobRef
from meshway.gateway.admission import Admission
from meshway.gateway.answer_requests import AnswerRequests, Responder
from meshway.gateway.publish_events import PublishEvents
from meshway.gateway.reply_tickets import ReplyTickets
from meshway.gateway.send_request import SendRequest
from meshway.gateway.subscribe_events import SubscribeEvents
from meshway.kernel.clock import Clock, SystemClock
from meshway.kernel.ids import PrincipalId
from meshway.kernel.metrics import NullMetrics
from meshway.kernel.principal import LOCAL_OPERATOR, Principal, Scope
from meshway.messaging.activity import Activity
from meshway.messaging.channels import ChannelBook
from meshway.messaging.incoming import IncomingMessage
from meshway.messaging.names import ChannelKind
from meshway.messaging.payloads import PayloadStore
from meshway.messaging.reply_cache import ReplyCache
from meshway.messaging.requests import ReplyIn, RequestIn, RequestReply
from meshway.messaging.responders import ResponderPools
from meshway.messaging.settings import MessagingSettings
from meshway.messaging.subscription_places import SubscriptionPlaces
from meshway.security.secret_box import AesGcmBox
from meshway.testing.fake_key_value import FakeKeyValue

COMMANDS, QUERIES = ChannelKind.COMMANDS, ChannelKind.QUERIES
OUTSIDER = Principal(PrincipalId("outsider"), frozenset({Scope("serve", "x")}))
SECRET_KEY = b"k" * 32


class FakeBlobs:
    """Contents by name; `ttls` is what each was last stored with."""

    def __init__(self):
        self.contents: dict[str, bytes] = {}
        self.ttls: list[int | None] = []

    async def put(self, chunks, *, ttl_ms=None):
        content = b"".join([chunk async for chunk in chunks])
        sha256 = f"{len(self.contents):064x}"
        self.contents[sha256] = content
        self.ttls.append(ttl_ms)
        return BlobRef(sha256=sha256, size=len(content))

    async def stat(self, names):
        return [
            BlobRef(sha256=each, size=len(self.contents[each])) if each in self.contents else None for each in names
        ]


@dataclass
class Verbs:
    """One hub's worth."""

    bus: EmbeddedBus
    key_value: FakeKeyValue
    blobs: FakeBlobs
    activity: Activity
    channels: ChannelBook
    pools: ResponderPools
    places: SubscriptionPlaces
    publish_events: PublishEvents
    subscribe_events: SubscribeEvents
    send_request: SendRequest
    answer_requests: AnswerRequests

    async def ask(self, kind: ChannelKind, channel: str, **members: object) -> RequestReply:
        header_ms = members.pop("header_ms", None)
        data = msgspec.Raw(msgspec.json.encode(members.pop("data", None)))
        request = RequestIn(data=data, **members)
        return await self.send_request.execute(LOCAL_OPERATOR, kind, channel, request, timeout_ms=header_ms)

    async def reply(
        self, kind: ChannelKind, request_id: str, data: object = "ok", *, channel: str | None = None
    ) -> str:
        answer = ReplyIn(request_id=request_id, data=msgspec.Raw(msgspec.json.encode(data)))
        return await self.answer_requests.reply(LOCAL_OPERATOR, kind, channel, answer)

    def join(self, kind: ChannelKind, pattern: str) -> AbstractAsyncContextManager[Responder]:
        return self.answer_requests.join(LOCAL_OPERATOR, kind, pattern)

    @asynccontextmanager
    async def answering(self, kind: ChannelKind, pattern: str, answer: Callable[[dict], object]) -> AsyncIterator[list]:
        """A responder that replies with what `answer` makes of each document; the documents it got."""
        got: list[dict] = []

        async def serve(responder: Responder) -> None:
            while True:
                for held in await responder.take(16):
                    document = msgspec.json.decode(held.document)
                    got.append(document)
                    await self.reply(kind, held.request_id, answer(document))

        async with self.join(kind, pattern) as responder, running(serve(responder)):
            yield got


@asynccontextmanager
async def running(*duties) -> AsyncIterator[None]:
    """Coroutines that run beside the block and end with it."""
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(each) for each in duties]
        try:
            yield
        finally:
            for task in started:
                task.cancel()


def unrun_verbs(
    bus: EmbeddedBus, key_value: FakeKeyValue, *, settings: MessagingSettings, clock: Clock
) -> tuple[Verbs, ReplyCache]:
    blobs, activity = FakeBlobs(), Activity(NullMetrics())
    admission = Admission(calls_in_flight_max=10)
    channels = ChannelBook(key_value, None, settings=settings, clock=clock)
    payloads = PayloadStore(blobs, settings, clock=clock)
    places = SubscriptionPlaces(subscriptions_max=settings.subscriptions_max)
    pools = ResponderPools(bus, settings=settings, clock=clock)
    cache = ReplyCache(key_value, settings=settings, clock=clock)
    verbs = Verbs(
        bus=bus, key_value=key_value, blobs=blobs, activity=activity, channels=channels, pools=pools, places=places,
        publish_events=PublishEvents(bus, payloads, activity, admission=admission, settings=settings, clock=clock),
        subscribe_events=SubscribeEvents(bus, activity, admission=admission, places=places, settings=settings),
        send_request=SendRequest(
            bus, channels, payloads, activity, cache=cache, admission=admission, settings=settings, clock=clock
        ),
        answer_requests=AnswerRequests(
            bus, pools, ReplyTickets(AesGcmBox(SECRET_KEY)), activity,
            admission=admission, places=places, settings=settings, clock=clock,
        ),
    )  # fmt: skip
    return verbs, cache


@asynccontextmanager
async def open_verbs(
    bus: EmbeddedBus | None = None, *, clock: Clock | None = None, **settings: int
) -> AsyncIterator[Verbs]:
    """One hub; give two the same bus and they are a mesh."""
    verbs, cache = unrun_verbs(
        bus or EmbeddedBus(), FakeKeyValue(), settings=MessagingSettings(**settings), clock=clock or SystemClock()
    )
    async with running(verbs.pools.run(), cache.run()):
        await asyncio.sleep(0)
        yield verbs


async def until(question: Callable[[], object]) -> None:
    """Until the answer is a true one, for at most 5 s."""
    async with asyncio.timeout(5):
        while not question():  # noqa: ASYNC110 - any condition, not only one that has an event
            await asyncio.sleep(0.001)


def message(data: object = 1, **members: object) -> IncomingMessage:
    return IncomingMessage(data=msgspec.Raw(msgspec.json.encode(data)), **members)
