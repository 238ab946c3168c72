"""A program that writes to an engine until it is killed, and tells on its output what was answered. Not a test.

Usage: crash_writer.py <data directory> <seed>. Each line is one answer the engine gave; lines that begin with `try`
are written before a call whose outcome may stay unknown.
"""

import asyncio
import os
import random
import sys
from pathlib import Path

from meshway.engine.embedded import EmbeddedSettings, open_embedded_engine
from meshway.engine.ports import (
    Ack,
    Appended,
    Durability,
    Engine,
    KvPut,
    KvWritten,
    LogAppend,
    Priority,
    QueueAppend,
    QueueSettings,
    SettleOutcome,
)
from meshway.kernel.clock import SystemClock
from meshway.kernel.metrics import NullMetrics

# Small, so that folding the log, indexing and refilling it all happen within a round.
SETTINGS = EmbeddedSettings(checkpoint_bytes=512 * 1024, lazy_sync_ms=50)


def tell(*words: object) -> None:
    # One write each: a line is either whole or absent.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def write_values(engine: Engine, run: str, chance: random.Random) -> None:
    number = 0
    while True:
        number += 1
        key = f"kv.{chance.randrange(20)}"
        durability = chance.choice(list(Durability))
        value = f"{run}-{number:09}"
        tell("try", "kv", key, value)
        (outcome,) = await engine.key_value.write([KvPut(key=key, value=value.encode(), durability=durability)])
        if isinstance(outcome, KvWritten):
            tell("kv", key, value, outcome.revision)


async def append_entries(engine: Engine, run: str, writer: int, chance: random.Random) -> None:
    number = 0
    while True:
        number += 1
        entries = [
            LogAppend(
                subject=f"log.{chance.randrange(5)}",
                message_id=f"{run}-{writer}-{number}-{part}",
                data=b"x" * chance.randrange(2_000),
                durability=chance.choice(list(Durability)),
            )
            for part in range(chance.choice([1, 1, 5]))
        ]
        for entry, outcome in zip(entries, await engine.log.append(entries), strict=True):
            if isinstance(outcome, Appended):
                tell("log", entry.subject, outcome.sequence, outcome.position, entry.message_id)


async def enqueue(engine: Engine, run: str, chance: random.Random) -> None:
    number = 0
    while True:
        number += 1
        message_id = f"{run}-{number}"
        priority = chance.choice(list(Priority))
        await engine.queue.append([QueueAppend(queue="q", message_id=message_id, data=b"x" * 500, priority=priority)])
        tell("queued", message_id)


async def work(engine: Engine, chance: random.Random) -> None:
    while True:
        for lease in await engine.queue.lease("q", count=3, wait_ms=1_000):
            message_id = lease.message.message_id
            tell("leased", message_id, lease.delivery_id, lease.lease_until_ms, lease.attempt)
            if chance.random() < 0.7:
                tell("try", "ack", message_id)
                if await engine.queue.settle([Ack(delivery_id=lease.delivery_id)]) == [SettleOutcome.DONE]:
                    tell("acked", message_id)


async def main(folder: Path, seed: int) -> None:
    chance = random.Random(seed)
    run = f"{seed:06}"
    engine = await open_embedded_engine(folder, settings=SETTINGS, clock=SystemClock(), metrics=NullMetrics())
    await engine.queue_admin.configure("q", QueueSettings(lease_ms=600_000))
    tell("open")
    async with asyncio.TaskGroup() as group:
        group.create_task(write_values(engine, run, chance))
        for writer in range(3):
            group.create_task(append_entries(engine, run, writer, chance))
        group.create_task(enqueue(engine, run, chance))
        for _ in range(2):
            group.create_task(work(engine, chance))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
