"""Handlers of messages: called on the loop or in a thread, with what they may say by raising."""

import asyncio
import contextvars
import inspect
import math
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar, TypeVarTuple

from meshway.messaging.settlements import DELAY_MAX_MS, REASON_CHARACTERS_MAX

__all__ = ["HandlerCall", "Refused", "Reject", "Retry", "reason_of", "shortened", "stopping_on_signals"]

Message = TypeVar("Message")
Result = TypeVar("Result")
Args = TypeVarTuple("Args")


class Reject(Exception):
    """Raised by a worker's handler: this message can never be done; to the dead letters with it, and why.

    `reason`: a text, or the exception that tells it.
    """

    def __init__(self, reason: str | BaseException) -> None:
        super().__init__(reason)
        self.reason = reason


class Retry(Exception):
    """Raised by a worker's handler: not now. Due again after `delay_ms`, else after the queue's back-off.

    A part of a millisecond counts as one. Raises: ValueError for a delay below 0 or beyond 365 days.
    """

    def __init__(self, reason: str | BaseException = "", *, delay_ms: float | None = None) -> None:
        super().__init__(reason)
        # The hub would refuse it, and with it all that is settled in the same call.
        if delay_ms is not None and not 0 <= delay_ms <= DELAY_MAX_MS:
            raise ValueError(f"delay_ms is {delay_ms}; choose 0 to {DELAY_MAX_MS:,} (365 days)")
        self.reason = reason
        self.delay_ms = None if delay_ms is None else math.ceil(delay_ms)


class Refused(Exception):
    """Raised by a responder's handler: the request is understood and not carried out; the caller reads why."""

    def __init__(self, reason: str | BaseException) -> None:
        super().__init__(reason)
        self.reason = reason


class HandlerCall(Generic[Message]):
    """A user's function. Async ones run on the loop, others in threads of their own, as many as run at once.

    A thread cannot be stopped: one that still runs when its worker ends keeps the process alive until it returns.
    """

    def __init__(self, handler: Callable[[Message], Awaitable[object] | object], *, concurrency: int) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; it must be at least 1")
        self._handler = handler
        self.is_threaded = not (_is_async(handler) or _is_async(getattr(handler, "__call__", None)))  # noqa: B004
        self._threads = (
            ThreadPoolExecutor(concurrency, thread_name_prefix="meshway-handler") if self.is_threaded else None
        )

    async def __call__(self, message: Message) -> object:
        """What the function returns. Raises: what it raises."""
        result = await self.call_where_it_runs(self._call, message)
        # Also a plain function that makes a coroutine, a lambda around an async one.
        return await result if inspect.isawaitable(result) else result

    async def call_where_it_runs(self, function: Callable[[*Args], Result], *args: *Args) -> Result:
        """Call something on the loop or in a thread, as the handler itself. In threads it sees the caller's context."""
        if self._threads is None:
            return function(*args)
        context = contextvars.copy_context()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, context.run, function, *args)

    def _call(self, message: Message) -> object:
        try:
            return self._handler(message)
        except StopIteration as error:
            # A future takes none: whoever awaits it would wait for ever. Python does the same to coroutines.
            raise RuntimeError("the handler raised StopIteration") from error

    def close(self) -> None:
        """No thread is waited for."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _is_async(handler: object) -> bool:
    return inspect.iscoroutinefunction(handler) or inspect.isasyncgenfunction(handler)


def reason_of(error: BaseException) -> str:
    """Type and text, for people and for the history of the message."""
    text = _text_of(error)
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return shortened(reason)


def shortened(reason: str | BaseException) -> str:
    """As much of a reason as the hub keeps, whatever stands in it."""
    if isinstance(reason, BaseException):
        return reason_of(reason)
    text = _text_of(reason)
    return text if len(text) <= REASON_CHARACTERS_MAX else text[: REASON_CHARACTERS_MAX - 1] + "…"


def _text_of(value: object) -> str:
    """What a user's code raised as text that can be sent: exceptions may fail to say what they are."""
    try:
        text = str(value)
    except Exception:  # noqa: BLE001  the boundary of a delivery: its outcome must be said whatever the exception is like
        return ""
    # File names that are no UTF-8 bring surrogates, which JSON cannot carry.
    return text.encode(errors="backslashreplace").decode()


@contextmanager
def stopping_on_signals(stop: Callable[[], None], *, wanted: bool) -> Iterator[None]:
    """SIGTERM and SIGINT call `stop` inside the block, where this is the main thread; else nothing changes."""
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number, action in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, action)
