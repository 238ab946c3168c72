"""An agent with a URL that keeps its tasks, and fails in the ways a test sets: a script for `raw_agent`.

It says `0 1 2 ...`, a chunk each; what it works on goes on when the connection does not.
"""

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

from support.raw_agent import RawRequest, Wire

__all__ = ["KeepingAgent", "KeptTask"]

_NOT_FOUND, _UNSUPPORTED = -32001, -32004
_numbers = itertools.count(1)


@dataclass
class KeptTask:
    """`events` are those after the task itself."""

    id: str
    context_id: str
    message: Mapping[str, object]
    texts: list[str] = field(default_factory=list)
    state: str = "TASK_STATE_WORKING"
    events: list[dict] = field(default_factory=list)
    grew: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_over(self) -> bool:
        return self.state != "TASK_STATE_WORKING"

    def document(self) -> dict:
        artifact = {"artifactId": "a", "parts": [{"text": text} for text in self.texts]}
        return {
            "id": self.id,
            "contextId": self.context_id,
            "status": {"state": self.state},
            "artifacts": [artifact] if self.texts else [],
            "history": [self.message],
        }

    def say(self, text: str) -> None:
        update = {"artifact": {"artifactId": "a", "parts": [{"text": text}]}, "append": bool(self.texts)}
        self.texts.append(text)
        self._note({"artifactUpdate": {"taskId": self.id, "contextId": self.context_id, **update}})

    def end(self) -> None:
        self.state = "TASK_STATE_COMPLETED"
        update = {"taskId": self.id, "contextId": self.context_id, "status": {"state": self.state}}
        self._note({"statusUpdate": update})

    def _note(self, event: dict) -> None:
        self.events.append(event)
        self.grew.set()
        self.grew = asyncio.Event()


@dataclass
class KeepingAgent:
    """`cuts_after`: so many chunks of the stream of a message, then its connection breaks.

    `dies_before_answer`: so many messages are taken without a word; it `forgets` those, or works on them.
    """

    chunks: int = 8
    pause_s: float = 0.1
    cuts_after: int | None = None
    dies_before_answer: int = 0
    forgets: bool = False
    can_subscribe: bool = True
    tasks: dict[str, KeptTask] = field(default_factory=dict)
    # By method, in the order in which they came.
    asked: list[tuple[str, RawRequest]] = field(default_factory=list)

    def requests(self, method: str) -> list[RawRequest]:
        return [request for asked, request in self.asked if asked == method]

    async def script(self, request: RawRequest, wire: Wire) -> None:
        """For raw_agent."""
        call = request.json
        method, params = call["method"], call["params"]
        self.asked.append((method, request))
        match method:
            case "SendStreamingMessage":
                await self._take(call["id"], params["message"], wire)
            case "SubscribeToTask":
                await self._subscribe(call["id"], params["id"], wire)
            case "GetTask":
                task = self.tasks.get(params["id"])
                self._answer(wire, call["id"], None if task is None else task.document())
            case "ListTasks":
                found = [each.document() for each in self.tasks.values() if each.context_id == params["contextId"]]
                self._answer(wire, call["id"], {"tasks": found, "totalSize": len(found), "nextPageToken": ""})
            case _:
                self._refuse(wire, call["id"], _UNSUPPORTED)

    async def _take(self, request_id: object, message: dict, wire: Wire) -> None:
        dies = self.dies_before_answer > 0
        if dies:
            self.dies_before_answer -= 1
            if self.forgets:
                wire.die()
                return
        task = KeptTask(f"kept-{next(_numbers)}", message.get("contextId") or f"c-{next(_numbers)}", message)
        self.tasks[task.id] = task
        async with asyncio.TaskGroup() as group:
            group.create_task(self._work(task))
            if dies:
                wire.die()
            else:
                await self._show(request_id, task, wire, cuts_after=self.cuts_after)

    async def _work(self, task: KeptTask) -> None:
        for number in range(self.chunks):
            await asyncio.sleep(self.pause_s)
            task.say(f"{number} ")
        task.end()

    async def _show(self, request_id: object, task: KeptTask, wire: Wire, *, cuts_after: int | None = None) -> None:
        wire.start_stream()
        wire.event({"task": task.document()}, request_id=request_id)
        shown = len(task.events)
        while True:
            if cuts_after is not None and shown >= cuts_after:
                wire.die()
                return
            if shown < len(task.events):
                wire.event(task.events[shown], request_id=request_id)
                shown += 1
            elif task.is_over:
                wire.end()
                return
            else:
                await task.grew.wait()

    async def _subscribe(self, request_id: object, task_id: str, wire: Wire) -> None:
        task = self.tasks.get(task_id)
        if task is None:
            self._refuse(wire, request_id, _NOT_FOUND)
        elif task.is_over or not self.can_subscribe:
            self._refuse(wire, request_id, _UNSUPPORTED)
        else:
            await self._show(request_id, task, wire)

    def _answer(self, wire: Wire, request_id: object, result: object) -> None:
        if result is None:
            self._refuse(wire, request_id, _NOT_FOUND)
        else:
            wire.answer({"jsonrpc": "2.0", "id": request_id, "result": result})

    def _refuse(self, wire: Wire, request_id: object, code: int) -> None:
        wire.answer({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": "no"}})
