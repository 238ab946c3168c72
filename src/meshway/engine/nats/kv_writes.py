"""Writes of KeyValue: publishes that expect a sequence, many keys at once, one key step by step.

    send -- stored --> KvWritten
         -- wrong last sequence --> look at what the leader has -- a value --> KvConflict
                                                                -- a marker, nothing --> send, expecting that
         -- nobody there --> send again, for as long as a request may take
         -- no answer --> Undecided, and so is every later write of the call to that key

A key's next write is sent when the one before it is decided: none is let through on a premise that did not come true.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from meshway.engine.nats.failures import UNDECIDED_CODES, WRONG_LAST, ApiError, Unanswered, error_of
from meshway.engine.nats.jetstream import Ack, JetStream, Stored
from meshway.engine.nats.kv_records import (
    entry_of,
    headers_of_tombstone,
    headers_of_value,
    marker_revision,
    sequence_of,
    value_revision,
)
from meshway.engine.nats.link import Ask
from meshway.engine.nats.retries import Retries
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import (
    KvConflict,
    KvCreate,
    KvDelete,
    KvEntry,
    KvOutcome,
    KvPut,
    KvUpdate,
    KvWrite,
    KvWritten,
    Undecided,
)

__all__ = ["KvWrites"]

_EXPECTED = "Nats-Expected-Last-Subject-Sequence"


@dataclass(slots=True)
class _Job:
    """One write on its way."""

    write: KvWrite
    # The sequence that must be the key's last; None: whatever is there.
    expected: int | None
    # What is there is looked at before anything is sent.
    must_look: bool
    outcome: KvOutcome | None = None
    # Why it did not happen, for certain.
    failure: ApiError | Unanswered | None = None


class KvWrites:
    """Stateless."""

    def __init__(self, jetstream: JetStream, layout: Layout, settings: NatsSettings) -> None:
        self._jetstream = jetstream
        self._stream = layout.kv_stream
        self._beginning = layout.kv
        self._settings = settings

    async def write(self, writes: Sequence[KvWrite]) -> Sequence[KvOutcome]:
        """See `KeyValue.write`. What failed beside something that was written is `Undecided`: repeating it is safe."""
        jobs = [_job(write) for write in writes]
        lines: dict[str, deque[_Job]] = {}
        for job in jobs:
            lines.setdefault(job.write.key, deque()).append(job)
        retries = Retries(self._settings.request_timeout_ms)
        while lines:
            heads = [line[0] for line in lines.values()]
            await self._look([job for job in heads if job.must_look])
            await self._send([job for job in heads if job.outcome is None and not job.must_look])
            await self._settle([job for job in heads if job.failure is not None], lines, retries)
            lines = {key: line for key, line in lines.items() if _advance(line)}
        return _outcomes(jobs)

    async def _settle(self, failed: Sequence[_Job], lines: Mapping[str, deque[_Job]], retries: Retries) -> None:
        """Wait for what may be answered in a moment, give up the rest."""
        passing = [job for job in failed if _is_passing(job)]
        hopeless = [job for job in failed if not _is_passing(job)]
        if passing and not await retries.pause():
            hopeless, passing = list(failed), []
        for job in passing:
            job.failure = None
        for job in hopeless:
            _give_up(lines[job.write.key])

    async def _send(self, jobs: Sequence[_Job]) -> None:
        window = self._settings.in_flight_max
        for begin in range(0, len(jobs), window):
            sent = jobs[begin : begin + window]
            for job, answer in zip(sent, await self._jetstream.publish([self._ask(job) for job in sent]), strict=True):
                _take(job, answer)

    def _ask(self, job: _Job) -> Ask:
        write = job.write
        subject = self._beginning + write.key
        if isinstance(write, KvDelete):
            body, headers = b"", headers_of_tombstone(self._settings.marker_ttl_ms)
        else:
            body, headers = write.value, headers_of_value(write.ttl_ms)
        if job.expected is not None:
            headers[_EXPECTED] = str(job.expected)
        return Ask(subject, body, headers or None)

    async def _look(self, jobs: Sequence[_Job]) -> None:
        window = self._settings.in_flight_max
        for begin in range(0, len(jobs), window):
            looking = jobs[begin : begin + window]
            subjects = [self._beginning + job.write.key for job in looking]
            for job, found in zip(looking, await self._jetstream.last_of_each(self._stream, subjects), strict=True):
                if isinstance(found, ApiError | Unanswered):
                    # A look changes nothing, so whatever became of it may be tried again.
                    job.failure = found
                else:
                    _decide(job, found)


def _job(write: KvWrite) -> _Job:
    match write:
        case KvPut():
            return _Job(write, None, must_look=False)
        case KvCreate():
            return _Job(write, 0, must_look=False)
        case KvUpdate(revision=revision):
            expected = sequence_of(revision)
            return _Job(write, expected, must_look=expected is None)
        case KvDelete(revision=revision):
            expected = None if revision is None else sequence_of(revision)
            return _Job(write, expected, must_look=revision is not None and expected is None)


def _take(job: _Job, answer: Ack | ApiError | Unanswered) -> None:
    if isinstance(answer, Ack):
        is_value = not isinstance(job.write, KvDelete)
        job.outcome = KvWritten(revision=value_revision(answer.seq) if is_value else marker_revision(answer.seq))
    elif isinstance(answer, Unanswered) and not answer.nothing_happened:
        job.outcome = Undecided(reason=answer.reason)
    elif isinstance(answer, ApiError) and answer.code == WRONG_LAST:
        job.must_look = True
    else:
        job.failure = answer


def _decide(job: _Job, found: Stored | None) -> None:
    """By what the leader has, after what was expected was not there."""
    write = job.write
    entry = entry_of(write.key, found)
    job.must_look = False
    match write:
        case KvCreate() if entry is None:
            job.expected = 0 if found is None else found.seq
        case KvDelete(revision=revision) if entry is None:
            job.outcome = KvWritten(revision=_gone_revision(found, revision))
        case KvUpdate(revision=revision) | KvDelete(revision=revision) if _is_at(entry, revision):
            job.failure = Unanswered("another write to this key is on its way", nothing_happened=True)
        case _:
            job.outcome = KvConflict(current=entry)


def _is_at(entry: KvEntry | None, revision: int | None) -> bool:
    return entry is not None and entry.revision == revision


def _gone_revision(marker: Stored | None, revision: int | None) -> int:
    return marker_revision(marker.seq) if marker is not None else revision or 0


def _is_passing(job: _Job) -> bool:
    """Whether a moment later it may be answered."""
    failure = job.failure
    if job.must_look or isinstance(failure, Unanswered):
        return True
    return isinstance(failure, ApiError) and failure.code in UNDECIDED_CODES


def _give_up(line: deque[_Job]) -> None:
    """The first of the line failed for good: nothing behind it may overtake it."""
    failure = line[0].failure
    for job in line:
        job.failure = failure
        job.outcome = Undecided(reason="" if failure is None else str(error_of(failure).detail))


def _advance(line: deque[_Job]) -> bool:
    """Leave what is decided behind; whether something is left to do."""
    while line and line[0].outcome is not None:
        decided = line.popleft()
        if _is_open(decided):
            for job in line:
                job.outcome = Undecided(reason=f"an earlier write to {job.write.key} is not decided")
            line.clear()
    return bool(line)


def _outcomes(jobs: Sequence[_Job]) -> Sequence[KvOutcome]:
    """Raises: what failed, where nothing was written and nothing may have been."""
    failures = [job.failure for job in jobs if job.failure is not None]
    if failures and not any(isinstance(job.outcome, KvWritten) or _is_open(job) for job in jobs):
        raise error_of(failures[0])
    return [job.outcome for job in jobs if job.outcome is not None]


def _is_open(job: _Job) -> bool:
    return isinstance(job.outcome, Undecided) and job.failure is None
