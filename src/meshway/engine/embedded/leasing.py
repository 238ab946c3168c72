"""Lease calls on the loop's side: they wait here until something is due, their time is up, or their caller goes."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from meshway.engine.embedded.deadlines import Deadlines
from meshway.engine.embedded.queue_calls import LeaseCall, ReleaseCall
from meshway.engine.embedded.writer import Store, Writer
from meshway.engine.ports import Lease
from meshway.kernel.errors import EngineUnavailable, MeshwayError

__all__ = ["Leasing"]


class _WaitingCall(LeaseCall):
    """A lease call that is submitted again each time something may be due. `finished` ends it for good."""

    __slots__ = ("answered", "until", "wait_key")

    # Loop time at which it is answered empty; 0.0 for one that does not wait.
    until: float
    # Where its end stands among the deadlines; 0 while it is not parked.
    wait_key: int
    answered: Callable[["_WaitingCall"], None]

    def finish(self) -> None:
        self.answered(self)


class Leasing:
    """The loop's thread only."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._parked: dict[str, OrderedDict[_WaitingCall, None]] = {}
        self._deadlines: Deadlines[_WaitingCall] = Deadlines(self._time_is_up)
        self._store: Store | None = None
        self._closed = False

    def use(self, store: Store) -> None:
        self._store = store

    async def lease(self, queue: str, count: int, wait_ms: int, *, is_empty: bool) -> Sequence[Lease]:
        """See `Queue.lease`. `is_empty`: nothing is due as far as the loop knows, so the writer need not be asked."""
        if is_empty:
            self._writer.check_writable()
            if wait_ms <= 0:
                return ()
        call = _WaitingCall(self._the_store(), self._writer.new_finished())
        call.queue = queue
        call.count = count
        call.leases = ()
        call.more = False
        call.wait_key = 0
        call.until = asyncio.get_running_loop().time() + wait_ms / 1000 if wait_ms > 0 else 0.0
        call.answered = self._answered
        if is_empty:
            self._park(call)
        else:
            self._writer.submit(call)
        try:
            await call.finished
        except asyncio.CancelledError:
            self._unpark(call)
            # The answer may have come at the same moment; the writer's answer after this one finds us gone.
            if not call.finished.cancelled():
                self._release(call)
            raise
        return call.leases

    def waits_on(self, queue: str) -> bool:
        """Whether a call waits for messages of this queue."""
        return queue in self._parked

    def wake(self, ready: Mapping[str, int]) -> None:
        """Messages became due, or are on their way to the writer: let as many callers try."""
        for queue, count in ready.items():
            parked = self._parked.get(queue)
            if parked is None:
                continue
            for _ in range(min(count, len(parked))):
                call = next(iter(parked))
                self._unpark(call)
                self._submit_again(call)

    def close(self) -> None:
        """Nobody will be handed anything any more."""
        self._closed = True
        self._deadlines.close()
        for parked in self._parked.values():
            for call in parked:
                _fail(call, EngineUnavailable("the store is closed"))
        self._parked.clear()

    def _answered(self, call: _WaitingCall) -> None:
        if call.finished.done():
            self._release(call)
        elif call.error is not None:
            _fail(call, call.error)
        elif call.leases:
            call.finished.set_result(None)
        elif call.more:
            # Its neighbours of the same group took all that fitted into one; the rest is due all the same.
            self._submit_again(call)
        else:
            self._park(call)

    def _submit_again(self, call: _WaitingCall) -> None:
        try:
            self._writer.submit(call)
        except MeshwayError as error:
            _fail(call, error)

    def _park(self, call: _WaitingCall) -> None:
        if self._closed:
            _fail(call, EngineUnavailable("the store is closed"))
        elif call.until <= asyncio.get_running_loop().time():
            call.finished.set_result(None)
        else:
            parked = self._parked.get(call.queue)
            if parked is None:
                parked = self._parked[call.queue] = OrderedDict()
            parked[call] = None
            call.wait_key = self._deadlines.add(call, call.until)

    def _unpark(self, call: _WaitingCall) -> bool:
        parked = self._parked.get(call.queue)
        if parked is None or call not in parked:
            return False
        del parked[call]
        if not parked:
            del self._parked[call.queue]
        self._deadlines.discard(call, call.wait_key)
        return True

    def _time_is_up(self, call: _WaitingCall) -> None:
        if self._unpark(call) and not call.finished.done():
            call.finished.set_result(None)

    def _release(self, call: _WaitingCall) -> None:
        if not call.leases:
            return
        release = ReleaseCall(self._the_store(), self._writer.new_finished())
        release.delivery_ids = [lease.delivery_id for lease in call.leases]
        call.leases = ()
        # Nobody awaits it: if it fails, the leases run out by themselves.
        release.finished.add_done_callback(_forget)
        try:
            self._writer.submit(release)
        except MeshwayError:
            return

    def _the_store(self) -> Store:
        if self._store is None:
            raise EngineUnavailable("the store is not open yet")
        return self._store


def _fail(call: _WaitingCall, error: MeshwayError) -> None:
    if not call.finished.done():
        call.finished.set_exception(error)


def _forget(finished: "asyncio.Future[None]") -> None:
    if not finished.cancelled():
        finished.exception()
