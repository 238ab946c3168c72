"""The fixtures of the contract suite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from contract_engines import ADAPTERS, WaitUntil

from meshway.engine.ports import Engine


@pytest.fixture(params=sorted(ADAPTERS))
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    async with ADAPTERS[request.param](tmp_path / "engine") as opened:
        yield opened


@pytest.fixture
def wait_until() -> WaitUntil:
    return WaitUntil()
