"""The demo agents: three small A2A agents on real sockets, for `meshway up --demo` and for tests.

- `echo` (A2A 1.0) says your words back, as a Message.
- `countdown` (A2A 1.0) is a task: progress, an artifact in chunks, a question when no number was named, cancel.
- `shout` speaks A2A 0.3 only, to show that its callers need not know.

They are no example of how to write an agent (see examples/ for that): they spell the protocol out so that they need
no SDK. `python -m meshway.testing.agents` serves them until its standard input closes.
"""

import asyncio
import re
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import msgspec

from meshway.kernel.ids import new_id
from meshway.testing.tiny_http import HttpReply, HttpRequest, serve_http

__all__ = ["DEMO_AGENT_IDS", "demo_agents"]

DEMO_AGENT_IDS = ("countdown", "echo", "shout")
# Slow enough to watch, quick enough not to bore.
_TICK_S = 0.4
_COUNT_MAX = 60
# Finished countdowns that can still be asked for.
_RUNS_KEPT_MAX = 1_000
_QUESTION = "From which number shall I count down?"

_Json = dict[str, object]


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct, rename="camel"):
    parts: list[_Part]
    task_id: str | None = None
    context_id: str | None = None

    @property
    def text(self) -> str:
        return " ".join(part.text for part in self.parts)


class _Params(msgspec.Struct):
    message: _Message | None = None
    id: str = ""


class _Call(msgspec.Struct):
    method: str
    id: msgspec.Raw
    params: _Params = msgspec.field(default_factory=_Params)


class _Refusal(Exception):
    """A JSON-RPC error to answer with."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class _Agent(Protocol):
    def card(self, url: str) -> _Json: ...

    async def answer(self, call: _Call) -> object | AsyncGenerator[_Json, None]:
        """One result, or a stream of them. Raises: _Refusal."""


@asynccontextmanager
async def demo_agents(*, tick_s: float = _TICK_S, host: str = "127.0.0.1") -> AsyncIterator[Mapping[str, str]]:
    """Serve all of them on free loopback ports; yields id -> base URL. `tick_s` is the countdown's step in seconds."""
    async with asyncio.TaskGroup() as group, AsyncExitStack() as servers:
        countdown = _Countdown(group, tick_s)
        agents: dict[str, _Agent] = {"countdown": countdown, "echo": _Echo(), "shout": _Shout()}
        urls = {id_: await servers.enter_async_context(serve_http(_Door(agents[id_]), host=host)) for id_ in agents}
        try:
            yield urls
        finally:
            countdown.stop()


class _Door:
    """What all A2A agents have in common: the card, the JSON-RPC envelope, and answers that stream."""

    def __init__(self, agent: _Agent) -> None:
        self._agent = agent

    async def __call__(self, request: HttpRequest) -> HttpReply:
        if request.method == "GET" and request.path == "/.well-known/agent-card.json":
            url = f"http://{request.headers.get('host', 'localhost')}/"
            return HttpReply(msgspec.json.encode(self._agent.card(url)))
        if request.method != "POST" or request.path != "/":
            return HttpReply(b"{}", status=404)
        try:
            call = msgspec.json.decode(request.body, type=_Call)
        except msgspec.DecodeError as error:
            return HttpReply(_envelope(msgspec.Raw(b"null"), error={"code": -32600, "message": str(error)}))
        try:
            result = await self._agent.answer(call)
        except _Refusal as refusal:
            return HttpReply(_envelope(call.id, error={"code": refusal.code, "message": refusal.message}))
        if isinstance(result, AsyncGenerator):
            headers = {"cache-control": "no-store"}
            return HttpReply(_sse(call.id, result), content_type="text/event-stream", headers=headers)
        return HttpReply(_envelope(call.id, result=result))


async def _sse(call_id: msgspec.Raw, results: AsyncGenerator[_Json, None]) -> AsyncGenerator[bytes, None]:
    async for result in results:
        yield b"data: %b\n\n" % _envelope(call_id, result=result)


def _envelope(call_id: msgspec.Raw, **outcome: object) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", "id": call_id, **outcome})


class _Echo:
    def card(self, url: str) -> _Json:
        return _card_1_0(url, "Echo", "Says your words back.", tags=["demo", "text"])

    async def answer(self, call: _Call) -> object | AsyncGenerator[_Json, None]:
        message = _message_of(call)
        context_id = message.context_id or new_id()
        result: _Json = {"message": _agent_message(message.text, context_id=context_id)}
        match call.method:
            case "SendMessage":
                return result
            case "SendStreamingMessage":
                return _once(result)
        raise _Refusal(-32004, "echo answers at once and keeps no tasks")


