"""Duties done once: one owner among all hubs, another when it is lost or leaves, and none that others took over."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from meshway.coordination.duty_leases import DutyRecord
from meshway.engine.ports import KvDelete, KvPut
from meshway.kernel.errors import EngineUnavailable
from support.mesh_hubs import LOST_MS, MeshRig
from support.task_clients import until

SWEEP = "sweep"


class Crew:
    """Hubs that all would do one duty. `at_work`: who does it at this moment; `ever`: everybody who began."""

    def __init__(self, mesh):
        self.mesh = mesh
        self.at_work = []
        self.ever = []

    async def sweep(self, rig):
        self.at_work.append(rig.name)
        self.ever.append(rig.name)
        try:
            await asyncio.Event().wait()
        finally:
            self.at_work.remove(rig.name)

    async def until(self, condition):
        await until(condition, within_s=10)

    async def until_one(self, *, but=()):
        """The one owner, known to all."""

        def agreed():
            owners = {rig.leases.all()[SWEEP].hub for rig in self.mesh.rigs.values() if SWEEP in rig.leases.all()}
            return len(self.at_work) == 1 and owners == set(self.at_work) and self.at_work[0] not in but

        await self.until(agreed)
        return self.mesh.rigs[self.at_work[0]]


@asynccontextmanager
async def crew_of(mesh, *names):
    crew = Crew(mesh)
    rigs = [mesh.add(name) for name in names]
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        duties = [group.create_task(rig.leases.follow()) for rig in rigs]
        duties += [group.create_task(rig.leases.run(SWEEP, lambda rig=rig: crew.sweep(rig))) for rig in rigs]
        mesh.settle()
        yield crew
        for duty in duties:
            duty.cancel()


@pytest.fixture
def mesh(clock):
    return MeshRig(clock)


async def test_of_three_hubs_one_does_it(mesh):
    async with crew_of(mesh, "a", "b", "c") as crew:
        owner = await crew.until_one()
        assert [rig.name for rig in mesh.rigs.values() if rig.leases.owns(SWEEP)] == [owner.name]
        assert crew.ever == [owner.name]
        assert owner.leases.all()[SWEEP].since_ms == mesh.clock.now_ms()


async def test_nobody_does_anything_before_it_is_known_who_is_there(mesh):
    crew, a = Crew(mesh), mesh.add("a")
    async with asyncio.TaskGroup() as group:
        duties = [group.create_task(a.leases.follow()), group.create_task(a.leases.run(SWEEP, lambda: crew.sweep(a)))]
        for _ in range(20):
            await asyncio.sleep(0)
        assert mesh.key_value.writes == []
        mesh.settle()
        await until(lambda: crew.at_work == ["a"])
        for duty in duties:
            duty.cancel()


async def test_what_a_lost_hub_did_moves_and_it_stops_when_it_learns_of_it(mesh):
    async with crew_of(mesh, "a", "b", "c") as crew:
        first = await crew.until_one()
        # Frozen: it goes on with its duty and does not know better.
        mesh.run_for(LOST_MS + 500, first.name)
        second = await crew.until_one(but=[first.name])
        assert not first.leases.owns(SWEEP)
        mesh.run_for(3_000)
        assert await crew.until_one() is second
        assert crew.ever == [first.name, second.name]


async def test_a_hub_that_is_cut_off_does_nothing_and_takes_nothing(mesh):
    async with crew_of(mesh, "a") as crew:
        a = await crew.until_one()
        a.is_parted = True
        mesh.run_for(LOST_MS + 500)
        await crew.until(lambda: not crew.at_work)
        assert not a.leases.owns(SWEEP)
        writes = len(mesh.key_value.writes)
        await a.leases._try(SWEEP)
        assert len(mesh.key_value.writes) == writes
        a.is_parted = False
        mesh.beat()
        await crew.until_one()


async def test_what_a_hub_leaves_behind_is_taken_at_once_and_it_takes_nothing_more(mesh):
    async with crew_of(mesh, "a", "b") as crew:
        first = await crew.until_one()
        await first.leases.leave()
        second = await crew.until_one(but=[first.name])
        # Even if the other one is lost now.
        mesh.run_for(LOST_MS + 500, second.name)
        await first.leases._try(SWEEP)
        assert not first.leases.owns(SWEEP)


async def test_a_duty_that_another_took_is_given_up(mesh):
    async with crew_of(mesh, "a", "b") as crew:
        first = await crew.until_one()
        other = next(name for name in mesh.rigs if name != first.name)
        record = msgspec.json.encode(DutyRecord(hub=other, since_ms=0))
        await mesh.key_value.write([KvPut(key=f"duties.{SWEEP}", value=record)])
        assert (await crew.until_one(but=[first.name])).name == other


async def test_a_record_that_an_operator_deleted_is_made_again(mesh):
    async with crew_of(mesh, "a", "b") as crew:
        await crew.until_one()
        await mesh.key_value.write([KvDelete(key=f"duties.{SWEEP}")])
        await crew.until(lambda: len(crew.ever) == 2)
        await crew.until_one()


async def test_the_duty_of_a_hub_of_before_is_taken_over(mesh):
    record = msgspec.json.encode(DutyRecord(hub="long-gone", since_ms=0))
    await mesh.key_value.write([KvPut(key=f"duties.{SWEEP}", value=record)])
    async with crew_of(mesh, "a", "b") as crew:
        assert (await crew.until_one()).name in "ab"


async def test_a_store_that_is_away_takes_no_duty_from_its_owner_and_gives_none(mesh):
    async with crew_of(mesh, "a", "b") as crew:
        first = await crew.until_one()
        mesh.key_value.fail_with = EngineUnavailable("asked for by the test")
        mesh.key_value.lose_watches()
        mesh.run_for(1_000)
        assert crew.at_work == [first.name]
        mesh.run_for(LOST_MS + 500, first.name)
        other = next(rig for rig in mesh.rigs.values() if rig is not first)
        await other.leases._try(SWEEP)
        assert not other.leases.owns(SWEEP)
        mesh.key_value.fail_with = None
        assert await crew.until_one(but=[first.name]) is other


async def test_a_failure_of_the_duty_is_told_and_the_hub_keeps_it_for_another_try(mesh):
    a = mesh.add("a")

    async def broken():
        raise ValueError("asked for by the test")

    crew = Crew(mesh)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        follow = group.create_task(a.leases.follow())
        mesh.settle()
        with pytest.raises(ExceptionGroup) as failure:
            await a.leases.run(SWEEP, broken)
        assert failure.group_contains(ValueError)
        assert a.leases.owns(SWEEP)
        again = group.create_task(a.leases.run(SWEEP, lambda: crew.sweep(a)))
        await until(lambda: crew.at_work == ["a"])
        again.cancel()
        follow.cancel()


async def test_a_hub_with_an_engine_of_its_own_does_everything_and_writes_nothing(mesh):
    a, done = mesh.add("a", is_shared=False), []

    async def duty():
        done.append("a")

    await a.leases.follow()
    await a.leases.run(SWEEP, duty)
    assert (done, a.leases.owns(SWEEP), mesh.key_value.writes) == (["a"], True, [])
    await a.leases.leave()


async def test_a_record_that_cannot_be_read_is_nobodys_and_taken(mesh):
    await mesh.key_value.write([KvPut(key=f"duties.{SWEEP}", value=b"not json")])
    async with crew_of(mesh, "a") as crew:
        await crew.until_one()
