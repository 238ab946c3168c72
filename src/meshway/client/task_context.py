"""A task as its handler sees it."""

import asyncio
from collections.abc import Coroutine, Mapping
from datetime import datetime
from typing import Protocol, TypeVar

import msgspec

from meshway.client.agent_values import TaskAnswer
from meshway.client.messages import Message, Task
from meshway.protocols.link.frames import TaskDelivery

__all__ = ["TaskContext", "TaskVoice"]

Result = TypeVar("Result")


class TaskVoice(Protocol):
    """What a task can say before it ends."""

    @property
    def delivery(self) -> TaskDelivery:
        """The one it works on; another one after each answer of the client."""

    @property
    def is_cancelled(self) -> bool:
        """Nothing it says counts any more."""

    async def ask(self, question: str, *, auth: bool) -> TaskAnswer:
        """End the turn with a question; go on with the next turn."""

    async def progress(self, text: str, metadata: Mapping[str, object] | None) -> None:
        """Say how far it is."""

    def report_cost(self, units: float) -> None:
        """Say what it cost. From any thread."""


class TaskContext:
    """What a handler gets. `message`, `text`, `previous` and `history` are as it was begun; answers come from `ask`.

    Methods belong to the event loop; a blocking handler calls them by `task.wait_for(task.progress("..."))`.
    """

    def __init__(self, delivery: TaskDelivery, voice: TaskVoice) -> None:
        """Raises: msgspec.MsgspecError for a delivery that this SDK cannot read."""
        self._voice = voice
        self._loop = asyncio.get_running_loop()
        self.id = delivery.task_id
        self.context_id = delivery.context_id
        self.message = msgspec.json.decode(delivery.message, type=Message)
        # The task before this turn; None in the first.
        self.previous: Task | None = None
        if not isinstance(delivery.task, msgspec.UnsetType):
            self.previous = msgspec.json.decode(delivery.task, type=Task)

    @property
    def text(self) -> str:
        """All text parts of the message, joined."""
        return self.message.text

    @property
    def metadata(self) -> Mapping[str, object]:
        """Of the message."""
        return self.message.metadata or {}

    @property
    def history(self) -> tuple[Message, ...]:
        """What was said in the turns before this one, both sides."""
        before = self.previous.history if self.previous else ()
        return tuple(each for each in before if each.message_id != self.message.message_id)

    @property
    def attempt(self) -> int:
        """1, and one more each time this turn was begun and broke off."""
        return self._voice.delivery.attempt

    @property
    def turn(self) -> int:
        """1, and one more with each further message of the client."""
        return self._voice.delivery.turn

    @property
    def deadline(self) -> datetime | None:
        """When the hub fails the task, by the hub's clock."""
        text = self._voice.delivery.deadline
        return None if text is None else msgspec.convert(text, datetime)

    @property
    def is_cancelled(self) -> bool:
        """Whether to stop: the task was cancelled or given to somebody else. Async handlers are cancelled as well."""
        return self._voice.is_cancelled

    async def ask(self, question: str, *, auth: bool = False) -> TaskAnswer:
        """End this turn as input-required, or auth-required, and wait for what the client answers.

        Waiting takes no capacity. If the answer reaches another process, or this one after a restart, the handler is
        begun anew there with the answer as its message; `task.previous` and `task.history` say what went before.
        """
        return await self._voice.ask(question, auth=auth)

    async def progress(self, text: str = "", metadata: Mapping[str, object] | None = None) -> None:
        """Tell whoever follows the task how far it is."""
        await self._voice.progress(text, metadata)

    def report_cost(self, units: float) -> None:
        """Add to what the task has cost, which counts against the limits of its root task. From any thread.

        Raises: ValueError for what is no cost.
        """
        if not 0 <= units < float("inf"):
            raise ValueError(f"a cost of {units} units; it must be a number of at least 0")
        self._voice.report_cost(units)

    def wait_for(self, work: Coroutine[object, object, Result]) -> Result:
        """For blocking handlers: run something on the agent's loop and wait for it. Never call it on the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
