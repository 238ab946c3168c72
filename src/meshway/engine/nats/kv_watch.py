"""Watches of KeyValue: a feed of the keys under a prefix, at most the newest change of a key waiting.

Each time its consumer is made anew (a server restarted, a connection broke) the feed gives everything again; what was
told already is left out, and keys that are no longer there are told as deleted. So a watch that was away learns of
every deletion and expiry, also of those whose markers are forgotten.

    replaying -- the leader has nothing more of what was there --> live -- the feed begins anew --> replaying
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from meshway.engine.nats.failures import NO_MESSAGE_CODES, ApiError, Unanswered
from meshway.engine.nats.feed import StreamFeed
from meshway.engine.nats.jetstream import JetStream, Stored
from meshway.engine.nats.kv_names import subjects_under
from meshway.engine.nats.kv_records import deleted_of, entry_of, is_tombstone, marker_revision
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.streams import Layout
from meshway.engine.ports import KvCaughtUp, KvDeleted, KvEntry, KvEvent, SubscriptionLost
from meshway.kernel.errors import EngineUnavailable

__all__ = ["Watches"]

_log = logging.getLogger(__name__)

# Between two looks whether a replica that was behind has given everything.
_LOOK_AGAIN_S = 0.05


class Watches:
    """All watches of one engine."""

    def __init__(self, jetstream: JetStream, layout: Layout, settings: NatsSettings) -> None:
        self._jetstream = jetstream
        self._layout = layout
        self._settings = settings
        self._watches: set[_Watch] = set()

    @asynccontextmanager
    async def open(self, prefix: str) -> AsyncIterator[AsyncIterator[KvEvent]]:
        """See `KeyValue.watch`. Raises: EngineUnavailable."""
        watch = _Watch(self._jetstream, self._layout, self._settings, prefix=prefix)
        self._watches.add(watch)
        failure: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(watch.follow()), group.create_task(watch.end_replays())]
                try:
                    await watch.wait_ready()
                    yield watch.events()
                except BaseException as error:  # noqa: BLE001  raised below, as it is: not as one of a group
                    failure = error
                finally:
                    for task in tasks:
                        task.cancel()
        finally:
            self._watches.discard(watch)
        if failure is not None:
            raise failure

    def close(self) -> None:
        """Their readers hear SubscriptionLost."""
        for watch in self._watches:
            watch.lose("the store was closed")


class _Watch:
    """One reader."""

    def __init__(self, jetstream: JetStream, layout: Layout, settings: NatsSettings, *, prefix: str) -> None:
        self._jetstream = jetstream
        self._stream = layout.kv_stream
        self._beginning = layout.kv
        self._settings = settings
        self._prefix = prefix
        self._subjects = subjects_under(layout.kv, prefix)
        self._feed = StreamFeed(
            jetstream,
            self._stream,
            self._subjects,
            start={"deliver_policy": "all"},
            heard=self._heard,
            caught_up=self._on_replayed,
            begins=self._on_begin,
        )
        # Sequences of the values that were told, by key.
        self._known: dict[str, int] = {}
        # Deleted keys whose tombstone is there: when that expires, it was no value that did.
        self._buried: set[str] = set()
        # What the reader has not taken: what was there at first, then the newest change of each key.
        self._present: dict[str, KvEntry] = {}
        self._changes: dict[str, KvEvent] = {}
        self._changed = asyncio.Event()
        self._lost: str | None = None
        self._is_caught_up = False
        # Of the stream when the running replay began.
        self._floor = 0
        # Markers up to here were told, or were there before the watch.
        self._old = 0
        # The last message of this consumer.
        self._reached = 0
        # Keys that the running replay has given; None while there is none.
        self._given: set[str] | None = set()
        self._replayed = asyncio.Event()

    # The reader

    async def wait_ready(self) -> None:
        """Until nothing that happens from now on is missed. Raises: EngineUnavailable."""
        try:
            async with asyncio.timeout(self._settings.request_timeout_ms / 1000):
                await self._feed.wait_ready()
        except TimeoutError:
            raise EngineUnavailable("NATS did not begin the watch in time; it may have no leader") from None

    async def events(self) -> AsyncIterator[KvEvent]:
        """See `KeyValue.watch`. Raises: SubscriptionLost."""
        is_told = False
        while True:
            if self._lost is not None:
                raise SubscriptionLost(self._lost)
            if self._present:
                yield self._present.pop(next(iter(self._present)))
            elif self._is_caught_up and not is_told:
                is_told = True
                yield KvCaughtUp()
            elif is_told and self._changes:
                yield self._changes.pop(next(iter(self._changes)))
            else:
                self._changed.clear()
                await self._changed.wait()

    def lose(self, reason: str) -> None:
        """End it."""
        self._lost = reason
        self._present.clear()
        self._changes.clear()
        self._changed.set()

    # The feed

    async def follow(self) -> None:
        """Until cancelled."""
        await self._feed.run()

    async def _on_begin(self) -> None:
        said = await self._jetstream.api(f"STREAM.INFO.{self._stream}")
        self._floor = said.state.last_seq
        self._old = max(self._old, self._reached) or self._floor
        self._reached = 0
        self._given = set()
        self._replayed.clear()

    def _heard(self, message: Stored) -> None:
        if self._lost is not None:
            return
        self._reached = message.seq
        key = message.subject.removeprefix(self._beginning)
        entry = entry_of(key, message)
        if self._given is not None:
            self._given.add(key)
        if entry is None:
            self._heard_marker(key, message)
            return
        self._buried.discard(key)
        if self._known.get(key, 0) >= message.seq:
            return
        self._known[key] = message.seq
        if self._is_caught_up or message.seq > self._floor:
            self._change(key, entry)
        else:
            self._present[key] = entry
            self._changed.set()

    def _heard_marker(self, key: str, marker: Stored) -> None:
        known = self._known.get(key, 0)
        if known > marker.seq:
            return
        was_buried = key in self._buried
        if is_tombstone(marker):
            self._buried.add(key)
        else:
            self._buried.discard(key)
        if known or (marker.seq > self._old and not was_buried):
            self._known.pop(key, None)
            self._change(key, deleted_of(key, marker))

    def _change(self, key: str, event: KvEntry | KvDeleted) -> None:
        # Taken out first, so that the newest change of a key also comes last.
        self._changes.pop(key, None)
        if len(self._changes) >= self._settings.watch_pending_max:
            _log.warning("nats_watch_lost", extra={"prefix": self._prefix, "pending": len(self._changes)})
            self.lose("the reader of this watch is too slow; watch again")
            return
        self._changes[key] = event
        self._changed.set()

    # The end of a replay

    def _on_replayed(self) -> None:
        self._replayed.set()

    async def end_replays(self) -> None:
        """Until cancelled. The replica that feeds may be behind: the leader is asked whether that was all."""
        while True:
            await self._replayed.wait()
            given = self._given
            has_more = await self._has_more()
            if given is not self._given or not self._replayed.is_set():
                continue
            if has_more:
                await asyncio.sleep(_LOOK_AGAIN_S)
                continue
            self._replayed.clear()
            self._end_replay()

    async def _has_more(self) -> bool:
        """Whether the leader has something, of what was there when the replay began, that was not given."""
        for subject in self._subjects:
            body = {"seq": self._reached + 1, "next_by_subj": subject}
            try:
                said = await self._jetstream.api(f"STREAM.MSG.GET.{self._stream}", body)
            except ApiError as error:
                if error.code not in NO_MESSAGE_CODES:
                    return True
            except Unanswered:
                return True
            else:
                if said.message.seq <= self._floor:
                    return True
        return False

    def _end_replay(self) -> None:
        given, self._given = self._given, None
        if given is not None:
            self._buried &= given
        for key, seq in list(self._known.items()):
            if given is not None and key not in given:
                del self._known[key]
                # Nobody knows any more whether it expired.
                self._change(key, KvDeleted(key=key, revision=marker_revision(seq), expired=False))
        self._is_caught_up = True
        self._changed.set()
