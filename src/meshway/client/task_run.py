"""One run of a handler: from a delivery to the task's end, across the questions it asks.

running -> waiting (for an answer, without a delivery) -> running ... -> ended
   └──────────┴──── cancelled: lost, forgotten, or given back at the stop
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import aclosing
from typing import Literal, Protocol

import msgspec

from meshway.client.agent_values import Progress, TaskAnswer
from meshway.client.delegation import Delegation, delegated
from meshway.client.handlers import HandlerCall, Reject, Retry, reason_of
from meshway.client.messages import Message
from meshway.client.task_context import TaskContext
from meshway.client.task_voice import RunVoice, VoiceDesk
from meshway.protocols.link.frames import TaskDelivery

__all__ = ["RunDesk", "TaskRun"]

_log = logging.getLogger(__name__)

CancelReason = Literal["lost", "given_back"]


class RunDesk(Protocol):
    """The service, as its runs see it."""

    def waits(self, run: "TaskRun") -> None:
        """It asked its client something: from here on it takes no capacity."""


class _Ended:
    """A generator in a thread is at its end: StopIteration cannot be carried by a future."""

    def __init__(self, result: object) -> None:
        self.result = result


class TaskRun:
    """Made on the loop; `run` is the body of a task of the service's group, which is then set as `task`."""

    def __init__(
        self,
        delivery: TaskDelivery,
        handler: HandlerCall[TaskContext],
        *,
        desk: RunDesk,
        reporter: VoiceDesk,
        retry_on: tuple[type[Exception], ...],
    ) -> None:
        """Raises: msgspec.MsgspecError for a delivery that this SDK cannot read."""
        self.task: asyncio.Task[None] | None = None
        self.is_cancelled = False
        self._handler = handler
        self._desk = desk
        self._retry_on = retry_on
        self._voice = RunVoice(delivery, reporter)
        self._delegation = Delegation(delivery.chain, delivery.traceparent)
        self._answer: asyncio.Future[TaskAnswer] | None = None
        self._is_given_back = False
        self._context = TaskContext(delivery, self)

    @property
    def delivery(self) -> TaskDelivery:
        """The present one; while waiting, the one that ended with the question."""
        return self._voice.delivery

    @property
    def is_waiting(self) -> bool:
        return self._answer is not None

    async def run(self) -> None:
        """To the end, and say how it ended."""
        try:
            with delegated(self._delegation):
                await self._work()
            self._voice.end_turn("COMPLETED")
        except Reject as wish:
            self._voice.settle("fail", wish.reason)
        except Retry as wish:
            self._voice.settle("retry", wish.reason or "the handler asked for it", wish.delay_ms)
        except asyncio.CancelledError as cancelled:
            self._end_cancelled(cancelled)
        except self._retry_on as error:
            self._voice.settle("retry", error)
        except Exception as error:  # noqa: BLE001  the boundary of a task: whatever the handler raised is its outcome
            self._end_failed(error)
        finally:
            self._voice.close()

    def awaits(self, delivery: TaskDelivery) -> bool:
        """Whether this is the answer it waits for: to its own question, and its handler still wants it."""
        is_next = delivery.turn == self.delivery.turn + 1
        return is_next and self._answer is not None and not self._answer.done()

    def answer(self, delivery: TaskDelivery) -> None:
        """The client answered: go on with this delivery. Raises: msgspec.MsgspecError."""
        answer = TaskAnswer(msgspec.json.decode(delivery.message, type=Message))
        self._voice.begin(delivery)
        self._delegation.chain = delivery.chain
        self._delegation.traceparent = delivery.traceparent
        if self._answer is not None:
            self._answer.set_result(answer)
            self._answer = None

    def cancel(self, reason: CancelReason) -> None:
        """Stop working: nothing it says counts any more, or the process ends. Threads see `is_cancelled`."""
        self.is_cancelled = True
        self._is_given_back = reason == "given_back"
        if self._answer is not None:
            self._answer.cancel()
        # A thread goes on whatever happens here; it keeps its slot until it returns, or nobody waits any more.
        if self.task is not None and (self._is_given_back or self.is_waiting or not self._handler.is_threaded):
            self.task.cancel()

    async def ask(self, question: str, *, auth: bool) -> TaskAnswer:
        """As TaskVoice."""
        if self._answer is not None:
            raise RuntimeError("this task has asked already and waits for the answer")
        self._voice.end_turn("AUTH_REQUIRED" if auth else "INPUT_REQUIRED", question)
        answer: asyncio.Future[TaskAnswer] = asyncio.get_running_loop().create_future()
        self._answer = answer
        self._desk.waits(self)
        return await answer

    async def progress(self, text: str, metadata: Mapping[str, object] | None) -> None:
        """As TaskVoice."""
        await self._voice.say(Progress(text, metadata))

    def report_cost(self, units: float) -> None:
        """As TaskVoice."""
        self._voice.report_cost(units)

    async def _work(self) -> None:
        result = await self._handler(self._context)
        if isinstance(result, AsyncGenerator):
            async with aclosing(result):
                async for value in result:
                    await self._voice.say(value)
        elif isinstance(result, Generator):
            await self._work_through(result)
        elif result is not None:
            await self._voice.say_result(result)

    async def _work_through(self, generator: Generator[object, None, object]) -> None:
        """Of a blocking handler that yields: each step in a thread."""
        while True:
            value = await self._handler.call_where_it_runs(_next_of, generator)
            if isinstance(value, _Ended):
                if value.result is not None:
                    await self._voice.say_result(value.result)
                return
            if self.is_cancelled:
                await self._handler.call_where_it_runs(generator.close)
                return
            await self._voice.say(value)

    def _end_cancelled(self, cancelled: asyncio.CancelledError) -> None:
        task = asyncio.current_task()
        if self._is_given_back:
            self._voice.settle("release", "the agent stopped")
        elif self.is_cancelled:
            return
        elif task is not None and task.cancelling():
            # The agent itself is torn down: nothing can be said any more, the lease runs out.
            raise cancelled
        else:
            self._voice.end_turn("FAILED", "CancelledError: something the handler waited for was cancelled")

    def _end_failed(self, error: Exception) -> None:
        if self._is_given_back:
            # What a handler stumbles over on its way out is no result.
            self._voice.settle("release", "the agent stopped")
        elif not self.is_cancelled:
            _log.warning("task_failed", extra={"task_id": self.delivery.task_id}, exc_info=error)
            self._voice.end_turn("FAILED", reason_of(error))


def _next_of(generator: Generator[object, None, object]) -> object:
    try:
        return next(generator)
    except StopIteration as end:
        return _Ended(end.value)
