"""What is new in a stream, in order, without gaps: an ordered consumer that is made anew wherever it broke.

    making -> live -- a gap, or silence for longer than two heartbeats --> making, behind the last one that was seen

Its consumer lives in the memory of one server and is nobody else's; it acknowledges nothing.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from meshway.engine.nats.failures import ApiError, Unanswered
from meshway.engine.nats.jetstream import JetStream, Stored
from meshway.engine.nats.wire import Incoming
from meshway.kernel.errors import EngineUnavailable

__all__ = ["StreamFeed"]

_log = logging.getLogger(__name__)

# What is lost while a connection breaks is noticed after two of them.
_HEARTBEAT_S = 1.0
_SILENCE_S = 2.0
_RETRY_FIRST_S, _RETRY_MAX_S = 0.1, 2.0
# A cluster may place a consumer on a node that just died, and then does not answer; the next one is placed elsewhere.
_MAKE_TIMEOUT_MS = 1_500
# The server forgets a consumer that nobody listens to after so long.
_INACTIVE_S = 30
_NANOSECONDS = 1_000_000_000
_FLOW_CONTROL = "$JS.FC."


class StreamFeed:
    """`heard` is called for each message in order, `caught_up` once, when all that was there at first was given.

    `run` until cancelled. Messages that were deleted from the stream meanwhile are not given; else there are no gaps
    and no repetitions.
    """

    def __init__(
        self,
        jetstream: JetStream,
        stream: str,
        subjects: Sequence[str],
        *,
        start: Mapping[str, object],
        heard: Callable[[Stored], None],
        caught_up: Callable[[], None] | None = None,
        begins: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`start`: the delivery policy of the first consumer, such as `{"deliver_policy": "new"}`.

        With `begins`, each consumer begins there, not behind the last message: it is waited for before one is made
        and may raise what JetStream raises; `caught_up` is called for each.
        """
        self._jetstream = jetstream
        self._stream = stream
        self._subjects = subjects
        self._start = start
        self._heard = heard
        self._caught_up = caught_up
        self._begins = begins
        self._is_replaying = True
        self._ready = asyncio.Event()
        # Of the last message that was given; 0: none.
        self.seen = 0
        # Nothing at or below this was there to be given when the consumer was made.
        self._floor = 0
        self._consumer = ""
        self._expected = 1
        self._broken = asyncio.Event()
        # Nothing was heard since it was looked at last.
        self._was_silent = False

    @property
    def position(self) -> int:
        """Everything behind it will be given, nothing up to it will."""
        return max(self.seen, self._floor)

    async def wait_ready(self) -> None:
        """Until the consumer is there: whatever is stored from now on is given."""
        await self._ready.wait()

    async def run(self) -> None:
        """Follow until cancelled."""
        wait_s = _RETRY_FIRST_S
        while True:
            try:
                await self._follow()
                wait_s = _RETRY_FIRST_S
            except (ApiError, Unanswered, EngineUnavailable) as error:
                _log.warning("nats_feed_broke", extra={"stream": self._stream, "reason": str(error)})
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _RETRY_MAX_S)

    async def _follow(self) -> None:
        """One consumer, to its end."""
        link = self._jetstream.link
        inbox = link.new_inbox()
        self._expected = 1
        self._broken.clear()
        if self._begins is not None:
            self._is_replaying = True
            await self._begins()
        subscription = await link.hear(inbox, self._on_message)
        try:
            verb, body = f"CONSUMER.CREATE.{self._stream}", self._request(inbox)
            made = await self._jetstream.api(verb, body, timeout_ms=_MAKE_TIMEOUT_MS)
            self._consumer = made.name
            if not self._ready.is_set():
                self._floor = max(self._floor, made.delivered.stream_seq)
                self._ready.set()
            if not made.num_pending:
                self._end_replay()
            self._was_silent = False
            while not self._broken.is_set():
                try:
                    async with asyncio.timeout(_SILENCE_S):
                        await self._broken.wait()
                except TimeoutError:
                    if self._was_silent:
                        return
                    self._was_silent = True
        finally:
            await self._leave(subscription.unsubscribe)

    async def _leave(self, unsubscribe: Callable[[], Awaitable[None]]) -> None:
        consumer, self._consumer = self._consumer, ""
        try:
            await unsubscribe()
            if consumer and self._jetstream.link.is_connected:
                # Not waited for: it would be forgotten by itself.
                await self._jetstream.forget_consumer(self._stream, consumer)
        except Exception as error:  # noqa: BLE001  the connection is gone, and the subscription with it
            _log.debug("nats_feed_not_left", extra={"stream": self._stream, "reason": str(error)})

    def _request(self, inbox: str) -> dict[str, object]:
        start = self._start
        if self._begins is None and (self.seen or self._ready.is_set()):
            start = {"deliver_policy": "by_start_sequence", "opt_start_seq": self.position + 1}
        filters: dict[str, object] = (
            {"filter_subject": self._subjects[0]} if len(self._subjects) == 1 else {"filter_subjects": self._subjects}
        )
        return {
            "stream_name": self._stream,
            "config": {
                **start,
                **filters,
                "deliver_subject": inbox,
                "ack_policy": "none",
                "max_deliver": 1,
                "replay_policy": "instant",
                # Without it the server drops a connection that is slower than a replay of many keys.
                "flow_control": True,
                "idle_heartbeat": int(_HEARTBEAT_S * _NANOSECONDS),
                "inactive_threshold": _INACTIVE_S * _NANOSECONDS,
                "mem_storage": True,
                "num_replicas": 1,
            },
        }

    def _on_message(self, message: Incoming) -> None:
        self._was_silent = False
        if self._broken.is_set():
            return
        if not message.reply or message.reply.startswith(_FLOW_CONTROL):
            self._on_status(message)
            return
        # $JS.ACK.[domain.account.]stream.consumer.delivered.stream-seq.consumer-seq.time-ns.pending[.token]
        tokens = message.reply.split(".")
        place = 4 if len(tokens) < 11 else 6
        seq = int(tokens[place + 1])
        if int(tokens[place + 2]) != self._expected:
            self._broken.set()
            return
        self._expected += 1
        self.seen = seq
        self._heard(Stored(message.subject, seq, int(tokens[place + 3]) // 1_000_000, message.headers, message.data))
        if self._is_replaying and tokens[place + 4] == "0":
            self._end_replay()

    def _on_status(self, message: Incoming) -> None:
        """A heartbeat, or the server asks whether what it sent has come: it sends on when it hears so."""
        headers = message.headers
        asked = message.reply or headers.get("Nats-Consumer-Stalled")
        if asked:
            with contextlib.suppress(EngineUnavailable):
                self._jetstream.link.post(asked)
        if message.reply:
            return
        last = headers.get("Nats-Last-Consumer")
        if headers.get("Status") != "100" or (last is not None and int(last) != self._expected - 1):
            # The consumer is gone, or a message was lost on the way.
            self._broken.set()

    def _end_replay(self) -> None:
        was_replaying, self._is_replaying = self._is_replaying, False
        if was_replaying and self._caught_up is not None:
            self._caught_up()
