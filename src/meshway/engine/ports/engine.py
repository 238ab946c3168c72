"""The bundle of the primitives that an adapter offers, and its health."""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from meshway.engine.ports.blobs import Blobs
from meshway.engine.ports.bus import Bus
from meshway.engine.ports.key_value import KeyValue
from meshway.engine.ports.log import Log
from meshway.engine.ports.queue import Queue, QueueAdmin

__all__ = ["Engine", "EngineHealth", "EngineNode"]


class EngineHealth(msgspec.Struct, frozen=True, kw_only=True):
    """`writable` False with the reason a person can act on; `/readyz` shows it."""

    writable: bool
    reason: str | None = None


class EngineNode(msgspec.Struct, frozen=True, kw_only=True):
    """A server of the engine's cluster: what it leads, and how many operations it is behind in the rest."""

    name: str
    leads: Sequence[str]
    lag: int
    is_current: bool
    is_offline: bool


class Engine(Protocol):
    """One adapter. All attributes are usable from `open` to `close`."""

    @property
    def name(self) -> str:
        """`embedded` or `nats`."""

    @property
    def durability(self) -> str:
        """One sentence for `doctor` and `/readyz`: what an acknowledged write survives."""

    @property
    def is_shared(self) -> bool:
        """Whether other hubs may stand on it too. Where not, what this hub remembers is what is stored."""

    @property
    def inline_bytes_max(self) -> int: ...

    @property
    def key_value(self) -> KeyValue: ...

    @property
    def log(self) -> Log: ...

    @property
    def queue(self) -> Queue: ...

    @property
    def queue_admin(self) -> QueueAdmin: ...

    @property
    def bus(self) -> Bus: ...

    @property
    def blobs(self) -> Blobs: ...

    async def health(self) -> EngineHealth: ...

    async def nodes(self) -> Sequence[EngineNode]:
        """The servers of its cluster, by name; none where it has no cluster, or where nobody answers."""

    async def close(self) -> None:
        """Finish what was accepted, sync it, let go of files and locks. Idempotent."""
