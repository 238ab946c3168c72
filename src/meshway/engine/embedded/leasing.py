"""Lease calls on the loop's side: they wait here until something is due, their time is up, or their caller goes."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence

from meshway.engine.embedded.loops import new_finished
from meshway.engine.embedded.queue_calls import LeaseCall, ReleaseCall
from meshway.engine.embedded.writer import Store, Writer
from meshway.engine.ports import Lease
from meshway.kernel.errors import EngineUnavailable, MeshwayError

__all__ = ["Leasing"]


class _WaitingCall(LeaseCall):
    """A lease call that is submitted again each time something may be due. `finished` ends it for good."""

    __slots__ = ("answered", "may_wait")

    may_wait: bool
    answered: Callable[["_WaitingCall"], None]

    def finish(self) -> None:
        self.answered(self)


class Leasing:
    """The loop's thread only."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._parked: dict[str, OrderedDict[_WaitingCall, None]] = {}
        self._store: Store | None = None
        self._closed = False

    def use(self, store: Store) -> None:
        self._store = store

    async def lease(self, queue: str, count: int, wait_ms: int) -> Sequence[Lease]:
        """See `Queue.lease`."""
        call = _WaitingCall(self._the_store(), new_finished())
        call.queue = queue
        call.count = count
        call.leases = ()
        call.may_wait = wait_ms > 0
        call.answered = self._answered
        self._writer.submit(call)
        timer = asyncio.get_running_loop().call_later(wait_ms / 1000, self._time_is_up, call) if wait_ms > 0 else None
        try:
            await call.finished
        except asyncio.CancelledError:
            self._unpark(call)
            # The answer may have come at the same moment; the writer's answer after this one finds us gone.
            if not call.finished.cancelled():
                self._release(call)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        return call.leases

    def wake(self, ready: dict[str, int]) -> None:
        """Messages became due: let as many callers try."""
        for queue, count in ready.items():
            parked = self._parked.get(queue)
            while parked and count > 0:
                call, _ = parked.popitem(last=False)
                count -= 1
                self._submit_again(call)
            if parked is not None and not parked:
                del self._parked[queue]

    def close(self) -> None:
        """Nobody will be handed anything any more."""
        self._closed = True
        for parked in self._parked.values():
            for call in parked:
                _fail(call, EngineUnavailable("the store is closed"))
        self._parked.clear()

    def _answered(self, call: _WaitingCall) -> None:
        if call.finished.done():
            self._release(call)
        elif call.error is not None:
            _fail(call, call.error)
        elif call.leases or not call.may_wait:
            call.finished.set_result(None)
        elif self._closed:
            _fail(call, EngineUnavailable("the store is closed"))
        else:
            self._parked.setdefault(call.queue, OrderedDict())[call] = None

    def _submit_again(self, call: _WaitingCall) -> None:
        try:
            self._writer.submit(call)
        except MeshwayError as error:
            _fail(call, error)

    def _time_is_up(self, call: _WaitingCall) -> None:
        call.may_wait = False
        if self._unpark(call):
            call.finished.set_result(None)

    def _unpark(self, call: _WaitingCall) -> bool:
        parked = self._parked.get(call.queue)
        if parked is None or call not in parked:
            return False
        del parked[call]
        if not parked:
            del self._parked[call.queue]
        return True

    def _release(self, call: _WaitingCall) -> None:
        if not call.leases:
            return
        release = ReleaseCall(self._the_store(), new_finished())
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
