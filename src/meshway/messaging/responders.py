"""Who answers commands and queries at this hub: pools that stand on the Bus for as long as somebody serves them."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress

from meshway.engine.ports import Bus, BusMessage, BusSubscription, SubscriptionLost
from meshway.kernel.clock import Clock
from meshway.kernel.errors import Draining, EngineError, EngineUnavailable
from meshway.messaging.names import ChannelKind, ChannelPattern, subject_of
from meshway.messaging.request_wire import RESPONDERS_GROUP, Answer, Turned, encode_answer
from meshway.messaging.responder_pool import ResponderPool
from meshway.messaging.settings import MessagingSettings

__all__ = ["ResponderPools"]

_log = logging.getLogger(__name__)

# Requests moved from the bus to the pool in one turn of the loop.
_BATCH_MAX = 1_000
# How long a pool that leaves the bus looks for what reached it last; its subscription has ended, so nothing blocks.
_DRAIN_S = 1.0


class ResponderPools:
    """One pool per kind and pattern, begun by the first who serves it.

    It leaves the bus when nobody holds it and the grace of those who polled is over; then callers hear at once that
    nobody answers. `run` owns the tasks of the pools.
    """

    def __init__(self, bus: Bus, *, settings: MessagingSettings, clock: Clock) -> None:
        self._bus = bus
        self._settings = settings
        self._clock = clock
        self._pools: dict[tuple[ChannelKind, str], _Serving] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Duty: serve the pools until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._tasks = None

    @property
    def waiting(self) -> int:
        """Requests that wait at this hub for a responder to take them."""
        return sum(serving.pool.waiting for serving in self._pools.values())

    @asynccontextmanager
    async def serve(
        self, kind: ChannelKind, pattern: ChannelPattern, *, linger_ms: int = 0
    ) -> AsyncGenerator[ResponderPool, None]:
        """Be present for requests, and `linger_ms` longer: a poller is between two polls, not gone.

        Present when `__aenter__` returns. Raises: Draining, EngineUnavailable.
        """
        serving = self._hold(kind, pattern)
        try:
            await serving.started.wait()
            if serving.failed is not None:
                raise serving.failed
            yield serving.pool
        finally:
            serving.release(linger_ms)

    def _hold(self, kind: ChannelKind, pattern: ChannelPattern) -> "_Serving":
        serving = self._pools.get((kind, pattern))
        if serving is None or not serving.hold():
            if self._tasks is None:
                raise Draining("This hub is starting or shutting down and takes no responders; try again.")
            serving = _Serving(ResponderPool(clock=self._clock, requests_max=self._settings.requests_waiting_max))
            serving.hold()
            self._pools[kind, pattern] = serving
            self._tasks.create_task(self._keep(serving, kind, pattern), name=f"responders-{kind.value}")
        return serving

    async def _keep(self, serving: "_Serving", kind: ChannelKind, pattern: ChannelPattern) -> None:
        try:
            await self._stand_on_bus(serving, subject_of(kind, pattern))
        except (SubscriptionLost, EngineError) as error:
            _log.warning("responders_lost", extra={"kind": kind.value, "channel": pattern, "reason": str(error)})
            serving.fail(EngineUnavailable(f"The engine ended the responders of {pattern!r}: {error}. Join again."))
        except Exception as error:  # noqa: BLE001  the boundary of one pool: it must not end the pools of others
            _log.error("responders_failed", extra={"kind": kind.value, "channel": pattern}, exc_info=error)
            serving.fail(EngineUnavailable(f"The responders of {pattern!r} failed in the hub. Join again."))
        finally:
            serving.fail(Draining("This hub is shutting down; answer at another one."))
            if self._pools.get((kind, pattern)) is serving:
                del self._pools[kind, pattern]

    async def _stand_on_bus(self, serving: "_Serving", subject: str) -> None:
        buffer_max = self._settings.requests_waiting_max
        async with self._bus.subscribe(subject, group=RESPONDERS_GROUP, buffer_max=buffer_max) as subscription:
            try:
                with suppress(TimeoutError):
                    await self._pump(serving, subscription)
            finally:
                serving.leave()
        # Nobody is here any more: what came in the last moment, and what nobody took, may suit others.
        await self._turn_away([*serving.pool.empty(), *await _left_in(subscription)], Turned.GONE)

    async def _pump(self, serving: "_Serving", subscription: BusSubscription) -> None:
        async with asyncio.timeout(None) as presence:
            serving.begin(presence)
            while True:
                found = await subscription.take(_BATCH_MAX)
                messages = [each for each in found if type(each) is BusMessage]
                if len(messages) < len(found):
                    _log.warning("requests_dropped_before_pool", extra={"reason": "more arrived at once than may wait"})
                refused = serving.pool.offer(messages)
                if refused:
                    await self._turn_away(refused, Turned.BUSY)

    async def _turn_away(self, requests: Iterable[BusMessage], turned: Turned) -> None:
        answer = encode_answer(Answer(turned=turned))
        await self._bus.publish(
            [BusMessage(subject=each.reply_to, data=answer) for each in requests if each.reply_to is not None]
        )


class _Serving:
    """One pool on the bus, and who holds it. Its presence is a timeout that runs only while nobody does."""

    def __init__(self, pool: ResponderPool) -> None:
        self.pool = pool
        self.started = asyncio.Event()
        self.failed: Exception | None = None
        self._presence: asyncio.Timeout | None = None
        self._has_left = False
        self._holders = 0
        self._until_s = 0.0

    def hold(self) -> bool:
        """Count one who serves; False when the pool has begun to leave."""
        presence = self._presence
        if self._has_left or (presence is not None and presence.expired()):
            return False
        self._holders += 1
        if self._holders == 1 and presence is not None:
            presence.reschedule(None)
        return True

    def release(self, linger_ms: int) -> None:
        now_s = asyncio.get_running_loop().time()
        self._until_s = max(self._until_s, now_s + linger_ms / 1000)
        self._holders -= 1
        if not self._holders and self._presence is not None and not self._has_left:
            self._presence.reschedule(self._until_s)

    def begin(self, presence: asyncio.Timeout) -> None:
        """On the bus from now on."""
        self._presence = presence
        if not self._holders:
            presence.reschedule(self._until_s)
        self.started.set()

    def leave(self) -> None:
        """Off the bus: whoever comes now begins another pool."""
        self._has_left = True

    def fail(self, error: Exception) -> None:
        """No request comes here any more; the first reason counts."""
        self._has_left = True
        if self.failed is None:
            self.failed = error
            self.pool.lose(error)
            self.started.set()


async def _left_in(subscription: BusSubscription) -> Sequence[BusMessage]:
    """What reached a subscription that has ended and nobody read."""
    left: list[BusMessage] = []
    try:
        async with asyncio.timeout(_DRAIN_S):
            while True:
                left += [each for each in await subscription.take(_BATCH_MAX) if type(each) is BusMessage]
    except (SubscriptionLost, TimeoutError):
        return left
