"""The live picture: own writes, watches, search, paging, change feed."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from meshway.engine.ports import KvPut
from meshway.kernel.errors import EngineUnavailable, InvalidRequest
from meshway.kernel.ids import AgentId
from meshway.registry.agent_store import AgentStore
from meshway.registry.directory import Directory, PictureAnew
from meshway.registry.search import AgentQuery
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import AgentState, Skill
from meshway.testing.fake_key_value import FakeKeyValue
from meshway.testing.registry_fakes import an_agent, an_instance, card_facts


@asynccontextmanager
async def running(directory):
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        duty = group.create_task(directory.run())
        await directory.wait_ready()
        yield
        duty.cancel()


async def until(condition):
    for _ in range(5_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came true")


async def take(changes, count):
    async with asyncio.timeout(5):
        return [await anext(changes) for _ in range(count)]


def world(**settings):
    key_value = FakeKeyValue()
    directory = Directory(key_value, settings=RegistrySettings(**settings))
    return key_value, directory, AgentStore(key_value, directory)


async def put(store, agent):
    await store.change(agent.id, lambda _: agent)


async def remove(store, agent_id):
    await store.change(AgentId(agent_id), lambda _: None)


async def test_a_write_is_visible_before_it_returns_even_without_a_watch():
    _, directory, store = world()
    await put(store, an_agent("echo"))
    assert directory.get("echo").id == "echo"
    await remove(store, "echo")
    assert directory.get("echo") is None


async def test_a_hub_that_starts_knows_what_was_stored():
    key_value, _, store = world()
    await put(store, an_agent("echo"))
    later = Directory(key_value, settings=RegistrySettings())
    async with running(later):
        assert later.get("echo") == an_agent("echo")


async def test_another_hubs_writes_arrive_through_the_watch():
    key_value, directory, _ = world()
    other = AgentStore(key_value, Directory(key_value, settings=RegistrySettings()))
    async with running(directory):
        await put(other, an_agent("echo"))
        await until(lambda: directory.get("echo") is not None)
        await remove(other, "echo")
        await until(lambda: directory.get("echo") is None)


async def test_a_late_echo_of_an_older_write_changes_nothing():
    key_value, directory, store = world()
    await put(store, an_agent("echo"))
    (old,) = await key_value.get(["agents.echo"])
    await remove(store, "echo")
    directory.apply(old)
    assert directory.get("echo") is None
    await put(store, an_agent("echo", an_instance("two")))
    directory.apply(old)
    assert directory.get("echo").instances[0].id == "two"


async def test_what_was_deleted_while_the_watch_was_lost_goes_when_it_is_back():
    key_value, directory, store = world()
    other = AgentStore(key_value, Directory(key_value, settings=RegistrySettings()))
    await put(store, an_agent("echo"))
    async with running(directory):
        key_value.lose_watches()
        await remove(other, "echo")
        await put(other, an_agent("new"))
        assert directory.get("echo") is not None
        await until(lambda: directory.get("echo") is None and directory.get("new") is not None)


async def test_an_engine_that_fails_costs_no_agent():
    key_value, directory, store = world()
    await put(store, an_agent("echo"))
    async with running(directory):
        key_value.fail_with = EngineUnavailable("gone")
        key_value.lose_watches()
        await asyncio.sleep(0)
        assert directory.get("echo") is not None
        key_value.fail_with = None
        await put(store, an_agent("later"))
        assert directory.get("later") is not None


async def test_an_unreadable_record_hides_only_itself():
    key_value, _, store = world()
    await put(store, an_agent("echo"))
    await key_value.write([KvPut(key="agents.broken", value=b"{")])
    later = Directory(key_value, settings=RegistrySettings())
    async with running(later):
        assert later.get("echo") is not None
        assert later.get("broken") is None


async def test_unknown_fields_of_a_newer_hub_are_read_over():
    key_value, _, _ = world()
    document = msgspec.json.decode(msgspec.json.encode(an_agent("echo"))) | {"from_the_future": 1}
    await key_value.write([KvPut(key="agents.echo", value=msgspec.json.encode(document))])
    later = Directory(key_value, settings=RegistrySettings())
    async with running(later):
        assert later.get("echo") == an_agent("echo")


def skilled(agent_id, name, *, description="", skills=(), **fields):
    return an_agent(agent_id, card=card_facts(name, description=description, skills=skills), **fields)


async def filled(*agents):
    _, directory, store = world()
    for agent in agents:
        await put(store, agent)
    return directory


def ids(page):
    return [agent.id for agent in page.items]


async def test_filters_by_tag_skill_label_and_state_all_hold():
    weather = Skill(id="forecast", name="Weather forecast", description="Rain or sun", tags=("Meteo", "eu"))
    directory = await filled(
        skilled("rain", "Rain", skills=(weather,), instances=(an_instance("a", labels={"zone": "eu", "gpu": "1"}),)),
        skilled(
            "sun", "Sun", skills=(weather,), instances=(an_instance("b", AgentState.OFFLINE, labels={"zone": "us"}),)
        ),
        skilled("other", "Other"),
    )
    assert ids(directory.find(AgentQuery(tag="meteo"))) == ["rain", "sun"]
    assert ids(directory.find(AgentQuery(skill="WEATHER forecast"))) == ["rain", "sun"]
    assert ids(directory.find(AgentQuery(skill="forecast", labels=["zone=eu"]))) == ["rain"]
    assert ids(directory.find(AgentQuery(labels=["zone"], state=AgentState.OFFLINE))) == ["sun"]
    assert ids(directory.find(AgentQuery(labels=["zone=eu", "gpu=2"]))) == []


async def test_labels_must_all_be_on_one_instance():
    directory = await filled(
        an_agent("a", an_instance("x", labels={"zone": "eu"}), an_instance("y", labels={"gpu": "1"}))
    )
    assert ids(directory.find(AgentQuery(labels=["zone=eu", "gpu=1"]))) == []


async def test_text_search_ranks_the_name_over_skills_over_the_description():
    skill = Skill(id="s", name="Invoice check", description="", tags=())
    directory = await filled(
        skilled("prose", "Prose", description="knows an invoice when it sees one"),
        skilled("skill", "Skill", skills=(skill,)),
        skilled("named", "Invoice"),
        skilled("nothing", "Nothing"),
    )
    assert ids(directory.find(AgentQuery(q="invoice"))) == ["named", "skill", "prose"]
    assert ids(directory.find(AgentQuery(q="INVOICE sees"))) == ["prose"]
    assert ids(directory.find(AgentQuery(q="invoice nowhere"))) == []


async def test_pages_cover_everything_once_although_agents_come_and_go_between():
    _, directory, store = world()
    for number in range(10):
        await put(store, an_agent(f"a{number}"))
    first = directory.find(AgentQuery(limit=4))
    await remove(store, "a3")
    await put(store, an_agent("a00"))
    second = directory.find(AgentQuery(limit=4, cursor=first.next_cursor))
    third = directory.find(AgentQuery(limit=4, cursor=second.next_cursor))
    assert ids(first) + ids(second) + ids(third) == [f"a{number}" for number in range(10)]
    assert third.next_cursor is None


async def test_ranked_pages_go_on_in_rank_order():
    directory = await filled(*(skilled(f"b{n}", "Best" if n % 2 else "X", description="best") for n in range(6)))
    whole = ids(directory.find(AgentQuery(q="best")))
    first = directory.find(AgentQuery(q="best", limit=4))
    rest = directory.find(AgentQuery(q="best", limit=4, cursor=first.next_cursor))
    assert ids(first) + ids(rest) == whole
    assert whole[:3] == ["b1", "b3", "b5"]


@pytest.mark.parametrize("cursor", ["x", "!!", "YWJj", "LTE6YQ"])
async def test_a_cursor_that_is_none_of_ours_is_named(cursor):
    directory = await filled(an_agent("a"))
    with pytest.raises(InvalidRequest) as refused:
        directory.find(AgentQuery(cursor=cursor))
    assert refused.value.fields[0].field == "cursor"


async def test_a_limit_out_of_range_is_named():
    directory = await filled()
    with pytest.raises(InvalidRequest) as refused:
        directory.find(AgentQuery(limit=0))
    assert refused.value.fields[0].field == "limit"


async def test_a_watch_gives_everything_present_then_what_happens():
    _, directory, store = world()
    await put(store, an_agent("a"))
    await put(store, an_agent("b"))
    changes = directory.changes()
    begun, *present = await take(changes, 3)
    assert begun == PictureAnew()
    assert [c.agent_id for c in present] == ["a", "b"]
    await remove(store, "a")
    (gone,) = await take(changes, 1)
    assert (gone.agent_id, gone.agent) == ("a", None)


async def test_a_resumed_watch_gives_the_present_value_of_what_changed_and_nothing_else():
    _, directory, store = world()
    for name in "abc":
        await put(store, an_agent(name))
    seen = (await take(directory.changes(), 4))[-1].sequence
    await put(store, an_agent("a", an_instance("x")))
    await put(store, an_agent("a", an_instance("y")))
    await remove(store, "b")
    resumed = await take(directory.changes(seen), 2)
    assert [(c.agent_id, c.agent and c.agent.instances[0].id) for c in resumed] == [("a", "y"), ("b", None)]


async def test_a_watch_resumed_too_late_gets_everything_present_again():
    _, directory, store = world(removals_kept=16)
    await put(store, an_agent("stays"))
    old = directory.version
    for number in range(40):
        await put(store, an_agent(f"x{number}"))
        await remove(store, f"x{number}")
    for position in (old, directory.version + 5):
        begun, first = await take(directory.changes(position), 2)
        assert (begun, first.agent_id) == (PictureAnew(), "stays")


async def test_a_slow_reader_that_missed_forgotten_removals_gets_the_whole_picture():
    _, directory, store = world(removals_kept=16)
    await put(store, an_agent("stays"))
    changes = directory.changes()
    await take(changes, 2)
    for number in range(40):
        await put(store, an_agent(f"x{number}"))
        await remove(store, f"x{number}")
    begun, again = await take(changes, 2)
    assert (begun, again.agent_id) == (PictureAnew(), "stays")


async def test_a_slow_reader_is_told_to_forget_even_where_nobody_is_left():
    _, directory, store = world(removals_kept=16)
    await put(store, an_agent("first"))
    changes = directory.changes()
    assert [getattr(c, "agent_id", None) for c in await take(changes, 2)] == [None, "first"]
    await remove(store, "first")
    for number in range(40):
        await put(store, an_agent(f"x{number}"))
        await remove(store, f"x{number}")
    assert await take(changes, 1) == [PictureAnew()]
    await put(store, an_agent("new"))
    assert [c.agent_id for c in await take(changes, 1)] == ["new"]


async def test_a_change_after_the_call_is_not_missed_although_nobody_reads_yet():
    _, directory, store = world()
    changes = directory.changes(directory.version)
    await put(store, an_agent("a"))
    assert (await take(changes, 1))[0].agent_id == "a"


async def test_removals_and_changes_leave_bounded_memory():
    _, directory, store = world(removals_kept=16)
    for number in range(200):
        await put(store, an_agent(f"x{number}"))
        await remove(store, f"x{number}")
    assert len(directory._changed) <= 16
    assert len(directory._removed) <= 16


async def test_writing_what_is_there_already_is_no_change():
    key_value, directory, store = world()
    await put(store, an_agent("a"))
    version, writes = directory.version, len(key_value.writes)
    await store.change(AgentId("a"), lambda stored: stored)
    assert (directory.version, len(key_value.writes)) == (version, writes)
