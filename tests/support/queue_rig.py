"""The verbs of queues over the embedded engine in a folder, for tests; `wrap` puts a faulty queue between the two."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from meshway.engine.embedded import EmbeddedEngine, EmbeddedSettings, open_embedded_engine
from meshway.engine.ports import Queue
from meshway.gateway.admission import Admission
from meshway.gateway.enqueue_messages import EnqueueMessages
from meshway.gateway.inspect_queue import InspectQueue
from meshway.gateway.lease_messages import LeaseMessages
from meshway.gateway.purge_queue import PurgeQueue
from meshway.gateway.queue_places import QueuePlaces
from meshway.gateway.redrive_dead_letters import RedriveDeadLetters
from meshway.gateway.settle_deliveries import SettleDeliveries
from meshway.kernel.clock import Clock
from meshway.kernel.ids import PrincipalId
from meshway.kernel.metrics import NullMetrics
from meshway.kernel.principal import Principal, Scope
from meshway.messaging.channel import QueueChannelSettings
from meshway.messaging.channels import ChannelBook
from meshway.messaging.incoming import IncomingMessage
from meshway.messaging.names import ChannelKind, ChannelName
from meshway.messaging.payloads import PayloadStore
from meshway.messaging.redrive import Redrives
from meshway.messaging.settings import MessagingSettings
from meshway.messaging.settlements import SettlementItem

__all__ = ["CALLER", "QueueRig", "load_channels", "message", "queue_rig", "settlement"]

CALLER = Principal(PrincipalId("ann"), frozenset({Scope("call")}))


class QueueRig:
    """One hub's worth of queue verbs. Close the engine yourself, or use `queue_rig`."""

    def __init__(
        self,
        engine: EmbeddedEngine,
        clock: Clock,
        *,
        wrap: Callable[[Queue], Queue] = lambda queue: queue,
        settings: MessagingSettings | None = None,
        chance: float = 0.0,
    ) -> None:
        self.engine = engine
        self.clock = clock
        settings = settings or MessagingSettings()
        self.channels = ChannelBook(engine.key_value, engine.queue_admin, settings=settings, clock=clock)
        self.places = QueuePlaces(
            queue=wrap(engine.queue),
            queue_admin=engine.queue_admin,
            channels=self.channels,
            payloads=PayloadStore(engine.blobs, settings, clock=clock),
            admission=Admission(calls_in_flight_max=100),
            settings=settings,
            clock=clock,
        )
        self.redrives = Redrives(engine.queue_admin, clock=clock)
        self.enqueue = EnqueueMessages(self.places)
        self.lease = LeaseMessages(self.places)
        self.settle = SettleDeliveries(self.places, chance=lambda: chance)
        self.inspect = InspectQueue(self.places)
        self.redrive = RedriveDeadLetters(self.places, self.redrives)
        self.purge = PurgeQueue(self.places)

    async def put(self, queue: str, settings: QueueChannelSettings, principal: Principal = CALLER) -> None:
        await self.channels.put(ChannelKind.QUEUES, ChannelName(queue), settings, principal.id)

    async def post(self, queue: str, *messages: IncomingMessage) -> Sequence[str]:
        """The ids."""
        return [receipt.id for receipt in await self.enqueue.execute(CALLER, queue, messages)]

    async def take(self, queue: str, count: int = 10) -> Sequence[msgspec.Struct]:
        return await self.lease.execute(CALLER, queue, count=count, wait_ms=0)

    async def say(self, queue: str, *settlements: SettlementItem) -> Sequence[str]:
        return await self.settle.execute(CALLER, queue, settlements)


async def load_channels(channels: ChannelBook) -> None:
    """What a starting hub does: learn the channels that are stored."""
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        following = group.create_task(channels.run())
        await channels.wait_ready()
        following.cancel()


@asynccontextmanager
async def queue_rig(folder: Path, clock: Clock, **options: object) -> AsyncIterator[QueueRig]:
    engine = await open_embedded_engine(folder, settings=EmbeddedSettings(), clock=clock, metrics=NullMetrics())
    try:
        yield QueueRig(engine, clock, **options)
    finally:
        await engine.close()


def message(data: object = "x", **members: object) -> IncomingMessage:
    """As it comes from the wire."""
    return IncomingMessage(data=msgspec.Raw(msgspec.json.encode(data)), **members)


def settlement(delivery_id: str, action: str = "ack", **members: object) -> SettlementItem:
    return SettlementItem(delivery_id=delivery_id, action=action, **members)
