"""NATS driven bare: nats-py publishes into a work-queue stream with the settings of the hub's own, and waits for each
acknowledgement. Run as `python -m benchmarks.nats_publisher URL IN_FLIGHT SECONDS BODY_BYTES`; prints one JSON line.
"""

import asyncio
import json
import sys
import time

import nats
import uvloop
from nats.js.errors import NotFoundError

from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout

__all__: list[str] = []

_PREFIX = "bare"
_TIMEOUT_S = 60.0


async def _publish(url: str, in_flight: int, seconds: float, body: bytes) -> dict[str, float]:
    connection = await nats.connect(url, pending_size=64 * 1024 * 1024)
    stream = connection.jetstream(timeout=_TIMEOUT_S)
    settings = NatsSettings(prefix=_PREFIX)
    layout = Layout(settings)
    config = layout.configs(settings, 1)[layout.queue_stream]
    try:
        await stream.stream_info(layout.queue_stream)
    except NotFoundError:
        await connection.request(f"$JS.API.STREAM.CREATE.{layout.queue_stream}", json.dumps(config).encode())
    subject = f"{layout.queue}m.bench.1"
    took: list[float] = []
    began = time.perf_counter()

    async def caller() -> None:
        while (sent_at := time.perf_counter()) - began < seconds:
            await stream.publish(subject, body)
            took.append(time.perf_counter() - sent_at)

    cpu_before = time.process_time()
    async with asyncio.timeout(_TIMEOUT_S), asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(caller())
    elapsed, cpu_s = time.perf_counter() - began, time.process_time() - cpu_before
    await connection.close()
    took.sort()
    return {
        "per_s": len(took) / elapsed,
        "p50_ms": took[len(took) // 2] * 1_000,
        "p99_ms": took[int(len(took) * 0.99)] * 1_000,
        "cpu_us": cpu_s / len(took) * 1e6,
        "calls": len(took),
    }


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        published = _publish(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), b"x" * int(sys.argv[4]))
        print(json.dumps(runner.run(published)))
