"""The channels that are known: in memory for every call, in the store for the next start and the other hubs.

A record is written when a channel that keeps something is used for the first time, and when somebody configures one.
The settings of a queue live in the engine too, which is another write. So its record is first written as `unsettled`,
then the engine is configured, then the mark is taken away; a crash between leaves the mark, and whoever reads it, the
next start or a repeated call, finishes. Who configures the engine looks at the record afterwards, so that two hubs
that change one queue at a time end with the engine and the record in agreement.
"""

import logging
from bisect import bisect_left, bisect_right, insort
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec

from meshway.engine.ports import (
    KeyValue,
    KvCreate,
    KvDelete,
    KvDeleted,
    KvEntry,
    KvUpdate,
    KvWritten,
    PrefixFollower,
    QueueAdmin,
    Undecided,
)
from meshway.kernel.clock import Clock
from meshway.kernel.errors import CapacityReached, Conflict, EngineError, EngineUnavailable, LimitError, StoreCorrupt
from meshway.kernel.ids import PrincipalId
from meshway.messaging.channel import Channel, ChannelSettings, QueueChannelSettings, defaults_of
from meshway.messaging.names import ChannelKind, ChannelName
from meshway.messaging.settings import MessagingSettings

__all__ = ["ChannelBook"]

_log = logging.getLogger(__name__)

_PREFIX = "chan"
_KEEPING = frozenset({ChannelKind.STREAMS, ChannelKind.QUEUES})
# Writers of one record are few; one that loses this often meets a fault, not competition.
_ROUNDS_MAX = 16
# Removals remembered so that a watch that lags does not show what is gone; it lags by far fewer.
_REMOVALS_MAX = 1_000

