"""The duty that delivers push notifications: at least once, in order per config, for hours, else a dead letter.

A queue keeps the order: of one config only the oldest message is out, and those behind it wait until it is delivered
or a dead letter. A receiver that is away holds up nobody else.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from meshway.engine.ports import (
    Ack,
    Engine,
    Lease,
    QueueSettings,
    Settlement,
    SettleOutcome,
    ToDeadLetters,
    ToRetry,
)
from meshway.gateway.push_ports import NotificationSender
from meshway.gateway.push_settings import PushSettings
from meshway.gateway.queue_notifications import PUSH_QUEUE, Notice
from meshway.gateway.write_notification import EventGone, NothingToTell, NotificationWriter
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EgressDenied, EngineError, InvalidRequest, LimitError, MeshwayError, UpstreamError
from meshway.kernel.retry import GiveUp, RetryPolicy, decide_after_failure, is_exhausted
from meshway.messaging.queue_repeats import repeat_undecided
from meshway.tasks.push_configs import PushConfig, PushConfigStore

__all__ = ["DeliverNotifications"]

_log = logging.getLogger(__name__)

# Longer than an attempt can take (30 s at most, plus the reading of the event), so no lease is ever extended.
_LEASE_MS = 60_000
_ATTEMPT_MAX_S = 50.0
# 82 attempts have 81 waits between them: 1 + 2 + 4 + ... + 512 = 1,023 s, then 71 times 600 s, together 43,623 s.
# Chance takes away up to half of each: at least 6.05 h, 9 h on average.
_BACKOFF_INITIAL_MS, _BACKOFF_MAX_MS = 1_000, 600_000
# What waited so long behind others of a receiver that is away is tried once and not for hours more: otherwise a
# task of a hundred events would knock for a month.
_OLD_AFTER_MS = 24 * 3_600_000
# A receiver may ask for more patience than the back-off has, not for a place in the queue for ever.
_RETRY_AFTER_MAX_MS = 3_600_000
_LEASE_WAIT_MS = 30_000
# Notifications on their way at once, to all receivers together. Slow receivers hold a place for `timeout_ms`.
_CONCURRENCY = 32
# Of the engine that does not answer, and of the last words at the end.
_PAUSE_S = 1.0
_GIVE_BACK_S = 2.0
_GONE = 410


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What becomes of a message, and of its config afterwards."""

    settlement: Settlement
    outcome: str
    reason: str = ""
    retire: str | None = None


