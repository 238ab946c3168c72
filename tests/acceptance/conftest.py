"""One hub process and one set of stock agents for the module; tests that kill or restart a hub start their own."""

from collections.abc import Iterator

import pytest

from support.hub_process import HubProcess, running_hub
from support.sdk_agent import DIALECTS, SdkAgents, running_sdk_agents


@pytest.fixture(scope="session")
def sdk_agents() -> Iterator[SdkAgents]:
    with running_sdk_agents() as agents:
        yield agents


@pytest.fixture(scope="session")
def hub(sdk_agents: SdkAgents) -> Iterator[HubProcess]:
    """A hub in open mode with the four stock agents registered under the names of their dialects."""
    with running_hub() as hub:
        for dialect in DIALECTS:
            hub.register(dialect, sdk_agents.url(dialect))
        yield hub
