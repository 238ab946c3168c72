"""Known channels: first use, settings, limits, order, other hubs, and a crash between the record and the engine."""

import asyncio

import msgspec
import pytest
from stream_verbs import following, stream_hub, until

from meshway.engine.ports import KvDelete, KvPut, QueueSettings
from meshway.kernel.errors import CapacityReached, EngineUnavailable, Forbidden, StoreCorrupt
from meshway.kernel.ids import PrincipalId
from meshway.messaging.channel import EventSettings, QueueChannelSettings, RequestSettings, StreamSettings
from meshway.messaging.channels import ChannelBook
from meshway.messaging.names import ChannelKind, ChannelName
from meshway.messaging.settings import MessagingSettings
from meshway.testing.fake_key_value import FakeKeyValue

ANN = PrincipalId("ann")
BOB = PrincipalId("bob")
QUEUES, STREAMS, EVENTS = ChannelKind.QUEUES, ChannelKind.STREAMS, ChannelKind.EVENTS
JOBS = ChannelName("jobs")
SLOW = QueueChannelSettings(lease_ms=60_000)
QUICK = QueueChannelSettings(lease_ms=500)


class EngineQueues:
    """QueueAdmin as far as settings go. `fail` makes the next calls fail; `pause` holds configure until it is set."""

    def __init__(self):
        self.kept = {}
        self.fail = 0
        self.pause = None

    async def configure(self, queue, settings):
        if self.fail:
            self.fail -= 1
            raise EngineUnavailable("asked for by the test")
        if self.pause is not None:
            await self.pause.wait()
        await asyncio.sleep(0)
        self.kept[queue] = settings

    async def settings(self, queue):
        await asyncio.sleep(0)
        return self.kept.get(queue, QueueSettings())


class Store:
    """One store that any number of books stand on."""

    def __init__(self, clock, **settings):
        self.clock = clock
        self.settings = MessagingSettings(**settings)
        self.key_value = FakeKeyValue(clock)
        self.queues = EngineQueues()

    def book(self):
        return ChannelBook(self.key_value, self.queues, settings=self.settings, clock=self.clock)

    async def stored(self, key):
        (entry,) = await self.key_value.get([key])
        return None if entry is None else msgspec.json.decode(entry.value)

    def lease_ms(self, queue):
        return self.queues.kept[queue].lease_ms


@pytest.fixture
def store(clock):
    return Store(clock)


async def test_the_first_use_stores_a_record_that_its_user_owns(store):
    book = store.book()
    channel = await book.use(STREAMS, ChannelName("a.b"), ANN)
    assert (channel.owner, channel.settings) == (ANN, StreamSettings())
    assert book.find(STREAMS, "a.b") is channel
    assert (await store.stored("chan.streams.a.b"))["owner"] == "ann"


async def test_further_uses_cost_no_write_and_leave_the_owner(store):
    book = store.book()
    first = await book.use(QUEUES, JOBS, ANN)
    assert await book.use(QUEUES, JOBS, BOB) is first
    assert len(store.key_value.writes) == 1


@pytest.mark.parametrize("kind", [ChannelKind.EVENTS, ChannelKind.COMMANDS, ChannelKind.QUERIES])
async def test_kinds_that_keep_nothing_leave_no_record_on_use(store, kind):
    book = store.book()
    channel = await book.use(kind, JOBS, ANN)
    assert channel.owner is None
    assert book.find(kind, JOBS) is None
    assert store.key_value.writes == []


async def test_one_name_may_exist_once_in_each_kind(store):
    book = store.book()
    await book.put(STREAMS, JOBS, StreamSettings(max_messages=7), ANN)
    await book.put(QUEUES, JOBS, SLOW, BOB)
    assert book.settings_of(STREAMS, JOBS) == StreamSettings(max_messages=7)
    assert book.settings_of(QUEUES, JOBS) == SLOW
    assert book.settings_of(EVENTS, JOBS) == EventSettings()
    assert len(book) == 2


async def test_many_first_uses_at_once_make_one_record(store):
    book = store.book()
    channels = await _all(*(book.use(QUEUES, JOBS, PrincipalId(f"p{number}")) for number in range(20)))
    assert len({channel.owner for channel in channels}) == 1
    assert len(book) == 1


async def test_first_uses_at_once_never_pass_the_limit_together(clock):
    store = Store(clock, channels_max=5)
    book = store.book()
    outcomes = await _all(*(book.use(STREAMS, ChannelName(f"s{number}"), ANN) for number in range(9)), errors=True)
    refused = [each for each in outcomes if isinstance(each, CapacityReached)]
    assert len(refused) == 4
    assert "channels_max" in refused[0].detail
    assert len(book) == 5


