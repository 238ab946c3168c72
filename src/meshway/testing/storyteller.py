"""The demo agent that connects out: `storyteller`, for `meshway up --demo`. It has no address and no port.

Unlike the other demo agents it is written as users write theirs, with the SDK. `python -m meshway.testing.storyteller`
serves at MESHWAY_URL until its standard input closes.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncIterator

from meshway.client import Agent, ClientError, TaskContext

__all__ = ["storyteller"]

_log = logging.getLogger(__name__)

# Slow enough to watch, quick enough not to bore.
_WORD_S = 0.3
_STORY = "Once upon a time there was {hero}. Nobody believed in {hero}, until one day the hub went down, and came back."

storyteller = Agent(
    "storyteller", description="Tells a story about whatever you name, slowly; asks if you name nothing."
)


@storyteller.handler
async def _tell(task: TaskContext) -> AsyncIterator[str]:
    """Tells a story about whatever you name."""
    hero = task.text.strip() or await task.ask("Who shall the story be about?")
    for word in _STORY.format(hero=hero).split():
        yield f"{word} "
        await asyncio.sleep(_WORD_S)


async def _serve_until_input_closes() -> None:
    """A child process of the hub: it leaves when its parent is gone, however it went."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(_serve())
        while await reader.read(1024):
            pass
        serving.cancel()


async def _serve() -> None:
    try:
        await storyteller.serve()
    except ClientError as error:
        # A hub that asks for keys has none for a demo.
        _log.warning("the storyteller was not admitted: %s", error.detail)


if __name__ == "__main__":
    if not sys.stdin.isatty():
        # Ctrl-C reaches the whole process group; the parent still drains its calls, and closes our input when done.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    asyncio.run(_serve_until_input_closes())
