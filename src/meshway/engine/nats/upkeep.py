"""What a running hub does about its streams: look whether they are there and led, and make again what was deleted.

    looking every few seconds, and at once when somebody was not answered
      -- all there, led by a majority --> nothing to say
      -- no leader, no majority, no answer --> `trouble` says so, look again soon
      -- gone: an operator deleted it --> made again, empty, loudly

A stream that is made again goes on behind the sequences of the old one (`streams.py`), so that no position or revision
of before is taken for one of after.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from meshway.engine.nats.api_answers import ApiAnswer
from meshway.engine.nats.failures import STREAM_NOT_FOUND, ApiError, Unanswered, error_of
from meshway.engine.nats.jetstream import JetStream
from meshway.engine.nats.measures import Measures
from meshway.engine.nats.streams import ensure_stream
from meshway.kernel.clock import Clock

__all__ = ["Upkeep"]

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
# While something is wrong: soon enough for a caller that waits, seldom enough for a cluster that elects.
_LOOK_AGAIN_S = 0.5
_LOOK_TIMEOUT_MS = 2_000


class Upkeep:
    """Of all streams of one engine."""

    def __init__(
        self,
        jetstream: JetStream,
        configs: Mapping[str, Mapping[str, object]],
        *,
        measures: Measures,
        clock: Clock,
    ) -> None:
        """`configs`: by name of the stream."""
        self._jetstream = jetstream
        self._configs = configs
        self._measures = measures
        self._clock = clock
        self._remade: list[Callable[[str], Awaitable[None]]] = []
        # Why writes may fail at this moment, for people; empty: no reason is known.
        self.trouble = ""

    def on_remade(self, listener: Callable[[str], Awaitable[None]]) -> None:
        """Waited for when a stream was made again, with its name."""
        self._remade.append(listener)

    async def run(self) -> None:
        """Until cancelled."""
        unanswered = self._jetstream.link.unanswered
        while True:
            wait_s = _LOOK_AGAIN_S if self.trouble else _LOOK_EVERY_S
            try:
                async with asyncio.timeout(wait_s):
                    await unanswered.wait()
            except TimeoutError:
                pass
            if self._jetstream.link.is_connected:
                await self.look()
            # What this look itself was not answered is no news; nor does a cluster without a leader need more of them.
            await asyncio.sleep(_LOOK_AGAIN_S if self.trouble else 0)
            unanswered.clear()

    async def look(self) -> None:
        """Once. What cannot be mended now is told by `trouble`."""
        calls: list[tuple[str, object]] = [(f"STREAM.INFO.{name}", None) for name in self._configs]
        answers = await self._jetstream.api_all(calls, timeout_ms=_LOOK_TIMEOUT_MS)
        troubles: list[str] = []
        for name, answer in zip(self._configs, answers, strict=True):
            if isinstance(answer, ApiError) and answer.code == STREAM_NOT_FOUND:
                trouble = await self._make_again(name)
            else:
                trouble = _trouble_of(name, answer)
            if trouble:
                troubles.append(trouble)
        trouble = "; ".join(troubles)
        if trouble != self.trouble:
            _log.warning("nats_streams_in_trouble" if trouble else "nats_streams_well_again", extra={"reason": trouble})
        self.trouble = trouble
        if trouble:
            self._jetstream.link.suspect()

    async def _make_again(self, name: str) -> str:
        try:
            await ensure_stream(self._jetstream, self._configs[name], now_ms=self._clock.now_ms())
        except (ApiError, Unanswered) as failure:
            return f"the stream {name} is gone and cannot be made again: {error_of(failure).detail}"
        self._measures.streams_remade.labels(name).inc()
        _log.error("nats_stream_was_deleted_and_made_again", extra={"stream": name, "lost": "everything in it"})
        for listener in self._remade:
            await listener(name)
        return ""


def _trouble_of(name: str, answer: ApiAnswer | ApiError | Unanswered) -> str:
    if isinstance(answer, Unanswered):
        return f"the stream {name} has no leader: waiting for a majority of its servers to elect one"
    if isinstance(answer, ApiError):
        return f"the stream {name} cannot be used: {answer.description}"
    others = answer.cluster.replicas
    if others and not answer.cluster.leader:
        return f"the stream {name} has no leader: waiting for a majority of its servers to elect one"
    away = [other.name for other in others if other.offline]
    if 2 * len(away) > len(others) + 1:
        return f"the stream {name} waits for a majority of its servers: {', '.join(sorted(away))} are away"
    return ""
