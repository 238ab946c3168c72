"""Moving a hub's data directory to a NATS cluster: everything is copied, then both sides are read and compared."""

import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from meshway.assembly.mesh import KEY_ID_MARK
from meshway.engine.embedded.copy_reader import open_copy_reader as open_directory
from meshway.engine.nats.copy_reader import open_copy_reader as open_mesh
from meshway.engine.nats.copy_writer import open_copy_writer
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.ports import BlobRef
from meshway.engine.ports.copying import (
    Copied,
    CopiedBlob,
    CopiedDeadLetter,
    CopiedDedupeId,
    CopiedEnd,
    CopiedEntry,
    CopiedKey,
    CopiedMessage,
    CopiedQueue,
    CopyKind,
    CopyPage,
    CopyReader,
    CopyRecord,
    CopySource,
    CopyStart,
    CopyWriter,
)
from meshway.kernel.clock import Clock
from meshway.kernel.errors import BlobNotFound, StoreCorrupt
from meshway.security.secret_box import KEY_FILE_NAME, open_secret_box

__all__ = ["Compared", "CopyOutcome", "CopyPlan", "Progress", "copy_to_nats", "plan_copy", "verify_copy"]

# What is about to be done, how many records of it are done, and about how many there are.
Progress = Callable[[str, int, int], None]

# What expires within so long from the beginning of a comparison is left out of it, on both sides; where reading took
# longer, it is done again with the next one.
_LEFT_OUT_MS: Sequence[int] = (60_000, 3_600_000, 86_400_000)
_EXPIRING = frozenset({CopyKind.KEYS, CopyKind.MESSAGES, CopyKind.DEDUPE_IDS, CopyKind.BLOBS})
# By which clocks may differ, and times to live are rounded up.
_MARGIN_MS = 5_000
# Sums of SHA-256 stay as long as one: what is compared does not depend on any order.
_MODULUS = 1 << 256

