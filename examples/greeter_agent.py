"""An agent built with the stock a2a-sdk: it writes a greeting, word by word, as a task.

Run it, then tell a hub about it:

    python examples/greeter_agent.py --port 9000
    meshway agents add greeter http://127.0.0.1:9000

Nothing in here knows of Meshway: any A2A agent, in any language, is registered the same way.
"""

import argparse
import asyncio

import uvicorn
from a2a.helpers import get_message_text, new_task_from_user_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface, AgentSkill
from starlette.applications import Starlette

__all__ = ["Greeter", "build_app", "greeter_card"]


class Greeter(AgentExecutor):
    """Greets whoever the message names."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        if context.message is None:
            raise ValueError("a greeting needs a message")
        task = context.current_task or new_task_from_user_message(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.start_work()
        words = f"Good morning, {get_message_text(context.message)}!".split(" ")
        for number, word in enumerate(words):
            is_last = number == len(words) - 1
            await updater.add_artifact(
                [new_text_part(word if is_last else f"{word} ")],
                artifact_id="greeting",
                append=number > 0,
                last_chunk=is_last,
            )
            await asyncio.sleep(0.05)
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id or "", context.context_id or "").cancel()


def greeter_card(url: str) -> AgentCard:
    """What callers read before they call; `url` is where this agent answers."""
    skill = AgentSkill(id="greet", name="Greet", description="Greets you by name.", tags=["example"])
    return AgentCard(
        name="Greeter",
        description="Greets you, word by word.",
        version="1.0.0",
        supported_interfaces=[AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
        capabilities=AgentCapabilities(streaming=True),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[skill],
    )


def build_app(url: str) -> Starlette:
    card = greeter_card(url)
    handler = DefaultRequestHandler(agent_executor=Greeter(), task_store=InMemoryTaskStore(), agent_card=card)
    return Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=9000)
    port = parser.parse_args().port
    uvicorn.run(build_app(f"http://127.0.0.1:{port}/"), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main()
