"""The room of channels made and started: its books and duties, and the verbs on top of them."""

from dataclasses import dataclass

from meshway.assembly.mesh import Mesh
from meshway.engine.ports import Engine
from meshway.gateway.admission import Admission
from meshway.gateway.answer_requests import AnswerRequests
from meshway.gateway.append_to_stream import AppendToStream
from meshway.gateway.channel_places import ChannelPlaces
from meshway.gateway.channel_use_cases import ChannelUseCases
from meshway.gateway.enqueue_messages import EnqueueMessages
from meshway.gateway.fetch_blob import FetchBlob
from meshway.gateway.inspect_queue import InspectQueue
from meshway.gateway.lease_messages import LeaseMessages
from meshway.gateway.manage_channels import ManageChannels
from meshway.gateway.manage_readers import ManageReaders
from meshway.gateway.ports import SecretBox
from meshway.gateway.publish_events import PublishEvents
from meshway.gateway.purge_queue import PurgeQueue
from meshway.gateway.queue_places import QueuePlaces
from meshway.gateway.read_stream import ReadStream
from meshway.gateway.redrive_dead_letters import RedriveDeadLetters
from meshway.gateway.reply_tickets import ReplyTickets
from meshway.gateway.send_request import SendRequest
from meshway.gateway.settle_deliveries import SettleDeliveries
from meshway.gateway.store_blob import StoreBlob
from meshway.gateway.subscribe_events import SubscribeEvents
from meshway.kernel.clock import Clock
from meshway.kernel.metrics import Metrics
from meshway.messaging.activity import Activity
from meshway.messaging.activity_gossip import ActivityGossip
from meshway.messaging.channels import ChannelBook
from meshway.messaging.payloads import PayloadStore
from meshway.messaging.readers import ReaderStore
from meshway.messaging.redrive import Redrives
from meshway.messaging.reply_cache import ReplyCache
from meshway.messaging.responders import ResponderPools
from meshway.messaging.retention import StreamRetention
from meshway.messaging.settings import MessagingSettings
from meshway.messaging.subscription_places import SubscriptionPlaces

__all__ = ["ChannelGround", "Channels", "build_channels"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelGround:
    """What channels stand on."""

    engine: Engine
    mesh: Mesh
    admission: Admission
    secret_box: SecretBox
    settings: MessagingSettings
    clock: Clock
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Channels:
    """The room as the edges see it."""

    use_cases: ChannelUseCases
    subscriptions: SubscriptionPlaces


async def build_channels(ground: ChannelGround) -> Channels:
    """Every verb, once the channels of before are known; the duties run until `duties` ends."""
    engine, settings, clock = ground.engine, ground.settings, ground.clock
    duties = ground.mesh.duties
    book = ChannelBook(engine.key_value, engine.queue_admin, settings=settings, clock=clock)
    duties.start("channels", book.run)
    await book.wait_ready()
    payloads = PayloadStore(engine.blobs, settings, clock=clock)
    activity = _activity(ground)
    redrives = Redrives(engine.queue_admin, clock=clock)
    duties.start("redrives", redrives.run)
    places = ChannelPlaces(
        admission=ground.admission,
        channels=book,
        readers=ReaderStore(engine.key_value, engine.log, clock=clock, is_shared=engine.is_shared),
        payloads=payloads,
        log=engine.log,
        clock=clock,
        settings=settings,
    )
    queues = QueuePlaces(
        queue=engine.queue,
        queue_admin=engine.queue_admin,
        channels=book,
        payloads=payloads,
        admission=ground.admission,
        settings=settings,
        clock=clock,
    )
    retention = StreamRetention(engine.log, book, settings=settings, clock=clock)
    duties.start("stream_retention", retention.run)
    subscriptions = SubscriptionPlaces(subscriptions_max=settings.subscriptions_max)
    bus = engine.bus
    admission = ground.admission
    send_request, answer_requests = _requests(ground, places, activity, subscriptions)
    use_cases = ChannelUseCases(
        publish_events=PublishEvents(bus, payloads, activity, admission=admission, settings=settings, clock=clock),
        subscribe_events=SubscribeEvents(bus, activity, admission=admission, places=subscriptions, settings=settings),
        append_to_stream=AppendToStream(places, retention),
        read_stream=ReadStream(places, subscriptions),
        manage_readers=ManageReaders(places),
        enqueue_messages=EnqueueMessages(queues),
        lease_messages=LeaseMessages(queues),
        settle_deliveries=SettleDeliveries(queues),
        inspect_queue=InspectQueue(queues),
        redrive_dead_letters=RedriveDeadLetters(queues, redrives),
        purge_queue=PurgeQueue(queues),
        send_request=send_request,
        answer_requests=answer_requests,
        manage_channels=ManageChannels(places, engine.queue, engine.queue_admin, activity),
        store_blob=StoreBlob(engine.blobs, admission, settings=settings),
        fetch_blob=FetchBlob(engine.blobs, admission),
    )
    return Channels(use_cases, subscriptions)


def _activity(ground: ChannelGround) -> Activity:
    activity, hubs = Activity(ground.metrics), ground.mesh.hubs
    if hubs.is_shared:
        activity.share()
        hubs.on_lost(activity.forget_listeners)
        ground.mesh.duties.start("activity", ActivityGossip(ground.engine.bus, activity, hub_id=hubs.me).run)
    return activity


def _requests(
    ground: ChannelGround,
    places: ChannelPlaces,
    activity: Activity,
    subscriptions: SubscriptionPlaces,
) -> tuple[SendRequest, AnswerRequests]:
    engine, settings, clock = ground.engine, ground.settings, ground.clock
    duties = ground.mesh.duties
    cache = ReplyCache(engine.key_value, settings=settings, clock=clock)
    duties.start("reply_cache", cache.run)
    pools = ResponderPools(engine.bus, settings=settings, clock=clock)
    duties.start("responders", pools.run)
    ground.metrics.gauge_read_from(
        "meshway_requests_waiting", "Commands and queries that wait for a responder.", lambda: float(pools.waiting)
    )
    return (
        SendRequest(
            engine.bus,
            places.channels,
            places.payloads,
            activity,
            cache=cache,
            admission=ground.admission,
            settings=settings,
            clock=clock,
        ),
        AnswerRequests(
            engine.bus,
            pools,
            ReplyTickets(ground.secret_box),
            activity,
            admission=ground.admission,
            places=subscriptions,
            settings=settings,
            clock=clock,
        ),
    )
