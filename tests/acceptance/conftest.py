"""One hub process and one set of stock agents for the session; tests that kill or restart a hub start their own."""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.command import meshway
from support.hub_process import HubProcess, running_hub
from support.sdk_agent import DIALECTS, SdkAgents, running_sdk_agents


@dataclass(frozen=True)
class KeyedHub:
    """A hub that asks for keys; each attribute but `hub` is the headers of one caller. `hub` itself uses admin's."""

    hub: HubProcess
    admin: dict[str, str]
    ann: dict[str, str]
    bob: dict[str, str]
    server: dict[str, str]


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
        assert_no_crash(hub)


@pytest.fixture(scope="session")
def message_hub() -> Iterator[HubProcess]:
    """A hub in open mode without agents, for tests of messages; each test has channels of its own."""
    with running_hub() as hub:
        yield hub
        assert_no_crash(hub)


@pytest.fixture(scope="session")
def keyed() -> Iterator[KeyedHub]:
    """Keys were made on the data directory before the hub started: admin, two callers, one that serves `raw-*`."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        scopes = {"admin": "admin", "ann": "call", "bob": "call", "server": "serve:raw-*"}
        keys = {}
        for name, scope in scopes.items():
            ran = meshway("keys", "create", name, "--scope", scope, "--data", str(data), "--json")
            assert ran.status == 0, ran.err
            keys[name] = ran.json["key"]
        with HubProcess(data) as hub:
            hub.key = keys["admin"]
            yield KeyedHub(hub, **{name: {"authorization": f"Bearer {key}"} for name, key in keys.items()})
            assert_no_crash(hub)
            log = hub.log.read_text()
            assert not [name for name, key in keys.items() if key in log]


def assert_no_crash(hub: HubProcess) -> None:
    """Whatever the tests did to it, the hub met no bug of its own."""
    log = hub.log.read_text()
    signs = ("Traceback", "request_crashed", "rest_request_failed", "duty_failed", "never retrieved", "never awaited")
    for sign in signs:
        assert sign not in log, log[-8_000:]