class _Shout:
    """An agent of yesterday: A2A 0.3, slash methods, `kind` on everything."""

    def card(self, url: str) -> _Json:
        return {
            **_card_core("Shout", "SAYS YOUR WORDS BACK, LOUDER. Speaks A2A 0.3 only.", tags=["demo", "text"]),
            "protocolVersion": "0.3.0",
            "url": url,
            "preferredTransport": "JSONRPC",
        }

    async def answer(self, call: _Call) -> object | AsyncGenerator[_Json, None]:
        if call.method not in {"message/send", "message/stream"}:
            raise _Refusal(-32601, f"{call.method}: no such method in A2A 0.3, or shout does not offer it")
        result: _Json = {
            "kind": "message",
            "messageId": new_id(),
            "role": "agent",
            "parts": [{"kind": "text", "text": _message_of(call).text.upper()}],
        }
        return _once(result) if call.method == "message/stream" else result


class _Countdown:
    """Counts down in tasks that go on whether or not somebody listens."""

    def __init__(self, group: asyncio.TaskGroup, tick_s: float) -> None:
        self._group = group
        self._tick_s = tick_s
        self._runs: dict[str, _Run] = {}

    def card(self, url: str) -> _Json:
        description = "Counts down from the number you name, one step at a time."
        return _card_1_0(url, "Countdown", description, tags=["demo", "streaming", "task"])

    async def answer(self, call: _Call) -> object | AsyncGenerator[_Json, None]:
        match call.method:
            case "SendMessage":
                run, _ = self._take(_message_of(call))
                await run.pause()
                return {"task": run.task()}
            case "SendStreamingMessage":
                run, seen = self._take(_message_of(call))
                return run.follow(seen)
            case "GetTask":
                return self._find(call.params.id).task()
            case "SubscribeToTask":
                run = self._find(call.params.id)
                if run.state in _TERMINAL:
                    raise _Refusal(-32004, "this task is over; GetTask shows how it ended")
                return run.subscribe()
            case "CancelTask":
                return self._cancel(call.params.id)
        raise _Refusal(-32601, f"{call.method}: no such method here")

    def stop(self) -> None:
        for run in self._runs.values():
            run.cancel()

    def _take(self, message: _Message) -> tuple["_Run", int]:
        """The run this message starts or goes on with, and how many of its events are old."""
        if message.task_id is None:
            run, seen = _Run(message.context_id or new_id()), 0
            self._runs[run.id] = run
            self._forget_oldest()
        else:
            run = self._find(message.task_id)
            seen = len(run.events)
            if run.state != "TASK_STATE_INPUT_REQUIRED":
                raise _Refusal(-32004, "this task waits for no input")
        run.job = self._group.create_task(run.count(message.text, self._tick_s))
        # Not later: a second answer that comes before the task's first step must find it working.
        run.state = "TASK_STATE_WORKING"
        return run, seen

    def _find(self, task_id: str) -> "_Run":
        if task_id not in self._runs:
            raise _Refusal(-32001, "no such task")
        return self._runs[task_id]

    def _cancel(self, task_id: str) -> _Json:
        run = self._find(task_id)
        if run.state in _TERMINAL:
            raise _Refusal(-32002, "this task is over")
        run.cancel()
        run.turn("TASK_STATE_CANCELED")
        return run.task()

    def _forget_oldest(self) -> None:
        if len(self._runs) > _RUNS_KEPT_MAX:
            over = (run.id for run in self._runs.values() if run.state in _TERMINAL)
            self._runs.pop(next(over, ""), None)


_TERMINAL = {"TASK_STATE_COMPLETED", "TASK_STATE_CANCELED", "TASK_STATE_REJECTED"}
_PAUSED = _TERMINAL | {"TASK_STATE_INPUT_REQUIRED"}


