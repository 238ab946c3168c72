"""Settings, figures, lists and deletion of channels of all kinds, and what a crash in a deletion leaves."""

import pytest
from stream_verbs import ADMIN, ANN, BOB, a_message, stream_hub

from meshway.engine.ports import QueueAppend, ToDeadLetters
from meshway.kernel.errors import ChannelNotFound, Conflict, EngineUnavailable, Forbidden, InvalidRequest
from meshway.kernel.ids import PrincipalId
from meshway.kernel.principal import Principal
from meshway.messaging.channel import (
    EventSettings,
    QueueChannelSettings,
    RequestSettings,
    StreamSettings,
    defaults_of,
)
from meshway.messaging.names import ChannelKind, ChannelName

EVENTS, STREAMS, QUEUES, COMMANDS, QUERIES = ChannelKind


@pytest.fixture
async def hub(tmp_path, clock):
    async with stream_hub(tmp_path / "engine", clock) as opened:
        yield opened


async def enqueue(hub, queue, *ids):
    await hub.book.use(QUEUES, ChannelName(queue), ANN.id)
    await hub.engine.queue.append([QueueAppend(queue=queue, message_id=each, data=b"{}") for each in ids])


async def names(hub, kind, **asked):
    page = await hub.channels.list(ANN, kind, cursor=asked.pop("cursor", None), limit=asked.pop("limit", 50), **asked)
    return [item.channel.name for item in page.items], page.next_cursor


async def refused(call):
    with pytest.raises(InvalidRequest) as caught:
        await call
    return caught.value.fields[0].field


@pytest.mark.parametrize("kind", list(ChannelKind))
async def test_every_kind_is_configured_shown_listed_and_deleted(hub, kind):
    settings = defaults_of(kind)
    channel, created = await hub.channels.put(ANN, kind, "a.b", settings)
    assert (channel.settings, channel.owner, created) == (settings, "ann", True)
    assert (await hub.channels.info(BOB, kind, "a.b")).channel == channel
    assert await names(hub, kind) == (["a.b"], None)
    await hub.channels.remove(ANN, kind, "a.b", confirm="a.b")
    assert await names(hub, kind) == ([], None)
    with pytest.raises(ChannelNotFound):
        await hub.channels.info(ANN, kind, "a.b")


@pytest.mark.parametrize("kind", list(ChannelKind))
async def test_an_unknown_channel_is_not_found(hub, kind):
    with pytest.raises(ChannelNotFound):
        await hub.channels.info(ANN, kind, "a")
    with pytest.raises(ChannelNotFound):
        await hub.channels.remove(ANN, kind, "a", confirm="a")


@pytest.mark.parametrize(
    ("kind", "settings", "field"),
    [
        (STREAMS, StreamSettings(when_full="refuse"), "max_messages"),
        (STREAMS, StreamSettings(when_full="refuse", max_messages=5, max_bytes=5), "max_bytes"),
        (QUEUES, QueueChannelSettings(backoff_initial_ms=10, backoff_max_ms=5), "backoff_max_ms"),
        (QUEUES, StreamSettings(), "settings"),
        (EVENTS, RequestSettings(), "settings"),
    ],
)
async def test_settings_that_contradict_each_other_are_refused_by_name(hub, kind, settings, field):
    assert await refused(hub.channels.put(ANN, kind, "a", settings)) == field
    assert hub.book.find(kind, "a") is None


@pytest.mark.parametrize("name", ["", "a.*", ">", "_own", "a..b"])
async def test_a_name_that_is_none_is_refused(hub, name):
    for call in (
        hub.channels.put(ANN, EVENTS, name, EventSettings()),
        hub.channels.info(ANN, EVENTS, name),
        hub.channels.remove(ANN, EVENTS, name, confirm=name),
    ):
        assert await refused(call) == "channel"


async def test_only_who_made_a_channel_or_an_admin_changes_or_deletes_it(hub):
    await hub.channels.put(ANN, STREAMS, "s", StreamSettings())
    with pytest.raises(Forbidden):
        await hub.channels.put(BOB, STREAMS, "s", StreamSettings(max_bytes=9))
    with pytest.raises(Forbidden):
        await hub.channels.remove(BOB, STREAMS, "s", confirm="s")
    channel, _ = await hub.channels.put(ADMIN, STREAMS, "s", StreamSettings(max_bytes=9))
    assert channel.owner == "ann"
    await hub.channels.remove(ADMIN, STREAMS, "s", confirm="s")


