"""The key ring: who is calling, answered from memory, and the administration of API keys.

The ring follows the store's watch, so a key made or revoked on one hub counts on every hub of the mesh. A request costs
one SHA-256 and one dictionary look-up. Open mode (no key asked for) ends for good with the first key: revoking or
outliving the last one must not open the door again.
"""

import asyncio
import hmac
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from meshway.engine.ports import KeyValue, KvCaughtUp, KvDeleted, KvEntry, KvEvent
from meshway.gateway.ports import ApiKey, ApiKeyCreated, Credentials
from meshway.kernel.clock import Clock
from meshway.kernel.errors import (
    CapacityReached,
    Conflict,
    EngineUnavailable,
    KeyNotFound,
    Unauthenticated,
    wrong_field,
)
from meshway.kernel.ids import KeyId, PrincipalId
from meshway.kernel.principal import LOCAL_OPERATOR, Principal, parse_scope
from meshway.security.configured_keys import CONFIGURED_ID_PREFIX, configured_principals
from meshway.security.key_records import KEYS_PREFIX, KeyRecord, KeyRecords, StoredRecord, read_record
from meshway.security.key_text import key_digest, new_key_text
from meshway.security.settings import AuthSettings, KeyEntry

__all__ = ["KeyRing"]

# Every hub holds all keys in memory (about 1 KB each) and a person has to be able to read the list.
_KEYS_MAX = 10_000
# Right keys seen lately, by their text: a call then costs a look-up instead of a hash. Emptied by every change.
_RECENT_MAX = 10_000
_NAME_LENGTH_MAX = 64
_SCOPES_MAX = 64
# Pauses between attempts to follow the store again after the watch broke; the last one repeats.
_FOLLOW_AGAIN_S = (0.1, 0.5, 2.0, 5.0)
_NEVER_MS = 1 << 62