Admit = Callable[[Channel], None]
Listener = Callable[[ChannelKind, ChannelName, Channel | None], None]


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A channel as it is stored."""

    kind: ChannelKind
    name: ChannelName
    settings: msgspec.Raw
    owner: PrincipalId | None
    created_at_ms: int
    # The engine may not have these settings yet.
    unsettled: bool = False


class _Stored(msgspec.Struct, frozen=True):
    """What is under a key."""

    channel: Channel
    revision: int
    unsettled: bool


_encode = msgspec.json.Encoder().encode
_decode_record = msgspec.json.Decoder(_Record).decode
_settings_decoders = {kind: msgspec.json.Decoder(type(defaults_of(kind))) for kind in ChannelKind}


class _Shelf:
    """The known channels of one kind, by name."""

    __slots__ = ("by_name", "default", "names", "revisions")

    def __init__(self, default: ChannelSettings) -> None:
        self.default = default
        self.by_name: dict[str, Channel] = {}
        self.revisions: dict[str, int] = {}
        # The same names in order, for lists.
        self.names: list[str] = []


class ChannelBook:
    """All known channels. One per hub; used from the event loop only."""

    def __init__(
        self, key_value: KeyValue, queue_admin: QueueAdmin, *, settings: MessagingSettings, clock: Clock
    ) -> None:
        self._key_value = key_value
        self._queue_admin = queue_admin
        self._settings = settings
        self._clock = clock
        self._shelves = {kind: _Shelf(defaults_of(kind)) for kind in ChannelKind}
        self._count = 0
        # First uses under way: they hold a place each, so that many at once do not pass the limit together.
        self._making: Counter[str] = Counter()
        self._removed: OrderedDict[str, int] = OrderedDict()
        self._unsettled: dict[str, None] = {}
        self._listeners: list[Listener] = []
        self._follower = PrefixFollower(
            key_value,
            _PREFIX,
            known=self._revisions,
            entry=self._show_readable,
            deleted=self._hide_deleted,
            caught_up=self._repair,
        )

    # Reading

    def __len__(self) -> int:
        """Known channels of all kinds."""
        return self._count

    def find(self, kind: ChannelKind, name: str) -> Channel | None:
        """The channel, or None where nothing was stored. Constant time: it stands in the path of every message."""
        return self._shelves[kind].by_name.get(name)

    def settings_of(self, kind: ChannelKind, name: str) -> ChannelSettings:
        """The settings in force: those of the kind for a channel that nobody configured."""
        shelf = self._shelves[kind]
        channel = shelf.by_name.get(name)
        return shelf.default if channel is None else channel.settings

    def page(self, kind: ChannelKind, *, after: str | None, limit: int, prefix: str = "") -> Sequence[Channel]:
        """At most `limit` channels by name, after the name `after`; `prefix` keeps names that begin so."""
        shelf = self._shelves[kind]
        begin = bisect_left(shelf.names, prefix)
        if after is not None:
            begin = max(begin, bisect_right(shelf.names, after))
        found = []
        for name in shelf.names[begin : begin + limit]:
            if not name.startswith(prefix):
                break
            found.append(shelf.by_name[name])
        return found

    def all_of(self, kind: ChannelKind) -> Iterator[Channel]:
        """Every channel of a kind, in any order; the book must not change meanwhile."""
        return iter(self._shelves[kind].by_name.values())

    def listen(self, listener: Listener) -> None:
        """Call `listener` at each change, in the same turn of the loop; None: the channel is gone. For life."""
        self._listeners.append(listener)

    # Writing

    async def use(self, kind: ChannelKind, name: ChannelName, principal: PrincipalId) -> Channel:
        """The channel, with a record made at its first use where the kind keeps something; `principal` then owns it.

        Returns without waiting where the channel is known. Events, commands and queries leave no record.
        Raises: CapacityReached, Conflict after too many rounds, StorageFull, EngineUnavailable, StoreCorrupt.
        """
        known = self._shelves[kind].by_name.get(name)
        if known is not None:
            return known
        now_ms = self._clock.now_ms()
        channel = Channel(kind=kind, name=name, settings=defaults_of(kind), owner=principal, created_at_ms=now_ms)
        if kind not in _KEEPING:
            return msgspec.structs.replace(channel, owner=None)
        with self._place(_key(kind, name)):
            for _ in range(_ROUNDS_MAX):
                stored = await self._create(channel, unsettled=False)
                if stored is not None:
                    return stored.channel
        raise Conflict(f"{kind.value} channel {name!r} is being made and deleted at this moment; try again.")

    async def put(
        self,
        kind: ChannelKind,
        name: ChannelName,
        settings: ChannelSettings,
        principal: PrincipalId,
        *,
        admit: Admit | None = None,
    ) -> tuple[Channel, bool]:
        """Give a channel these settings, replacing all it had; True: it is new, and `principal` owns it.

        In force when this returns, for a queue in the engine too. `admit` sees the stored channel before it is changed
        and raises where it may not be. Safe to repeat after any error.
        Raises: CapacityReached, Conflict after too many rounds, StorageFull, EngineUnavailable, StoreCorrupt.
        """
        key = _key(kind, name)
        is_queue = kind is ChannelKind.QUEUES
        stored = await self._read(key)
        for _ in range(_ROUNDS_MAX):
            if stored is None:
                now_ms = self._clock.now_ms()
                new = Channel(kind=kind, name=name, settings=settings, owner=principal, created_at_ms=now_ms)
                with self._place(key):
                    written = await self._create(new, unsettled=is_queue)
            else:
                if admit is not None:
                    admit(stored.channel)
                new = msgspec.structs.replace(stored.channel, settings=settings)
                written = await self._update(new, stored, unsettled=is_queue)
            if written is not None and written.channel == new and written.unsettled == is_queue:
                if is_queue:
                    await self._settle(key)
                return new, stored is None
            stored = written
        raise Conflict(f"{kind.value} channel {name!r} is being changed by others at this moment; try again.")

    async def remove(self, channel: Channel) -> None:
        """Forget the record, whatever is in the channel. What is not there is no error.

        Raises: StorageFull, EngineUnavailable.
        """
        key = _key(channel.kind, channel.name)
        for _ in range(_ROUNDS_MAX):
            (outcome,) = await self._key_value.write([KvDelete(key=key)])
            if isinstance(outcome, KvWritten):
                self._hide(key, outcome.revision)
                return
        raise EngineUnavailable(f"The store does not say whether the record {key!r} was deleted; try again.")

    async def _create(self, channel: Channel, *, unsettled: bool) -> _Stored | None:
        key = _key(channel.kind, channel.name)
        value = _encode_channel(channel, unsettled=unsettled)
        return await self._write(KvCreate(key=key, value=value))

    async def _update(self, channel: Channel, before: _Stored, *, unsettled: bool) -> _Stored | None:
        key = _key(channel.kind, channel.name)
        value = _encode_channel(channel, unsettled=unsettled)
        return await self._write(KvUpdate(key=key, value=value, revision=before.revision))

    async def _write(self, write: KvCreate | KvUpdate) -> _Stored | None:
        """Write, repeating what is undecided; what is there afterwards, perhaps by somebody else, None for nothing."""
        for _ in range(_ROUNDS_MAX):
            (outcome,) = await self._key_value.write([write])
            if isinstance(outcome, Undecided):
                continue
            if isinstance(outcome, KvWritten):
                return self._show(KvEntry(key=write.key, value=write.value, revision=outcome.revision))
            return None if outcome.current is None else self._show(outcome.current)
        raise EngineUnavailable(f"The store does not say whether the record {write.key!r} was written; try again.")

    async def _settle(self, key: str) -> None:
        """Bring the engine's settings of a queue to those of its record, then take the mark off the record.

        Whoever configures last reads the record once more after it, so at rest both agree.
        """
        for _ in range(_ROUNDS_MAX):
            stored = await self._read(key)
            name = key.split(".", 2)[2]
            settings = defaults_of(ChannelKind.QUEUES) if stored is None else stored.channel.settings
            assert isinstance(settings, QueueChannelSettings)
            wanted = settings.engine_settings()
            if await self._queue_admin.settings(name) != wanted:
                await self._queue_admin.configure(name, wanted)
                continue
            if stored is None or not stored.unsettled:
                return
            settled = await self._update(stored.channel, stored, unsettled=False)
            if settled is not None and settled.channel == stored.channel and not settled.unsettled:
                return
        raise Conflict(f"The queue of {key!r} is being changed by others at this moment; try again.")

    async def _read(self, key: str) -> _Stored | None:
        """The record in the store, past this book."""
        (entry,) = await self._key_value.get([key])
        return None if entry is None else _decode(entry)

    # Following the store

    async def wait_ready(self) -> None:
        """Until everything that was stored when the watch began is here, and what a crash left was repaired."""
        await self._follower.wait_ready()

    async def run(self) -> None:
        """Follow the store until cancelled. A lost watch is opened again; meanwhile the last picture stands."""
        await self._follower.run()

    def _show_readable(self, entry: KvEntry) -> None:
        try:
            stored = self._show(entry)
        except StoreCorrupt as error:
            _log.error("channel_record_unreadable", extra={"key": entry.key, "reason": error.detail})
            return
        if stored.unsettled and self._follower.is_replaying:
            self._unsettled[entry.key] = None

    def _hide_deleted(self, event: KvDeleted) -> None:
        self._hide(event.key, event.revision)

    def _revisions(self) -> Mapping[str, int]:
        return {
            _key(kind, ChannelName(name)): revision
            for kind, shelf in self._shelves.items()
            for name, revision in shelf.revisions.items()
        }

    async def _repair(self) -> None:
        """Finish what a crash interrupted. The hub starts without it: the next start tries again."""
        while self._unsettled:
            key = next(iter(self._unsettled))
            try:
                await self._settle(key)
                _log.info("queue_settings_repaired", extra={"key": key})
            except (EngineError, LimitError, Conflict) as error:
                _log.warning("queue_settings_repair_failed", extra={"key": key, "reason": error.detail})
            self._unsettled.pop(key, None)

    def _show(self, entry: KvEntry) -> _Stored:
        """Show a stored record, unless a later state is shown already. Raises: StoreCorrupt, with nothing changed."""
        stored = _decode(entry)
        channel = stored.channel
        shelf = self._shelves[channel.kind]
        known = shelf.by_name.get(channel.name)
        if known is None:
            if self._removed.get(entry.key, -1) > entry.revision:
                return stored
            insort(shelf.names, channel.name)
            self._count += 1
        elif shelf.revisions[channel.name] >= entry.revision:
            return stored
        self._removed.pop(entry.key, None)
        shelf.revisions[channel.name] = entry.revision
        if channel != known:
            shelf.by_name[channel.name] = channel
            self._announce(channel.kind, channel.name, channel)
        return stored

    def _hide(self, key: str, revision: int) -> None:
        """Show a deletion, unless a later write is shown already."""
        _, word, name = key.split(".", 2)
        kind = ChannelKind(word)
        shelf = self._shelves[kind]
        if shelf.revisions.get(name, revision + 1) > revision:
            return
        del shelf.by_name[name], shelf.revisions[name]
        del shelf.names[bisect_left(shelf.names, name)]
        self._count -= 1
        self._removed[key] = revision
        if len(self._removed) > _REMOVALS_MAX:
            self._removed.popitem(last=False)
        self._announce(kind, ChannelName(name), None)

    def _announce(self, kind: ChannelKind, name: ChannelName, channel: Channel | None) -> None:
        for listener in self._listeners:
            listener(kind, name, channel)

    @contextmanager
    def _place(self, key: str) -> Iterator[None]:
        """Hold a place for a channel that is being made. Raises: CapacityReached."""
        most = self._settings.channels_max
        if key not in self._making and self._count + len(self._making) >= most:
            raise CapacityReached(
                f"The hub knows {most} channels of all kinds, as many as it takes; "
                "delete unused ones, or raise [messaging] channels_max."
            )
        self._making[key] += 1
        try:
            yield
        finally:
            self._making[key] -= 1
            if not self._making[key]:
                del self._making[key]


def _key(kind: ChannelKind, name: str) -> str:
    return f"{_PREFIX}.{kind.value}.{name}"


def _encode_channel(channel: Channel, *, unsettled: bool) -> bytes:
    return _encode(
        _Record(
            kind=channel.kind,
            name=channel.name,
            settings=msgspec.Raw(_encode(channel.settings)),
            owner=channel.owner,
            created_at_ms=channel.created_at_ms,
            unsettled=unsettled,
        )
    )


def _decode(entry: KvEntry) -> _Stored:
    try:
        record = _decode_record(entry.value)
        settings = _settings_decoders[record.kind].decode(record.settings)
    except msgspec.DecodeError as error:
        text = f"The stored record {entry.key!r} cannot be read ({error}); a newer Meshway wrote it, or it is damaged."
        raise StoreCorrupt(text) from error
    default = defaults_of(record.kind)
    channel = Channel(
        kind=record.kind,
        name=record.name,
        # Most channels have the defaults: they share one value.
        settings=default if settings == default else settings,
        owner=record.owner,
        created_at_ms=record.created_at_ms,
    )
    return _Stored(channel, entry.revision, record.unsettled)
