"""Replies to queries, kept for a time, and queries that are the same at the same moment asked once.

The cache is one for all callers of a channel: whatever the reply depends on belongs into the key. It is a convenience,
never a reason to fail: a store that cannot be read or written means that the responder is asked.
"""

import asyncio
import hashlib
import logging
import math
from collections.abc import Awaitable, Callable

import msgspec

from meshway.engine.ports import Durability, KeyValue, KvPut, Undecided
from meshway.kernel.clock import Clock
from meshway.kernel.errors import DeadlineExceeded, Draining, EngineError, LimitError, MeshwayError
from meshway.messaging.names import ChannelName
from meshway.messaging.requests import RequestReply
from meshway.messaging.settings import MessagingSettings

__all__ = ["ReplyCache"]

_log = logging.getLogger(__name__)

_PREFIX = "qcache"
# A store that is slower than this is no shortcut.
_STORE_S = 2.0

Ask = Callable[[], Awaitable[RequestReply]]


class ReplyCache:
    """One per hub; what is kept is shared by the mesh, queries under way are joined at each hub. `run` owns them."""

    def __init__(self, key_value: KeyValue, *, settings: MessagingSettings, clock: Clock) -> None:
        self._key_value = key_value
        self._settings = settings
        self._clock = clock
        self._flights: dict[str, _Flight] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Duty: carry the queries under way until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self._tasks = None

    async def answer(
        self, channel: ChannelName, cache_key: str, ask: Ask, *, ttl_ms: int, timeout_ms: int
    ) -> RequestReply:
        """The kept reply, that of the same query under way, or what `ask` brings, which is then kept for `ttl_ms`.

        Only what was executed is kept. A failure of `ask` is shared by those who wait for it, but not its deadline:
        who has time left asks again. A caller who leaves takes nobody along; when the last one leaves, `ask` is
        cancelled. Raises: what `ask` raises, DeadlineExceeded after `timeout_ms`, Draining.
        """
        digest = hashlib.sha256(cache_key.encode("utf-8", "surrogatepass")).hexdigest()
        key = f"{_PREFIX}.{channel}.{digest}"
        ends_ms = self._clock.monotonic_ms() + timeout_ms
        while True:
            flight = self._flights.get(key)
            if flight is None or flight.served_until_ms <= self._clock.monotonic_ms():
                return await self._wait(self._begin(key, ask, ttl_ms), None)
            left_ms = ends_ms - self._clock.monotonic_ms()
            try:
                reply = await self._wait(flight, left_ms / 1000)
            except DeadlineExceeded:
                if self._clock.monotonic_ms() < ends_ms:
                    continue
                raise
            except TimeoutError:
                raise DeadlineExceeded(
                    f"The same query on {channel!r} was under way and brought no reply within {timeout_ms} ms.",
                    may_have_acted=True,
                ) from None
            return msgspec.structs.replace(reply, cache="hit")

    async def _wait(self, flight: "_Flight", seconds: float | None) -> RequestReply:
        flight.waiters += 1
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.shield(flight.result)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.result.done() and flight.task is not None:
                # Out of the way at once: a flight that falls is not one to join.
                self._forget(flight)
                flight.task.cancel()

    def _begin(self, key: str, ask: Ask, ttl_ms: int) -> "_Flight":
        if self._tasks is None:
            raise Draining("This hub is starting or shutting down; ask again.", retry_after_ms=1_000)
        flight = self._flights[key] = _Flight(key)
        flight.task = self._tasks.create_task(self._fly(flight, ask, ttl_ms), name="query-flight")
        return flight

    async def _fly(self, flight: "_Flight", ask: Ask, ttl_ms: int) -> None:
        try:
            reply = await self._kept(flight.key)
            if reply is not None:
                flight.result.set_result(reply)
                return
            reply = await ask()
            # Callers need not wait for the store; until it has the reply, this flight answers who comes.
            flight.served_until_ms = self._clock.monotonic_ms() + ttl_ms
            flight.result.set_result(reply)
            await self._keep(flight.key, reply, ttl_ms)
        except Exception as error:  # noqa: BLE001  the boundary of one query: its callers get the failure, no other
            flight.fail(error)
        finally:
            flight.fail(Draining("This hub is shutting down; ask again, at another one.", may_have_acted=True))
            self._forget(flight)

    def _forget(self, flight: "_Flight") -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    async def _kept(self, key: str) -> RequestReply | None:
        try:
            async with asyncio.timeout(_STORE_S):
                (entry,) = await self._key_value.get([key])
            kept = None if entry is None else _decode_kept(entry.value)
        except (EngineError, LimitError, TimeoutError, msgspec.DecodeError) as error:
            _log.warning("reply_cache_unreadable", extra={"reason": _reason(error)})
            return None
        # The store rounds up to whole seconds; a time to live of 50 ms means 50 ms.
        if kept is None or kept.expires_ms <= self._clock.now_ms():
            return None
        return RequestReply(executed=True, data=kept.data, cache="hit")

    async def _keep(self, key: str, reply: RequestReply, ttl_ms: int) -> None:
        size = 0 if reply.data is msgspec.UNSET else len(reply.data)
        if not reply.executed or size > self._settings.cache_bytes_max:
            return
        value = _encode(_Kept(expires_ms=self._clock.now_ms() + ttl_ms, data=reply.data))
        write = KvPut(key=key, value=value, ttl_ms=ttl_ms, durability=Durability.LAZY)
        try:
            async with asyncio.timeout(_STORE_S):
                (outcome,) = await self._key_value.write([write])
        except (EngineError, LimitError, TimeoutError) as error:
            _log.warning("reply_not_cached", extra={"reason": _reason(error)})
            return
        if isinstance(outcome, Undecided):
            _log.warning("reply_not_cached", extra={"reason": outcome.reason})


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The record in the store."""

    expires_ms: int
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Flight:
    """One query under way, and how many wait for it."""

    __slots__ = ("key", "result", "served_until_ms", "task", "waiters")

    def __init__(self, key: str) -> None:
        self.key = key
        self.result: asyncio.Future[RequestReply] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None
        self.waiters = 0
        # Its reply, once there, is no younger than one from the store.
        self.served_until_ms = math.inf

    def fail(self, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)
            # Seen: nobody may be waiting any more.
            self.result.exception()


def _reason(error: Exception) -> str:
    return error.detail if isinstance(error, MeshwayError) else str(error) or type(error).__name__


_encode = msgspec.json.Encoder().encode
_decode_kept = msgspec.json.Decoder(_Kept).decode
