"""Records, marks of streams and turns are put away together, in an order that a crash does not mind."""

import asyncio

import pytest

from meshway.engine.ports import Ack, KvPut
from meshway.kernel.errors import StorageFull
from meshway.kernel.ids import AgentId, InstanceId, PrincipalId, TaskId
from meshway.tasks.owners import TaskOwners
from meshway.tasks.settings import TaskSettings
from meshway.tasks.turn_closer import TurnCloser
from meshway.tasks.values import TaskOwner, TaskState
from meshway.testing.clock import ManualClock
from meshway.testing.fake_key_value import FakeKeyValue
from support.task_clients import until

MARK = "pumps.a.t"


class InboxThatTells:
    """Says what was settled, and what was stored by then."""

    def __init__(self, key_value: FakeKeyValue) -> None:
        self.key_value = key_value
        self.settled: list[tuple[str, int]] = []

    async def settle(self, settlements):
        self.settled += [(each.delivery_id, len(self.key_value.writes)) for each in settlements]
        assert all(isinstance(each, Ack) for each in settlements)


class World:
    def __init__(self, clock) -> None:
        self.key_value = FakeKeyValue(clock)
        self.owners = TaskOwners(self.key_value, settings=TaskSettings(), clock=ManualClock())
        self.inbox = InboxThatTells(self.key_value)
        self.closer = TurnCloser(self.owners, self.inbox)

    async def has_mark(self) -> bool:
        return (await self.key_value.get([MARK]))[0] is not None


@pytest.fixture
async def world(clock):
    world = World(clock)
    await world.key_value.write([KvPut(key=MARK, value=b"t")])
    return world


def owner(number: int = 0, state: TaskState = TaskState.WORKING) -> TaskOwner:
    return TaskOwner(
        task_id=TaskId(f"t{number}"),
        context_id="c",
        agent_id=AgentId("a"),
        instance_id=InstanceId("one"),
        principal_id=PrincipalId("ann"),
        state=state,
        created_at_ms=1,
        status_at_ms=1,
    )


async def test_a_turn_leaves_its_inbox_after_its_record_is_stored(world):
    world.closer.keep(owner(state=TaskState.COMPLETED))
    world.closer.close("delivery")
    await world.closer.flush()
    assert world.inbox.settled == [("delivery", 2)]


async def test_a_mark_goes_with_the_record_and_stays_where_a_new_stream_has_put_it_anew(world):
    world.closer.keep(owner())
    world.closer.unmark(MARK)
    await world.closer.flush()
    assert not await world.has_mark()
    world.closer.unmark(MARK)
    world.closer.leave_mark(MARK)
    await world.key_value.write([KvPut(key=MARK, value=b"t")])
    await world.closer.flush()
    assert await world.has_mark()


async def test_what_comes_within_a_moment_is_written_together_but_a_first_record_at_once(world):
    calls = []
    write = world.key_value.write

    async def counted(writes):
        calls.append(len(writes))
        return await write(writes)

    world.key_value.write = counted
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        duties = [group.create_task(duty()) for duty in (world.closer.run, world.closer.run_new)]
        for number in range(20):
            world.closer.keep(owner(number))
            await asyncio.sleep(0)
        world.closer.keep_new(owner(99))
        await asyncio.sleep(0.02)
        assert calls == [1]
        await until(lambda: len(calls) >= 2)
        for duty in duties:
            duty.cancel()
    assert calls == [1, 20]


async def test_what_could_not_be_stored_is_kept_for_the_next_time(world):
    write, refuses = world.key_value.write, ["once"]

    async def full_once(writes):
        if refuses:
            refuses.clear()
            raise StorageFull("asked for by the test")
        return await write(writes)

    world.key_value.write = full_once
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        duties = [group.create_task(duty()) for duty in (world.closer.run, world.closer.run_new)]
        world.closer.keep_new(owner(state=TaskState.COMPLETED))
        await until(lambda: not world.owners.has_kept)
        for duty in duties:
            duty.cancel()
    assert (await world.owners.owner_of(AgentId("a"), TaskId("t0"))).state is TaskState.COMPLETED
