"""The `meshway` command as a user types it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from support.hub_process import engine_environment

__all__ = ["Ran", "meshway", "meshway_async"]


@dataclass(frozen=True)
class Ran:
    """How it ended and what it said."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


def meshway(*arguments: str, env: Mapping[str, str] | None = None, within_s: float = 30) -> Ran:
    """Run a command that ends by itself."""
    command = [str(Path(sys.executable).parent / "meshway"), *arguments]
    data = Path(arguments[arguments.index("--data") + 1]) if "--data" in arguments else None
    engine = {} if data is None else engine_environment(data)
    clean = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **engine, **(env or {})}
    done = subprocess.run(
        command, env=clean, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=within_s, check=False
    )
    return Ran(done.returncode, done.stdout, done.stderr)


async def meshway_async(*arguments: str, env: Mapping[str, str] | None = None) -> Ran:
    """The same, for tests whose agent lives in the event loop."""
    return await asyncio.to_thread(lambda: meshway(*arguments, env=env))
