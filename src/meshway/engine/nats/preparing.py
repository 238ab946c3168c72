"""What a hub makes sure of before it uses JetStream: that it is there and new enough, and has our streams.

A cluster that is still electing, or has not found all its servers, is waited for; what no waiting mends is said.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping

from meshway.engine.nats.failures import ApiError, Unanswered, error_of
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.refusals import FINAL_CODES, FORMING_CODES, NO_CLUSTER, refusal_of_streams
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout, ensure_stream
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable

__all__ = ["prepare_jetstream"]

_log = logging.getLogger(__name__)

# Message schedules and atomic batches came with server 2.12; older ones report a lower level of the API.
_API_LEVEL_MIN = 2
_CLUSTER_REPLICAS = 3
_RETRY_S = 0.25
_ANSWER_TIMEOUT_MS = 2_000
# A server answers for its JetStream at once; one that reaches it by other servers may have to find them first.
_FIND_WITHIN_S = 5.0
# Nothing is ever stored there.
_NO_SUBJECT = "mw-nothing"
# "No leader at this moment."
_UNAVAILABLE = 503


async def prepare_jetstream(jetstream: JetStream, layout: Layout, settings: NatsSettings, clock: Clock) -> int:
    """How many replicas the streams have. Raises: EngineUnavailable with what to do."""
    info = jetstream.link.server_info
    if info.api_level < _API_LEVEL_MIN:
        raise EngineUnavailable(f"This NATS server is {info.version}; Meshway needs 2.12 or newer.")
    # What another domain is, and a server with leaf nodes, is known when it is asked for replicas.
    replicas = settings.replicas or (_CLUSTER_REPLICAS if info.cluster or settings.domain else 1)
    waiting = _Waiting(settings)
    while True:
        try:
            await jetstream.api("INFO", timeout_ms=_ANSWER_TIMEOUT_MS)
            configs = layout.configs(settings, replicas)
            await _ensure_all(jetstream, configs.values(), clock.now_ms())
            break
        except Unanswered as failure:
            denied = jetstream.link.denied
            if denied:
                raise EngineUnavailable(_advice_on_permissions(denied, settings)) from None
            reason = f"JetStream does not answer: {failure.reason}"
            if failure.nothing_happened:
                reason = _advice_on_nobody(jetstream, settings)
                if not (info.cluster or settings.domain) or waiting.lasts_s() > _FIND_WITHIN_S:
                    raise EngineUnavailable(reason) from None
        except ApiError as failure:
            if failure.code == NO_CLUSTER and settings.replicas is None:
                replicas = 1
                continue
            refusal = refusal_of_streams(failure, settings, replicas)
            is_forming = bool(info.cluster) and failure.code in FORMING_CODES
            is_electing = failure.status == _UNAVAILABLE and failure.code not in FINAL_CODES
            if not (is_forming or is_electing):
                raise refusal from failure
            reason = refusal.detail
            jetstream.link.suspect()
        await waiting.pause(reason)
    for name in configs:
        await _until_read(jetstream, name, waiting)
    return replicas


async def _until_read(jetstream: JetStream, stream: str, waiting: "_Waiting") -> None:
    """Copies of a stream that was just made serve nobody for a while. Raises: EngineUnavailable when it lasts."""
    while True:
        try:
            await jetstream.read(stream, {"next_by_subj": _NO_SUBJECT, "seq": 1, "batch": 1})
        except (ApiError, Unanswered) as failure:
            reason = error_of(failure).detail
            if jetstream.link.denied:
                raise EngineUnavailable(_advice_on_permissions(jetstream.link.denied, waiting.settings)) from None
        else:
            return
        await waiting.pause(f"Stream {stream} is not served yet: {reason}")


async def _ensure_all(jetstream: JetStream, configs: Iterable[Mapping[str, object]], now_ms: int) -> None:
    """At once: a cluster takes a while for each. Raises: ApiError, Unanswered."""
    try:
        async with asyncio.TaskGroup() as group:
            for config in configs:
                group.create_task(ensure_stream(jetstream, config, now_ms=now_ms))
    except* (ApiError, Unanswered) as failures:
        # The others were refused for the same reason, or come to nothing when this one is tried again.
        failure = failures.exceptions[0]
    else:
        return
    raise failure


class _Waiting:
    """For a cluster that is not ready; says for what, once for each reason."""

    def __init__(self, settings: NatsSettings) -> None:
        self.settings = settings
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._longest_s = settings.start_timeout_ms / 1000
        self._said = ""

    def lasts_s(self) -> float:
        return self._loop.time() - self._began_s

    async def pause(self, reason: str) -> None:
        """Raises: EngineUnavailable when it lasted too long."""
        if self.lasts_s() >= self._longest_s:
            raise EngineUnavailable(f"NATS is not ready after {self._longest_s:g} s. {reason}")
        if reason != self._said:
            self._said = reason
            _log.warning("nats_waiting", extra={"reason": reason})
        await asyncio.sleep(_RETRY_S)


def _advice_on_nobody(jetstream: JetStream, settings: NatsSettings) -> str:
    has = jetstream.link.server_info.domain
    if settings.domain is not None:
        told = f"this server's own is {has}" if has else "this server names none of its own"
        return f"No JetStream has the domain {settings.domain}; {told}: check domain."
    return "This NATS server runs without JetStream: start it with -js or a jetstream block, or set domain."


def _advice_on_permissions(denied: str, settings: NatsSettings) -> str:
    prefix = settings.prefix
    api = "$JS.API.>" if settings.domain is None else f"$JS.{settings.domain}.API.>"
    return (
        f"This user may not use JetStream ({denied.removeprefix('nats: ')}): allow it to publish to "
        f"{api}, $JS.ACK.> and {prefix}.>, and to subscribe to {prefix}.>, _INBOX.> and $JS.EVENT.>."
    )
