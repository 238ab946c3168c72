"""Trimming a subject: what is to go is found by number; its last entry goes only together with a marker."""

from meshway.engine.nats.failures import FULL_CODES, WRONG_LAST, ApiError, Unanswered, error_of
from meshway.engine.nats.jetstream import JetStream, Stored
from meshway.engine.nats.log_ends import LogEnds
from meshway.engine.nats.log_entries import (
    EXPECTED_LAST,
    End,
    as_batch,
    end_of,
    is_entry,
    marker_headers,
    number_of,
    size_of,
    time_of,
    total_of,
)
from meshway.engine.nats.log_reader import LogReader
from meshway.engine.nats.retries import Retries
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import LogTrim

__all__ = ["LogTrimmer"]

# A write that was prepared when the subject had entries is through or given up long before.
_MARKER_TTL = "600s"


class LogTrimmer:
    """Idempotent: what was dropped is gone, and a repetition finds nothing to do."""

    def __init__(
        self, jetstream: JetStream, layout: Layout, settings: NatsSettings, *, ends: LogEnds, reader: LogReader
    ) -> None:
        self._jetstream = jetstream
        self._layout = layout
        self._timeout_ms = settings.request_timeout_ms
        self._ends = ends
        self._reader = reader

    async def trim(self, trim: LogTrim) -> int:
        """How many entries were dropped. Raises: StorageFull, EngineUnavailable."""
        retries = Retries(self._timeout_ms)
        while True:
            try:
                return await self._trim(trim)
            except (ApiError, Unanswered) as failure:
                if isinstance(failure, ApiError) and failure.code == WRONG_LAST:
                    if not await retries.pause():
                        raise error_of(failure) from failure
                else:
                    await retries.pause_or_raise(failure)

    async def _trim(self, trim: LogTrim) -> int:
        subject, reader = trim.subject, self._reader
        first = await reader.next_of(subject, 1)
        if first is not None and not is_entry(first):
            first = await reader.next_of(subject, first.seq + 1)
        last = await reader.last_of(subject)
        if first is None or last is None or not is_entry(last):
            return 0
        keep_from = await self._keep_from(trim, first, last)
        if keep_from <= number_of(first):
            return 0
        if keep_from > number_of(last):
            await self._drop_all(subject, first, last)
            return number_of(last) - number_of(first) + 1
        kept = await reader.first_at_least(subject, keep_from, number_of, (number_of(last), last.seq))
        if kept is None:
            return 0
        await self._purge(subject, kept.seq)
        return number_of(kept) - number_of(first)

    async def _keep_from(self, trim: LogTrim, first: Stored, last: Stored) -> int:
        """The number of the first entry that stays; one more than the last: none does."""
        end = number_of(last)
        keep_from = number_of(first)
        if trim.before_sequence is not None:
            keep_from = max(keep_from, trim.before_sequence)
        if trim.keep_count is not None:
            keep_from = max(keep_from, end - trim.keep_count + 1)
        if trim.before_ms is not None:
            keep_from = max(keep_from, await self._first_since(trim.subject, trim.before_ms, last))
        if trim.keep_bytes is not None:
            keep_from = max(keep_from, await self._first_within(trim.subject, trim.keep_bytes, first, last))
        return min(keep_from, end + 1)

    async def _first_since(self, subject: str, since_ms: int, last: Stored) -> int:
        if time_of(last) < since_ms:
            return number_of(last) + 1
        found = await self._reader.first_at_least(subject, since_ms, time_of, (time_of(last), last.seq))
        return 0 if found is None else number_of(found)

    async def _first_within(self, subject: str, keep_bytes: int, first: Stored, last: Stored) -> int:
        # The last one to drop is the first whose successors fit.
        target = total_of(last) - keep_bytes
        if target <= 0:
            return 0
        found = await self._reader.first_at_least(subject, target, total_of, (total_of(last), last.seq))
        if found is None:
            return 0
        if found.seq == first.seq and total_of(found) - size_of(self._reader.entry(found)) >= target:
            return number_of(found)
        return number_of(found) + 1

    async def _drop_all(self, subject: str, first: Stored, last: Stored) -> None:
        try:
            await self._mark_end(subject, end_of(last))
        except ApiError as failure:
            # A trim is how people make room, but the markers need some themselves.
            if failure.code not in FULL_CODES or first.seq == last.seq:
                raise
            await self._purge(subject, last.seq)
            await self._mark_end(subject, end_of(last))

    async def _mark_end(self, subject: str, end: End) -> None:
        """Markers in place of all entries. Raises: ApiError where the end is another one by now, Unanswered."""
        headers = marker_headers(end)
        guard = {**headers, EXPECTED_LAST: str(end.seq), "Nats-TTL": _MARKER_TTL}
        *members, commit = as_batch(
            [(self._layout.log_end + subject, headers, b""), (self._layout.log + subject, guard, b"")]
        )
        for member in members:
            await self._jetstream.link.publish(member.subject, member.data, headers=member.headers)
        (answer,) = await self._jetstream.publish([commit])
        self._ends.drop(subject)
        if isinstance(answer, ApiError | Unanswered):
            raise answer

    async def _purge(self, subject: str, before_seq: int) -> None:
        await self._jetstream.api(
            f"STREAM.PURGE.{self._layout.log_stream}", {"filter": self._layout.log + subject, "seq": before_seq}
        )
