"""Two hubs on one nats-server and one data directory, each a real process; what a test killed is there for the next."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx

from meshway.client import MeshwayClient
from support.hub_process import HubProcess
from support.nats_process import NatsProcess, running_nats

__all__ = ["TwoHubs", "two_hubs"]

_PREFIX = "two"
_SEEN_WITHIN_S = 10.0


class TwoHubs:
    """`a`, `b` and their `nats`. Clients are the test's own, and closed with its loop."""

    def __init__(self, folder: Path, nats: NatsProcess) -> None:
        self.nats = nats
        self.data = folder / "data"
        self.a, self.b = (self._hub(folder, name) for name in "ab")

    def _hub(self, folder: Path, name: str) -> HubProcess:
        hub = HubProcess(self.data, flags=["--engine", self.nats.url], env=self.env)
        hub.log = folder / f"{name}.log"
        return hub

    @property
    def env(self) -> dict[str, str]:
        """Of every hub of this mesh."""
        return {"MESHWAY_NATS_PREFIX": _PREFIX, "MESHWAY_WORKERS": "1"}

    @property
    def hubs(self) -> tuple[HubProcess, HubProcess]:
        return self.a, self.b

    @property
    def urls(self) -> str:
        """Both, for clients and agents that go on at another hub; `a` is the first choice."""
        return f"{self.a.url},{self.b.url}"

    def client(self, hub: HubProcess) -> MeshwayClient:
        return MeshwayClient(hub.url)

    def http(self, hub: HubProcess) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=hub.url, timeout=30)

    def make_whole(self) -> None:
        """Start what is not running, and wait until both see both."""
        for hub in self.hubs:
            if not hub.is_running:
                hub.start()
        give_up = time.monotonic() + _SEEN_WITHIN_S
        while any(self.up(hub) != {each.url for each in self.hubs} for hub in self.hubs):
            assert time.monotonic() < give_up, [hub.request("GET", "/v1/mesh") for hub in self.hubs]
            time.sleep(0.05)

    def up(self, hub: HubProcess) -> set[str]:
        """URLs of the hubs that this one takes to be there."""
        return {each["url"] for each in self.picture(hub)["hubs"] if each["state"] == "up"}

    def picture(self, hub: HubProcess) -> dict:
        """The mesh as this hub sees it."""
        status, _, picture = hub.request("GET", "/v1/mesh")
        assert status == 200, picture
        assert isinstance(picture, dict)
        return picture

    def owners(self, hub: HubProcess) -> dict[str, str]:
        """URL of the hub that does each duty."""
        picture = self.picture(hub)
        urls = {each["id"]: each["url"] for each in picture["hubs"]}
        return {duty["name"]: urls.get(duty["hub"], "nobody") for duty in picture["duties"]}


@contextmanager
def two_hubs(folder: Path) -> Iterator[TwoHubs]:
    with running_nats(folder / "nats") as nats, ExitStack() as stack:
        mesh = TwoHubs(folder, nats)
        # The first makes the secret key that the second finds.
        for hub in mesh.hubs:
            stack.enter_context(hub)
        yield mesh