class DeliverNotifications:
    """One per hub; all hubs of a mesh share the queue."""

    def __init__(
        self,
        configs: PushConfigStore,
        *,
        engine: Engine,
        writer: NotificationWriter,
        sender: NotificationSender,
        settings: PushSettings,
        concurrency: int = _CONCURRENCY,
        clock: Clock,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`chance`, in [0, 1), spreads the back-off; it is no secret."""
        self._configs = configs
        self._queue = engine.queue
        self._queue_admin = engine.queue_admin
        self._writer = writer
        self._sender = sender
        self._clock = clock
        self._chance = chance
        self._policy = RetryPolicy(settings.attempts_max, _BACKOFF_INITIAL_MS, _BACKOFF_MAX_MS)
        self._concurrency = concurrency
        self._in_flight = 0
        self._left = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Notifications on their way."""
        return self._in_flight

    async def run(self) -> None:
        """Deliver until cancelled; what is under way then is due again at once."""
        await self._queue_admin.configure(PUSH_QUEUE, QueueSettings(lease_ms=_LEASE_MS, ordered=True))
        self._in_flight = 0
        async with asyncio.TaskGroup() as group:
            while True:
                while self._in_flight >= self._concurrency:
                    self._left.clear()
                    await self._left.wait()
                try:
                    room = self._concurrency - self._in_flight
                    leases = await self._queue.lease(PUSH_QUEUE, count=room, wait_ms=_LEASE_WAIT_MS)
                except (EngineError, LimitError) as error:
                    _log.warning("notifications_not_leased", extra={"reason": error.detail})
                    await asyncio.sleep(_PAUSE_S)
                    continue
                for lease in leases:
                    self._in_flight += 1
                    group.create_task(self._deliver(lease), name=f"meshway-push-{lease.message.message_id}")

    async def _deliver(self, lease: Lease) -> None:
        """One hand-out, from lease to settlement. Raises nothing but CancelledError."""
        try:
            await self._settle(lease, await self._attempt(lease))
        except asyncio.CancelledError:
            await self._give_back(lease)
            raise
        except MeshwayError as error:
            # The lease runs out, and the message is due again.
            _log.warning("notification_not_settled", extra=_facts(lease) | {"reason": error.detail})
        finally:
            self._in_flight -= 1
            self._left.set()

    async def _attempt(self, lease: Lease) -> _Verdict:
        exhausted = is_exhausted(self._policy.attempts_max, lease.attempt)
        try:
            async with asyncio.timeout(_ATTEMPT_MAX_S):
                notice = msgspec.json.decode(lease.message.data, type=Notice)
                config = await self._configs.read(notice.key)
                if config is None or config.created_at_ms != notice.made:
                    return _Verdict(Ack(delivery_id=lease.delivery_id), "dropped")
                if exhausted is not None:
                    return _dead(lease, exhausted.reason)
                return await self._send(lease, config, notice)
        except TimeoutError:
            return self._failed(lease, f"the attempt took longer than {_ATTEMPT_MAX_S:.0f} s")
        except MeshwayError as error:
            # The store's failure, not the receiver's; it counts all the same, so that nothing is tried for ever.
            return self._failed(lease, error.detail)
        except Exception as error:  # noqa: BLE001 - boundary of a delivery: one odd message must not end the others
            _log.exception("notification_attempt_broke", extra=_facts(lease))
            return self._failed(lease, f"{type(error).__name__}: {error}")

    async def _send(self, lease: Lease, config: PushConfig, notice: Notice) -> _Verdict:
        written = await self._writer.write(config, notice, attempt=lease.attempt)
        if isinstance(written, EventGone):
            return _dead(lease, f"event {notice.number} of the task is no longer kept")
        if isinstance(written, NothingToTell):
            return _Verdict(Ack(delivery_id=lease.delivery_id), "skipped")
        # The config outlives its task by this much: dead letters of the last event can be sent again.
        retire = config.key if written.ends_task else None
        try:
            answer = await self._sender.send(written.notification)
        except InvalidRequest as error:
            return _dead(lease, error.detail, retire=retire)
        except (UpstreamError, EgressDenied) as error:
            return self._failed(lease, error.detail, retire=retire)
        if 200 <= answer.status < 300:
            if written.ends_task:
                # Before the message is forgotten: after a crash in between it comes again, and finds nobody to tell.
                await self._configs.delete(config.key)
            return _Verdict(Ack(delivery_id=lease.delivery_id), "delivered")
        if answer.status == _GONE:
            await self._configs.delete(config.key)
            return _dead(lease, "the receiver answered 410 Gone; its push notification config was deleted")
        reason = f"the receiver answered {answer.status}"
        if 300 <= answer.status < 400:
            reason += "; redirects are not followed"
        return self._failed(lease, reason, retire=retire, retry_after_ms=answer.retry_after_ms)

    def _failed(
        self, lease: Lease, reason: str, *, retire: str | None = None, retry_after_ms: int | None = None
    ) -> _Verdict:
        now_ms = self._clock.now_ms()
        if now_ms - lease.message.enqueued_at_ms >= _OLD_AFTER_MS:
            hours = _OLD_AFTER_MS // 3_600_000
            return _dead(lease, f"attempt {lease.attempt} failed, {hours} h after the event: {reason}", retire=retire)
        delay_ms = None
        if retry_after_ms is not None:
            backoff_ms = self._policy.backoff_ms(lease.attempt, self._chance())
            delay_ms = max(backoff_ms, min(retry_after_ms, _RETRY_AFTER_MAX_MS))
        decision = decide_after_failure(
            self._policy, lease.attempt, reason=reason, now_ms=now_ms, chance=self._chance(), delay_ms=delay_ms
        )
        if isinstance(decision, GiveUp):
            return _dead(lease, decision.reason, retire=retire)
        settlement = ToRetry(delivery_id=lease.delivery_id, visible_at_ms=decision.visible_at_ms, reason=reason)
        return _Verdict(settlement, "failed", reason)

    async def _settle(self, lease: Lease, verdict: _Verdict) -> None:
        """Raises: StorageFull, EngineUnavailable."""
        settlements = [verdict.settlement]
        first = await self._queue.settle(settlements)
        outcomes = await repeat_undecided(self._queue.settle, settlements, first, is_undecided=_is_undecided)
        facts = _facts(lease) | {"reason": verdict.reason, "settled": outcomes[0].value}
        if verdict.outcome == "dead":
            _log.warning("notification_dead_lettered", extra=facts)
        elif verdict.outcome == "failed":
            _log.info("notification_failed", extra=facts)
        else:
            _log.debug("notification_settled", extra=facts | {"outcome": verdict.outcome})
        if verdict.retire is not None:
            await self._configs.retire(verdict.retire)

    async def _give_back(self, lease: Lease) -> None:
        """A hub that stops lets go, so that nobody waits for the end of the lease."""
        settlement = ToRetry(
            delivery_id=lease.delivery_id, visible_at_ms=self._clock.now_ms(), reason="the hub stopped meanwhile"
        )
        with contextlib.suppress(MeshwayError, TimeoutError):
            async with asyncio.timeout(_GIVE_BACK_S):
                await self._queue.settle([settlement])


def _dead(lease: Lease, reason: str, *, retire: str | None = None) -> _Verdict:
    return _Verdict(ToDeadLetters(delivery_id=lease.delivery_id, reason=reason), "dead", reason, retire)


def _facts(lease: Lease) -> dict[str, object]:
    return {"notification": lease.message.message_id, "attempt": lease.attempt}


def _is_undecided(outcome: SettleOutcome) -> bool:
    return outcome is SettleOutcome.UNDECIDED
