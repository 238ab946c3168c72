"""What an engine holds, one record after the other: how everything moves from one adapter to another.

Not a port of rooms: only the copy uses it, while no hub is there. Two adapters need never know each other for it.
"""

import enum
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from meshway.engine.ports.blobs import BlobRef
from meshway.engine.ports.log import LogEntry
from meshway.engine.ports.queue import AttemptRecord, DeadLetter, QueuedMessage, QueueSettings

__all__ = [
    "Copied",
    "CopiedBlob",
    "CopiedDeadLetter",
    "CopiedDedupeId",
    "CopiedEnd",
    "CopiedEntry",
    "CopiedKey",
    "CopiedMessage",
    "CopiedQueue",
    "CopyKind",
    "CopyPage",
    "CopyPlace",
    "CopyReader",
    "CopyRecord",
    "CopySource",
    "CopyStart",
    "CopyWriter",
]


class CopyKind(enum.Enum):
    """In the order in which they are copied: messages need the settings of their queue."""

    KEYS = "keys"
    ENTRIES = "log entries"
    ENDS = "ends of trimmed logs"
    QUEUES = "queue settings"
    MESSAGES = "queued messages"
    DEAD_LETTERS = "dead letters"
    DEDUPE_IDS = "dedupe ids"
    BLOBS = "blobs"


class CopiedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A value; its revision is of the engine that holds it."""

    key: str
    value: bytes
    expires_at_ms: int | None


class CopiedEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry with all that readers were told: number, position and time."""

    entry: LogEntry


class CopiedEnd(msgspec.Struct, frozen=True, kw_only=True):
    """A subject whose entries were all trimmed: its next number is `last + 1`."""

    subject: str
    last: int
    last_message_id: str


class CopiedQueue(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    settings: QueueSettings


class CopiedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """Not done yet. `due_at_ms`: the end of its delay, pause or lease, if that may be still to come.

    `attempts` are those that are over, at most the last 16; the number of the last one says how many there were.
    """

    message: QueuedMessage
    due_at_ms: int | None
    expires_at_ms: int | None
    attempts: tuple[AttemptRecord, ...] = ()


class CopiedDeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    letter: DeadLetter


class CopiedDedupeId(msgspec.Struct, frozen=True, kw_only=True):
    queue: str
    dedupe_id: str
    expires_at_ms: int


class CopiedBlob(msgspec.Struct, frozen=True, kw_only=True):
    """Its content is read apart."""

    ref: BlobRef
    expires_at_ms: int | None


CopyRecord = (
    CopiedKey | CopiedEntry | CopiedEnd | CopiedQueue | CopiedMessage | CopiedDeadLetter | CopiedDedupeId | CopiedBlob
)


class Copied(NamedTuple):
    """A record, and the place to go on after it."""

    at: str
    record: CopyRecord


CopyPage = Sequence[Copied]


class CopyPlace(NamedTuple):
    """How far a kind is: behind which record to go on, and how many are done."""

    at: str = ""
    done: int = 0


class CopyStart(msgspec.Struct, frozen=True, kw_only=True):
    """What a copy begins with. `fingerprint` is another one after every change of the source.

    New revisions and positions of the target must be higher than those that the source gave out.
    """

    fingerprint: str
    revision_max: int
    position_max: int
    # The largest value, entry or message with all that belongs to it.
    record_bytes_max: int
    # Of records, what has expired among them.
    counts: Mapping[CopyKind, int]


class CopyReader(Protocol):
    """A side of a copy, to be read. What has expired is left out."""

    def pages(self, kind: CopyKind) -> AsyncIterator[CopyPage]:
        """All records, a few MiB at a time; none twice. Raises: EngineUnavailable, StoreCorrupt."""

    def content(self, blob: BlobRef) -> AsyncIterator[bytes]:
        """Of one blob. Raises: StoreCorrupt, BlobNotFound."""


class CopySource(CopyReader, Protocol):
    """Where a copy comes from; nothing changes in it meanwhile."""

    async def start(self) -> CopyStart:
        """What a copy begins with. Raises: EngineUnavailable, StoreCorrupt."""

    def pages(self, kind: CopyKind, *, after: str = "") -> AsyncIterator[CopyPage]:
        """Those behind a place, in a fixed order."""

    async def expiries(self, kind: CopyKind, names: Sequence[str]) -> Mapping[str, int | None]:
        """When keys or blobs end, exactly; nothing for names that are not there."""


class CopyWriter(Protocol):
    """Where a copy goes. Nobody else writes there meanwhile: hubs do not start before `finish`."""

    async def begin(self, start: CopyStart) -> bool:
        """Whether something is left to be done. Raises: Conflict where other data is there, EngineUnavailable."""

    async def place(self, kind: CopyKind) -> CopyPlace:
        """Where to go on. Before the first `write` of the kind."""

    async def write(self, kind: CopyKind, page: CopyPage, source: CopyReader) -> None:
        """Durably; each record once, however often a page is repeated after an interruption.

        Raises: StorageFull, PayloadTooLarge, StoreCorrupt, EngineUnavailable.
        """

    async def finish(self) -> None:
        """All was copied and compared: hubs may start."""