async def test_the_limit_counts_all_kinds_and_a_removed_channel_makes_room(clock):
    store = Store(clock, channels_max=2)
    book = store.book()
    stream = await book.use(STREAMS, JOBS, ANN)
    await book.put(ChannelKind.QUERIES, JOBS, RequestSettings(timeout_ms=5), ANN)
    with pytest.raises(CapacityReached):
        await book.use(QUEUES, JOBS, ANN)
    await book.remove(stream)
    await book.use(QUEUES, JOBS, ANN)
    # Known ones are never refused.
    await book.put(QUEUES, JOBS, SLOW, ANN)


async def test_putting_replaces_all_settings_and_keeps_owner_and_birth(store):
    book = store.book()
    made, created = await book.put(STREAMS, JOBS, StreamSettings(max_messages=7), ANN)
    store.clock.advance(1_000)
    changed, again = await book.put(STREAMS, JOBS, StreamSettings(max_bytes=9), BOB)
    assert (created, again) == (True, False)
    assert changed.settings == StreamSettings(max_bytes=9)
    assert (changed.owner, changed.created_at_ms) == (ANN, made.created_at_ms)


async def test_who_may_change_a_channel_is_asked_of_the_stored_record(store):
    book, other = store.book(), store.book()
    await other.put(STREAMS, JOBS, StreamSettings(max_messages=7), ANN)

    def refuse(channel):
        raise Forbidden(f"owned by {channel.owner}")

    with pytest.raises(Forbidden, match="owned by ann"):
        await book.put(STREAMS, JOBS, StreamSettings(), BOB, admit=refuse)
    assert (await store.stored("chan.streams.jobs"))["settings"]["max_messages"] == 7


async def test_a_queue_has_its_settings_in_the_engine_when_the_call_returns(store):
    book = store.book()
    await book.put(QUEUES, JOBS, SLOW, ANN)
    assert store.queues.kept["jobs"] == SLOW.engine_settings()
    assert "unsettled" not in await store.stored("chan.queues.jobs")


async def test_a_crash_before_the_engine_was_configured_is_finished_by_the_next_start(store):
    store.queues.fail = 1
    with pytest.raises(EngineUnavailable):
        await store.book().put(QUEUES, JOBS, SLOW, ANN)
    assert store.queues.kept == {}
    async with following(_Hub(store.book())) as hub:
        assert store.lease_ms("jobs") == 60_000
        assert hub.book.settings_of(QUEUES, JOBS) == SLOW
    assert "unsettled" not in await store.stored("chan.queues.jobs")


async def test_a_crash_before_the_mark_was_taken_off_is_finished_by_the_next_start(store):
    store.queues.pause = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        call = group.create_task(store.book().put(QUEUES, JOBS, SLOW, ANN))
        await until(lambda: len(store.key_value.writes) == 1)
        call.cancel()
    store.queues.pause = None
    assert (await store.stored("chan.queues.jobs"))["unsettled"] is True
    async with following(_Hub(store.book())):
        assert store.lease_ms("jobs") == 60_000


async def test_a_hub_starts_although_the_repair_fails_and_a_repeated_call_finishes(store):
    store.queues.fail = 2
    with pytest.raises(EngineUnavailable):
        await store.book().put(QUEUES, JOBS, SLOW, ANN)
    async with following(_Hub(store.book())) as hub:
        assert store.queues.kept == {}
        await hub.book.put(QUEUES, JOBS, SLOW, ANN)
        assert store.lease_ms("jobs") == 60_000


async def test_two_hubs_that_change_one_queue_at_once_end_in_agreement(store):
    wanted = [QueueChannelSettings(lease_ms=1_000 + number) for number in range(6)]
    books = [store.book() for _ in wanted]
    await _all(*(book.put(QUEUES, JOBS, each, ANN) for book, each in zip(books, wanted, strict=True)))
    record = await store.stored("chan.queues.jobs")
    assert record["settings"]["lease_ms"] == store.lease_ms("jobs")
    assert "unsettled" not in record


async def test_a_slow_configuration_that_was_overtaken_does_not_stand(store):
    slow, quick = store.book(), store.book()
    store.queues.pause = gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(slow.put(QUEUES, JOBS, SLOW, ANN))
        await until(lambda: len(store.key_value.writes) == 1)
        store.queues.pause = None
        await quick.put(QUEUES, JOBS, QUICK, ANN)
        gate.set()
    assert store.lease_ms("jobs") == 500
    assert (await store.stored("chan.queues.jobs"))["settings"]["lease_ms"] == 500


