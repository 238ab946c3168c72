"""Hubs of one mesh in the test's own loop: one bus, one store, one clock, and beats that a test can withhold."""

import msgspec

from meshway.coordination.duty_leases import DutyLeases
from meshway.coordination.hubs import HubRecord, MeshHubs
from meshway.coordination.settings import MeshSettings
from meshway.engine.embedded.bus import EmbeddedBus
from meshway.testing.clock import ManualClock
from meshway.testing.fake_key_value import FakeKeyValue

__all__ = ["LOST_MS", "HubRig", "MeshRig", "hub_record"]

BEAT_MS, LOST_MS = 500, 2_000
_SETTINGS = MeshSettings(beat_interval_ms=BEAT_MS, lost_after_ms=LOST_MS)


def hub_record(name: str, **fields: object) -> HubRecord:
    """What a hub says of itself."""
    plain = HubRecord(id=name, url=f"http://{name}.test", version="1", host="here", pid=1, started_at_ms=0)
    return msgspec.structs.replace(plain, **fields)


class HubRig:
    """One hub; it hears what its mesh passes on. `is_parted`: its beats reach nobody, and it hears none."""

    def __init__(self, mesh: "MeshRig", name: str, *, group: str = "", is_shared: bool = True) -> None:
        self.name = name
        self.hubs = MeshHubs(
            mesh.bus, me=hub_record(name, group=group), clock=mesh.clock, settings=_SETTINGS, is_shared=is_shared
        )
        self.leases = DutyLeases(mesh.key_value, self.hubs, mesh.clock)
        self.lost: list[str] = []
        self.is_parted = False
        self.hubs.on_lost(self.lost.append)

    def states(self) -> dict[str, str]:
        """How it sees each hub."""
        return {each.record.id: each.state for each in self.hubs.all()}


class MeshRig:
    """Beats go from hub to hub when `beat` says so; what hubs publish themselves goes over `bus`."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.bus = EmbeddedBus()
        self.key_value = FakeKeyValue(clock)
        self.rigs: dict[str, HubRig] = {}

    def add(self, name: str, *, group: str = "", is_shared: bool = True) -> HubRig:
        rig = self.rigs[name] = HubRig(self, name, group=group, is_shared=is_shared)
        return rig

    def beat(self, *silent: str) -> None:
        """One beat of all but those that are silent or parted, and a look at who is there."""
        for sender in self.rigs.values():
            if sender.name in silent or sender.is_parted:
                continue
            data = msgspec.json.encode(sender.hubs._me)
            for hearer in self.rigs.values():
                if hearer.name not in silent and not hearer.is_parted:
                    hearer.hubs.heard(data)
        for rig in self.rigs.values():
            if rig.name not in silent:
                rig.hubs.look()

    def run_for(self, ms: int, *silent: str) -> None:
        """Beats as the hubs make them; the silent ones are frozen: they say, hear and look at nothing."""
        for _ in range(ms // BEAT_MS):
            self.clock.advance(BEAT_MS)
            self.beat(*silent)

    def settle(self) -> None:
        """Until everybody knows who is there."""
        self.beat()
        self.run_for(LOST_MS)
