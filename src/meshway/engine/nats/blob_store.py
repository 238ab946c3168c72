"""The blob stream: manifests, copies and marks, each read or written for as long as the cluster may be electing."""

from collections.abc import Sequence
from typing import NoReturn

from meshway.engine.nats.blob_manifests import Current, Manifest, current_of, encoded, ttl_header
from meshway.engine.nats.failures import (
    FULL_CODES,
    NO_MESSAGE_CODES,
    UNDECIDED_CODES,
    WRONG_LAST,
    ApiError,
    Unanswered,
    error_of,
)
from meshway.engine.nats.jetstream import Ack, JetStream, Stored
from meshway.engine.nats.link import Ask
from meshway.engine.nats.retries import Retries
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.kernel.errors import EngineUnavailable

__all__ = ["BlobStore"]

# The port's bound on one chunk; less where the servers take less, with room for headers.
_CHUNK_BYTES_MAX = 512 * 1024
_HEADER_BYTES = 1_024
_MARK = "mark"
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_UNAVAILABLE = 503
# A deletion is remembered until its removal is certainly on the disks.
_DELETED_S = 60
# Looked at in one go.
_MARKED_MAX = 1_000


class BlobStore:
    """Stateless."""

    def __init__(self, jetstream: JetStream, layout: Layout, settings: NatsSettings) -> None:
        self._jetstream = jetstream
        self._stream = layout.blob_stream
        self._subjects = layout.blob
        self._timeout_ms = settings.request_timeout_ms
        self._in_flight_max = settings.in_flight_max

    @property
    def chunk_bytes(self) -> int:
        return min(_CHUNK_BYTES_MAX, self._jetstream.link.max_payload - _HEADER_BYTES)

    def retries(self) -> Retries:
        return Retries(self._timeout_ms)

    async def now_ms(self) -> int:
        """By the servers' clock, which decides what has expired. Raises: EngineUnavailable."""
        retries = self.retries()
        while True:
            try:
                return await self._jetstream.now_ms(self._stream)
            except (ApiError, Unanswered) as failure:
                await retries.pause_or_raise(failure)

    async def current(self, sha256: Sequence[str]) -> Sequence[Current]:
        """What the leader has now, in the order asked for. Raises: EngineUnavailable."""
        return [current_of(stored) for stored in await self._last_of_each([f"{name}.m" for name in sha256])]

    async def commit(self, sha256: str, manifest: Manifest, *, ttl_s: int | None, expected: int) -> bool | Unanswered:
        """Make a copy the one that counts if the manifest is still the expected one (0: none).

        False where it is not. Raises: StorageFull, EngineUnavailable; then it was not.
        """
        headers = {_EXPECTED: str(expected), **ttl_header(ttl_s)}
        ask = Ask(f"{self._subjects}{sha256}.m", encoded(manifest), headers)
        (outcome,) = await self._jetstream.publish([ask])
        if isinstance(outcome, Ack | Unanswered):
            return True if isinstance(outcome, Ack) else outcome
        if outcome.code == WRONG_LAST:
            return False
        if _is_passing(outcome):
            return Unanswered(outcome.description)
        raise error_of(outcome)

    async def write_chunks(
        self, sha256: str, copy: str, pieces: Sequence[bytes], *, first: int, ttl_s: int | None
    ) -> None:
        """Chunks from number `first` on; all are stored when it returns. Raises: StorageFull, EngineUnavailable."""
        headers = ttl_header(ttl_s) or None
        await self._write(
            [
                Ask(f"{self._subjects}{sha256}.{copy}.{first + place}", piece, headers)
                for place, piece in enumerate(pieces)
            ]
        )

    async def read_chunks(self, sha256: str, copy: str, numbers: range) -> Sequence[bytes | None]:
        """From any replica, and from the leader what that one has not; None: gone. Raises: EngineUnavailable."""
        prefix = f"{self._subjects}{sha256}.{copy}."
        retries = self.retries()
        body = {"multi_last": [f"{prefix}{number}" for number in numbers], "batch": len(numbers)}
        while True:
            try:
                page = await self._jetstream.read(self._stream, body)
                break
            except (ApiError, Unanswered) as failure:
                await retries.pause_or_raise(failure)
        found = {message.subject: message.data for message in page.messages}
        missing = [number for number in numbers if f"{prefix}{number}" not in found]
        if missing:
            # A replica that was asked may be behind.
            for stored in await self._last_of_each([f"{sha256}.{copy}.{number}" for number in missing]):
                if stored is not None:
                    found[stored.subject] = stored.data
        return [found.get(f"{prefix}{number}") for number in numbers]

    async def forget(self, seen: Sequence[tuple[str, Current]]) -> Sequence[bool]:
        """Delete manifests: True where exactly this one counted and does not any more, False: look again.

        By a manifest without content, because a single server that is killed forgets removals which it has answered,
        and content whose chunks are gone must not come back. Raises: EngineUnavailable.
        """
        outcomes = await self._jetstream.publish(
            [
                Ask(f"{self._subjects}{sha256}.m", b"", {_EXPECTED: str(each.seq), **ttl_header(_DELETED_S)})
                for sha256, each in seen
            ]
        )
        gone: list[bool] = []
        for (_, each), outcome in zip(seen, outcomes, strict=True):
            if isinstance(outcome, ApiError) and outcome.code in FULL_CODES:
                gone.append(await self._remove(each.seq))
                continue
            if isinstance(outcome, ApiError) and not _is_passing(outcome) and outcome.code != WRONG_LAST:
                raise error_of(outcome)
            gone.append(isinstance(outcome, Ack))
        return gone

    # Copies that may be nobody's

    async def mark(self, copies: Sequence[tuple[str, str]]) -> None:
        """Have these looked at later: (sha256, copy). Raises: StorageFull, EngineUnavailable."""
        await self._write([Ask(f"{self._subjects}{_MARK}.{sha256}.{copy}") for sha256, copy in copies])

    async def unmark_soon(self, sha256: str, copy: str) -> None:
        """Nobody needs to look at this copy; does not wait, and may fail: then it is looked at in vain."""
        await self._purge_soon(f"{_MARK}.{sha256}.{copy}")

    async def drop_soon(self, sha256: str, copy: str) -> None:
        """Nothing names this copy any more; does not wait, and may fail or be forgotten by a server that is killed.

        Its time to live will see to that, or the mark, which stays.
        """
        await self._purge_soon(f"{sha256}.{copy}.>")

    async def marked(self) -> tuple[int, Sequence[tuple[str, str, int]]]:
        """Now, and marks: (sha256, copy, since when), times by the servers' clock. Raises: EngineUnavailable."""
        now_ms = await self.now_ms()
        verb, body = f"STREAM.INFO.{self._stream}", {"subjects_filter": f"{self._subjects}{_MARK}.*.*"}
        retries = self.retries()
        while True:
            try:
                said = await self._jetstream.api(verb, body)
                break
            except (ApiError, Unanswered) as failure:
                await retries.pause_or_raise(failure)
        subjects = list(said.state.subjects)[:_MARKED_MAX]
        names = [subject[len(self._subjects) :] for subject in subjects]
        found: list[tuple[str, str, int]] = []
        for name, stored in zip(names, await self._last_of_each(names), strict=True):
            if stored is not None:
                _, sha256, copy = name.split(".")
                found.append((sha256, copy, stored.time_ms))
        return now_ms, found

    # Below

    async def _last_of_each(self, names: Sequence[str]) -> Sequence[Stored | None]:
        found: dict[str, Stored | None] = {}
        retries = self.retries()
        left = list(dict.fromkeys(names))
        while left:
            asked = left[: self._in_flight_max]
            outcomes = await self._jetstream.last_of_each(self._stream, [self._subjects + name for name in asked])
            failure: ApiError | Unanswered | None = None
            for name, outcome in zip(asked, outcomes, strict=True):
                if isinstance(outcome, ApiError | Unanswered):
                    failure = outcome
                else:
                    found[name] = outcome
            if failure is not None:
                await retries.pause_or_raise(failure)
            left = [name for name in left if name not in found]
        return [found[name] for name in names]

    async def _remove(self, seq: int) -> bool:
        """Where there is no room even for a deletion."""
        try:
            await self._jetstream.api(f"STREAM.MSG.DELETE.{self._stream}", {"seq": seq, "no_erase": True})
        except Unanswered:
            return False
        except ApiError as failure:
            if failure.code in NO_MESSAGE_CODES or _is_passing(failure):
                return False
            raise error_of(failure) from failure
        return True

    async def _write(self, asks: Sequence[Ask]) -> None:
        """What is written again replaces itself, so no answer is tried again like no leader."""
        retries = self.retries()
        while asks:
            outcomes = await self._jetstream.publish(asks)
            failures = [outcome for outcome in outcomes if not isinstance(outcome, Ack)]
            for failure in failures:
                if isinstance(failure, ApiError) and not _is_passing(failure):
                    raise error_of(failure)
            asks = [ask for ask, outcome in zip(asks, outcomes, strict=True) if not isinstance(outcome, Ack)]
            if asks and not await retries.pause():
                _give_up(failures[0])

    async def _purge_soon(self, name: str) -> None:
        try:
            await self._jetstream.purge_soon(self._stream, self._subjects + name)
        except EngineUnavailable:
            # Said of the two that call this.
            return


def _is_passing(failure: ApiError) -> bool:
    """Whether the same may be answered differently in a moment."""
    is_away = failure.status == _UNAVAILABLE and failure.code not in FULL_CODES
    return is_away or failure.code in UNDECIDED_CODES


def _give_up(failure: ApiError | Unanswered) -> NoReturn:
    raise error_of(failure) from failure
