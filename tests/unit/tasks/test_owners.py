"""Whose task is whose: first sight, state, take-over, retention, lists."""

import asyncio

import msgspec
import pytest

from meshway.engine.ports import Durability, KvPut
from meshway.kernel.errors import EngineUnavailable, InvalidRequest, StoreCorrupt
from meshway.kernel.ids import AgentId, InstanceId, PrincipalId
from meshway.kernel.principal import LOCAL_OPERATOR, Principal, Scope
from meshway.tasks.owners import ListFilter, TaskOwners
from meshway.tasks.settings import TaskSettings
from meshway.tasks.values import TaskSeen, TaskState
from meshway.testing.clock import ManualClock
from meshway.testing.fake_key_value import FakeKeyValue

ECHO = AgentId("echo")
ANN = Principal(PrincipalId("ann"), frozenset({Scope("call")}))
BOB = Principal(PrincipalId("bob"), frozenset({Scope("call")}))
DAY_MS = 86_400_000


class World:
    def __init__(self, clock, **settings):
        self.clock = clock
        self.key_value = FakeKeyValue(clock)
        self.cached = settings.pop("owners_cached", 10_000)
        self.settings = TaskSettings(**settings)
        self.owners = TaskOwners(self.key_value, settings=self.settings, clock=ManualClock(), owners_cached=self.cached)

    def restart(self):
        self.owners = TaskOwners(self.key_value, settings=self.settings, clock=ManualClock())

    async def saw(self, task_id="t", state=TaskState.WORKING, *, who=ANN, agent_id=ECHO, instance="one", **fields):
        seen = TaskSeen(task_id=task_id, context_id=fields.pop("context_id", "c"), state=state, **fields)
        await self.owners.record(
            seen,
            agent_id=agent_id,
            instance_id=InstanceId(instance),
            principal_id=who.id,
            now_ms=self.clock.now_ms(),
        )

    async def owner(self, task_id="t"):
        return await self.owners.owner_of(ECHO, task_id)

    async def listed(self, who=ANN, **query):
        return await self.owners.list_owned(ECHO, who, ListFilter(**query))


@pytest.fixture
def world(clock):
    return World(clock)


async def test_first_sight_is_one_lazy_write_and_the_same_state_again_none(world):
    await world.saw()
    for _ in range(10):
        await world.saw()
    assert len(world.key_value.writes) == 1
    assert world.key_value.writes[0].durability is Durability.LAZY
    owner = await world.owner()
    assert (owner.principal_id, owner.instance_id, owner.context_id) == ("ann", "one", "c")


async def test_it_is_stored_when_record_returns(world):
    await world.saw()
    world.restart()
    assert (await world.owner()).principal_id == "ann"


async def test_a_change_of_state_is_one_write_and_keeps_everything_else(world):
    await world.saw()
    await world.saw(state=TaskState.COMPLETED, who=BOB, instance="two", context_id="other")
    owner = await world.owner()
    assert owner.state is TaskState.COMPLETED
    assert (owner.principal_id, owner.instance_id, owner.context_id) == ("ann", "one", "c")
    assert len(world.key_value.writes) == 2


@pytest.mark.parametrize("forgotten", [False, True])
async def test_a_task_id_that_turns_up_for_another_principal_stays_its_first_owners(world, forgotten):
    await world.saw(who=ANN)
    if forgotten:
        world.restart()
    await world.saw(who=BOB)
    assert (await world.owner()).principal_id == "ann"
    world.restart()
    assert (await world.owner()).principal_id == "ann"


async def test_two_principals_at_the_same_moment_make_one_owner(world):
    async with asyncio.TaskGroup() as group:
        group.create_task(world.saw(who=ANN))
        group.create_task(world.saw(who=BOB))
    first = (await world.owner()).principal_id
    world.restart()
    assert (await world.owner()).principal_id == first


async def test_the_same_id_at_another_agent_is_another_task(world):
    await world.saw(who=ANN)
    await world.saw(who=BOB, agent_id=AgentId("other"))
    assert (await world.owner()).principal_id == "ann"
    assert (await world.owners.owner_of(AgentId("other"), "t")).principal_id == "bob"


async def test_a_finished_task_keeps_its_state(world):
    await world.saw(state=TaskState.COMPLETED)
    await world.saw(state=TaskState.WORKING)
    assert (await world.owner()).state is TaskState.COMPLETED


async def test_late_news_is_ignored_but_an_end_never(world):
    now = world.clock.now_ms()
    await world.saw(state=TaskState.INPUT_REQUIRED, timestamp_ms=now)
    await world.saw(state=TaskState.WORKING, timestamp_ms=now - 1_000)
    assert (await world.owner()).state is TaskState.INPUT_REQUIRED
    await world.saw(state=TaskState.FAILED, timestamp_ms=now - 1_000)
    assert (await world.owner()).state is TaskState.FAILED


