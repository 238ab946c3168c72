"""What every hub knows of every queue: its settings, and its generation, which sets the ids of a removed queue apart
from those of its successor. Kept in KeyValue, followed from the start on.
"""

import asyncio
import logging
import secrets

import msgspec

from meshway.engine.nats.owned_tasks import OwnedTasks
from meshway.engine.nats.queue_subjects import hash_of
from meshway.engine.nats.retries import Retries
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.ports import (
    KeyValue,
    KvCaughtUp,
    KvConflict,
    KvCreate,
    KvDeleted,
    KvEntry,
    KvEvent,
    KvPut,
    KvUpdate,
    KvWritten,
    QueueSettings,
    SubscriptionLost,
)
from meshway.kernel.errors import EngineUnavailable, MeshwayError

__all__ = ["BOOKS_PREFIX", "QueueBook", "QueueBooks", "book_put", "decode_book"]

_log = logging.getLogger(__name__)

BOOKS_PREFIX = "engine.queues"
_SIGNING_KEY = "engine.queue-signing"
_SECRET_BYTES = 32
_GENERATION_BYTES = 6
_RETRY_S = 0.5


class QueueBook(msgspec.Struct, frozen=True, kw_only=True):
    """`settings` is None for a queue that was never configured, or was removed."""

    name: str
    settings: QueueSettings | None = None
    generation: str = ""


_UNCONFIGURED = QueueSettings()
_decode = msgspec.json.Decoder(QueueBook).decode
_encode = msgspec.json.Encoder().encode


def book_put(queue: str, settings: QueueSettings) -> KvPut:
    """The write of settings that no hub has changed yet."""
    return KvPut(key=f"{BOOKS_PREFIX}.{hash_of(queue)}", value=_encode(QueueBook(name=queue, settings=settings)))


def decode_book(entry: KvEntry) -> QueueBook:
    return _decode(entry.value)


class QueueBooks:
    """`start` returns when everything is known."""

    def __init__(self, key_value: KeyValue, tasks: OwnedTasks, settings: NatsSettings) -> None:
        self._key_value = key_value
        self._tasks = tasks
        self._timeout_ms = settings.request_timeout_ms
        self._start_timeout_ms = settings.start_timeout_ms
        # A removed queue's generation is of use for as long as ids of before are filtered.
        self._generation_ttl_ms = 2 * settings.message_id_window_ms
        self._books: dict[str, QueueBook] = {}
        self._keys: dict[str, tuple[str, int]] = {}
        self._caught_up = asyncio.Event()

    async def start(self) -> None:
        """Raises: EngineUnavailable."""
        self._tasks.start(self._follow(), name="meshway-nats-queue-books")
        try:
            async with asyncio.timeout(self._start_timeout_ms / 1000):
                await self._caught_up.wait()
        except TimeoutError:
            raise EngineUnavailable("The settings of queues cannot be read from NATS") from None

    async def secret(self) -> bytes:
        """The key that delivery ids of this mesh are signed with; made by the first hub. Raises: EngineUnavailable."""
        retries = Retries(self._start_timeout_ms)
        while True:
            create = KvCreate(key=_SIGNING_KEY, value=secrets.token_bytes(_SECRET_BYTES))
            (outcome,) = await self._key_value.write([create])
            match outcome:
                case KvWritten():
                    return create.value
                case KvConflict(current=KvEntry(value=value)):
                    return value
            if not await retries.pause():
                raise EngineUnavailable("NATS does not say what delivery ids are signed with")

    async def keep_secret(self, secret: bytes) -> None:
        """Where there is none any more."""
        try:
            (outcome,) = await self._key_value.write([KvCreate(key=_SIGNING_KEY, value=secret)])
        except MeshwayError as error:
            _log.error("nats_queue_signing_key_not_kept", extra={"reason": error.detail})
            return
        if isinstance(outcome, KvConflict) and outcome.current is not None and outcome.current.value != secret:
            # A hub that started in this moment made another one: what either hands out the other cannot settle.
            _log.error("nats_queue_signing_keys_differ", extra={"advice": "restart the hubs one by one"})

    def settings(self, queue: str) -> QueueSettings:
        book = self._books.get(queue)
        return _UNCONFIGURED if book is None or book.settings is None else book.settings

    def generation(self, queue: str) -> str:
        book = self._books.get(queue)
        return "" if book is None else book.generation

    def configured(self) -> list[str]:
        return [name for name, book in self._books.items() if book.settings is not None]

    async def configure(self, queue: str, settings: QueueSettings) -> None:
        """In force here when it returns. Raises: StorageFull, EngineUnavailable."""
        await self._change(queue, settings, renew=False)

    async def forget(self, queue: str) -> None:
        """Back to the defaults, under a new generation. Raises: StorageFull, EngineUnavailable."""
        await self._change(queue, None, renew=True)

    async def _change(self, queue: str, settings: QueueSettings | None, *, renew: bool) -> None:
        key = f"{BOOKS_PREFIX}.{hash_of(queue)}"
        retries = Retries(self._timeout_ms)
        while True:
            (current,) = await self._key_value.get([key])
            known = None if current is None else _decode(current.value)
            generation = "" if known is None else known.generation
            if renew:
                generation = secrets.token_hex(_GENERATION_BYTES)
            book = QueueBook(name=queue, settings=settings, generation=generation)
            ttl_ms = self._generation_ttl_ms if settings is None else None
            write = (
                KvCreate(key=key, value=_encode(book), ttl_ms=ttl_ms)
                if current is None
                else KvUpdate(key=key, value=_encode(book), revision=current.revision, ttl_ms=ttl_ms)
            )
            (outcome,) = await self._key_value.write([write])
            if isinstance(outcome, KvWritten):
                self._learn(KvEntry(key=key, value=write.value, revision=outcome.revision))
                return
            if not await retries.pause():
                raise EngineUnavailable("NATS does not say whether the settings of the queue were kept; try again")

    async def _follow(self) -> None:
        while True:
            try:
                async with self._key_value.watch(BOOKS_PREFIX) as events:
                    async for event in events:
                        self._on_event(event)
            except (SubscriptionLost, EngineUnavailable) as error:
                _log.warning("nats_queue_books_broke", extra={"reason": str(error)})
            await asyncio.sleep(_RETRY_S)

    def _on_event(self, event: KvEvent) -> None:
        match event:
            case KvEntry():
                self._learn(event)
            case KvDeleted():
                self._unlearn(event)
            case KvCaughtUp():
                self._caught_up.set()

    def _learn(self, entry: KvEntry) -> None:
        known = self._keys.get(entry.key)
        if known is not None and known[1] >= entry.revision:
            return
        try:
            book = _decode(entry.value)
        except msgspec.DecodeError as error:
            _log.error("nats_queue_book_damaged", extra={"key": entry.key, "reason": str(error)})
            return
        self._keys[entry.key] = (book.name, entry.revision)
        self._books[book.name] = book

    def _unlearn(self, event: KvDeleted) -> None:
        known = self._keys.get(event.key)
        if known is not None and known[1] < event.revision:
            del self._keys[event.key]
            self._books.pop(known[0], None)
