"""The example of an agent as a process of its own: three lines that find the hub, work, and leave in order."""

import asyncio
import itertools
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from meshway.protocols.link import frames
from support.agent_at_work import AgentAtWork, task_delivery
from support.fake_link_hub import FakeLinkHub

_EXAMPLE = Path(__file__).parents[3] / "examples" / "pull_agent.py"


@asynccontextmanager
async def the_example():
    hub = FakeLinkHub()
    await hub.start()
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(_EXAMPLE), env={**os.environ, "MESHWAY_URL": hub.url, "MESHWAY_API_KEY": "mk_1"}
    )
    try:
        await hub.next_of(frames.Serve)
        yield AgentAtWork(hub, None, None), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await hub.stop()


async def test_sigterm_lets_the_work_finish_and_says_bye():
    async with the_example() as (work, process):
        await work.hand(task_delivery(1, "2"))
        await work.hub.until(lambda: work.chunks())
        process.send_signal(signal.SIGTERM)
        await work.hub.next_of(frames.Bye)
        async with asyncio.timeout(5):
            assert await process.wait() == 0
    assert [text for text, *_ in work.chunks() if text] == ["1 ", "2 "]
    assert work.states() == ["COMPLETED"]
    assert work.hub.handshakes[0]["authorization"] == "Bearer mk_1"


async def test_a_second_signal_gives_the_work_back_at_once():
    async with the_example() as (work, process):
        await work.hand(task_delivery(1, "100"))
        await work.hub.until(lambda: work.chunks())
        process.send_signal(signal.SIGINT)
        # What is handed out after the first signal comes back at once: by that we know it was seen.
        for number in itertools.count(2):
            await work.hand(task_delivery(number, task=f"t-{number}"))
            await work.hub.until(lambda: work.settlements("release") or work.states(f"d-{number}"))  # noqa: B023
            if work.settlements("release"):
                break
        process.send_signal(signal.SIGINT)
        await work.hub.next_of(frames.Bye)
        async with asyncio.timeout(5):
            assert await process.wait() == 0
    assert "d-1" in {each.delivery_id for each in work.settlements("release")}
