"""The fixtures of the contract suite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from contract_engines import ADAPTERS, PARAMETERS, WaitUntil

from meshway.engine.ports import Engine


@pytest.fixture(params=PARAMETERS)
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    async with ADAPTERS[request.param](tmp_path / "engine") as opened:
        yield opened


@pytest.fixture
def wait_until() -> WaitUntil:
    return WaitUntil()
