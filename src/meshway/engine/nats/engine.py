"""open_nats_engine: the connection, the streams, and the five ports on them."""

import asyncio
import logging
from collections.abc import Sequence

from meshway.engine.nats.blobs import NatsBlobs
from meshway.engine.nats.bus import NatsBus
from meshway.engine.nats.copy_mark import refuse_half_a_copy
from meshway.engine.nats.failures import ApiError, Unanswered, error_of
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.key_value import NatsKeyValue
from meshway.engine.nats.link import Link
from meshway.engine.nats.log import NatsLog
from meshway.engine.nats.nodes import read_nodes
from meshway.engine.nats.queue import NatsQueue
from meshway.engine.nats.queue_admin import NatsQueueAdmin
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout, ensure_streams
from meshway.engine.ports import EngineHealth, EngineNode
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable

__all__ = ["NatsEngine", "open_nats_engine", "open_streams"]

_log = logging.getLogger(__name__)

# Message schedules and atomic batches came with server 2.12; older ones report a lower level of the API.
_API_LEVEL_MIN = 2
_CLUSTER_REPLICAS = 3
_RETRY_S = 0.25
# Beyond it a value goes to Blobs; servers take messages of 1 MiB unless told otherwise, headers included.
_INLINE_BYTES_MAX = 512 * 1024


async def open_nats_engine(settings: NatsSettings, *, clock: Clock) -> "NatsEngine":
    """Connect, make or update the streams, and wait for a cluster that is still electing.

    Raises: EngineUnavailable with what to do.
    """
    link = await Link.open(settings)
    try:
        jetstream, layout = await open_streams(link, settings)
        engine = NatsEngine(link, jetstream, layout, settings=settings, clock=clock)
        await engine.start()
    except BaseException:
        await link.close()
        raise
    return engine


async def open_streams(link: Link, settings: NatsSettings) -> tuple[JetStream, Layout]:
    """The streams, made or brought up to date. Raises: EngineUnavailable with what to do."""
    _check_server(link)
    jetstream, layout = JetStream(link, settings), Layout(settings)
    replicas = settings.replicas or (_CLUSTER_REPLICAS if link.server_info.cluster else 1)
    await _ensure_streams(jetstream, layout, settings, replicas)
    return jetstream, layout


def _check_server(link: Link) -> None:
    info = link.server_info
    if not info.has_jetstream:
        raise EngineUnavailable("This NATS server runs without JetStream; start it with -js or a jetstream block.")
    if info.api_level < _API_LEVEL_MIN:
        text = f"This NATS server is {info.version}; Meshway needs 2.12 or newer."
        raise EngineUnavailable(text)


async def _ensure_streams(jetstream: JetStream, layout: Layout, settings: NatsSettings, replicas: int) -> None:
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + settings.start_timeout_ms / 1000
    while True:
        try:
            await ensure_streams(jetstream, layout, settings, replicas)
            return
        except Unanswered as failure:
            if loop.time() >= ends_at:
                text = f"JetStream does not answer, so its streams cannot be made: {failure.reason}"
                raise EngineUnavailable(text) from None
            _log.info("nats_waiting_for_jetstream", extra={"reason": failure.reason})
            await asyncio.sleep(_RETRY_S)
        except ApiError as failure:
            raise error_of(failure) from failure


class NatsEngine:
    """See `engine.ports.Engine`; made by `open_nats_engine`."""

    name = "nats"
    is_shared = True
    inline_bytes_max = _INLINE_BYTES_MAX

    def __init__(
        self, link: Link, jetstream: JetStream, layout: Layout, *, settings: NatsSettings, clock: Clock
    ) -> None:
        self._link = link
        self._jetstream, self._layout = jetstream, layout
        self._settings = settings
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

    async def health(self) -> EngineHealth:
        if self._link.is_connected:
            return EngineHealth(writable=True)
        return EngineHealth(writable=False, reason=self._link.trouble)

    async def nodes(self) -> Sequence[EngineNode]:
        return await read_nodes(self._jetstream, self._layout)

    async def close(self) -> None:
        for port in (self._queue, self._bus, self._log, self._own_keys, self._key_value):
            await port.close()
        await self._link.close()
