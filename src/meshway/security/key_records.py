"""API keys as they are stored: one JSON value each under `keys.<id>`, holding the hash and never the key."""

from typing import Annotated

import msgspec

from meshway.engine.ports import KeyValue, KvConflict, KvCreate, KvEntry, KvUpdate, KvWritten, Undecided
from meshway.gateway.ports import ApiKey
from meshway.kernel.errors import EngineUnavailable, InvalidRequest, KeyNotFound
from meshway.kernel.ids import KeyId
from meshway.kernel.principal import parse_scope

__all__ = ["KEYS_PREFIX", "KeyRecord", "KeyRecords", "StoredRecord", "read_record"]

KEYS_PREFIX = "keys"

# An engine that does not know after this many repetitions whether a write happened is not available.
_REPEATS_MAX = 5


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Format 1. Unknown fields of later formats are ignored; a later `v` makes the record unreadable on purpose."""

    id: str
    name: str
    scopes: tuple[str, ...]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    created_at_ms: int
    expires_at_ms: int | None = None
    revoked_at_ms: int | None = None
    v: Annotated[int, msgspec.Meta(ge=1, le=1)] = 1

    def shown(self) -> ApiKey:
        """The key without anything secret."""
        return ApiKey(
            id=KeyId(self.id),
            name=self.name,
            scopes=self.scopes,
            created_at_ms=self.created_at_ms,
            expires_at_ms=self.expires_at_ms,
            revoked_at_ms=self.revoked_at_ms,
        )


class StoredRecord(msgspec.Struct, frozen=True):
    """A record with the revision it was read or written at; `record` None when it cannot be read."""

    revision: int
    record: KeyRecord | None


def read_record(entry: KvEntry) -> StoredRecord:
    """Decode; an unreadable record is a value, because it must still count as a key that exists."""
    try:
        record = msgspec.json.decode(entry.value, type=KeyRecord)
        for scope in record.scopes:
            parse_scope(scope)
    except (msgspec.DecodeError, InvalidRequest):
        return StoredRecord(entry.revision, None)
    return StoredRecord(entry.revision, record)


class KeyRecords:
    """Reads and writes key records. Durable (synced) before it answers."""

    def __init__(self, store: KeyValue) -> None:
        self._store = store

    async def create(self, record: KeyRecord) -> StoredRecord:
        """Write a new record. Raises: EngineUnavailable, StorageFull."""
        value = msgspec.json.encode(record)
        for _ in range(_REPEATS_MAX):
            (outcome,) = await self._store.write([KvCreate(key=_key(record.id), value=value)])
            match outcome:
                case KvWritten(revision=revision):
                    return StoredRecord(revision, record)
                # A repetition after Undecided meets its own first write.
                case KvConflict(current=KvEntry(value=current, revision=revision)) if current == value:
                    return StoredRecord(revision, record)
                case KvConflict() | Undecided():
                    continue
        raise EngineUnavailable("The store could not say whether the key was written; list the keys and try again.")

    async def revoke(self, key_id: KeyId, now_ms: int) -> StoredRecord:
        """Mark as revoked; one that is already stays as it was. Raises: KeyNotFound, EngineUnavailable, StorageFull."""
        for _ in range(_REPEATS_MAX):
            found = await self._get(key_id)
            if found.record is None:
                raise EngineUnavailable(
                    f"Key {key_id} was written by a newer Meshway or is damaged; upgrade this hub first."
                )
            if found.record.revoked_at_ms is not None:
                return found
            record = msgspec.structs.replace(found.record, revoked_at_ms=now_ms)
            write = KvUpdate(key=_key(key_id), value=msgspec.json.encode(record), revision=found.revision)
            (outcome,) = await self._store.write([write])
            if isinstance(outcome, KvWritten):
                return StoredRecord(outcome.revision, record)
        raise EngineUnavailable(f"Key {key_id} could not be revoked: the record kept changing; try again.")

    async def all(self) -> list[StoredRecord]:
        """Every record, in no particular order. Raises: EngineUnavailable."""
        records: list[StoredRecord] = []
        after: str | None = None
        while True:
            page = await self._store.page(KEYS_PREFIX, after=after)
            records.extend(read_record(entry) for entry in page.entries)
            after = page.next_after
            if after is None:
                return records

    async def _get(self, key_id: KeyId) -> StoredRecord:
        # Only ids of our form: anything else would not be a token of the store.
        entry = (await self._store.get([_key(key_id)]))[0] if key_id.isascii() and key_id.isalnum() else None
        if entry is None:
            raise KeyNotFound(f"There is no key {key_id!r}; `meshway keys list` shows the ids.")
        return read_record(entry)


def _key(key_id: str) -> str:
    return f"{KEYS_PREFIX}.{key_id}"
