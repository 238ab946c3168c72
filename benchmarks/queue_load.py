"""The load side of the queue benchmark: one process, one broker, one scenario, through the broker's own Python client.

Run as `python -m benchmarks.queue_load '{"target": "redis", "url": ..., "scenario": "enqueue", ...}'`; prints one JSON
line. All brokers get the same scenarios, the same batch of 256 for what is taken, and one settled message a message.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import cast

import uvloop

from benchmarks.queue_targets import TARGETS, Target

__all__ = ["BODY_BYTES"]

BODY_BYTES = 1_024
_BODY = "x" * BODY_BYTES
# A run that got stuck is worth nothing; the longest scenario takes a few seconds.
_SCENARIO_TIMEOUT_S = 120.0
_IDLE_PAUSE_S = 0.02
Result = dict[str, float]


async def _send(target: Target, one: Callable[[str], Awaitable[None]], seconds: float, in_flight: int) -> Result:
    """`in_flight` callers, each sends the next message when its last was answered."""
    took: list[float] = []
    stop_at = time.perf_counter() + seconds

    async def caller() -> None:
        while (began := time.perf_counter()) < stop_at:
            await one(_BODY)
            took.append(time.perf_counter() - began)

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(caller())
    return {"per_s": len(took) / (time.perf_counter() - began), **_percentiles(took)}


async def _enqueue(target: Target, options: Mapping[str, float]) -> Result:
    return await _send(target, target.enqueue, options["seconds"], int(options["in_flight"]))


async def _append(target: Target, options: Mapping[str, float]) -> Result:
    return await _send(target, target.append, options["seconds"], int(options["in_flight"]))


async def _cycle(target: Target, options: Mapping[str, float]) -> Result:
    """Enqueue to ack end to end: producers and one worker at once, until every message is settled."""
    seconds, in_flight = options["seconds"], int(options["in_flight"])
    sent = done = 0
    finished = asyncio.Event()

    def settled(count: int) -> None:
        nonlocal done
        done += count
        if producing_ended and done >= sent:
            finished.set()

    producing_ended = False
    began = time.perf_counter()
    async with target.working(settled):

        async def producer() -> None:
            nonlocal sent
            while time.perf_counter() - began < seconds:
                await target.enqueue(_BODY)
                sent += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(in_flight):
                group.create_task(producer())
        producing_ended = True
        settled(0)
        await finished.wait()
    return {"per_s": done / (time.perf_counter() - began)}


async def _latency(target: Target, options: Mapping[str, float]) -> Result:
    """From the call that sends to the worker that has it; one message at a time, idle in between."""
    took: list[float] = []
    arrived = asyncio.Event()

    def settled(count: int) -> None:
        del count
        if began:
            took.append(time.perf_counter() - began)
            arrived.set()

    began = 0.0
    async with target.working(settled):
        await asyncio.sleep(0.2)
        for _ in range(int(options["messages"])):
            arrived.clear()
            began = time.perf_counter()
            await target.enqueue(_BODY)
            await arrived.wait()
            await asyncio.sleep(_IDLE_PAUSE_S)
    return _percentiles(took)


async def _fan_out(target: Target, options: Mapping[str, float], *, kept: bool) -> Result:
    subscribers, messages = int(options["subscribers"]), int(options["messages"])
    wanted = subscribers * messages
    got = 0
    all_here = asyncio.Event()

    def received(count: int) -> None:
        nonlocal got
        got += count
        if got >= wanted:
            all_here.set()

    listening = target.tailing if kept else target.listening
    send = target.append if kept else target.publish
    async with listening(subscribers, received):
        await asyncio.sleep(0.3)
        began = time.perf_counter()
        for start in range(0, messages, 32):
            async with asyncio.TaskGroup() as group:
                for _ in range(min(32, messages - start)):
                    group.create_task(_awaited(send(_BODY)))
        try:
            async with asyncio.timeout(30):
                await all_here.wait()
        except TimeoutError:
            # At most once: what a slow subscriber missed never comes.
            pass
        elapsed = time.perf_counter() - began
    return {"per_s": got / elapsed, "missed": float(wanted - got)}


async def _awaited(sending: Awaitable[None]) -> None:
    await sending


async def _tail_fan_out(target: Target, options: Mapping[str, float]) -> Result:
    return await _fan_out(target, options, kept=True)


async def _events_fan_out(target: Target, options: Mapping[str, float]) -> Result:
    return await _fan_out(target, options, kept=False)


async def _commands(target: Target, options: Mapping[str, float]) -> Result:
    async with target.responding():
        await asyncio.sleep(0.3)
        return await _send(target, target.command, options["seconds"], int(options["in_flight"]))


_SCENARIOS: dict[str, Callable[[Target, Mapping[str, float]], Awaitable[Result]]] = {
    "enqueue": _enqueue,
    "append": _append,
    "cycle": _cycle,
    "latency": _latency,
    "tail_fan_out": _tail_fan_out,
    "events_fan_out": _events_fan_out,
    "commands": _commands,
}


def _percentiles(took: list[float]) -> Result:
    ranks = statistics.quantiles(took, n=100) if len(took) > 1 else took * 99
    return {"p50_ms": ranks[49] * 1_000, "p99_ms": ranks[98] * 1_000}


async def _run(order: Mapping[str, object]) -> Result:
    target = TARGETS[str(order["target"])](str(order["url"]))
    async with asyncio.timeout(_SCENARIO_TIMEOUT_S), target:
        return await _SCENARIOS[str(order["scenario"])](target, cast("Mapping[str, float]", order))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_run(json.loads(sys.argv[1])))))