async def test_a_key_without_the_scope_may_not_even_look(hub):
    nobody = Principal(PrincipalId("none"))
    with pytest.raises(Forbidden):
        await hub.channels.list(nobody, STREAMS, cursor=None, limit=1)
    with pytest.raises(Forbidden):
        await hub.channels.info(nobody, STREAMS, "s")


@pytest.mark.parametrize("confirm", [None, "", "other", "S"])
async def test_deleting_needs_the_name_once_more(hub, confirm):
    await hub.post("s", 1)
    assert await refused(hub.channels.remove(ANN, STREAMS, "s", confirm=confirm)) == "confirm"
    assert (await hub.page("s"))[0] == [(1, 1)]


async def test_a_queue_shows_what_waits_is_held_delayed_and_dead(hub):
    await enqueue(hub, "q", "a", "b", "c")
    (lease, other) = await hub.engine.queue.lease("q", count=2)
    await hub.engine.queue.settle([ToDeadLetters(delivery_id=lease.delivery_id, reason="no")])
    later = hub.clock.now_ms() + 60_000
    await hub.engine.queue.append([QueueAppend(queue="q", message_id="d", data=b"{}", deliver_at_ms=later)])
    expected = {"waiting": 1, "held": 1, "delayed": 1, "dead": 1}
    assert (await hub.channels.info(ANN, QUEUES, "q")).figures == expected
    page = await hub.channels.list(ANN, QUEUES, cursor=None, limit=5)
    assert [item.figures for item in page.items] == [expected]
    assert other.attempt == 1


async def test_lists_show_the_figures_of_streams_in_one_look(hub):
    for channel in ("a", "b", "c"):
        await hub.post(channel, 1, 2)
    await hub.book.use(STREAMS, ChannelName("empty"), ANN.id)
    hub.log.forget()
    page = await hub.channels.list(ANN, STREAMS, cursor=None, limit=50)
    figures = [item.figures for item in page.items]
    assert figures == [{"first": 1, "last": 2, "count": 2}] * 3 + [{"first": 1, "last": 0, "count": 0}]
    assert len(hub.log.looked) == 4


async def test_kinds_that_keep_nothing_show_what_the_hub_saw(hub):
    hub.activity.published(ChannelName("seen"), 3)
    info = await hub.channels.info(ANN, EVENTS, "seen")
    assert info.figures["published"] == 3
    assert (info.channel.owner, info.channel.created_at_ms) == (None, 0)
    await hub.channels.put(ANN, EVENTS, "configured", EventSettings())
    assert await names(hub, EVENTS) == (["configured", "seen"], None)
    # Nothing is stored, so there is nothing to delete, and that is no error.
    await hub.channels.remove(ANN, EVENTS, "seen", confirm="seen")


async def test_pages_of_stored_and_merely_seen_channels_go_on_without_gap_or_repetition(hub):
    for number in range(0, 20, 2):
        await hub.channels.put(ANN, QUERIES, f"c{number:02}", RequestSettings())
    for number in range(1, 20, 3):
        hub.activity.asked(QUERIES, ChannelName(f"c{number:02}"), "executed")
    expected = sorted({*(f"c{number:02}" for number in range(0, 20, 2)), *(f"c{n:02}" for n in range(1, 20, 3))})
    found, cursor = await names(hub, QUERIES, limit=4)
    while cursor:
        part, cursor = await names(hub, QUERIES, limit=4, cursor=cursor)
        found += part
    assert found == expected
    owners = {item.channel.name: item.channel.owner for item in (await hub.channels.list(
        ANN, QUERIES, cursor=None, limit=50)).items}  # fmt: skip
    assert (owners["c04"], owners["c07"]) == ("ann", None)


async def test_a_list_keeps_names_that_begin_with_a_prefix(hub):
    for name in ("orders.eu", "orders.us", "ordersx", "other"):
        await hub.post(name, 1)
    assert await names(hub, STREAMS, prefix="orders.") == (["orders.eu", "orders.us"], None)
    found, cursor = await names(hub, STREAMS, prefix="orders", limit=2)
    assert found == ["orders.eu", "orders.us"]
    assert await names(hub, STREAMS, prefix="orders", cursor=cursor) == (["ordersx"], None)


