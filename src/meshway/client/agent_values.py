"""What handlers of an agent give and get beside plain text: progress, answers to questions, the agent's options."""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from meshway.client.messages import Message

__all__ = ["AgentOptions", "Progress", "TaskAnswer"]


class Progress(msgspec.Struct, frozen=True):
    """Yielded by a handler: the task is being worked on, and how far it is. `metadata` is for programs."""

    text: str = ""
    metadata: Mapping[str, object] | None = None


class TaskAnswer(str):
    """What the client answered to `task.ask`: its text, and the whole `message` it came in."""

    __slots__ = ("message",)

    message: Message

    def __new__(cls, message: Message) -> "TaskAnswer":
        answer = super().__new__(cls, message.text)
        answer.message = message
        return answer

    @property
    def text(self) -> str:
        return str(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """`retry_on`: exceptions after which another attempt may help. `drain_timeout_s`: for handlers at the stop."""

    capacity: int = 10
    retry_on: tuple[type[Exception], ...] = ()
    drain_timeout_s: float = 25.0
    # What handlers may have said and the hub not confirmed, in this process: then they wait when they say more.
    buffer_events_max: int = 10_000
    buffer_bytes_max: int = 16 * 1024 * 1024