class _Run:
    """One countdown: what happened so far, and a bell that rings whenever something more did."""

    def __init__(self, context_id: str) -> None:
        self.id = new_id()
        self.context_id = context_id
        self.artifact_id = new_id()
        self.state = "TASK_STATE_SUBMITTED"
        self.status: _Json = {"state": self.state}
        self.said = ""
        self.job: asyncio.Task[None] | None = None
        self.bell = asyncio.Event()
        self.events: list[_Json] = [{"task": self.task()}]

    async def count(self, text: str, tick_s: float) -> None:
        number = re.search(r"\d+", text)
        if number is None:
            self.turn("TASK_STATE_INPUT_REQUIRED", _QUESTION)
            return
        count = int(number[0]) if len(number[0]) < 4 else _COUNT_MAX + 1
        if count > _COUNT_MAX:
            self.turn("TASK_STATE_REJECTED", f"Too far for a demo: name a number up to {_COUNT_MAX}.")
            return
        for left in range(count, 0, -1):
            self.turn("TASK_STATE_WORKING", f"{left} to go")
            self.say(f"{left} ", last=False)
            await asyncio.sleep(tick_s)
        self.say("lift-off", last=True)
        self.turn("TASK_STATE_COMPLETED")

    def turn(self, state: str, text: str = "") -> None:
        self.state = state
        self.status = {"state": state}
        if text:
            self.status["message"] = _agent_message(text, context_id=self.context_id, task_id=self.id)
        self._publish({"statusUpdate": {"taskId": self.id, "contextId": self.context_id, "status": self.status}})

    def say(self, chunk: str, *, last: bool) -> None:
        artifact = {"artifactId": self.artifact_id, "name": "countdown", "parts": [{"text": chunk}]}
        update = {"artifact": artifact, "append": bool(self.said), "lastChunk": last}
        self.said += chunk
        self._publish({"artifactUpdate": {"taskId": self.id, "contextId": self.context_id, **update}})

    def task(self) -> _Json:
        task: _Json = {"id": self.id, "contextId": self.context_id, "status": self.status}
        if self.said:
            artifact = {"artifactId": self.artifact_id, "name": "countdown", "parts": [{"text": self.said}]}
            task["artifacts"] = [artifact]
        return task

    def cancel(self) -> None:
        if self.job is not None:
            self.job.cancel()

    async def pause(self) -> None:
        """Wait until it is over, or until it waits for us."""
        async for _ in self.follow(len(self.events)):
            pass

    async def subscribe(self) -> AsyncGenerator[_Json, None]:
        seen = len(self.events)
        yield {"task": self.task()}
        async for event in self.follow(seen):
            yield event

    async def follow(self, seen: int) -> AsyncGenerator[_Json, None]:
        """Events from number `seen` on, ending when the run is over or waits for input."""
        while True:
            bell = self.bell
            while seen < len(self.events):
                yield self.events[seen]
                seen += 1
            if self.state in _PAUSED and seen == len(self.events):
                return
            if not bell.is_set():
                await bell.wait()

    def _publish(self, event: _Json) -> None:
        self.events.append(event)
        self.bell.set()
        self.bell = asyncio.Event()


async def _once(result: _Json) -> AsyncGenerator[_Json, None]:
    yield result


def _message_of(call: _Call) -> _Message:
    if call.params.message is None:
        raise _Refusal(-32602, "params.message is missing")
    return call.params.message


def _agent_message(text: str, **ids: str) -> _Json:
    camel = {"context_id": "contextId", "task_id": "taskId"}
    identity = {camel[name]: value for name, value in ids.items()}
    return {"messageId": new_id(), "role": "ROLE_AGENT", "parts": [{"text": text}], **identity}


def _card_1_0(url: str, name: str, description: str, *, tags: list[str]) -> _Json:
    interface = {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    return {**_card_core(name, description, tags=tags), "supportedInterfaces": [interface]}


def _card_core(name: str, description: str, *, tags: list[str]) -> _Json:
    skill = {"id": name.lower(), "name": name, "description": description, "tags": tags, "examples": ["hello 3"]}
    return {
        "name": name,
        "description": description,
        "version": "1.0.0",
        "capabilities": {"streaming": True, "pushNotifications": False},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [skill],
    }


async def _serve_until_input_closes() -> None:
    """A child process of the hub: says where the agents are, and leaves when its parent is gone, however it went."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with demo_agents() as urls:
        sys.stdout.write(msgspec.json.encode(urls).decode() + "\n")
        sys.stdout.flush()
        while await reader.read(1024):
            pass


if __name__ == "__main__":
    if not sys.stdin.isatty():
        # Ctrl-C reaches the whole process group; the parent still drains its calls, and closes our input when done.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve_until_input_closes())
