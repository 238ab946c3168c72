"""Who is in the mesh: heard, lost, cut off, gone, back; and nobody is blamed by a hub that heard nothing itself."""

import asyncio

import msgspec
import pytest

from meshway.coordination.hubs import MeshHubs
from meshway.coordination.settings import MeshSettings
from meshway.engine.embedded.bus import EmbeddedBus
from meshway.kernel.clock import SystemClock
from support.mesh_hubs import LOST_MS, MeshRig, hub_record
from support.task_clients import until


@pytest.fixture
def mesh(clock):
    return MeshRig(clock)


async def is_ready(rig):
    try:
        async with asyncio.timeout(0.01):
            await rig.hubs.wait_ready()
    except TimeoutError:
        return False
    return True


def test_hubs_that_speak_see_each_other(mesh):
    a, b = mesh.add("a"), mesh.add("b")
    mesh.settle()
    assert a.states() == b.states() == {"a": "up", "b": "up"}
    assert (a.hubs.others(), b.hubs.others()) == (["b"], ["a"])


def test_a_hub_that_falls_silent_is_lost_once_and_not_before_its_time(mesh):
    a = mesh.add("a")
    mesh.add("b")
    mesh.settle()
    mesh.run_for(LOST_MS, "b")
    assert a.hubs.is_alive("b")
    mesh.run_for(500, "b")
    assert not a.hubs.is_alive("b")
    mesh.run_for(5_000, "b")
    assert (a.lost, a.states()["b"], a.hubs.others()) == (["b"], "lost", [])


def test_a_lost_hub_that_speaks_again_is_back_and_may_be_lost_again(mesh):
    a = mesh.add("a")
    mesh.add("b")
    mesh.settle()
    mesh.run_for(3_000, "b")
    mesh.run_for(500)
    assert a.states()["b"] == "up"
    mesh.run_for(3_000, "b")
    assert a.lost == ["b", "b"]


def test_a_hub_that_wakes_blames_nobody_for_its_own_sleep(mesh):
    a, b = mesh.add("a"), mesh.add("b")
    mesh.settle()
    mesh.run_for(60_000, "a")
    a.hubs.look()
    assert (a.lost, b.lost) == ([], ["a"])
    mesh.run_for(LOST_MS * 2)
    assert a.lost == []
    assert a.states() == {"a": "up", "b": "up"}


def test_a_hub_that_does_not_hear_itself_is_cut_off_until_it_does(mesh):
    a = mesh.add("a")
    mesh.add("b")
    assert a.hubs.is_cut_off
    mesh.settle()
    assert not a.hubs.is_cut_off
    a.is_parted = True
    mesh.run_for(LOST_MS)
    assert not a.hubs.is_cut_off
    mesh.run_for(500)
    assert a.hubs.is_cut_off
    assert a.hubs.is_alive("b")
    a.is_parted = False
    mesh.beat()
    assert not a.hubs.is_cut_off
    assert a.lost == []


def test_a_hub_that_is_back_gives_the_others_their_full_time_again(mesh):
    a, b = mesh.add("a"), mesh.add("b")
    mesh.settle()
    a.is_parted = b.is_parted = True
    mesh.run_for(10_000)
    a.is_parted = False
    mesh.run_for(LOST_MS)
    assert a.lost == []
    mesh.run_for(1_000)
    assert a.lost == ["b"]


def test_a_goodbye_is_heard_at_once_and_late_beats_of_it_change_nothing(mesh):
    a, b = mesh.add("a"), mesh.add("b")
    mesh.settle()
    goodbye = msgspec.json.encode(hub_record("b", is_draining=True, is_leaving=True))
    a.hubs.heard(goodbye)
    a.hubs.heard(goodbye)
    assert (a.lost, a.states()["b"], a.hubs.others()) == (["b"], "gone", [])
    stranger = msgspec.json.encode(hub_record("c", is_leaving=True))
    a.hubs.heard(stranger)
    assert "c" not in a.states()
    assert b.states()["b"] == "up"