_HOW_TO_GET_A_KEY = (
    "Make one on the hub's machine with `meshway keys create NAME --scope call` (with the hub stopped, or with an "
    "admin key in MESHWAY_API_KEY) and send it as 'Authorization: Bearer <key>' or 'X-API-Key: <key>'."
)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What a request needs to know of a key. `valid_until_ms` is -1 when it was revoked."""

    digest: bytes
    principal: Principal
    valid_until_ms: int


class KeyRing:
    """Implements the ports Authenticator and ApiKeys. `open_allowed`: on loopback, or told `--insecure`."""

    def __init__(
        self,
        store: KeyValue,
        *,
        settings: AuthSettings,
        configured: Sequence[KeyEntry],
        clock: Clock,
        open_allowed: bool,
    ) -> None:
        """Raises: InvalidRequest when a configured key is wrong; names the field (`keys.0.scopes`)."""
        self._store = store
        self._records = KeyRecords(store)
        self._settings = settings
        self._clock = clock
        self._open_allowed = open_allowed
        self._configured = {
            digest: _Entry(digest, principal, _NEVER_MS)
            for digest, principal in configured_principals(configured).items()
        }
        self._configured_shown = tuple(_shown_configured(entry, clock.now_ms()) for entry in configured)
        self._stored: dict[str, StoredRecord] = {}
        # What a watch that began again has sent so far; takes the place of `_stored` once it has caught up.
        self._replayed: dict[str, StoredRecord] | None = {}
        self._entries: dict[bytes, _Entry] = dict(self._configured)
        self._recent: dict[str, _Entry] = {}
        self._ready = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._key_seen = bool(configured)
        self._demands_key = True

    @property
    def demands_key(self) -> bool:
        """Is a request without a key refused? True until the store was read, and from the first key on for ever."""
        return self._demands_key

    @property
    def is_configured(self) -> bool:
        """Has somebody decided who may come in? A key exists, revoked or not, or `auth.required` is set."""
        return self._settings.required or self._key_seen

    async def start(self) -> None:
        """Read all keys and follow changes. Raises: EngineUnavailable when the store cannot be read in time."""
        self._follower = asyncio.create_task(self._follow(), name="meshway-keys-watch")
        try:
            async with asyncio.timeout(self._settings.start_timeout_ms / 1000):
                await self._ready.wait()
        except TimeoutError:
            await self.aclose()
            raise EngineUnavailable(
                f"The API keys could not be read within {self._settings.start_timeout_ms} ms (auth.start_timeout_ms)."
            ) from None

    async def aclose(self) -> None:
        """Stop following. What is known stays usable. Idempotent."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            await asyncio.wait([follower])

    def authenticate(self, credentials: Credentials) -> Principal:
        """Raises: Unauthenticated; EngineUnavailable before the keys were read."""
        text = credentials.key
        if text is None:
            if self._demands_key:
                raise self._refusal("This hub asks for an API key. " + _HOW_TO_GET_A_KEY)
            return LOCAL_OPERATOR
        entry = self._recent.get(text)
        if entry is None:
            digest = key_digest(text)
            entry = self._entries.get(digest)
            if entry is None or not hmac.compare_digest(entry.digest, digest):
                raise self._refusal("This API key is not known here: mistyped, cut off, or of another mesh.")
            if len(self._recent) >= _RECENT_MAX:
                self._recent.clear()
            self._recent[text] = entry
        if entry.valid_until_ms <= self._clock.now_ms():
            # Only the holder of the right secret gets this far, so the reason gives nothing away.
            reason = "was revoked" if entry.valid_until_ms < 0 else "has expired"
            raise Unauthenticated(f"API key {entry.principal.id} {reason}; ask for a new one.")
        return entry.principal

    async def create(self, name: str, scopes: Sequence[str], *, expires_at_ms: int | None = None) -> ApiKeyCreated:
        """Make a key; its secret is in the answer and nowhere else. Durable and effective here when it returns.

        Raises: InvalidRequest, CapacityReached, EngineUnavailable, StorageFull.
        """
        now_ms = self._clock.now_ms()
        _check_new_key(name, scopes, expires_at_ms, now_ms)
        if len(self._stored) >= _KEYS_MAX:
            raise CapacityReached(f"There are {_KEYS_MAX} keys already, revoked ones included; that is the maximum.")
        key_id, text = new_key_text()
        record = KeyRecord(
            id=key_id,
            name=name,
            scopes=tuple(dict.fromkeys(scopes)),
            sha256=key_digest(text).hex(),
            created_at_ms=now_ms,
            expires_at_ms=expires_at_ms,
        )
        self._apply(key_id, await self._records.create(record))
        return ApiKeyCreated(key=record.shown(), secret=text)

    async def list_keys(self) -> Sequence[ApiKey]:
        """All keys, revoked and configured ones too, oldest first. Reads the store, so it works before `start`."""
        stored = [held.record.shown() for held in await self._records.all() if held.record is not None]
        return sorted([*self._configured_shown, *stored], key=lambda key: (key.created_at_ms, key.id))

    async def revoke(self, key_id: KeyId) -> ApiKey:
        """Effective here when it returns and on other hubs with their watch; the record is kept.

        Raises: KeyNotFound, Conflict for a key from the configuration, EngineUnavailable, StorageFull.
        """
        if any(shown.id == key_id for shown in self._configured_shown):
            name = key_id.removeprefix(CONFIGURED_ID_PREFIX)
            raise Conflict(f"Key {name!r} comes from the configuration; remove its [[keys]] entry and restart the hub.")
        held = await self._records.revoke(key_id, self._clock.now_ms())
        if held.record is None:
            raise KeyNotFound(f"There is no key {key_id!r}.")
        self._apply(key_id, held)
        return held.record.shown()

    def _refusal(self, detail: str) -> Unauthenticated | EngineUnavailable:
        if self._ready.is_set():
            return Unauthenticated(detail)
        return EngineUnavailable("The hub has not read its API keys yet; try again in a moment.", retry_after_ms=1_000)

    async def _follow(self) -> None:
        """Keep the ring equal to the store; begin again when the watch breaks. Runs until it is cancelled."""
        failures = 0
        while True:
            self._replayed = {}
            try:
                async with self._store.watch(KEYS_PREFIX) as events:
                    async for event in events:
                        self._observe(event)
                        failures = 0
                reason = "the watch ended"
            except Exception as error:  # noqa: BLE001 - boundary of a duty: whatever broke the watch, follow again
                reason = repr(error)
            pause_s = _FOLLOW_AGAIN_S[min(failures, len(_FOLLOW_AGAIN_S) - 1)]
            failures += 1
            structlog.get_logger().warning("keys_watch_lost", reason=reason, again_in_s=pause_s)
            await asyncio.sleep(pause_s)

    def _observe(self, event: KvEvent) -> None:
        match event:
            case KvEntry():
                held = read_record(event)
                if held.record is None:
                    structlog.get_logger().error("key_record_unreadable", key=event.key, revision=event.revision)
                self._apply(event.key.removeprefix(f"{KEYS_PREFIX}."), held)
            case KvDeleted():
                self._forget(event.key.removeprefix(f"{KEYS_PREFIX}."))
            case KvCaughtUp():
                if self._replayed is not None:
                    self._stored, self._replayed = self._replayed, None
                self._rebuild()
                self._ready.set()

    def _apply(self, key_id: str, held: StoredRecord) -> None:
        """Take in one record; an older one (a watch that lags behind our own write) changes nothing."""
        for known in (self._stored, self._replayed):
            if known is None:
                continue
            before = known.get(key_id)
            if before is None or before.revision <= held.revision:
                known[key_id] = held
        current = self._stored[key_id].record
        if current is not None:
            entry = _stored_entry(current)
            self._entries[entry.digest] = entry
            self._recent.clear()
        elif held.record is None:
            self._rebuild()
        self._decide_demand()

    def _forget(self, key_id: str) -> None:
        if self._replayed is not None:
            self._replayed.pop(key_id, None)
        if self._stored.pop(key_id, None) is not None:
            self._rebuild()

    def _rebuild(self) -> None:
        entries = dict(self._configured)
        for held in self._stored.values():
            if held.record is not None:
                # A stored record of the same key wins: it may be revoked.
                entry = _stored_entry(held.record)
                entries[entry.digest] = entry
        self._entries = entries
        self._recent.clear()
        self._decide_demand()

    def _decide_demand(self) -> None:
        caught_up = self._ready.is_set() or self._replayed is None
        was_demanded = self._demands_key
        self._key_seen = self._key_seen or bool(self._stored)
        self._demands_key = self._settings.required or not self._open_allowed or self._key_seen or not caught_up
        if self._demands_key and not was_demanded:
            structlog.get_logger().info("open_mode_ended", reason="the first API key exists")


