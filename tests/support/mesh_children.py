"""Programs of a mesh test: callers, followers of streams and of tasks, and one that asks every hub all the time.

`python -m support.mesh_children KIND URLS SEED JOURNAL`, until SIGTERM; then what is under way is finished. Each notes
what it asks before it asks, and all that it was answered, for `support.mesh_checker`. Where it follows something, it
goes on at another hub each time, also without need, and drops nothing: repetitions are the hub's fault. With CRASH_BUG
it loses the third event of every stream.
"""

import asyncio
import logging
import os
import random
import signal
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

import httpx

from meshway.client import MeshwayClient, StreamEvent
from meshway.client.errors import CallError, ClientError, HubError
from meshway.client.messages import message_of
from support.crash_journal import Journal
from support.task_children import text_of
from support.task_clients import seen_of

__all__ = ["AGENTS", "PROBE_QUEUE", "TASK_AGENT", "MeshChild"]

# The first is called by URL, the second connects out.
AGENTS = ("push", "pull")
TASK_AGENT = "pull"
PROBE_QUEUE = "probe"
# Longer than any fault lasts: whoever has to be served in the end is.
_PATIENCE_S = 75.0
_PAUSE_S = 0.1
# A hub that keeps a connection and says nothing is not waited for longer.
_CONNECTION_S = 20
_CALL_TIMEOUT_MS = 20_000
# What a caller of that hub would call an outage.
_PROBE_TIMEOUT_S = 3.0
_PROBE_PAUSE_S = 0.15
_NOTHING_FOLLOWS = -32004
_ENDS = frozenset({"TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_CANCELED", "TASK_STATE_REJECTED"})
_SPACE = os.environ.get("CRASH_SPACE", "")
_HAS_BUG = "CRASH_BUG" in os.environ


OpenAt = Callable[[MeshwayClient, str | None, str | None], AsyncGenerator[StreamEvent, None]]


@dataclass
class _Place:
    """How far somebody came who follows a task."""

    task_id: str | None = None
    last: str | None = None