@pytest.mark.parametrize("stamp", [10**17, -5])
async def test_an_agents_mad_clock_does_not_leave_the_calendar(world, stamp):
    await world.saw(timestamp_ms=stamp)
    assert 0 <= (await world.owner()).status_at_ms <= world.clock.now_ms() + DAY_MS


@pytest.mark.parametrize("task_id", ["a.b.c", "täsk", "", "x" * 5_000, "*", ">", "sp ace/=\n"])
async def test_any_task_id_can_be_kept(world, task_id):
    await world.saw(task_id=task_id)
    world.restart()
    assert (await world.owner(task_id)).task_id == task_id
    assert len(world.key_value.writes[0].key) < 300
    assert (await world.owner(task_id + "x")) is None


@pytest.mark.parametrize(("state", "days"), [(TaskState.COMPLETED, 7), (TaskState.WORKING, 30)])
async def test_records_run_out_after_their_retention_and_not_before(world, state, days):
    await world.saw(state=state)
    world.restart()
    world.clock.advance(days * DAY_MS - 2_000)
    assert await world.owner() is not None
    world.restart()
    world.clock.advance(4_000)
    assert await world.owner() is None


async def test_a_change_of_state_starts_the_retention_again(world):
    await world.saw()
    world.clock.advance(29 * DAY_MS)
    await world.saw(state=TaskState.INPUT_REQUIRED)
    world.clock.advance(29 * DAY_MS)
    world.restart()
    assert await world.owner() is not None


async def test_a_record_that_ran_out_under_a_change_begins_again_with_its_owner(world):
    await world.saw()
    world.clock.advance(31 * DAY_MS)
    await world.saw(state=TaskState.COMPLETED, who=BOB)
    world.restart()
    assert ((await world.owner()).principal_id, (await world.owner()).state) == ("ann", TaskState.COMPLETED)


@pytest.mark.parametrize("state", [None, TaskState.COMPLETED])
async def test_a_write_of_unknown_outcome_is_repeated(world, state):
    if state is not None:
        await world.saw()
    world.key_value.undecided = 3
    await world.saw(state=state or TaskState.WORKING)
    world.restart()
    assert (await world.owner()).state is (state or TaskState.WORKING)


async def test_a_store_that_fails_is_said_before_the_id_is_shown(world):
    world.key_value.fail_with = EngineUnavailable("gone")
    with pytest.raises(EngineUnavailable):
        await world.saw()
    world.key_value.fail_with = None
    world.key_value.undecided = 1_000
    with pytest.raises(EngineUnavailable):
        await world.saw()


async def test_memory_is_bounded_and_what_fell_out_is_read_again(clock):
    world = World(clock, owners_cached=10)
    for number in range(100):
        await world.saw(task_id=f"t{number}")
    assert len(world.owners._remembered) == 10
    assert (await world.owner("t0")).principal_id == "ann"


async def test_a_damaged_record_is_named(world):
    await world.key_value.write([KvPut(key="tasks.echo.t", value=b"{")])
    with pytest.raises(StoreCorrupt, match=r"tasks\.echo\.t"):
        await world.owner()


async def fill(world, count=25):
    for number in range(count):
        world.clock.advance(1_000)
        await world.saw(task_id=f"t{number:02}", who=BOB if number % 5 == 0 else ANN, context_id=f"c{number % 2}")


async def test_everybody_sees_their_own_tasks_and_an_admin_all(world):
    await fill(world)
    mine = await world.listed(ANN, page_size=100)
    assert {owner.principal_id for owner in mine.tasks} == {"ann"}
    assert (mine.total_size, mine.next_page_token) == (20, "")
    assert (await world.listed(BOB)).total_size == 5
    assert (await world.listed(LOCAL_OPERATOR)).total_size == 25


async def test_lists_are_latest_status_first(world):
    await fill(world, 10)
    world.clock.advance(1_000)
    await world.saw(task_id="t03", state=TaskState.COMPLETED)
    order = [owner.task_id for owner in (await world.listed(LOCAL_OPERATOR)).tasks]
    assert order == ["t03", "t09", "t08", "t07", "t06", "t05", "t04", "t02", "t01", "t00"]


async def test_filters_by_context_state_and_time(world):
    await fill(world, 10)
    await world.saw(task_id="t04", state=TaskState.COMPLETED)
    assert (await world.listed(LOCAL_OPERATOR, context_id="c0")).total_size == 5
    assert [o.task_id for o in (await world.listed(ANN, state=TaskState.COMPLETED)).tasks] == ["t04"]
    since = (await world.owner("t08")).status_at_ms
    assert {o.task_id for o in (await world.listed(ANN, status_after_ms=since)).tasks} == {"t08", "t09", "t04"}


