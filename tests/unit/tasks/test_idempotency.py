"""Acting once: retries join, crashes are told apart, other content is a conflict."""

import asyncio

import pytest

from meshway.engine.ports import Durability, KvCreate, KvUpdate
from meshway.kernel.errors import EngineUnavailable, InvalidRequest, UpstreamUnreachable
from meshway.kernel.ids import AgentId, PrincipalId, TaskId
from meshway.tasks.flights import Begun, Conflicting, Joined, KeyedRequest, Unknown
from meshway.tasks.idempotency import (
    IdempotencyKeys,
    check_idempotency_key,
    content_digest,
    dedupe_key,
)
from meshway.testing.fake_key_value import FakeKeyValue

DAY_MS = 86_400_000
TASK = TaskId("t1")


def a_request(key="k1", params=b"{}", *, who="ann", agent="echo", method="SendMessage", task_id=None):
    digest = content_digest(AgentId(agent), method, params)
    return KeyedRequest(principal_id=PrincipalId(who), key=key, content_digest=digest, task_id=task_id)


class HeldKeyValue(FakeKeyValue):
    """Does what it is told, and answers writes when the test lets it."""

    def __init__(self, clock):
        super().__init__(clock)
        self.written = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def write(self, writes):
        outcomes = await super().write(writes)
        self.written.set()
        await self.may_answer.wait()
        return outcomes


class World:
    def __init__(self, clock):
        self.clock = clock
        self.key_value = HeldKeyValue(clock)
        self.restart()

    def restart(self):
        self.keys = IdempotencyKeys(self.key_value, self.clock)

    async def begin(self, *args, **fields):
        return await self.keys.begin(a_request(*args, **fields))

    async def begun(self, *args, **fields):
        begun = await self.begin(*args, **fields)
        assert isinstance(begun, Begun)
        return begun.flight


@pytest.fixture
def world(clock):
    return World(clock)


def shown(joined):
    assert isinstance(joined, Joined)
    return joined.task_id, joined.answer, joined.is_running


async def test_the_key_is_synced_before_anything_is_done(world):
    await world.begun()
    (write,) = world.key_value.writes
    assert isinstance(write, KvCreate)
    assert (write.durability, write.ttl_ms) == (Durability.SYNCED, DAY_MS)


async def test_a_retry_gets_the_answer_of_the_first(world):
    flight = await world.begun()
    await world.keys.finish(flight, b'{"task":1}')
    assert shown(await world.begin()) == (None, b'{"task":1}', False)


async def test_a_retry_after_a_restart_gets_the_answer_of_the_first(world):
    flight = await world.begun()
    await world.keys.remember_task(flight, TASK)
    await world.keys.finish(flight, b'{"task":1}')
    world.restart()
    assert shown(await world.begin()) == (TASK, b'{"task":1}', False)


async def test_ten_thousand_retries_at_once_cost_one_write_and_act_once(world):
    acted = 0

    async def retry():
        nonlocal acted
        match await world.begin():
            case Begun(flight):
                acted += 1
                await world.keys.finish(flight, b"done")
                return b"done"
            case Joined(flight=flight):
                return (await flight.wait_over()).answer

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(retry()) for _ in range(10_000)]
    assert {task.result() for task in tasks} == {b"done"}
    assert acted == 1
    # One that claims the key, one that keeps the answer.
    assert len(world.key_value.writes) == 2


async def test_ten_thousand_retries_at_once_after_the_end_cost_one_write(world):
    await world.keys.finish(await world.begun(), b"done")
    before = len(world.key_value.writes)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(world.begin()) for _ in range(10_000)]
    assert {task.result().answer for task in tasks} == {b"done"}
    assert len(world.key_value.writes) == before + 1


async def test_a_retry_while_the_first_runs_joins_its_task_as_soon_as_that_is_known(world):
    flight = await world.begun()
    joined = await world.begin()
    assert shown(joined) == (None, None, True)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(joined.flight.wait_task())
        await world.keys.remember_task(flight, TASK)
    assert shown(waiting.result()) == (TASK, None, True)
    assert shown(await world.begin()) == (TASK, None, True)


async def test_a_retry_after_a_crash_joins_the_task_that_was_known(world):
    await world.keys.remember_task(await world.begun(), TASK)
    world.restart()
    joined = await world.begin()
    assert shown(joined) == (TASK, None, True)
    assert joined.flight is None


