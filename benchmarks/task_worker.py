"""The instance that works on tasks under measurement, as users run it: `task_worker URL KEY CAPACITY`."""

import asyncio
import sys

import uvloop

from meshway.client import Agent, TaskContext

__all__: list[str] = []


async def serve(url: str, key: str, capacity: int) -> None:
    agent = Agent("worker", description="Answers at once.", capacity=capacity)

    @agent.handler
    async def answer(task: TaskContext) -> str:
        return "On the fourth, from the current account."

    await agent.serve(url, key or None)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(sys.argv[1], sys.argv[2], int(sys.argv[3])))
