"""The room of an instance holds over all hubs that share it, whatever they do in which order, but for a slice each."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshway.kernel.errors import TooManyInFlight, UpstreamUnreachable
from meshway.routing.balancer import Balancer
from meshway.routing.settings import RoutingSettings
from meshway.testing.clock import ManualClock
from meshway.testing.registry_fakes import an_agent, an_instance

SETTINGS = RoutingSettings()


class Mesh:
    """Balancers of several hubs, and a bus whose messages come in order, when the test says so."""

    def __init__(self, hubs, capacity):
        self.capacity = capacity
        self.agent = an_agent("a", an_instance("x", capacity=capacity))
        clock = ManualClock()
        self.hubs = [Balancer(clock=clock, settings=SETTINGS, chance=random.Random(n)) for n in range(hubs)]
        for hub in self.hubs:
            hub.share_with(lambda: len(self.hubs))
        self.calls = [0] * hubs
        # What each hub has told and this one has not heard yet.
        self.waiting = {(teller, hearer): [] for teller in range(hubs) for hearer in range(hubs) if teller != hearer}

    @property
    def slice(self):
        return -(-self.capacity // len(self.hubs))

    def begin(self, hub):
        """Whether the call was let through."""
        try:
            self.hubs[hub].pick(self.agent)
        except TooManyInFlight:
            return False
        self.hubs[hub].begin("a", "x")
        self.calls[hub] += 1
        return True

    def end(self, hub):
        if self.calls[hub]:
            self.hubs[hub].end("a", "x")
            self.calls[hub] -= 1

    def tell(self, hub, *, is_whole=False):
        told = self.hubs[hub].loads_to_tell(is_whole=is_whole)
        for (teller, _), waiting in self.waiting.items():
            if teller == hub:
                waiting.append(told)

    def hear(self, hub, most=1_000):
        for (teller, hearer), waiting in self.waiting.items():
            if hearer == hub:
                for told in waiting[:most]:
                    self.hubs[hub].heard_loads(f"hub-{teller}", told)
                del waiting[:most]

    def settle(self):
        for hub in range(len(self.hubs)):
            self.tell(hub)
        for hub in range(len(self.hubs)):
            self.hear(hub)


def do(mesh, verb, hub):
    hub %= len(mesh.hubs)
    match verb:
        case "begin":
            mesh.begin(hub)
        case "burst":
            while mesh.begin(hub):
                pass
        case "end":
            mesh.end(hub)
        case "tell":
            mesh.tell(hub)
        case "whole":
            mesh.tell(hub, is_whole=True)
        case "hear":
            mesh.hear(hub)


HUBS = st.integers(2, 5)
CAPACITIES = st.integers(1, 12)
STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "begin", "burst", "end", "tell", "whole", "hear"]), st.integers(0, 4)),
    max_size=120,
)


@given(HUBS, CAPACITIES, STEPS)
def test_what_is_told_is_heard_at_once_and_the_limit_is_passed_by_a_slice_of_each_other_hub_at_most(
    hubs, capacity, steps
):
    mesh = Mesh(hubs, capacity)
    for verb, hub in steps:
        do(mesh, verb, hub)
        if verb in ("tell", "whole"):
            for other in range(hubs):
                mesh.hear(other)
        assert sum(mesh.calls) <= capacity + (hubs - 1) * mesh.slice


@given(HUBS, CAPACITIES, STEPS)
def test_each_telling_on_its_way_costs_one_slice_more(hubs, capacity, steps):
    mesh = Mesh(hubs, capacity)
    for verb, hub in steps:
        if verb in ("tell", "whole"):
            # The one before arrives first: between two tellings lies more time than the bus takes.
            for other in range(hubs):
                mesh.hear(other)
        do(mesh, verb, hub)
        assert sum(mesh.calls) <= capacity + 2 * (hubs - 1) * mesh.slice


@given(HUBS, CAPACITIES, STEPS)
def test_once_all_is_told_and_heard_nobody_passes_the_limit(hubs, capacity, steps):
    mesh = Mesh(hubs, capacity)
    for verb, hub in steps:
        do(mesh, verb, hub)
    for step in range(3 * hubs):
        mesh.settle()
        before = sum(mesh.calls)
        let_through = mesh.begin(step % hubs)
        assert let_through is (before < capacity)


@given(HUBS, CAPACITIES, STEPS)
def test_all_the_room_can_be_taken_and_given_back(hubs, capacity, steps):
    mesh = Mesh(hubs, capacity)
    for verb, hub in steps:
        do(mesh, verb, hub)
    for hub in range(hubs):
        while mesh.calls[hub]:
            mesh.end(hub)
    mesh.settle()
    assert [hub.in_flight("a", "x") for hub in mesh.hubs] == [0] * hubs
    one = hubs - 1
    for _ in range(capacity):
        assert mesh.begin(one)
        mesh.settle()
    assert not any(mesh.begin(hub) for hub in range(hubs))


@given(HUBS, CAPACITIES, STEPS)
def test_the_calls_of_a_hub_that_is_forgotten_leave_no_trace(hubs, capacity, steps):
    mesh = Mesh(hubs, capacity)
    for verb, hub in steps:
        do(mesh, verb, hub)
    mesh.settle()
    first = mesh.hubs[0]
    for hub in range(1, hubs):
        first.forget_hub(f"hub-{hub}")
    assert first.in_flight("a", "x") == mesh.calls[0]
    while mesh.calls[0]:
        mesh.end(0)
    assert first.in_flight("a", "x") == 0
    assert all(load.hubs is None or not load.hubs.others for load in first._loads.values())


def test_the_first_calls_count_as_part_of_a_slice():
    mesh = Mesh(2, 2)
    let_through = [mesh.begin(hub) for hub in (0, 0, 1, 1)]
    assert let_through == [True, False, True, False]


@pytest.mark.parametrize("capacity", [1, 4, 10])
def test_a_hub_alone_in_its_mesh_has_all_the_room(capacity):
    mesh = Mesh(1, capacity)
    assert [mesh.begin(0) for _ in range(capacity + 1)] == [True] * capacity + [False]


@pytest.mark.parametrize("hubs", [1, 3])
@pytest.mark.parametrize("capacity", [1, 4])
def test_calls_one_after_the_other_are_all_let_through_however_short_they_are(hubs, capacity):
    mesh = Mesh(hubs, capacity)
    for _ in range(10 * capacity):
        assert mesh.begin(0)
        mesh.end(0)


async def test_a_slice_that_is_used_up_is_told_at_once():
    mesh = Mesh(2, 4)
    assert [mesh.begin(0) for _ in range(3)] == [True, True, False]
    # Returns at once: it would wait for a minute else.
    await mesh.hubs[0].wait_to_tell(60)
    mesh.settle()
    assert mesh.begin(0)


def test_whom_another_hub_found_refusing_is_left_alone_here_too():
    clock = ManualClock()
    settings = RoutingSettings(breaker_failures=1, breaker_open_ms=1_000)
    one, other = (Balancer(clock=clock, settings=settings, chance=random.Random(1)) for _ in range(2))
    for hub in (one, other):
        hub.share_with(lambda: 2)
    agent = an_agent("a", an_instance("x"), an_instance("y"))
    one.saw("a", "x", ok=False)
    other.heard_loads("one", one.loads_to_tell(is_whole=False))
    assert {other.pick(agent).id for _ in range(50)} == {"y"}


def test_who_came_back_is_not_left_alone_again_because_another_hub_has_not_tried_it_since():
    clock = ManualClock()
    settings = RoutingSettings(breaker_failures=1, breaker_open_ms=30_000)
    one, other = (Balancer(clock=clock, settings=settings, chance=random.Random(1)) for _ in range(2))
    for hub in (one, other):
        hub.share_with(lambda: 2)
    other.saw("a", "x", ok=False)
    one.heard_loads("other", other.loads_to_tell(is_whole=True))
    clock.advance(1_000)
    back = an_agent("a", an_instance("x", state_since_ms=clock.now_ms()))
    assert one.pick(back).id == "x"
    one.saw("a", "x", ok=True)
    clock.advance(1_000)
    one.heard_loads("other", other.loads_to_tell(is_whole=True))
    assert one.pick(back).id == "x"
    # It refuses anew.
    other.saw("a", "x", ok=False)
    one.heard_loads("other", other.loads_to_tell(is_whole=False))
    with pytest.raises(UpstreamUnreachable):
        one.pick(back)