async def test_a_removed_queue_is_not_made_again_by_a_configuration_under_way(store):
    book = store.book()
    store.queues.pause = gate = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(book.put(QUEUES, JOBS, SLOW, ANN))
        await until(lambda: book.find(QUEUES, JOBS) is not None)
        await book.remove(book.find(QUEUES, JOBS))
        gate.set()
    assert await store.stored("chan.queues.jobs") is None
    assert book.find(QUEUES, JOBS) is None
    assert store.queues.kept["jobs"] == QueueChannelSettings().engine_settings()


async def test_writes_whose_outcome_is_unknown_are_repeated(store):
    book = store.book()
    store.key_value.undecided = 2
    _, created = await book.put(STREAMS, JOBS, StreamSettings(max_messages=7), ANN)
    assert created
    store.key_value.undecided = 2
    await book.put(STREAMS, JOBS, StreamSettings(max_messages=8), ANN)
    store.key_value.undecided = 2
    await book.remove(book.find(STREAMS, JOBS))
    assert await store.stored("chan.streams.jobs") is None


async def test_another_hubs_channels_come_and_go_through_the_watch(store):
    other = store.book()
    async with following(_Hub(store.book())) as hub:
        channel, _ = await other.put(STREAMS, JOBS, StreamSettings(max_messages=7), ANN)
        await until(lambda: hub.book.find(STREAMS, JOBS) == channel)
        await other.remove(channel)
        await until(lambda: hub.book.find(STREAMS, JOBS) is None)
        assert hub.book.page(STREAMS, after=None, limit=10) == []


async def test_what_was_deleted_while_the_watch_was_lost_is_gone_afterwards(store):
    other = store.book()
    channel, _ = await other.put(STREAMS, JOBS, StreamSettings(max_messages=7), ANN)
    async with following(_Hub(store.book())) as hub:
        store.key_value.fail_with = EngineUnavailable("asked for by the test")
        store.key_value.lose_watches()
        await asyncio.sleep(0)
        store.key_value.fail_with = None
        await store.key_value.write([KvDelete(key="chan.streams.jobs")])
        await until(lambda: hub.book.find(STREAMS, JOBS) is None)
    assert channel.name == JOBS


async def test_an_unreadable_record_is_no_reason_not_to_start_and_is_never_written_over(store):
    await store.key_value.write([KvPut(key="chan.streams.jobs", value=b'{"kind":"streams","name":"jobs","new":1}')])
    async with following(_Hub(store.book())) as hub:
        assert hub.book.find(STREAMS, JOBS) is None
        with pytest.raises(StoreCorrupt):
            await hub.book.use(STREAMS, JOBS, ANN)
    assert (await store.stored("chan.streams.jobs"))["new"] == 1


async def test_pages_are_in_order_of_name_and_go_on_after_a_name_that_is_gone(store):
    book = store.book()
    for name in ("b", "a.c", "a", "c", "a.b", "ab"):
        await book.use(STREAMS, ChannelName(name), ANN)
    assert _names(book.page(STREAMS, after=None, limit=10)) == ["a", "a.b", "a.c", "ab", "b", "c"]
    await book.remove(book.find(STREAMS, "a.b"))
    assert _names(book.page(STREAMS, after="a.b", limit=2)) == ["a.c", "ab"]
    assert _names(book.page(STREAMS, after=None, limit=10, prefix="a.")) == ["a.c"]
    assert _names(book.page(STREAMS, after="a.c", limit=10, prefix="a.")) == []


async def test_listeners_hear_each_change_once(store):
    book = store.book()
    heard = []
    book.listen(lambda kind, name, channel: heard.append((kind, name, channel and channel.settings)))
    async with following(_Hub(book)):
        channel = await book.use(STREAMS, JOBS, ANN)
        await book.put(STREAMS, JOBS, StreamSettings(max_bytes=9), ANN)
        await book.put(STREAMS, JOBS, StreamSettings(max_bytes=9), ANN)
        await book.remove(channel)
    assert heard == [
        (STREAMS, "jobs", StreamSettings()),
        (STREAMS, "jobs", StreamSettings(max_bytes=9)),
        (STREAMS, "jobs", None),
    ]


async def test_records_survive_a_restart_of_the_engine(tmp_path, clock):
    async with stream_hub(tmp_path / "engine", clock) as hub:
        await hub.book.put(QUEUES, JOBS, SLOW, ANN)
        used = await hub.book.use(STREAMS, JOBS, BOB)
    async with stream_hub(tmp_path / "engine", clock) as hub:
        assert hub.book.find(QUEUES, JOBS).settings == SLOW
        assert hub.book.find(STREAMS, JOBS) == used
        assert (await hub.engine.queue_admin.settings("jobs")).lease_ms == 60_000


class _Hub:
    def __init__(self, book):
        self.book = book


def _names(channels):
    return [channel.name for channel in channels]


async def _all(*calls, errors=False):
    return await asyncio.gather(*calls, return_exceptions=errors)
