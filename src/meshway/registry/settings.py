"""Limits and times of the registry."""

from typing import Annotated

import msgspec

__all__ = ["RegistrySettings"]


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the registry keeps, and how it tells who is there."""

    # All agents are held in memory, about 20 KB each with a usual card: 10,000 are 200 MB at the very most.
    agents_max: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 10_000
    # An agent is stored as one record and a choice looks at every instance: 256 keep both small.
    instances_max: Annotated[int, msgspec.Meta(ge=1, le=1_024)] = 256
    # Labels describe, they are not a store; orchestrators rarely set more than twenty.
    labels_max: Annotated[int, msgspec.Meta(ge=0, le=256)] = 64
    # Lease of a heartbeat that names none: two lost heartbeats at the usual 10 s are forgiven.
    lease_ttl_ms: Annotated[int, msgspec.Meta(ge=500, le=86_400_000)] = 30_000
    # How often leases are looked at: the lateness of `offline`, and cheap enough to do twice a second.
    sweep_interval_ms: Annotated[int, msgspec.Meta(ge=50, le=60_000)] = 500
    # A sweep later than this, or a wall clock that moved by this, means the hub slept: nobody is blamed for silence.
    sleep_tolerance_ms: Annotated[int, msgspec.Meta(ge=100, le=600_000)] = 5_000
    # Failures in a row before an instance is offline: one may be a restart's last moment, three are not.
    offline_after_failures: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 3
    # The time those failures must span: many calls that meet one restart at the same moment are one sign, not many.
    offline_after_ms: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] = 2_000
    # Ask an instance for its card when it was silent this long; 0 switches probing off for the whole hub.
    probe_interval_ms: Annotated[int, msgspec.Meta(ge=0, le=86_400_000)] = 30_000
    # First wait before an instance that failed is asked again; doubled each time up to the interval above.
    probe_retry_ms: Annotated[int, msgspec.Meta(ge=100, le=3_600_000)] = 1_000
    # A card is one small GET; one that takes longer than this would fail calls as well.
    probe_timeout_ms: Annotated[int, msgspec.Meta(ge=100, le=60_000)] = 5_000
    # Probes at once: enough for 10,000 agents in an interval, few enough not to be noticed.
    probes_max: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16
    # Removed agents a resumed watch is told about; one that is further behind gets everything again.
    removals_kept: Annotated[int, msgspec.Meta(ge=16, le=1_000_000)] = 1_000
