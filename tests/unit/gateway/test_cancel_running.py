"""What other hubs say must end, ends in the hands of this one: with stops, and with agents that are removed."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from meshway.gateway.cancel_running import CancelRunningTasks
from meshway.kernel.errors import EngineUnavailable, UpstreamUnreachable
from meshway.kernel.ids import AgentId, InstanceId, PrincipalId, TaskId
from meshway.tasks.stops import StopBook
from meshway.tasks.values import TaskOwner, TaskState
from support.task_clients import until
from support.task_rig import ADMIN, COUNTER, task_rig

OTHER = AgentId("other")


class Pumps:
    """Streams that are read here."""

    def __init__(self, *owners):
        self.owners = list(owners)

    def owners_of(self, agent_id):
        return [owner for owner in self.owners if agent_id in (None, owner.agent_id)]


@pytest.fixture
async def rig(tmp_path, clock):
    async with task_rig(tmp_path, clock) as rig:
        yield rig


def running(rig, pumps=None, cancel=None):
    return CancelRunningTasks(rig.places, cancel or rig.cancelling, pumps or Pumps())


@asynccontextmanager
async def on_duty(work):
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        duty = group.create_task(work.run())
        await asyncio.sleep(0)
        yield
        duty.cancel()


async def test_what_an_instance_works_on_here_ends_when_its_agent_is_removed_elsewhere(rig):
    task_id = await rig.submit()
    handed = await rig.take_one()
    async with on_duty(running(rig)):
        await rig.agents.change(COUNTER, lambda _: None)
        await until(lambda: rig.told == [(handed.claim.delivery_id, "its agent was removed")])
    assert (await rig.states_of(task_id))[-1] == "CANCELED"


@pytest.mark.parametrize("agent_id", [COUNTER, None])
async def test_what_an_instance_works_on_here_ends_with_a_stop_of_another_hub(rig, agent_id):
    task_id = await rig.submit()
    handed = await rig.take_one()
    elsewhere = StopBook(rig.engine.key_value, rig.clock)
    async with on_duty(running(rig)):
        await elsewhere.stop(agent_id, ADMIN, reason="enough")
        await until(lambda: rig.told == [(handed.claim.delivery_id, "stopped by an operator")])
    assert (await rig.states_of(task_id))[-1] == "CANCELED"


async def test_a_stop_of_another_agent_and_the_end_of_a_stop_cancel_nothing(rig):
    await rig.submit()
    handed = await rig.take_one()
    work = running(rig)
    async with on_duty(work):
        await rig.stops.stop(OTHER, ADMIN, reason="")
        await rig.stops.resume(OTHER, check=lambda stop: None)
        await until(lambda: not work._work.is_set() and not work._to_end)
    assert not handed.claim.is_over


async def test_what_waits_in_the_inbox_is_held_and_not_cancelled(rig):
    task_id = await rig.submit()
    await running(rig).end_held(None, reason="enough")
    assert await rig.states_of(task_id) == ["SUBMITTED"]


class Cancel(SimpleNamespace):
    """Agents with a URL: the first one asked does not answer."""

    def __init__(self):
        super().__init__(relayed=[], children=[])

    async def cancel_relayed(self, owner):
        self.relayed.append(owner.task_id)
        if len(self.relayed) == 1:
            raise UpstreamUnreachable("asked for by the test")

    async def cancel_children(self, owner, *, reason):
        self.children.append((owner.task_id, reason))


def relayed(number):
    return TaskOwner(
        task_id=TaskId(f"r{number}"),
        context_id="c",
        agent_id=COUNTER,
        instance_id=InstanceId("one"),
        principal_id=PrincipalId("ann"),
        state=TaskState.WORKING,
        created_at_ms=1,
        status_at_ms=1,
    )


async def test_streams_read_here_are_cancelled_at_their_agents_and_one_that_fails_holds_up_no_other(rig):
    owners = [relayed(number) for number in range(3)]
    for owner in owners:
        rig.owners.keep(owner)
    cancel = Cancel()
    await running(rig, Pumps(*owners), cancel).end_held(COUNTER, reason="enough")
    assert cancel.relayed == ["r0", "r1", "r2"]
    assert cancel.children == [("r1", "enough"), ("r2", "enough")]


async def test_a_record_that_cannot_be_read_holds_up_no_other(rig):
    owners = [relayed(number) for number in range(2)]
    read, refused = rig.owners.owner_of, []

    async def failing_once(agent_id, task_id):
        if not refused:
            refused.append(task_id)
            raise EngineUnavailable("asked for by the test")
        return await read(agent_id, task_id)

    rig.owners.keep(owners[1])
    rig.owners.owner_of = failing_once
    cancel = SimpleNamespace(relayed=[])

    async def cancel_relayed(owner):
        cancel.relayed.append(owner.task_id)

    async def cancel_children(owner, *, reason):
        pass

    cancel.cancel_relayed, cancel.cancel_children = cancel_relayed, cancel_children
    await running(rig, Pumps(*owners), cancel).end_held(None, reason="enough")
    assert (refused, cancel.relayed) == (["r0"], ["r1"])
