"""The fixtures of the contract suite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from contract_engines import ADAPTERS, WaitUntil

from meshway.engine.ports import Engine

_CLUSTER = "nats-cluster"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything is written three times there: what a cluster could not break waits for `make soak`."""
    for item in items:
        if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
            on_cluster = _CLUSTER in item.callspec.params.values()
            if on_cluster and item.get_closest_marker("replicas") is None:
                item.add_marker("soak")


@pytest.fixture(params=sorted(ADAPTERS))
async def engine(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engine]:
    async with ADAPTERS[request.param](tmp_path / "engine") as opened:
        yield opened


@pytest.fixture
def wait_until() -> WaitUntil:
    return WaitUntil()
