"""The requests that wait at this hub for the responders of one pattern, and who is handed which. No I/O.

Whoever waits longest is served first. What arrives in one go is spread over all who wait, so that an idle responder is
not passed over in favour of one that asked for many. A request is in one pair of hands at a time: it waits here, or was
taken by exactly one responder; one that was handed to somebody who is gone already goes back to the front.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from meshway.engine.ports import BusMessage
from meshway.kernel.clock import Clock
from meshway.messaging.request_wire import timeout_of

__all__ = ["ResponderPool", "WaitingRequest"]

# Requests carry up to 8 MiB each: a count alone would not bound the memory of one channel.
_WAITING_BYTES_MAX = 67_108_864
# Looking through a full pool for requests whose time is up costs as much as it is long; not for every arrival.
_SWEEP_INTERVAL_MS = 100


class WaitingRequest(msgspec.Struct, frozen=True):
    """`deadline_ms` is for the responder to read (epoch), `expires_ms` is what decides here (monotonic)."""

    message: BusMessage
    timeout_ms: int
    deadline_ms: int
    expires_ms: float


class ResponderPool:
    """One per pattern and kind at a hub. The loop's thread only."""

    def __init__(self, *, clock: Clock, requests_max: int) -> None:
        self._clock = clock
        self._requests_max = requests_max
        self._waiting: deque[WaitingRequest] = deque()
        self._waiting_bytes = 0
        # In order of arrival; a dict, so that one who gives up leaves at once. While anybody waits, no request does.
        self._takers: dict[_Taker, None] = {}
        self._lost: Exception | None = None
        self._swept_ms = clock.monotonic_ms()

    @property
    def waiting(self) -> int:
        """Requests that nobody has taken, those whose time is up included."""
        return len(self._waiting)

    def offer(self, messages: Iterable[BusMessage]) -> Sequence[BusMessage]:
        """Requests arrived: hand them out or let them wait. Returns those there was no room for, to be refused."""
        now_ms, monotonic_ms = self._clock.now_ms(), self._clock.monotonic_ms()
        refused = []
        for message in messages:
            timeout_ms = timeout_of(message)
            if timeout_ms is None:
                continue
            if not self._has_room(monotonic_ms):
                refused.append(message)
                continue
            request = WaitingRequest(message, timeout_ms, now_ms + timeout_ms, monotonic_ms + timeout_ms)
            self._waiting.append(request)
            self._waiting_bytes += len(message.data)
        self._hand_out()
        return refused

    async def take(self, count_max: int) -> Sequence[WaitingRequest]:
        """Wait for at least one request whose time is not up. A cancelled call leaves its requests to the next.

        Raises: what `lose` was given.
        """
        if self._lost is not None:
            raise self._lost
        if self._waiting and (found := self._next(count_max)):
            return found
        taker = _Taker(count_max)
        self._takers[taker] = None
        try:
            return await taker.handed
        except asyncio.CancelledError:
            self._take_back(taker)
            raise
        finally:
            self._takers.pop(taker, None)

    def empty(self) -> Sequence[BusMessage]:
        """Give up all that wait; those whose time is not up are returned, to be answered."""
        left = self._next(len(self._waiting))
        return [request.message for request in left]

    def lose(self, error: Exception) -> None:
        """No request will come any more: everybody who waits, and who comes later, gets `error`."""
        self._lost = error
        for taker in self._takers:
            if not taker.handed.done():
                taker.handed.set_exception(error)

    def _hand_out(self) -> None:
        while self._takers and self._waiting:
            taker = next(iter(self._takers))
            if taker.handed.done():
                # Cancelled, but its turn to say so has not come.
                del self._takers[taker]
                continue
            share = -(-len(self._waiting) // len(self._takers))
            requests = self._next(min(share, taker.count_max))
            if requests:
                del self._takers[taker]
                taker.handed.set_result(requests)

    def _next(self, count_max: int) -> list[WaitingRequest]:
        monotonic_ms = self._clock.monotonic_ms()
        found: list[WaitingRequest] = []
        while self._waiting and len(found) < count_max:
            request = self._waiting.popleft()
            self._waiting_bytes -= len(request.message.data)
            if request.expires_ms > monotonic_ms:
                found.append(request)
        return found

    def _take_back(self, taker: "_Taker") -> None:
        if not taker.handed.done() or taker.handed.cancelled() or taker.handed.exception() is not None:
            return
        requests = taker.handed.result()
        self._waiting.extendleft(reversed(requests))
        self._waiting_bytes += sum(len(request.message.data) for request in requests)
        self._hand_out()

    def _has_room(self, monotonic_ms: float) -> bool:
        if self._is_below_limits():
            return True
        if monotonic_ms - self._swept_ms < _SWEEP_INTERVAL_MS:
            return False
        self._swept_ms = monotonic_ms
        self._waiting = deque(request for request in self._waiting if request.expires_ms > monotonic_ms)
        self._waiting_bytes = sum(len(request.message.data) for request in self._waiting)
        return self._is_below_limits()

    def _is_below_limits(self) -> bool:
        return len(self._waiting) < self._requests_max and self._waiting_bytes < _WAITING_BYTES_MAX


class _Taker:
    """One responder that waits for up to `count_max` requests."""

    __slots__ = ("count_max", "handed")

    def __init__(self, count_max: int) -> None:
        self.count_max = count_max
        self.handed: asyncio.Future[Sequence[WaitingRequest]] = asyncio.get_running_loop().create_future()
