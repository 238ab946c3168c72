"""open_nats_engine: the connection, the streams, and the five ports on them."""

from collections.abc import Sequence

from meshway.engine.nats.blobs import NatsBlobs
from meshway.engine.nats.bus import NatsBus
from meshway.engine.nats.copy_mark import refuse_half_a_copy
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.key_value import NatsKeyValue
from meshway.engine.nats.link import Link
from meshway.engine.nats.log import NatsLog
from meshway.engine.nats.measures import Measures
from meshway.engine.nats.moving import Moving
from meshway.engine.nats.nodes import read_nodes
from meshway.engine.nats.owned_tasks import OwnedTasks
from meshway.engine.nats.preparing import prepare_jetstream
from meshway.engine.nats.queue import NatsQueue
from meshway.engine.nats.queue_admin import NatsQueueAdmin
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.nats.upkeep import Upkeep
from meshway.engine.ports import EngineHealth, EngineNode
from meshway.kernel.clock import Clock
from meshway.kernel.metrics import Metrics

__all__ = ["NatsEngine", "open_nats_engine"]

# Beyond it a value goes to Blobs; servers take messages of 1 MiB unless told otherwise, headers included.
_INLINE_BYTES_MAX = 512 * 1024


async def open_nats_engine(settings: NatsSettings, *, clock: Clock, metrics: Metrics) -> "NatsEngine":
    """Connect, make or update the streams, and wait for a cluster that is still electing.

    Raises: EngineUnavailable with what to do.
    """
    measures = Measures(metrics)
    link = await Link.open(settings, measures)
    tasks = OwnedTasks()
    try:
        jetstream, layout = JetStream(link, settings), Layout(settings)
        tasks.start(Moving(link, layout.reached, settings, measures).run(), name="meshway-nats-moving")
        replicas = await prepare_jetstream(jetstream, layout, settings, clock)
        upkeep = Upkeep(jetstream, layout.configs(settings, replicas), measures=measures, clock=clock)
        engine = NatsEngine(jetstream, layout, settings=settings, upkeep=upkeep, tasks=tasks, clock=clock)
        await engine.start()
    except BaseException:
        await tasks.close()
        await link.close()
        raise
    metrics.gauge_read_from(
        "meshway_engine_nats_connected", "1 while the hub is connected to NATS", lambda: float(link.is_connected)
    )
    metrics.gauge_read_from(
        "meshway_engine_nats_requests_in_flight",
        "Publishes and other requests that wait for NATS to answer",
        lambda: float(link.in_flight),
    )
    return engine


class NatsEngine:
    """See `engine.ports.Engine`; made by `open_nats_engine`."""

    name = "nats"
    is_shared = True
    inline_bytes_max = _INLINE_BYTES_MAX

    def __init__(
        self,
        jetstream: JetStream,
        layout: Layout,
        *,
        settings: NatsSettings,
        upkeep: Upkeep,
        tasks: OwnedTasks,
        clock: Clock,
    ) -> None:
        """`tasks`: what runs in the background already; ended by `close`."""
        self._link = link = jetstream.link
        self._jetstream, self._layout = jetstream, layout
        self._settings = settings
        self._upkeep = upkeep
        self._tasks = tasks
        self._key_value = NatsKeyValue(jetstream, layout, settings)
        self._own_keys = NatsKeyValue(jetstream, layout.for_own_keys(), settings)
        self._log = NatsLog(jetstream, layout, settings)
        self._bus = NatsBus(link, layout)
        self._blobs = NatsBlobs(jetstream, layout, settings)
        self._queue = NatsQueue(jetstream, layout, settings, key_value=self._own_keys, clock=clock)
        self._queue_admin = NatsQueueAdmin(self._queue)

    @property
    def durability(self) -> str:
        if self._settings.synced:
            return "stored by a majority of the NATS replicas before the answer, and synced to disk by each of them"
        return (
            "stored by a majority of the NATS replicas before the answer; on their disks within the sync_interval of "
            "the servers (2 min unless set), so what survives a power loss of all of them is older than that"
        )

    @property
    def key_value(self) -> NatsKeyValue:
        return self._key_value

    @property
    def log(self) -> NatsLog:
        return self._log

    @property
    def queue(self) -> NatsQueue:
        return self._queue

    @property
    def queue_admin(self) -> NatsQueueAdmin:
        return self._queue_admin

    @property
    def bus(self) -> NatsBus:
        return self._bus

    @property
    def blobs(self) -> NatsBlobs:
        return self._blobs

    async def start(self) -> None:
        """Begin what the ports do in the background. Raises: EngineUnavailable, also while a copy is not finished."""
        await refuse_half_a_copy(self._own_keys)
        for port in (self._key_value, self._own_keys, self._log, self._bus, self._queue):
            await port.start()
        self._upkeep.on_remade(self._on_remade)
        self._tasks.start(self._upkeep.run(), name="meshway-nats-upkeep")

    async def health(self) -> EngineHealth:
        if not self._link.is_connected:
            return EngineHealth(writable=False, reason=self._link.trouble)
        reason = self._link.denied or self._upkeep.trouble
        return EngineHealth(writable=not reason, reason=reason or None)

    async def nodes(self) -> Sequence[EngineNode]:
        return await read_nodes(self._jetstream, self._layout)

    async def close(self) -> None:
        await self._tasks.close()
        for port in (self._queue, self._bus, self._log, self._own_keys, self._key_value):
            await port.close()
        await self._link.close()

    async def _on_remade(self, stream: str) -> None:
        if stream == self._layout.kv_stream:
            await self._queue.keep_secret()
