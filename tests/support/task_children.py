"""Agents in processes of their own, for tests that kill: `pull NAME` connects out, `push PORT` is a stock A2A server.

Both take `<chunks> <seconds between them>` as the message, and say `0 1 2 ...`, a chunk each; with a third word,
`signed`, `pull` puts its attempt before each number. They print READY. Where TASK_JOURNAL names a file, `pull` writes
down there what its handler and the SDK do.
"""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from a2a.helpers.proto_helpers import new_task_from_user_message
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill, Part
from starlette.applications import Starlette

from meshway.client import Agent, TaskContext
from support.crash_journal import Journal

__all__ = ["child_agent", "text_of"]


def text_of(chunks: int, *, attempt: int | None = None) -> str:
    """What an agent says in all; with an attempt, where it signs."""
    sign = "" if attempt is None else f"{attempt}:"
    return "".join(f"{sign}{number} " for number in range(chunks))


@contextmanager
def child_agent(*arguments: str, environ: Mapping[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process of this module, once it is ready; killed in the end."""
    command = [sys.executable, "-m", "support.task_children", *arguments]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environ}
    # The stock server tells of each refusal there.
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "READY\n"
            yield child
        finally:
            child.kill()


class _Paced(AgentExecutor):
    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        chunks, pause = context.get_user_input().split()
        assert context.message is not None
        task = context.current_task or new_task_from_user_message(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.start_work()
        for number in range(int(chunks)):
            await updater.add_artifact([Part(text=f"{number} ")], artifact_id="a", append=number > 0)
            await asyncio.sleep(float(pause))
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        assert context.task_id is not None
        assert context.context_id is not None
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


def _push(port: int) -> None:
    card = AgentCard(
        name="Paced",
        description="Says numbers.",
        version="1.0.0",
        supported_interfaces=[
            AgentInterface(url=f"http://127.0.0.1:{port}/", protocol_binding="JSONRPC", protocol_version="1.0")
        ],
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="say", name="Say", description="Says numbers", tags=["test"])],
    )
    handler = DefaultRequestHandler(agent_executor=_Paced(), task_store=InMemoryTaskStore(), agent_card=card)
    routes = [*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")]
    config = uvicorn.Config(Starlette(routes=routes), port=port, log_level="warning", lifespan="off", backlog=2_048)
    print("READY", flush=True)
    uvicorn.Server(config).run()


class _Journaled(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.write(record.getMessage())


def _pull(name: str) -> None:
    agent = Agent(name, description="Says numbers.", capacity=1_000)
    journal = Journal(Path(os.environ.get("TASK_JOURNAL", os.devnull)))
    logging.getLogger("meshway").setLevel(logging.INFO)
    logging.getLogger("meshway").addHandler(_Journaled(journal))

    @agent.handler
    async def say(task: TaskContext) -> AsyncIterator[str]:
        chunks, pause, *signed = task.text.split()
        journal.write("began", task=task.id, attempt=task.attempt)
        end = "cut off"
        try:
            for number in range(int(chunks)):
                yield f"{task.attempt}:{number} " if signed else f"{number} "
                await asyncio.sleep(float(pause))
            end = "ended"
        finally:
            journal.write(end, task=task.id, attempt=task.attempt)

    print("READY", flush=True)
    agent.run()


if __name__ == "__main__":
    if sys.argv[1] == "push":
        _push(int(sys.argv[2]))
    else:
        _pull(sys.argv[2])
