"""A program that writes to an engine on a disk that loses its power. Not a test.

Usage: power_writer.py <data directory> <survived directory> <seed> <operations> <bug>. It tells what was answered, as
`crash_writer.py` does, and ends after that many operations of the disk with what was left in the second directory.
`bug` is `none`, `no-sync` (the engine does not sync its writes) or `no-database-sync` (nor does SQLite its database).
"""

import asyncio
import sys
from pathlib import Path

from crash_writer import SETTINGS, Story, write_for_ever
from power_disk import PowerDisk

from meshway.engine.embedded import open_embedded_engine
from meshway.engine.embedded.database import wal_path
from meshway.engine.embedded.engine import DATABASE_NAME
from meshway.engine.ports import Durability
from meshway.kernel.clock import SystemClock
from meshway.kernel.metrics import NullMetrics


async def main(folder: Path, survived: Path, seed: int, operations: int, bug: str) -> None:
    disk = PowerDisk(survived, seed=seed, forgets_database_syncs=bug == "no-database-sync")
    disk.install()
    wal = wal_path(folder / DATABASE_NAME)

    def sync(_file_descriptor: int) -> None:
        if bug != "no-sync":
            disk.sync(wal)

    engine = await open_embedded_engine(
        folder, settings=SETTINGS, clock=SystemClock(), metrics=NullMetrics(), sync=sync
    )
    disk.arm(operations)
    # A lazy write promises nothing about the moment before a power loss, so all of them are synced.
    await write_for_ever(engine, Story(seed, [Durability.SYNCED]))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