def test_a_hub_that_is_gone_is_shown_for_a_minute(mesh):
    a = mesh.add("a")
    mesh.add("b")
    mesh.settle()
    mesh.run_for(60_000, "b")
    assert a.states()["b"] == "lost"
    mesh.run_for(1_000, "b")
    assert a.states() == {"a": "up"}
    assert a.lost == ["b"]


def test_a_drain_is_told_with_the_next_beat(mesh):
    a, b = mesh.add("a"), mesh.add("b")
    mesh.settle()
    b.hubs.drain()
    mesh.beat()
    assert a.states() == {"a": "up", "b": "draining"}
    assert a.hubs.is_alive("b")


async def test_who_is_there_is_known_once_all_had_the_time_to_say_so(mesh):
    a = mesh.add("a")
    mesh.beat()
    mesh.run_for(LOST_MS - 500)
    assert not await is_ready(a)
    mesh.run_for(500)
    assert await is_ready(a)


async def test_a_hub_that_hears_nothing_is_never_ready(mesh):
    a = mesh.add("a")
    a.is_parted = True
    mesh.run_for(10_000)
    assert not await is_ready(a)


async def test_a_hub_with_an_engine_of_its_own_is_the_mesh(mesh):
    a = mesh.add("a", is_shared=False)
    assert await is_ready(a)
    assert not a.hubs.is_cut_off
    assert a.states() == {"a": "up"}
    await a.hubs.run()
    await a.hubs.leave()


def test_siblings_are_the_living_ones_of_the_same_port(mesh):
    a = mesh.add("a", group="here")
    mesh.add("b", group="here")
    mesh.add("c", group="there")
    alone = mesh.add("d")
    mesh.settle()
    assert (a.hubs.siblings(), a.hubs.has_group) == (["b"], True)
    assert (alone.hubs.siblings(), alone.hubs.has_group) == ([], False)
    mesh.run_for(3_000, "b")
    assert a.hubs.siblings() == []


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff", b'{"id": 1}', b"[]"])
def test_what_is_no_beat_is_left_alone(mesh, data):
    a = mesh.add("a")
    mesh.settle()
    a.hubs.heard(data)
    assert a.states() == {"a": "up"}


def test_a_beat_of_a_newer_hub_is_read_as_far_as_it_is_known(mesh):
    a = mesh.add("a")
    mesh.settle()
    newer = {**msgspec.to_builtins(hub_record("b")), "v": 2, "colour": "red"}
    a.hubs.heard(msgspec.json.encode(newer))
    assert a.states()["b"] == "up"


async def test_hubs_on_one_bus_find_and_leave_each_other():
    bus = EmbeddedBus()
    settings = MeshSettings(beat_interval_ms=50, lost_after_ms=2_000)
    a, b = (MeshHubs(bus, me=hub_record(name), clock=SystemClock(), settings=settings) for name in "ab")
    lost = []
    a.on_lost(lost.append)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        duties = [group.create_task(hubs.run()) for hubs in (a, b)]
        await a.wait_ready()
        await until(lambda: a.others() == ["b"] and b.others() == ["a"])
        await b.leave()
        await until(lambda: lost == ["b"])
        for duty in duties:
            duty.cancel()


async def test_a_goodbye_that_cannot_be_said_is_no_failure(mesh):
    a = mesh.add("a")
    mesh.bus.close()
    await a.hubs.leave()


async def test_whether_a_hub_is_surely_alive_is_known_once_all_had_the_time_to_say_so(mesh):
    a = mesh.add("a")
    mesh.add("b")
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        answers = [group.create_task(a.hubs.is_surely_alive(name)) for name in ("b", "stranger")]
        await asyncio.sleep(0)
        mesh.beat()
        mesh.run_for(LOST_MS - 500)
        await asyncio.sleep(0)
        assert not any(answer.done() for answer in answers)
        mesh.run_for(500)
    assert [answer.result() for answer in answers] == [True, False]