async def test_pages_repeat_none_although_tasks_begin_and_move_between(world):
    await fill(world, 20)
    first = await world.listed(LOCAL_OPERATOR, page_size=8)
    await world.saw(task_id="new")
    await world.saw(task_id=first.tasks[-1].task_id, state=TaskState.COMPLETED)
    second = await world.listed(LOCAL_OPERATOR, page_size=8, page_token=first.next_page_token)
    third = await world.listed(LOCAL_OPERATOR, page_size=8, page_token=second.next_page_token)
    everything = [owner.task_id for page in (first, second, third) for owner in page.tasks]
    assert everything == [f"t{number:02}" for number in range(19, -1, -1)]
    assert (second.total_size, third.next_page_token) == (21, "")


async def test_tasks_of_one_moment_are_paged_by_id(world):
    for number in range(7):
        await world.saw(task_id=f"t{number}")
    tokens, seen = "", []
    for _ in range(4):
        page = await world.listed(page_size=2, page_token=tokens or None)
        tokens = page.next_page_token
        seen += [owner.task_id for owner in page.tasks]
    assert seen == [f"t{number}" for number in range(7)]


async def test_a_list_over_several_pages_of_the_store_is_whole(world):
    for number in range(2_300):
        await world.saw(task_id=f"t{number:05}", timestamp_ms=world.clock.now_ms() - number)
    page = await world.listed(page_size=3)
    assert (page.total_size, [owner.task_id for owner in page.tasks]) == (2_300, ["t00000", "t00001", "t00002"])


@pytest.mark.parametrize(
    ("query", "field"),
    [({"page_size": 0}, "pageSize"), ({"page_size": 101}, "pageSize"), ({"page_token": "x"}, "pageToken")],
)
async def test_wrong_paging_is_named(world, query, field):
    with pytest.raises(InvalidRequest) as refused:
        await world.listed(**query)
    assert refused.value.fields[0].field == field


async def test_records_of_a_newer_hub_can_be_read(world):
    await world.saw()
    (entry,) = await world.key_value.get(["tasks.echo.t"])
    newer = msgspec.json.decode(entry.value) | {"from_the_future": 1}
    await world.key_value.write([KvPut(key="tasks.echo.t", value=msgspec.json.encode(newer))])
    world.restart()
    assert (await world.owner()).principal_id == "ann"


# Shown before they are stored


def seen(state, task_id="t", **more):
    return TaskSeen(task_id=task_id, context_id="c", state=state, **more)


async def test_what_is_kept_while_others_are_written_has_its_own_time(world):
    """Records come faster than they are written, for as long as it takes."""
    await world.saw("0")
    template = await world.owner("0")
    write, kept = world.key_value.write, []

    async def keep_another(writes):
        kept.append(msgspec.structs.replace(template, task_id=f"more-{len(kept)}"))
        world.owners.keep(kept[-1])
        return await write(writes)

    world.key_value.write = keep_another
    world.owners.keep(msgspec.structs.replace(template, task_id="first"))
    for _ in range(50):
        await world.owners.write_kept()
    assert len(kept) == 50
    await world.saw("more-49", TaskState.COMPLETED)
    assert (await world.owner("more-49")).state is TaskState.COMPLETED


async def test_a_task_that_has_ended_does_not_go_on_whatever_is_kept_of_it(world):
    await world.saw()
    before = await world.owner()
    await world.saw(state=TaskState.COMPLETED)
    # Who reads its stream has not heard of the answer that said so.
    assert world.owners.keep_status(before, seen(TaskState.WORKING), 5).state is TaskState.COMPLETED
    world.owners.keep(before)
    await world.owners.write_kept()
    world.restart()
    assert (await world.owner()).state is TaskState.COMPLETED


async def test_late_news_is_not_kept(world):
    await world.saw(state=TaskState.WORKING, timestamp_ms=world.clock.now_ms())
    before = await world.owner()
    late = seen(TaskState.INPUT_REQUIRED, timestamp_ms=world.clock.now_ms() - 1)
    assert world.owners.keep_status(before, late, world.clock.now_ms()) is before
    assert not world.owners.has_kept


async def test_a_record_that_is_kept_hides_no_namesake_of_another_agent(world):
    other = AgentId("other")
    await world.saw()
    await world.saw(agent_id=other, who=BOB)
    world.owners.keep_status(await world.owner(), seen(TaskState.INPUT_REQUIRED), 5)
    found = await world.owners.find([ECHO, other], "t")
    assert [(each.agent_id, each.state) for each in found] == [
        (ECHO, TaskState.INPUT_REQUIRED),
        (other, TaskState.WORKING),
    ]


async def test_what_goes_along_is_written_with_the_record_and_without_one(world):
    mark = KvPut(key="pumps.echo.t", value=b"t", durability=Durability.LAZY)
    await world.owners.record(
        seen(TaskState.WORKING),
        agent_id=ECHO,
        instance_id=InstanceId("one"),
        principal_id=ANN.id,
        now_ms=1,
        along=[mark],
    )
    assert len(world.key_value.writes) == 2
    await world.owners.write_kept([mark])
    assert len(world.key_value.writes) == 3