class MeshChild:
    """`clients` know one hub each, `any` knows all of them, beginning with one of this program's own."""

    def __init__(self, urls: Sequence[str], seed: str, journal: Journal) -> None:
        self.seed = seed
        self.urls = urls
        self.random = random.Random(seed)
        self.journal = journal
        self.stopping = asyncio.Event()
        first = self.random.randrange(len(urls))
        self.any = MeshwayClient(",".join([*urls[first:], *urls[:first]]))
        self.clients = [MeshwayClient(url, reconnect_timeout_s=1.0) for url in urls]
        self._last = 0

    async def aclose(self) -> None:
        for client in (self.any, *self.clients):
            await client.aclose()

    def _name(self) -> str:
        self._last += 1
        return f"{self.seed}-{self._last}"

    async def load(self) -> None:
        loops = [self._call(), self._call(), self._stream("push"), self._stream("push"), self._stream("pull")]
        loops += [self._submit(), self._submit(), self._submit_by_command()]
        await _together(loops)

    # Calls, as the SDK makes them

    async def _call(self) -> None:
        while not self.stopping.is_set():
            name, agent = self._name(), self.random.choice(AGENTS)
            self.journal.write("calling", call=name, agent=agent, text="1 0")
            try:
                answer = await self.any.ask(agent, "1 0", timeout_ms=_CALL_TIMEOUT_MS)
            except ClientError as error:
                self.journal.write("call_failed", call=name, error=_told(error), hub=self.any.url)
                await asyncio.sleep(_PAUSE_S)
            else:
                state = "" if answer.task is None else answer.task.status.state
                if state == "TASK_STATE_COMPLETED":
                    self.journal.write("called", call=name, text=answer.text)
                else:
                    error = f"{state} after {_CALL_TIMEOUT_MS} ms"
                    self.journal.write("call_failed", call=name, error=error, hub=self.any.url)
            await asyncio.sleep(self.random.uniform(0, 0.2))

    # Streams

    async def _stream(self, agent: str) -> None:
        while not self.stopping.is_set():
            name, chunks = self._name(), self.random.choice([3, 10, 20])
            text = f"{chunks} {self.random.choice([0.01, 0.05, 0.2])}"
            self.journal.write("streaming", stream=name, agent=agent, text=text, expected=text_of(chunks))
            await self._follow_stream(name, agent, text)
            await asyncio.sleep(self.random.uniform(0, 0.2))

    async def _follow_stream(self, name: str, agent: str, text: str) -> None:
        message = message_of(text, idempotency_key=name)

        def open_at(client: MeshwayClient, task_id: str | None, last: str | None) -> AsyncGenerator[StreamEvent, None]:
            if task_id is None:
                headers = {"Idempotency-Key": name}
                return client._calls.stream(agent, "SendStreamingMessage", {"message": message}, headers=headers)
            return client._calls.stream(agent, "SubscribeToTask", {"id": task_id}, last_event_id=last)

        await self._follow(name, open_at)

    # Tasks

    async def _submit(self) -> None:
        while not self.stopping.is_set():
            name, chunks = self._name(), self.random.choice([1, 5, 15])
            text = f"{chunks} {self.random.choice([0, 0.05, 0.2])}"
            task_id = await self._submitted(name, text)
            if task_id is not None:
                self.journal.write("streaming", stream=name, agent=TASK_AGENT, text=text, expected=text_of(chunks))

                def open_at(
                    client: MeshwayClient, _: str | None, last: str | None, task_id: str = task_id
                ) -> AsyncGenerator[StreamEvent, None]:
                    return client.tasks._open_events(task_id, last)

                await self._follow(name, open_at)
            await asyncio.sleep(self.random.uniform(0, 0.2))

    async def _submitted(self, name: str, text: str) -> str | None:
        give_up = time.monotonic() + _PATIENCE_S
        self.journal.write("submitting", submission=name, text=text)
        while time.monotonic() < give_up:
            client = self.random.choice(self.clients)
            try:
                async with asyncio.timeout(10):
                    task = await client.tasks.submit(text, agent=TASK_AGENT, idempotency_key=name)
            except (ClientError, TimeoutError) as error:
                self.journal.write("not_submitted", submission=name, error=_told(error), hub=client.url)
                await asyncio.sleep(_PAUSE_S)
            else:
                self.journal.write("submitted", submission=name, task=task.id, expected=_expected(text))
                return task.id
        return None

    async def _submit_by_command(self) -> None:
        command = [str(Path(sys.executable).parent / "meshway"), "tasks", "submit", TASK_AGENT]
        env = {**os.environ, "MESHWAY_URL": ",".join(self.urls)}
        while not self.stopping.is_set():
            name = self._name()
            self.journal.write("commanding", command=name, expected=text_of(12))
            process = await asyncio.create_subprocess_exec(
                *command,
                "12 0.1",
                "--key",
                name,
                "--follow",
                env=env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await process.communicate()
            self.journal.write(
                "commanded", command=name, status=process.returncode, out=out.decode(), err=err.decode()[-2_000:]
            )
            await asyncio.sleep(self.random.uniform(1, 2))

    async def _follow(self, name: str, open_at: OpenAt) -> None:
        """Every event as it comes, over as many connections as it takes."""
        seen = _Place()
        give_up = time.monotonic() + _PATIENCE_S
        while time.monotonic() < give_up:
            client = self.random.choice(self.clients)
            try:
                async with asyncio.timeout(_CONNECTION_S):
                    is_over = await self._read(name, client, open_at, seen)
            except (ClientError, TimeoutError) as error:
                self.journal.write("stream_broke", stream=name, hub=client.url, error=_told(error))
                if isinstance(error, CallError) and self._is_lost(name, error, seen):
                    return
                is_over = (
                    isinstance(error, CallError) and error.rpc_code == _NOTHING_FOLLOWS and seen.task_id is not None
                )
                await asyncio.sleep(_PAUSE_S)
            if is_over:
                self.journal.write("stream_over", stream=name, task=seen.task_id)
                return
        self.journal.write("stream_given_up", stream=name, task=seen.task_id, last=seen.last)

    async def _read(self, name: str, client: MeshwayClient, open_at: OpenAt, seen: "_Place") -> bool:
        """One connection, which may be left early; whether the task has ended."""
        leaves_after = self.random.choice([2, 6, 1_000])
        async with aclosing(open_at(client, seen.task_id, seen.last)) as events:
            async for event in events:
                self._note(name, client.url, event)
                seen.task_id, seen.last = event.task_id or seen.task_id, event.event_id or seen.last
                leaves_after -= 1
                if event.state in _ENDS or leaves_after == 0:
                    return event.state in _ENDS
        return False

    def _is_lost(self, name: str, error: CallError, seen: "_Place") -> bool:
        """The agent may have acted, and nobody can tell."""
        is_lost = "lost sight" in error.detail and seen.task_id is None
        if is_lost:
            self.journal.write("stream_unknown", stream=name)
        return is_lost

    def _note(self, name: str, url: str, event: StreamEvent) -> None:
        seen = seen_of(event)
        if _HAS_BUG and seen.number == 3:
            return
        self.journal.write(
            "event",
            stream=name,
            hub=url,
            task=event.task_id,
            number=seen.number,
            kind=seen.kind,
            text=seen.text,
            append=seen.append,
            state=seen.state,
            attempt=seen.attempt,
        )

    # The time without service

    async def probe(self) -> None:
        async with httpx.AsyncClient(timeout=_PROBE_TIMEOUT_S) as http:
            await _together([self._probe(http, url, kind) for url in self.urls for kind in _PROBES])

    async def _probe(self, http: httpx.AsyncClient, url: str, kind: str) -> None:
        while not self.stopping.is_set():
            name = self._name()
            path, body = _PROBES[kind](name)
            self.journal.write("probing", probe=name, kind=kind, hub=url)
            error, answer = "", None
            try:
                async with asyncio.timeout(_PROBE_TIMEOUT_S):
                    response = await http.post(url + path, json=body, headers={"A2A-Version": "1.0"})
                answer = response.json()
                if not response.is_success or "error" in answer:
                    error = response.text[:300]
            except (httpx.HTTPError, TimeoutError, ValueError) as failure:
                error = f"{type(failure).__name__}: {failure}"
            if kind == "submit" and not error:
                self.journal.write("submitted", submission=name, task=answer["id"], expected=text_of(1))
            self.journal.write("probed", probe=name, kind=kind, hub=url, error=error)
            await asyncio.sleep(_PROBE_PAUSE_S)


def _probe_call(name: str) -> tuple[str, object]:
    message = {"messageId": name, "role": "ROLE_USER", "parts": [{"text": "1 0"}]}
    return f"/a2a/{AGENTS[0]}", {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}


def _probe_enqueue(name: str) -> tuple[str, object]:
    return f"/v1/queues/{_SPACE}{PROBE_QUEUE}/messages", {"messages": [{"data": {"probe": name}}]}


def _probe_submit(name: str) -> tuple[str, object]:
    return "/v1/tasks", {"agent": TASK_AGENT, "text": "1 0"}


_PROBES: dict[str, Callable[[str], tuple[str, object]]] = {
    "call": _probe_call,
    "enqueue": _probe_enqueue,
    "submit": _probe_submit,
}


def _expected(text: str) -> str:
    return text_of(int(text.split()[0]))


def _told(error: Exception) -> str:
    code = f"{error.code} " if isinstance(error, HubError) else ""
    return f"{type(error).__name__}: {code}{error}"[:300]


async def _together(loops: Sequence[Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for loop in loops:
            group.create_task(loop)


_KINDS: dict[str, Callable[[MeshChild], Awaitable[None]]] = {"load": MeshChild.load, "probe": MeshChild.probe}


async def _main(kind: str, urls: str, seed: str, journal: str) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s %(exc_text)s")
    child = MeshChild(urls.split(","), seed, Journal(Path(journal)))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, child.stopping.set)
    child.journal.write("began", kind=kind)
    try:
        await _KINDS[kind](child)
    finally:
        await child.aclose()
    child.journal.write("ended", kind=kind)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