@pytest.mark.parametrize("asked", [{"limit": 0}, {"limit": 501}, {"cursor": "!!"}])
async def test_a_wrong_page_is_refused_by_name(hub, asked):
    assert await refused(names(hub, STREAMS, **asked)) == next(iter(asked))


async def test_a_deleted_stream_is_empty_and_goes_on_numbering(hub):
    await hub.channels.put(ANN, STREAMS, "s", StreamSettings(max_bytes=9_999))
    await hub.post("s", 1, 2, 3)
    await hub.readers.put(ANN, "s", "r", start="first")
    await hub.channels.remove(ANN, STREAMS, "s", confirm="s")
    assert (await hub.page("s"))[0] == []
    (receipt,) = await hub.post("s", 4, who=BOB)
    assert receipt.sequence == 4
    info = await hub.channels.info(ANN, STREAMS, "s")
    assert (info.channel.owner, info.channel.settings, info.readers) == ("bob", StreamSettings(), [])


async def test_a_stream_that_comes_back_takes_messages_of_ids_that_its_predecessor_had(hub, clock):
    await hub.append.execute(ANN, "a", [a_message(1, id="m")])
    await hub.channels.remove(ANN, STREAMS, "a", confirm="a")
    clock.advance(1)
    (receipt,) = await hub.append.execute(ANN, "a", [a_message(1, id="m")])
    (again,) = await hub.append.execute(ANN, "a", [a_message(1, id="m")])
    assert (receipt.duplicate, receipt.sequence) == (False, 2)
    assert (again.duplicate, again.sequence) == (True, 2)


async def test_a_deleted_queue_leaves_no_messages_dead_letters_or_settings(hub):
    await hub.channels.put(ANN, QUEUES, "q", QueueChannelSettings(lease_ms=500))
    await enqueue(hub, "q", "a", "b")
    (lease,) = await hub.engine.queue.lease("q", count=1)
    await hub.engine.queue.settle([ToDeadLetters(delivery_id=lease.delivery_id, reason="no")])
    await hub.channels.remove(ANN, QUEUES, "q", confirm="q")
    await enqueue(hub, "q")
    assert set((await hub.channels.info(ANN, QUEUES, "q")).figures.values()) == {0}
    assert (await hub.engine.queue_admin.settings("q")).lease_ms == 30_000


async def test_a_deletion_that_broke_off_is_finished_by_repeating_it(hub):
    await hub.post("s", 1, 2)
    await hub.readers.put(ANN, "s", "r", start="first")
    remove_all = hub.readers_store.remove_all

    async def fails(channel):
        raise EngineUnavailable("asked for by the test")

    hub.readers_store.remove_all = fails
    with pytest.raises(EngineUnavailable):
        await hub.channels.remove(ANN, STREAMS, "s", confirm="s")
    assert hub.book.find(STREAMS, "s") is not None
    hub.readers_store.remove_all = remove_all
    await hub.channels.remove(ANN, STREAMS, "s", confirm="s")
    assert hub.book.find(STREAMS, "s") is None
    assert await hub.readers_store.list_of("s") == []


async def test_deleting_one_kind_leaves_the_others_of_that_name(hub):
    await hub.post("x", 1)
    await enqueue(hub, "x", "a")
    await hub.channels.remove(ANN, QUEUES, "x", confirm="x")
    assert (await hub.page("x"))[0] == [(1, 1)]
    await hub.append.execute(ANN, "x", [a_message(2)])


async def test_whether_a_queue_is_ordered_changes_only_while_it_is_empty(hub):
    await hub.channels.put(ANN, QUEUES, "q", QueueChannelSettings())
    await enqueue(hub, "q", "one")
    with pytest.raises(Conflict) as caught:
        await hub.channels.put(ANN, QUEUES, "q", QueueChannelSettings(ordered=True))
    assert caught.value.fields[0].field == "ordered"
    assert hub.book.settings_of(QUEUES, ChannelName("q")) == QueueChannelSettings()
    await hub.channels.put(ANN, QUEUES, "q", QueueChannelSettings(lease_ms=5_000))
    await hub.engine.queue_admin.purge("q")
    channel, _ = await hub.channels.put(ANN, QUEUES, "q", QueueChannelSettings(ordered=True))
    assert channel.settings == QueueChannelSettings(ordered=True)
