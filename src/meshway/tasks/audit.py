"""What operators did, one entry each, in the order it was done: Log `_audit`. Not what callers do; those have logs."""

from collections.abc import Sequence

import msgspec

from meshway.engine.ports import Appended, FromSequence, Log, LogAppend, LogEntry, LogTrim, WrongLast
from meshway.kernel.clock import Clock, rfc3339_ms
from meshway.kernel.errors import EngineUnavailable, StoreCorrupt, wrong_field
from meshway.kernel.ids import AgentId, PrincipalId, new_id
from meshway.kernel.pages import LIMIT_DEFAULT, LIMIT_MAX, Page, decode_cursor, encode_cursor

__all__ = ["AuditEntry", "AuditLog"]

_SUBJECT = "_audit"
_ROUNDS_MAX = 16
# Years of operators' work, 30 MB; older entries go, a thousand at a time, for each trim is a write.
_ENTRIES_MAX = 100_000
_TRIM_EVERY = 1_000


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`at` is RFC 3339. `agent` None: the whole hub. `details` depends on the action."""

    at: str
    principal: PrincipalId
    action: str
    agent: AgentId | None = None
    details: dict[str, str | int] = {}


_encode = msgspec.json.Encoder().encode
_decode_entry = msgspec.json.Decoder(AuditEntry).decode


class AuditLog:
    """Append and read; nothing is ever changed."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def append(
        self,
        principal_id: PrincipalId,
        action: str,
        *,
        agent_id: AgentId | None = None,
        details: dict[str, str | int] | None = None,
    ) -> AuditEntry:
        """Write one entry, synced when this returns. Raises: StorageFull, EngineUnavailable."""
        at = rfc3339_ms(self._clock.now_ms())
        entry = AuditEntry(at=at, principal=principal_id, action=action, agent=agent_id, details=details or {})
        append = LogAppend(subject=_SUBJECT, message_id=new_id(), data=_encode(entry))
        for _ in range(_ROUNDS_MAX):
            (outcome,) = await self._log.append([append])
            match outcome:
                case Appended():
                    if outcome.sequence % _TRIM_EVERY == 0:
                        await self._log.trim([LogTrim(subject=_SUBJECT, keep_count=_ENTRIES_MAX)])
                    return entry
                case WrongLast():
                    # Only an append that expects a last one is answered so.
                    break
                case _:
                    continue
        raise EngineUnavailable("The store does not say whether the audit entry was written.")

    async def newest(self, *, cursor: str | None = None, limit: int = LIMIT_DEFAULT) -> Page[AuditEntry]:
        """A page, latest entry first. Raises: InvalidRequest naming `cursor` or `limit`, EngineUnavailable."""
        _check_limit(limit)
        before = None if cursor is None else _sequence_of(cursor)
        (bounds,) = await self._log.bounds([_SUBJECT])
        if bounds is None or not bounds.count:
            return Page([])
        last = bounds.last if before is None else min(before - 1, bounds.last)
        first = max(bounds.first, last - limit + 1)
        if first > last:
            return Page([])
        found = await self._log.read(_SUBJECT, FromSequence(first), limit=last - first + 1)
        entries = _decoded(found)
        entries.reverse()
        return Page(entries, encode_cursor(str(first)) if first > bounds.first else None)

    async def oldest(self, *, cursor: str | None = None, limit: int = LIMIT_DEFAULT) -> Page[AuditEntry]:
        """A page, first entry first. Raises: as `newest`."""
        _check_limit(limit)
        first = 1 if cursor is None else _sequence_of(cursor)
        found = await self._log.read(_SUBJECT, FromSequence(first), limit=limit + 1)
        more = encode_cursor(str(found[limit].sequence)) if len(found) > limit else None
        return Page(_decoded(found[:limit]), more)


def _decoded(found: Sequence[LogEntry]) -> list[AuditEntry]:
    try:
        return [_decode_entry(entry.data) for entry in found]
    except msgspec.DecodeError as error:
        raise StoreCorrupt(f"An audit entry cannot be read ({error}); a newer Meshway wrote it.") from error


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= LIMIT_MAX:
        raise wrong_field("limit", f"use 1 to {LIMIT_MAX}")


def _sequence_of(cursor: str) -> int:
    text = decode_cursor(cursor)
    if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) >= 1):
        raise wrong_field("cursor", "use the next_cursor of the page before, unchanged")
    return int(text)
