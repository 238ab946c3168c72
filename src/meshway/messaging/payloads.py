"""Data of messages that is too large to travel inside: to the blob store, and from it only what is there.

Blobs are named by their content and may belong to many messages, so nobody deletes them with a message: they go when
their time is over. A message keeps its blob at least as long as it may itself be read.
"""

import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from meshway.engine.ports import Blobs
from meshway.kernel.clock import Clock, SystemClock
from meshway.kernel.errors import wrong_field
from meshway.messaging.document import Accepted, DocumentWriter, Payload, payload_of, reference_member
from meshway.messaging.incoming import DataRef, IncomingMessage
from meshway.messaging.settings import MessagingSettings

__all__ = ["Drafts", "PayloadStore"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ENCODINGS = ("json", "bytes")
# One piece of a blob on its way to the store: the port's own size of chunks.
_CHUNK_BYTES = 512 * 1024
# Blobs go a little later than the messages that name them: a reader that has just got the message fetches it then.
_MARGIN_MS = 3_600_000
# Blobs whose end is remembered, so that naming one in every message does not store it every time.
_REMEMBERED_MAX = 10_000
# The end of what is kept for ever.
_NEVER = 1 << 62


@dataclass(slots=True)
class Drafts:
    """The checked messages of one post. `large` are the places of those whose data is not inside yet."""

    accepted: list[Accepted]
    payloads: list[Payload]
    large: list[int]


class PayloadStore:
    """Where the data of a message is: inside, or in the blob store. One per hub."""

    def __init__(self, blobs: Blobs, settings: MessagingSettings, *, clock: Clock | None = None) -> None:
        self._blobs = blobs
        self._inline_bytes_max = settings.data_bytes_max
        self._clock = clock or SystemClock()
        # Until when a blob is kept, as far as this hub has seen to it; the least recently used go first.
        self._kept_until: OrderedDict[str, int] = OrderedDict()

    async def prepare(self, message: IncomingMessage, *, field: str, keep_ms: int | None) -> Payload:
        """The data, checked and where it is to be; nothing is awaited where it is inside.

        A blob is kept for `keep_ms` from now and a little longer, None for ever. A post of several messages checks
        all of them first (`draft`, `place`), so that a wrong one leaves no blobs of the others behind.
        Raises: InvalidRequest naming the member below `field`, StorageFull, EngineUnavailable.
        """
        payload = self.check(message, field=field)
        if payload.content is not None or message.data_ref is not None:
            await self._place_one(payload, message, field, keep_ms)
        return payload

    def check(self, message: IncomingMessage, *, field: str) -> Payload:
        """The data, checked as far as that goes without the blob store. Raises: InvalidRequest."""
        if message.data_ref is not None:
            _check_reference(message.data_ref, field)
        return payload_of(message, inline_bytes_max=self._inline_bytes_max, field=field)

    def draft(self, writer: DocumentWriter, messages: Sequence[IncomingMessage]) -> Drafts:
        """Check and render all messages of a post; fields are named `messages.3...`. Raises: InvalidRequest."""
        drafts = Drafts([], [], [])
        for number, message in enumerate(messages):
            field = f"messages.{number}"
            payload = self.check(message, field=field)
            drafts.payloads.append(payload)
            drafts.accepted.append(writer.write(message, payload, field=field))
            if payload.content is not None or message.data_ref is not None:
                drafts.large.append(number)
        return drafts

    async def place(
        self, drafts: Drafts, writer: DocumentWriter, messages: Sequence[IncomingMessage], *, keep_ms: int | None
    ) -> None:
        """See to the data that is not inside, and render those messages again. Nothing to do without `drafts.large`.

        Raises: InvalidRequest naming a reference to nothing, StorageFull, EngineUnavailable.
        """
        for number in drafts.large:
            field = f"messages.{number}"
            payload, message = drafts.payloads[number], messages[number]
            await self._place_one(payload, message, field, keep_ms)
            rendered = writer.write(message, payload, field=field)
            drafts.accepted[number] = rendered

    async def _place_one(self, payload: Payload, message: IncomingMessage, field: str, keep_ms: int | None) -> None:
        ttl_ms = None if keep_ms is None else keep_ms + _MARGIN_MS
        if payload.content is not None:
            ref = await self._blobs.put(_pieces(payload.content), ttl_ms=ttl_ms)
            payload.member = reference_member(DataRef(sha256=ref.sha256, size=ref.size, encoding=payload.encoding))
            payload.content = None
            self._remember(ref.sha256, ttl_ms)
        elif message.data_ref is not None:
            size = await self._keep(message.data_ref, field, ttl_ms)
            given = message.data_ref
            payload.member = reference_member(DataRef(sha256=given.sha256, size=size, encoding=given.encoding))

    async def _keep(self, given: DataRef, field: str, ttl_ms: int | None) -> int:
        """See that a blob is there for long enough; its size."""
        (found,) = await self._blobs.stat([given.sha256])
        if found is None:
            raise wrong_field(
                f"{field}.data_ref.sha256", "names no blob at this hub; store it first with POST /v1/blobs"
            )
        if given.size is not None and given.size != found.size:
            raise wrong_field(f"{field}.data_ref.size", f"is {given.size}, but the blob has {found.size} bytes")
        end_ms = _NEVER if ttl_ms is None else self._clock.now_ms() + ttl_ms
        # A blob that was kept for almost as long will do: the margin is there for that.
        if self._kept_until.get(given.sha256, 0) + _MARGIN_MS // 2 >= end_ms:
            return found.size
        async with self._blobs.get(given.sha256) as chunks:
            if chunks is None:
                raise wrong_field(f"{field}.data_ref.sha256", "names a blob whose time is over; store it again")
            # Storing the same content again is how the port lengthens its time.
            await self._blobs.put(chunks, ttl_ms=ttl_ms)
        self._remember(given.sha256, ttl_ms)
        return found.size

    def _remember(self, sha256: str, ttl_ms: int | None) -> None:
        end_ms = _NEVER if ttl_ms is None else self._clock.now_ms() + ttl_ms
        self._kept_until[sha256] = max(end_ms, self._kept_until.pop(sha256, 0))
        if len(self._kept_until) > _REMEMBERED_MAX:
            self._kept_until.popitem(last=False)


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(content), _CHUNK_BYTES):
        yield content[begin : begin + _CHUNK_BYTES]


def _check_reference(ref: DataRef, field: str) -> None:
    if not _SHA256.fullmatch(ref.sha256):
        raise wrong_field(f"{field}.data_ref.sha256", "is no SHA-256 in lower-case hex")
    if ref.encoding not in _ENCODINGS:
        raise wrong_field(f"{field}.data_ref.encoding", "must be json or bytes")
