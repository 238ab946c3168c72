"""Whose stream is read by which hub, and who takes up what is left."""

from types import SimpleNamespace

import pytest

from meshway.engine.ports import KvConflict, KvCreate, KvPut, KvWritten
from meshway.gateway.pump_marks import PumpMarks
from meshway.kernel.errors import EngineUnavailable
from meshway.kernel.ids import AgentId, TaskId
from support.mesh_hubs import LOST_MS, MeshRig

A, T = AgentId("a"), TaskId("t/1")


class Closer(SimpleNamespace):
    """Remembers which marks are to go."""

    def __init__(self):
        super().__init__(going=set())

    def leave_mark(self, key):
        self.going.discard(key)

    def unmark(self, key):
        self.going.add(key)


def marks_of(mesh, rig):
    return PumpMarks(mesh.key_value, Closer(), rig.hubs, retention_ms=60_000)


@pytest.fixture
def mesh(clock):
    return MeshRig(clock)


@pytest.fixture
def pair(mesh):
    found = [marks_of(mesh, mesh.add(name)) for name in "ab"]
    mesh.settle()
    return found


async def orphans(marks):
    return [(agent_id, task_id) async for agent_id, task_id, _ in marks.orphans()]


async def test_a_stream_is_elsewhere_as_long_as_its_hub_is_alive(mesh, pair):
    a, b = pair
    await a.write(A, T)
    mark = await b.read(A, T)
    assert (await b.is_elsewhere(mark), await a.is_elsewhere(mark)) == (True, False)
    assert await orphans(b) == []
    mesh.run_for(LOST_MS + 500, "a")
    assert not await b.is_elsewhere(mark)
    assert await orphans(b) == [(A, T)]


async def test_of_two_that_would_take_a_stream_one_has_it(mesh, pair):
    a, b = pair
    c = marks_of(mesh, mesh.add("c"))
    mesh.settle()
    await a.write(A, T)
    mesh.run_for(LOST_MS + 500, "a")
    mark = await b.read(A, T)
    assert [await b.take(mark), await c.take(mark)] == [True, False]
    assert await c.is_elsewhere(await c.read(A, T))
    assert not await b.is_elsewhere(await b.read(A, T))


async def test_a_first_record_takes_the_stream_of_no_other_hub(mesh, pair):
    a, b = pair
    (first,) = await mesh.key_value.write([a.first(A, T)])
    (second,) = await mesh.key_value.write([b.first(A, T)])
    assert isinstance(first, KvWritten)
    assert isinstance(second, KvConflict)
    assert await b.is_elsewhere(await b.read(A, T))


async def test_a_mark_that_is_made_anew_is_not_taken_away(pair):
    a, _ = pair
    a.remove_soon(A, T)
    assert a._closer.going
    await a.write(A, T)
    assert not a._closer.going


async def test_no_mark_is_nobodys(pair):
    assert not await pair[0].is_elsewhere(await pair[0].read(A, T))


@pytest.mark.parametrize("value", [b"t/1", b'{"task":"t/1"}', b'{"task":"t/1","hub":"of-before","v":2,"more":1}'])
async def test_marks_of_before_and_of_hubs_nobody_knows_are_taken_up(mesh, pair, value):
    a, b = pair
    await a.write(A, T)
    mark = await a.read(A, T)
    await mesh.key_value.write([KvPut(key=mark.key, value=value)])
    assert await orphans(b) == [(A, T)]
    assert await b.take(await b.read(A, T))
    assert await a.is_elsewhere(await a.read(A, T))


async def test_orphans_are_found_over_many_pages(mesh, pair):
    a, b = pair
    await mesh.key_value.write([a.put(A, TaskId(f"t{number}")) for number in range(1_100)])
    mesh.run_for(LOST_MS + 500, "a")
    assert len(await orphans(b)) == 1_100


async def test_a_hub_on_its_own_takes_up_every_mark(mesh):
    alone = marks_of(mesh, mesh.add("a", is_shared=False))
    await alone.write(A, T)
    mark = await alone.read(A, T)
    assert not alone.is_shared
    assert not await alone.is_elsewhere(mark)
    assert await alone.take(mark)
    assert await orphans(alone) == [(A, T)]
    assert isinstance(alone.first(A, T), KvPut)
    assert not isinstance(alone.first(A, T), KvCreate)


async def test_a_stream_is_claimed_by_one_hub_and_from_one_that_is_gone(mesh, pair):
    a, b = pair
    assert [await a.claim(A, T), await b.claim(A, T), await a.claim(A, T)] == [True, False, True]
    mesh.run_for(LOST_MS + 500, "a")
    assert await b.claim(A, T)
    mesh.run_for(LOST_MS)
    assert not await a.claim(A, T)


async def test_a_claim_of_which_the_store_never_says_is_given_up(mesh, pair):
    mesh.key_value.undecided = 1_000
    with pytest.raises(EngineUnavailable):
        await pair[0].claim(AgentId("other"), T)


async def test_a_claim_of_which_the_store_says_late_is_ones_own(mesh, pair):
    mesh.key_value.undecided = 2
    assert await pair[0].claim(A, T)
