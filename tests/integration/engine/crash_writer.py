"""A program that writes to an engine until it is killed, and tells on its output what was answered. Not a test.

Usage: crash_writer.py <data directory> <seed>. Each line is one answer the engine gave; lines that begin with `try`
are written before a call whose outcome may stay unknown.
"""

import asyncio
import os
import random
import sys
from collections.abc import Sequence
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
    ToDeadLetters,
    ToRetry,
)
from meshway.kernel.clock import SystemClock
from meshway.kernel.metrics import NullMetrics

# Small, so that folding the log, indexing and refilling it all happen within a round.
SETTINGS = EmbeddedSettings(checkpoint_bytes=512 * 1024, lazy_sync_ms=50)
# The queue whose messages are buried and redriven, again and again.
MORTAL = "mortal"


def tell(*words: object) -> None:
    # One write each: a line is either whole or absent.
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


class Story:
    """What the tasks of one run share."""

    def __init__(self, seed: int, durabilities: Sequence[Durability]) -> None:
        self.run = f"{seed:06}"
        self.chance = random.Random(seed)
        self.durabilities = durabilities


async def write_values(engine: Engine, story: Story) -> None:
    chance = story.chance
    number = 0
    while True:
        number += 1
        key = f"kv.{chance.randrange(20)}"
        durability = chance.choice(story.durabilities)
        value = f"{story.run}-{number:09}"
        tell("try", "kv", key, value)
        (outcome,) = await engine.key_value.write([KvPut(key=key, value=value.encode(), durability=durability)])
        if isinstance(outcome, KvWritten):
            tell("kv", key, value, outcome.revision)


async def append_entries(engine: Engine, story: Story, writer: int) -> None:
    chance = story.chance
    number = 0
    while True:
        number += 1
        entries = [
            LogAppend(
                subject=f"log.{chance.randrange(5)}",
                message_id=f"{story.run}-{writer}-{number}-{part}",
                data=b"x" * chance.randrange(2_000),
                durability=chance.choice(story.durabilities),
            )
            for part in range(chance.choice([1, 1, 5]))
        ]
        for entry, outcome in zip(entries, await engine.log.append(entries), strict=True):
            if isinstance(outcome, Appended):
                tell("log", entry.subject, outcome.sequence, outcome.position, entry.message_id)


async def enqueue(engine: Engine, story: Story) -> None:
    number = 0
    while True:
        number += 1
        message_id = f"{story.run}-{number}"
        priority = story.chance.choice(list(Priority))
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


async def bury_and_redrive(engine: Engine, story: Story) -> None:
    number = 0
    while True:
        number += 1
        message_id = f"{story.run}-m{number}"
        await engine.queue.append([QueueAppend(queue=MORTAL, message_id=message_id, data=b"x")])
        tell("mortal", message_id)
        for lease in await engine.queue.lease(MORTAL, count=1, wait_ms=1_000):
            await _bury(engine, lease.delivery_id)
        letters = await engine.queue_admin.dead_letters(MORTAL, limit=20)
        if letters and story.chance.random() < 0.5:
            chosen = story.chance.choice(letters).message.message_id
            async with asyncio.TaskGroup() as group:
                redrives = [group.create_task(engine.queue_admin.redrive(MORTAL, [chosen])) for _ in range(2)]
            tell("redriven", chosen, sum(sum(redrive.result()) for redrive in redrives))


async def _bury(engine: Engine, delivery_id: str) -> None:
    """The first attempt is given back, the second is the end."""
    await engine.queue.settle([ToRetry(delivery_id=delivery_id, visible_at_ms=0, reason="once more")])
    for lease in await engine.queue.lease(MORTAL, count=1, wait_ms=1_000):
        if lease.attempt == 1:
            await _bury(engine, lease.delivery_id)
        else:
            reason = f"reason of {lease.message.message_id}"
            await engine.queue.settle([ToDeadLetters(delivery_id=lease.delivery_id, reason=reason)])


async def write_for_ever(engine: Engine, story: Story) -> None:
    for queue in ("q", MORTAL):
        await engine.queue_admin.configure(queue, QueueSettings(lease_ms=600_000))
    tell("open")
    async with asyncio.TaskGroup() as group:
        group.create_task(write_values(engine, story))
        for writer in range(3):
            group.create_task(append_entries(engine, story, writer))
        group.create_task(enqueue(engine, story))
        for _ in range(2):
            group.create_task(work(engine, story.chance))
        group.create_task(bury_and_redrive(engine, story))


async def main(folder: Path, seed: int) -> None:
    engine = await open_embedded_engine(folder, settings=SETTINGS, clock=SystemClock(), metrics=NullMetrics())
    await write_for_ever(engine, Story(seed, list(Durability)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