async def test_a_task_of_the_hubs_own_is_known_from_the_beginning(world):
    await world.begun(task_id=TASK)
    world.restart()
    assert shown(await world.begin(task_id=TaskId("another"))) == (TASK, None, True)


async def test_after_a_crash_without_a_task_nobody_knows_what_happened(world, clock):
    began = clock.now_ms()
    await world.begun()
    clock.advance(5_000)
    world.restart()
    unknown = await world.begin()
    assert unknown == Unknown(began)
    assert unknown.error().may_have_acted


@pytest.mark.parametrize("change", [{"params": b"[]"}, {"agent": "other"}, {"method": "SendStreamingMessage"}])
@pytest.mark.parametrize("moment", ["running", "done", "restarted"])
async def test_the_same_key_with_another_request_is_a_conflict(world, change, moment):
    flight = await world.begun()
    if moment == "done":
        await world.keys.finish(flight, b"x")
    elif moment == "restarted":
        world.restart()
    conflicting = await world.begin(**change)
    assert conflicting == Conflicting("k1")
    assert conflicting.error().code == "idempotency_key_reused"
    assert [wrong.field for wrong in conflicting.error().fields] == ["Idempotency-Key"]


async def test_keys_of_two_callers_have_nothing_to_do_with_each_other(world):
    await world.begun()
    await world.begun(who="bob", params=b"[]")


async def test_what_certainly_did_not_happen_may_be_tried_again(world):
    flight = await world.begun()
    joined = await world.begin()
    error = UpstreamUnreachable("Nobody there.")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(_outcome(joined.flight.wait_over()))
        await world.keys.abandon(flight, error)
    assert waiting.result().detail == "Nobody there."
    await world.begun()


async def test_what_was_lost_sight_of_has_an_unknown_outcome(world):
    flight = await world.begun()
    joined = await world.begin()
    world.keys.lose(flight)
    assert isinstance(await joined.flight.wait_over(), Unknown)
    assert isinstance(await world.begin(), Unknown)


async def test_what_was_lost_sight_of_is_joined_by_its_task(world):
    flight = await world.begun()
    joined = await world.begin()
    await world.keys.remember_task(flight, TASK)
    world.keys.lose(flight)
    assert (await joined.flight.wait_over()).task_id == TASK
    assert shown(await world.begin()) == (TASK, None, True)


async def test_a_key_is_forgotten_after_its_time(world, clock):
    await world.keys.finish(await world.begun(), b"x")
    clock.advance(DAY_MS + 1_000)
    await world.begun(params=b"[]")


async def test_a_long_answer_is_not_kept_but_everybody_who_waits_gets_it(world):
    long = b"x" * 65_537
    flight = await world.begun()
    await world.keys.remember_task(flight, TASK)
    joined = await world.begin()
    await world.keys.finish(flight, long)
    assert (await joined.flight.wait_over()).answer == long
    assert shown(await world.begin()) == (TASK, None, False)


async def test_the_task_and_the_end_told_at_once_are_both_kept(world):
    flight = await world.begun()
    async with asyncio.TaskGroup() as group:
        group.create_task(world.keys.remember_task(flight, TASK))
        group.create_task(world.keys.finish(flight, b"x"))
    world.restart()
    assert shown(await world.begin()) == (TASK, b"x", False)


# Faults of the store


async def test_a_write_of_unknown_outcome_is_repeated_and_counts_once(world):
    world.key_value.undecided = 2
    flight = await world.begun()
    world.key_value.undecided = 2
    await world.keys.finish(flight, b"x")
    world.restart()
    assert shown(await world.begin()) == (None, b"x", False)


async def test_where_the_key_cannot_be_stored_nothing_is_begun_and_all_who_wait_are_told(world):
    world.key_value.fail_with = EngineUnavailable("gone")
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_outcome(world.begin())) for _ in range(100)]
    assert {task.result().detail for task in tasks} == {"gone"}
    assert len({id(task.result()) for task in tasks}) == 100
    world.key_value.fail_with = None
    await world.begun()


async def test_an_answer_that_cannot_be_noted_is_an_answer_all_the_same(world):
    flight = await world.begun()
    joined = await world.begin()
    world.key_value.fail_with = EngineUnavailable("gone")
    await world.keys.finish(flight, b"x")
    assert (await joined.flight.wait_over()).answer == b"x"
    world.key_value.fail_with = None
    assert isinstance(await world.begin(), Unknown)


