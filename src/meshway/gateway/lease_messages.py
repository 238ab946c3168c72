"""Hand due messages of a queue to a worker, for a time."""

import logging
from collections.abc import Sequence

from meshway.engine.ports import Lease, SettleOutcome
from meshway.gateway.queue_places import QueuePlaces, check_between
from meshway.kernel.errors import MeshwayError
from meshway.kernel.principal import Principal
from meshway.kernel.retry import is_exhausted
from meshway.messaging.channel import QueueChannelSettings
from meshway.messaging.deliveries import HeldDelivery, held_deliveries
from meshway.messaging.names import parse_channel_name
from meshway.messaging.queue_settling import give_up

__all__ = ["LeaseMessages"]

_log = logging.getLogger(__name__)

_COUNT_MAX = 1_000
# Hand-outs of nothing but used-up messages in one call: then the caller asks again, and others get their turn.
_ROUNDS_MAX = 100


class LeaseMessages:
    """Also where messages whose last lease ran out become dead letters: nobody but the next lease sees them."""

    def __init__(self, places: QueuePlaces) -> None:
        self._places = places

    def admit(self, principal: Principal, queue: str) -> None:
        """What `execute` would refuse at once, for who goes on to lease again and again.

        Raises: Forbidden, InvalidRequest naming `channel`.
        """
        self._places.admission.admit_channel(principal)
        parse_channel_name(queue)

    async def execute(self, principal: Principal, queue: str, *, count: int, wait_ms: int) -> Sequence[HeldDelivery]:
        """Up to `count` (1 to 1,000): highest priority first, then oldest.

        As soon as one is due, with all that are due; empty after `wait_ms`. A queue nobody used yet is waited for.
        Raises: Forbidden, InvalidRequest naming `channel`, `count` or `wait_ms`, EngineUnavailable.
        """
        places = self._places
        places.admission.admit_channel(principal)
        name = parse_channel_name(queue)
        check_between("count", count, 1, _COUNT_MAX)
        check_between("wait_ms", wait_ms, 0, places.settings.long_poll_max_ms)
        ends_ms = places.clock.monotonic_ms() + wait_ms
        for _round in range(_ROUNDS_MAX):
            leases = await places.queue.lease(name, count=count, wait_ms=wait_ms)
            settings = places.settings_of(name)
            if leases and max(lease.attempt for lease in leases) > settings.attempts_max:
                leases = await self._without_used_up(name, leases, settings)
                if not leases:
                    # What stood behind the used-up ones may be due: this is asked at least once more.
                    wait_ms = max(0, int(ends_ms - places.clock.monotonic_ms()))
                    continue
            return held_deliveries(name, leases)
        return []

    async def _without_used_up(
        self, queue: str, leases: Sequence[Lease], settings: QueueChannelSettings
    ) -> Sequence[Lease]:
        """Those that may be handed out; the others go to the dead letters, or away where the queue keeps none."""
        endings = []
        live = []
        for lease in leases:
            ending = is_exhausted(settings.attempts_max, lease.attempt)
            if ending is None:
                live.append(lease)
            else:
                endings.append(give_up(lease.delivery_id, settings, ending.reason))
        try:
            outcomes = await self._places.queue.settle(endings)
        except MeshwayError as error:
            if not live:
                raise
            # The holders of the others must get theirs; these run out once more and are settled then.
            _log.warning("queue_give_up_postponed", extra={"queue": queue, "reason": error.detail})
            return live
        given_up = sum(outcome is SettleOutcome.DONE for outcome in outcomes)
        _log.info("queue_attempts_used_up", extra={"queue": queue, "messages": given_up})
        return live
