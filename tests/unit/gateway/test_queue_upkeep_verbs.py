"""Looking into queues, redriving dead letters and purging, over the embedded engine on virtual time."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from meshway.kernel.clock import SystemClock
from meshway.kernel.errors import (
    CapacityReached,
    ChannelNotFound,
    Draining,
    EngineUnavailable,
    Forbidden,
    InvalidRequest,
)
from meshway.kernel.ids import PrincipalId
from meshway.kernel.principal import LOCAL_OPERATOR, Principal, Scope
from meshway.messaging.redrive import RedriveJob, Redrives
from support.queue_rig import CALLER, QueueRig, message, queue_rig, settlement

OTHER = Principal(PrincipalId("bob"), frozenset({Scope("call")}))


@pytest.fixture
async def rig(tmp_path, clock):
    async with queue_rig(tmp_path, clock) as rig:
        yield rig


@pytest.fixture
async def live_rig(tmp_path):
    """On real time, with the duty running."""
    async with queue_rig(tmp_path, SystemClock()) as rig, asyncio.TaskGroup() as group:
        duty = group.create_task(rig.redrives.run())
        await asyncio.sleep(0)
        yield rig
        duty.cancel()


async def bury(rig: QueueRig, *ids: str) -> None:
    """One after another, so that their order is known."""
    await rig.post("jobs", *(message(name, id=name) for name in ids))
    deliveries = await rig.take("jobs", 1_000)
    says = [settlement(each.delivery_id, "dead_letter", reason="bad") for each in deliveries]
    await rig.say("jobs", *says)


async def dead(rig: QueueRig) -> list[str]:
    page = await rig.inspect.dead_letters(CALLER, "jobs", cursor=None, limit=500)
    return [letter.id for letter in page.items]


async def taken(rig: QueueRig, count: int = 1_000) -> list[object]:
    return [msgspec.json.decode(each.document)["data"] for each in await rig.take("jobs", count)]


async def until(question: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not question():  # noqa: ASYNC110 - jobs end by themselves, without an event for tests
            await asyncio.sleep(0.005)


def fields(caught) -> list[str]:
    return [error.field for error in caught.value.fields]


@pytest.mark.parametrize("verb", ["peek", "dead_letters", "redrive", "purge"])
async def test_a_queue_that_nobody_made_is_not_found(rig, verb):
    calls = {
        "peek": lambda: rig.inspect.peek(CALLER, "nope", cursor=None, limit=1),
        "dead_letters": lambda: rig.inspect.dead_letters(CALLER, "nope", cursor=None, limit=1),
        "redrive": lambda: rig.redrive.execute(CALLER, "nope", ids=None, rate_per_s=None),
        "purge": lambda: rig.purge.execute(CALLER, "nope", confirm="nope"),
    }
    with pytest.raises(ChannelNotFound, match="'nope'"):
        await calls[verb]()


# Looking


async def test_a_peek_shows_all_that_is_not_done_page_by_page_and_takes_nothing(rig):
    await rig.post("jobs", *(message(number) for number in range(5)), message(5, delay_ms=60_000))
    await rig.take("jobs", 2)
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = await rig.inspect.peek(CALLER, "jobs", cursor=cursor, limit=2)
        seen += [msgspec.json.decode(document)["data"] for document in page.items]
        cursor, pages = page.next_cursor, pages + 1
    assert (seen, pages) == ([0, 1, 2, 3, 4, 5], 3)
    assert await taken(rig) == [2, 3, 4]


async def test_a_page_of_large_messages_ends_early_and_goes_on(rig):
    await rig.post("jobs", *(message(f"{number}" * 3_000_000) for number in range(9)))
    first = await rig.inspect.peek(CALLER, "jobs", cursor=None, limit=500)
    assert 1 <= len(first.items) < 9
    second = await rig.inspect.peek(CALLER, "jobs", cursor=first.next_cursor, limit=500)
    assert len(first.items) + len(second.items) == 9
    assert second.next_cursor is None


@pytest.mark.parametrize("limit", [0, 501, -1])
async def test_a_page_is_of_1_to_500(rig, limit):
    await rig.post("jobs", message())
    for look in (rig.inspect.peek, rig.inspect.dead_letters):
        with pytest.raises(InvalidRequest) as caught:
            await look(CALLER, "jobs", cursor=None, limit=limit)
        assert fields(caught) == ["limit"]


@pytest.mark.parametrize("cursor", ["", "???", "bm8tc3VjaC1tZXNzYWdl", "é"])
async def test_a_cursor_that_leads_nowhere_is_named(rig, cursor):
    await rig.post("jobs", message())
    for look in (rig.inspect.peek, rig.inspect.dead_letters):
        with pytest.raises(InvalidRequest) as caught:
            await look(CALLER, "jobs", cursor=cursor, limit=5)
        assert fields(caught) == ["cursor"]


async def test_dead_letters_come_oldest_first_with_what_happened_to_them(rig, clock):
    await bury(rig, "a", "b")
    clock.advance(1_000)
    await bury(rig, "c")
    page = await rig.inspect.dead_letters(CALLER, "jobs", cursor=None, limit=2)
    assert [letter.id for letter in page.items] == ["a", "b"]
    rest = await rig.inspect.dead_letters(CALLER, "jobs", cursor=page.next_cursor, limit=2)
    assert msgspec.to_builtins(rest.items[0], builtin_types=(msgspec.Raw,)) | {"message": None} == {
        "id": "c",
        "reason": "bad",
        "dead_at": "2027-01-15T08:00:01.000Z",
        "attempts": [
            {
                "attempt": 1,
                "leased_at": "2027-01-15T08:00:01.000Z",
                "ended_at": "2027-01-15T08:00:01.000Z",
                "outcome": "dead_letter",
                "reason": "bad",
            }
        ],
        "message": None,
    }
    assert msgspec.json.decode(rest.items[0].message)["id"] == "c"
    assert rest.next_cursor is None


async def test_messages_that_share_an_id_are_each_shown_once(rig, clock):
    for day in range(3):
        await rig.post("jobs", message(day, id="daily", delay_ms=1))
        clock.advance(86_400_000)
    seen, cursor, pages = [], None, 0
    while pages == 0 or cursor is not None:
        page = await rig.inspect.peek(CALLER, "jobs", cursor=cursor, limit=1)
        seen += [msgspec.json.decode(document)["data"] for document in page.items]
        cursor, pages = page.next_cursor, pages + 1
    assert (seen, pages) == ([0, 1, 2], 3)
    deliveries = await rig.take("jobs")
    await rig.say("jobs", *(settlement(each.delivery_id, "dead_letter") for each in deliveries))
    seen, pages = [], 0
    while pages == 0 or cursor is not None:
        letters = await rig.inspect.dead_letters(CALLER, "jobs", cursor=cursor, limit=1)
        seen += [msgspec.json.decode(letter.message)["data"] for letter in letters.items]
        cursor, pages = letters.next_cursor, pages + 1
    assert (seen, pages) == ([0, 1, 2], 3)
    assert (await rig.redrive.execute(CALLER, "jobs", ids=["daily", "daily"], rate_per_s=None)).messages == 2
    assert await taken(rig) == [0, 1]


# Redriving


async def test_redriven_messages_come_again_as_their_first_attempt(rig):
    await bury(rig, "a", "b", "c")
    started = await rig.redrive.execute(CALLER, "jobs", ids=["c", "unknown", "a", "a"], rate_per_s=None)
    assert started.messages == 2
    deliveries = await rig.take("jobs")
    assert [(msgspec.json.decode(each.document)["id"], each.attempt) for each in deliveries] == [("c", 1), ("a", 1)]
    assert await dead(rig) == ["b"]


async def test_a_redrive_of_all_takes_what_is_there_and_not_what_dies_again(rig):
    await bury(rig, *(f"m{number:03}" for number in range(120)))
    started = await rig.redrive.execute(CALLER, "jobs", ids=None, rate_per_s=None)
    assert started.messages == 120
    assert await taken(rig) == [f"m{number:03}" for number in range(120)]
    assert await dead(rig) == []
    assert (await rig.redrive.execute(CALLER, "jobs", ids=None, rate_per_s=None)).messages == 0


@pytest.mark.parametrize(
    ("ids", "rate_per_s", "field"),
    [
        ([], None, "ids"),
        (["a"] * 10_001, None, "ids"),
        (None, 0.0, "rate_per_s"),
        (None, -1.0, "rate_per_s"),
        (None, 10_001.0, "rate_per_s"),
        (None, float("nan"), "rate_per_s"),
        (None, float("inf"), "rate_per_s"),
    ],
)
async def test_a_redrive_out_of_bounds_is_refused(rig, ids, rate_per_s, field):
    await bury(rig, "a")
    with pytest.raises(InvalidRequest) as caught:
        await rig.redrive.execute(CALLER, "jobs", ids=ids, rate_per_s=rate_per_s)
    assert fields(caught) == [field]
    assert await dead(rig) == ["a"]


async def test_only_who_made_the_queue_or_an_admin_redrives_and_purges(rig):
    await bury(rig, "a")
    for call in (
        lambda: rig.redrive.execute(OTHER, "jobs", ids=None, rate_per_s=None),
        lambda: rig.purge.execute(OTHER, "jobs", confirm="jobs"),
    ):
        with pytest.raises(Forbidden, match="made by another key"):
            await call()
    assert (await rig.redrive.execute(LOCAL_OPERATOR, "jobs", ids=None, rate_per_s=None)).messages == 1


async def test_a_redrive_at_a_rate_goes_on_by_itself_and_keeps_to_it(live_rig):
    await bury(live_rig, *(f"m{number}" for number in range(12)))
    loop = asyncio.get_running_loop()
    began = loop.time()
    started = await live_rig.redrive.execute(CALLER, "jobs", ids=None, rate_per_s=40.0)
    assert started.messages == 12
    seen = []
    async with asyncio.timeout(5):
        while len(seen) < 12:
            each = await live_rig.lease.execute(CALLER, "jobs", count=100, wait_ms=5_000)
            seen += [msgspec.json.decode(one.document)["data"] for one in each]
    # 12 messages in chunks of 4: the third chunk is due 200 ms after the first.
    assert loop.time() - began >= 0.19
    assert seen == [f"m{number}" for number in range(12)]
    await until(lambda: len(live_rig.redrives) == 0)


async def test_named_dead_letters_are_redriven_at_a_rate_in_their_order(live_rig):
    await bury(live_rig, "a", "b", "c", "d")
    started = await live_rig.redrive.execute(CALLER, "jobs", ids=["d", "unknown", "b"], rate_per_s=1_000.0)
    assert started.messages == 3
    await until(lambda: len(live_rig.redrives) == 0)
    assert await taken(live_rig) == ["d", "b"]
    assert await dead(live_rig) == ["a", "c"]


async def test_a_later_redrive_of_all_takes_the_place_of_the_earlier_one(live_rig):
    await bury(live_rig, *(f"m{number}" for number in range(20)))
    await live_rig.redrive.execute(CALLER, "jobs", ids=None, rate_per_s=0.01)
    await live_rig.redrive.execute(CALLER, "jobs", ids=None, rate_per_s=10_000.0)
    await until(lambda: len(live_rig.redrives) == 0)
    assert sorted(await taken(live_rig)) == sorted(f"m{number}" for number in range(20))


async def test_a_hub_that_stops_leaves_the_rest_among_the_dead_letters(tmp_path):
    async with queue_rig(tmp_path, SystemClock()) as rig:
        await bury(rig, "a", "b", "c")
        async with asyncio.TaskGroup() as group:
            duty = group.create_task(rig.redrives.run())
            await asyncio.sleep(0)
            await rig.redrive.execute(CALLER, "jobs", ids=None, rate_per_s=0.1)
            async with asyncio.timeout(5):
                assert len(await rig.lease.execute(CALLER, "jobs", count=9, wait_ms=5_000)) == 1
            duty.cancel()
        assert len(rig.redrives) == 0
        assert await dead(rig) == ["b", "c"]
        with pytest.raises(Draining):
            await rig.redrive.execute(CALLER, "jobs", ids=None, rate_per_s=1.0)


class RefusesTwice:
    """An engine that is away for a moment, or has a defect."""

    def __init__(self, admin, errors):
        self.admin = admin
        self.errors = errors

    def __getattr__(self, name):
        return getattr(self.admin, name)

    async def redrive(self, queue, ids):
        if self.errors:
            raise self.errors.pop()
        return await self.admin.redrive(queue, ids)


async def test_a_redrive_outlasts_an_engine_that_is_away_and_a_defect_ends_one_job_only(rig, caplog):
    await bury(rig, "a", "b")
    admin = RefusesTwice(rig.engine.queue_admin, [EngineUnavailable("away"), ValueError("a defect")])
    redrives = Redrives(admin, clock=SystemClock())
    async with asyncio.TaskGroup() as group:
        duty = group.create_task(redrives.run())
        await asyncio.sleep(0)
        redrives.start(RedriveJob("jobs", ids=["a"], left=1, until_ms=0, rate_per_s=1.0))
        await until(lambda: len(redrives) == 0)
        assert "redrive_failed" in caplog.text
        redrives.start(RedriveJob("jobs", ids=["b"], left=1, until_ms=0, rate_per_s=1.0))
        await until(lambda: len(redrives) == 0)
        duty.cancel()
    assert await dead(rig) == ["a"]


async def test_redrives_in_the_background_are_bounded(rig):
    redrives = Redrives(rig.engine.queue_admin, clock=rig.clock)
    async with asyncio.TaskGroup() as group:
        duty = group.create_task(redrives.run())
        await asyncio.sleep(0)
        for number in range(100):
            redrives.start(RedriveJob(f"q{number}", ids=["x"] * 9, left=9, until_ms=0, rate_per_s=0.001))
        with pytest.raises(CapacityReached) as caught:
            redrives.start(RedriveJob("more", ids=["x"], left=1, until_ms=0, rate_per_s=0.001))
        assert caught.value.retry_after_ms
        duty.cancel()


# Purging


async def test_a_purge_drops_waiting_held_and_delayed_messages_but_no_dead_letters(rig):
    await bury(rig, "a")
    await rig.post("jobs", message(1), message(2), message(3, delay_ms=9_000))
    (held,) = await rig.take("jobs", 1)
    assert await rig.purge.execute(CALLER, "jobs", confirm="jobs") == 3
    assert await rig.say("jobs", settlement(held.delivery_id)) == ["stale"]
    assert (await rig.inspect.peek(CALLER, "jobs", cursor=None, limit=5)).items == []
    assert await dead(rig) == ["a"]


@pytest.mark.parametrize("confirm", [None, "", "JOBS", "job"])
async def test_a_purge_wants_the_name_once_more(rig, confirm):
    await rig.post("jobs", message())
    with pytest.raises(InvalidRequest) as caught:
        await rig.purge.execute(CALLER, "jobs", confirm=confirm)
    assert fields(caught) == ["confirm"]
    assert len(await taken(rig)) == 1