def _stored_entry(record: KeyRecord) -> _Entry:
    principal = Principal(PrincipalId(record.id), frozenset(parse_scope(scope) for scope in record.scopes))
    valid_until_ms = _NEVER_MS if record.expires_at_ms is None else record.expires_at_ms
    return _Entry(bytes.fromhex(record.sha256), principal, -1 if record.revoked_at_ms is not None else valid_until_ms)


def _shown_configured(entry: KeyEntry, now_ms: int) -> ApiKey:
    return ApiKey(
        id=KeyId(CONFIGURED_ID_PREFIX + entry.name), name=entry.name, scopes=entry.scopes, created_at_ms=now_ms
    )


def _check_new_key(name: str, scopes: Sequence[str], expires_at_ms: int | None, now_ms: int) -> None:
    if not 1 <= len(name) <= _NAME_LENGTH_MAX or not name.isprintable() or name != name.strip():
        raise wrong_field("name", f"use 1 to {_NAME_LENGTH_MAX} printable characters, no space at the ends")
    if not 1 <= len(scopes) <= _SCOPES_MAX:
        raise wrong_field("scopes", f"give 1 to {_SCOPES_MAX} scopes: call, admin or serve:<agent pattern>")
    for scope in scopes:
        parse_scope(scope)
    if expires_at_ms is not None and expires_at_ms <= now_ms:
        raise wrong_field("expires_at", "lies in the past; give a later time, or none for a key that does not expire")