# No key begins with it, and all are behind it.
_BEFORE_ALL_KEYS = "!"

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One group of records, counted and hashed on both sides."""

    name: str
    source_count: int
    target_count: int
    source_sha256: str
    target_sha256: str

    @property
    def is_equal(self) -> bool:
        return self.source_count == self.target_count and self.source_sha256 == self.target_sha256


class CopyOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """`copied` by kind, by this run and those before it. `was_done`: an earlier one had finished; nothing was done."""

    copied: Mapping[str, int] = {}
    compared: Sequence[Compared] = ()
    was_done: bool = False

    @property
    def differences(self) -> Sequence[Compared]:
        return [group for group in self.compared if not group.is_equal]


class CopyPlan(msgspec.Struct, frozen=True, kw_only=True):
    """From where to where. `secret_key_id`: of the key that the hubs of the mesh must have, if it is known."""

    data_dir: Path
    nats: NatsSettings
    secret_key_id: str | None = None


def plan_copy(data_dir: Path, nats: NatsSettings, *, secret_key: str | None) -> CopyPlan:
    """`secret_key`: the setting; None for the file in the directory, if there is one.

    Raises: InvalidRequest, StoreCorrupt, EngineUnavailable where it cannot be read.
    """
    is_known = secret_key is not None or (data_dir / KEY_FILE_NAME).exists()
    key_id = open_secret_box(data_dir, secret_key=secret_key).key_id if is_known else None
    return CopyPlan(data_dir=data_dir, nats=nats, secret_key_id=key_id)


async def copy_to_nats(plan: CopyPlan, *, clock: Clock, progress: Progress) -> CopyOutcome:
    """Begin, or go on where an earlier run was interrupted; hubs may start there once there is no difference.

    Raises: DataDirLocked, SchemaTooNew, StoreCorrupt, Conflict (other data is there), PayloadTooLarge, StorageFull,
    EngineUnavailable; after all of them it can be called again.
    """
    settings = plan.nats
    async with _opened(plan, clock) as source, open_copy_writer(settings, clock=clock) as target:
        start = await source.start()
        if not await target.begin(start):
            return CopyOutcome(was_done=True)
        copied = {kind.value: await _copy(kind, source, target, start, progress) for kind in CopyKind}
        async with open_mesh(settings, clock=clock) as reader:
            compared = await _Comparison(source, reader, clock).run(start, progress)
        outcome = CopyOutcome(copied=copied, compared=compared)
        if not outcome.differences:
            await target.finish()
        return outcome


async def verify_copy(plan: CopyPlan, *, clock: Clock, progress: Progress) -> CopyOutcome:
    """Compare only. Raises: as `copy_to_nats`."""
    async with _opened(plan, clock) as source, open_mesh(plan.nats, clock=clock) as reader:
        return CopyOutcome(compared=await _Comparison(source, reader, clock).run(await source.start(), progress))


@asynccontextmanager
async def _opened(plan: CopyPlan, clock: Clock) -> AsyncIterator[CopySource]:
    async with open_directory(plan.data_dir, clock=clock) as source:
        yield source if plan.secret_key_id is None else _WithSecretMark(source, plan.secret_key_id)


class _WithSecretMark:
    """A directory of one hub has no mark of its key; hubs with another key must not use what they cannot read."""

    def __init__(self, source: CopySource, key_id: str) -> None:
        self._source = source
        self._mark = CopiedKey(key=KEY_ID_MARK, value=key_id.encode(), expires_at_ms=None)
        self.start = source.start
        self.content = source.content
        self.expiries = source.expiries

    async def pages(self, kind: CopyKind, *, after: str = "") -> AsyncIterator[CopyPage]:
        if kind is CopyKind.KEYS and not after:
            yield [Copied(_BEFORE_ALL_KEYS, self._mark)]
        async for page in self._source.pages(kind, after=after):
            yield page


async def _copy(kind: CopyKind, source: CopySource, target: CopyWriter, start: CopyStart, progress: Progress) -> int:
    after, done = await target.place(kind)
    progress(f"copying {kind.value}", done, start.counts[kind])
    async for page in source.pages(kind, after=after):
        await target.write(kind, page, source)
        done += len(page)
        progress(f"copying {kind.value}", done, start.counts[kind])
    return done


class _Tally:
    """Of one group: how many records, and the sum of their hashes."""

    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count = 0
        self.total = 0

    def add(self, content: bytes) -> None:
        self.count += 1
        self.total = (self.total + int.from_bytes(hashlib.sha256(content).digest())) % _MODULUS

    @property
    def sha256(self) -> str:
        return f"{self.total:064x}"


class _Comparison:
    """Both sides, read from end to end."""

    def __init__(self, source: CopySource, target: CopyReader, clock: Clock) -> None:
        self._source = source
        self._target = target
        self._clock = clock

    async def run(self, start: CopyStart, progress: Progress) -> Sequence[Compared]:
        compared: list[Compared] = []
        for kind in CopyKind:
            for number, left_out_ms in enumerate(_LEFT_OUT_MS):
                until_ms = self._clock.now_ms() + left_out_ms
                label = f"comparing {kind.value}{' again' * number}"
                shown = _Shown(progress, label, 2 * start.counts[kind])
                ours = await self._tally(kind, self._source, until_ms, shown)
                theirs = await self._tally(kind, self._target, until_ms, shown)
                if kind not in _EXPIRING or self._clock.now_ms() < until_ms - _MARGIN_MS:
                    break
            for name in sorted(ours.keys() | theirs.keys()):
                left, right = ours.get(name, _Tally()), theirs.get(name, _Tally())
                compared.append(
                    Compared(
                        name=name,
                        source_count=left.count,
                        target_count=right.count,
                        source_sha256=left.sha256,
                        target_sha256=right.sha256,
                    )
                )
        return compared

    async def _tally(self, kind: CopyKind, reader: CopyReader, until_ms: int, shown: "_Shown") -> dict[str, _Tally]:
        """By group, without what expires until then."""
        tallies: dict[str, _Tally] = {}
        async for page in reader.pages(kind):
            shown.add(len(page))
            for record in await self._lasting(kind, page, until_ms):
                content_sha256 = ""
                if isinstance(record, CopiedBlob):
                    content_sha256 = await _hashed(reader.content(record.ref))
                tallies.setdefault(_group_of(kind, record), _Tally()).add(_canonical(record, content_sha256))
        return tallies

    async def _lasting(self, kind: CopyKind, page: CopyPage, until_ms: int) -> Sequence[CopyRecord]:
        records = [record for _, record in page]
        # The target knows the end of these to the second only.
        named = {_name_of(record): record for record in records if isinstance(record, CopiedKey | CopiedBlob)}
        if not named:
            return [record for record in records if _lasts(_expiry_of(record), until_ms)]
        known = await self._source.expiries(kind, list(named))
        return [record for name, record in named.items() if _lasts(known.get(name), until_ms)]


class _Shown:
    """How far both sides of a kind are."""

    def __init__(self, progress: Progress, label: str, total: int) -> None:
        self._progress = progress
        self._label = label
        self._total = total
        self._done = 0
        self.add(0)

    def add(self, count: int) -> None:
        self._done += count
        self._progress(self._label, self._done, self._total)


async def _hashed(content: AsyncIterator[bytes]) -> str:
    """Of what is really there; a word for what is not whole."""
    digest = hashlib.sha256()
    try:
        async for chunk in content:
            digest.update(chunk)
    except (BlobNotFound, StoreCorrupt) as error:
        return error.code
    return digest.hexdigest()


def _lasts(expires_at_ms: int | None, until_ms: int) -> bool:
    return expires_at_ms is None or expires_at_ms > until_ms


def _expiry_of(record: CopyRecord) -> int | None:
    return record.expires_at_ms if isinstance(record, CopiedMessage | CopiedDedupeId) else None


def _name_of(record: CopiedKey | CopiedBlob) -> str:
    return record.key if isinstance(record, CopiedKey) else record.ref.sha256


def _group_of(kind: CopyKind, record: CopyRecord) -> str:
    match record:
        case CopiedEntry(entry=entry):
            return f"{kind.value}: {entry.subject.partition('.')[0]}"
        case CopiedMessage(message=message):
            return f"{kind.value}: {message.queue}"
        case CopiedDeadLetter(letter=letter):
            return f"{kind.value}: {letter.message.queue}"
        case _:
            return kind.value


def _canonical(record: CopyRecord, content_sha256: str) -> bytes:
    """All that must be the same on both sides, in one form."""
    match record:
        case CopiedKey():
            return _encode((record.key, record.value, record.expires_at_ms is not None))
        case CopiedEntry() | CopiedEnd() | CopiedQueue() | CopiedDedupeId():
            return _encode(record)
        case CopiedMessage(message=message):
            return _encode((message, record.expires_at_ms, record.attempts))
        case CopiedDeadLetter(letter=letter):
            return _encode(msgspec.structs.replace(letter, position="", attempts=tuple(letter.attempts)))
        case CopiedBlob(ref=BlobRef(sha256=sha256, size=size)):
            return _encode((sha256, size, content_sha256, record.expires_at_ms is not None))
