"""Names to addresses: DNS in a few named threads, bounded, each question asked once at a time, briefly remembered."""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from meshway.kernel.clock import Clock
from meshway.kernel.errors import UpstreamUnreachable

__all__ = ["Lookup", "Resolver", "system_lookup"]

# Blocking: host in, addresses out. Raises: OSError.
Lookup = Callable[[str], Sequence[str]]

# Lookups take milliseconds; four in parallel are enough even while one name server hangs.
_THREADS_MAX = 4
# Each waiting lookup is a different host; more at once is somebody working through a list.
_PENDING_MAX = 256
_CACHE_MAX = 1_024
# A host with hundreds of addresses is an attack on whoever judges or tries them all.
_ADDRESSES_MAX = 32

_Job = tuple[str, asyncio.AbstractEventLoop, "asyncio.Future[Sequence[str]]"]


def system_lookup(host: str) -> Sequence[str]:
    """What the machine's resolver says, hosts file included. Raises: OSError (socket.gaierror)."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Resolver:
    """Used from one event loop. Threads start when first needed and are daemons: a hung lookup never delays an exit."""

    def __init__(self, *, clock: Clock, timeout_ms: int, cache_ms: int, lookup: Lookup = system_lookup) -> None:
        self._clock = clock
        self._timeout_ms = timeout_ms
        self._cache_ms = cache_ms
        self._lookup = lookup
        self._cache: dict[str, tuple[float, Sequence[str]]] = {}
        self._pending: dict[str, asyncio.Future[Sequence[str]]] = {}
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    async def addresses(self, host: str) -> Sequence[str]:
        """All addresses of the host, at least one. Raises: UpstreamUnreachable when it has none or DNS is too slow."""
        cached = self._cache.get(host)
        if cached is not None and self._clock.monotonic_ms() < cached[0]:
            return cached[1]
        pending = self._pending.get(host) or self._ask(host)
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                # Shielded: others may wait for the same answer, and a late one still fills the cache.
                found = await asyncio.shield(pending)
        except TimeoutError:
            raise UpstreamUnreachable(
                f"The address of {host!r} could not be found within {self._timeout_ms} ms (egress.dns_timeout_ms)."
            ) from None
        except OSError as error:
            raise UpstreamUnreachable(f"The host {host!r} cannot be found: {error.strerror or error}.") from None
        if not found:
            raise UpstreamUnreachable(f"The host {host!r} has no address.")
        return found

    def close(self) -> None:
        """Let the threads end. Lookups that are under way are answered to nobody."""
        for _ in self._threads:
            self._jobs.put(None)
        self._threads.clear()

    def _ask(self, host: str) -> "asyncio.Future[Sequence[str]]":
        if len(self._pending) >= _PENDING_MAX:
            raise UpstreamUnreachable(f"{_PENDING_MAX} host names are being looked up already; try again in a moment.")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Sequence[str]] = loop.create_future()
        self._pending[host] = answer
        answer.add_done_callback(lambda done: self._keep(host, done))
        if len(self._threads) < min(_THREADS_MAX, len(self._pending)):
            name = f"meshway-dns-{len(self._threads)}"
            thread = threading.Thread(target=_work, args=(self._jobs, self._lookup), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()
        self._jobs.put((host, loop, answer))
        return answer

    def _keep(self, host: str, done: "asyncio.Future[Sequence[str]]") -> None:
        self._pending.pop(host, None)
        # Asking for the exception also marks it as seen when every waiter has left.
        if done.cancelled() or done.exception() is not None or self._cache_ms == 0:
            return
        if len(self._cache) >= _CACHE_MAX:
            self._cache.clear()
        self._cache[host] = (self._clock.monotonic_ms() + self._cache_ms, done.result())


def _work(jobs: "SimpleQueue[_Job | None]", lookup: Lookup) -> None:
    while (job := jobs.get()) is not None:
        host, loop, answer = job
        outcome: Sequence[str] | OSError
        try:
            outcome = lookup(host)[:_ADDRESSES_MAX]
        except OSError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001 - boundary of a thread: an odd name (UnicodeError) must not end it
            outcome = OSError(f"{type(error).__name__}: {error}")
        try:
            loop.call_soon_threadsafe(_answer, answer, outcome)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            return


def _answer(answer: "asyncio.Future[Sequence[str]]", outcome: Sequence[str] | OSError) -> None:
    if answer.done():
        return
    if isinstance(outcome, OSError):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
