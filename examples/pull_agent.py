"""An agent that connects out: it needs no address, no port and no server, and works from behind any firewall.

    python examples/pull_agent.py
    meshway call counter 3 --stream

It finds the hub by MESHWAY_URL (default http://127.0.0.1:7070) and shows MESHWAY_API_KEY, whose scope must let it serve
(`serve:counter`). Start it several times and the processes share the work; kill one, and another takes over.
"""

import asyncio
from collections.abc import AsyncIterator

from meshway.client import Agent, TaskContext

__all__ = ["agent"]

agent = Agent("counter")


@agent.handler
async def count(task: TaskContext) -> AsyncIterator[str]:
    """Counts up to the number you send; asks for one if there is none."""
    text = task.text if task.text.isdecimal() else await task.ask("Up to which number?")
    for number in range(1, int(text) + 1):
        yield f"{number} "
        await asyncio.sleep(0.2)


if __name__ == "__main__":
    agent.run()