async def test_what_did_not_happen_may_be_tried_again_even_if_that_could_not_be_noted(world):
    flight = await world.begun()
    world.key_value.fail_with = EngineUnavailable("gone")
    await world.keys.abandon(flight, UpstreamUnreachable("Nobody there."))
    world.key_value.fail_with = None
    await world.begun()


async def test_a_caller_that_hangs_up_in_the_moment_of_the_first_write_leaves_the_key_free(world):
    """The record may be there, but nothing was done: the next one with the key acts."""
    world.key_value.may_answer.clear()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(world.begin())
        second = group.create_task(world.begin())
        await world.key_value.written.wait()
        first.cancel()
        world.key_value.may_answer.set()
    assert first.cancelled()
    assert isinstance(second.result(), Begun)


async def test_after_a_hang_up_another_request_takes_the_key_over_too(world):
    world.key_value.may_answer.clear()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(world.begin())
        await world.key_value.written.wait()
        first.cancel()
    world.key_value.may_answer.set()
    flight = await world.begun(params=b"[]")
    assert any(isinstance(write, KvUpdate) for write in world.key_value.writes)
    await world.keys.finish(flight, b"x")
    assert await world.begin() == Conflicting("k1")


async def test_a_record_that_expired_and_was_begun_anew_elsewhere_is_left_alone(world, clock):
    flight = await world.begun()
    clock.advance(DAY_MS + 1_000)
    elsewhere = IdempotencyKeys(world.key_value, clock)
    assert isinstance(await elsewhere.begin(a_request(params=b"[]")), Begun)
    await world.keys.finish(flight, b"x")
    assert await world.begin() == Conflicting("k1")


# Keys


@pytest.mark.parametrize("key", ["a", "~" * 255, "8e03978e-40d5-43e8-bc93-6894a57f9324", '"quoted"'])
def test_a_key_is_visible_ascii(key):
    assert check_idempotency_key(key) == key


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "ä", "a\n", "\t"])
def test_any_other_key_is_refused(key):
    with pytest.raises(InvalidRequest) as refused:
        check_idempotency_key(key)
    assert [wrong.field for wrong in refused.value.fields] == ["Idempotency-Key"]


def test_a_message_without_a_key_is_known_by_its_id_and_content():
    one = dedupe_key("m1", content_digest(AgentId("a"), "SendMessage", b"{}"))
    assert one == dedupe_key("m1", content_digest(AgentId("a"), "SendMessage", b"{}"))
    others = {
        dedupe_key("m2", content_digest(AgentId("a"), "SendMessage", b"{}")),
        dedupe_key("m1", content_digest(AgentId("a"), "SendMessage", b"[]")),
        dedupe_key("m1", content_digest(AgentId("b"), "SendMessage", b"{}")),
    }
    assert len(others | {one}) == 4
    with pytest.raises(InvalidRequest):
        check_idempotency_key(one)


async def _outcome(waiting):
    """What is raised, as a value."""
    try:
        return await waiting
    except (EngineUnavailable, UpstreamUnreachable) as error:
        return error


def keys_of(world, hub_id, is_alive):
    return IdempotencyKeys(world.key_value, world.clock, hub_id=hub_id, is_alive=is_alive)


async def is_alive(hub_id):
    return True


async def test_what_a_hub_said_last_before_it_left_is_known(world):
    there = keys_of(world, "there", is_alive)
    begun = await there.begin(a_request())

    async def has_left(hub_id):
        await there.finish(begun.flight, b'"answer"')
        return False

    here = keys_of(world, "here", has_left)
    assert shown(await here.begin(a_request())) == (None, b'"answer"', False)


async def test_an_end_whose_caller_left_while_it_was_written_is_written_later(world):
    there, here = (keys_of(world, hub_id, is_alive) for hub_id in ("there", "here"))
    begun = await there.begin(a_request())
    ending = asyncio.create_task(there.finish(begun.flight, b'"answer"'))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    writing = asyncio.create_task(there.run())
    async with asyncio.timeout(5):
        assert shown(await here.begin(a_request())) == (None, b'"answer"', False)
    writing.cancel()
