"""Registering, changing, draining, watching: as a caller of the use cases sees them."""

import asyncio
import random

import pytest

from meshway.gateway.admission import Admission
from meshway.gateway.agent_credentials import AgentCredentials
from meshway.gateway.drain_agent import DrainAgent, ResumeAgent
from meshway.gateway.find_agents import FindAgents, ShowAgent
from meshway.gateway.heartbeat_agent import Heartbeat, HeartbeatAgent
from meshway.gateway.instance_reader import InstanceReader, InstanceSpec
from meshway.gateway.list_tasks import ListTasks
from meshway.gateway.manage_instances import ManageInstances
from meshway.gateway.patches import InstancePatch, SettingsPatch
from meshway.gateway.refresh_card import RefreshCard
from meshway.gateway.register_agent import RegisterAgent, Registration, merge_registrations
from meshway.gateway.registry_places import RegistryPlaces
from meshway.gateway.remove_agent import RemoveAgent
from meshway.gateway.update_agent import AgentPatch, UpdateAgent
from meshway.gateway.watch_agents import WatchAgents
from meshway.kernel.errors import (
    AgentNotFound,
    CapacityReached,
    Conflict,
    DeadlineExceeded,
    EgressDenied,
    Forbidden,
    InvalidRequest,
    UpstreamUnreachable,
)
from meshway.kernel.ids import AgentId, InstanceId, PrincipalId
from meshway.kernel.principal import ANONYMOUS, LOCAL_OPERATOR, Principal, Scope, parse_scope
from meshway.registry.agent_store import AgentStore
from meshway.registry.directory import Directory, PictureAnew
from meshway.registry.presence_tracker import PresenceTracker
from meshway.registry.search import AgentQuery
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import AgentSettings, AgentState
from meshway.routing.balancer import Balancer
from meshway.routing.settings import RoutingSettings
from meshway.tasks.owners import ListFilter, TaskOwners
from meshway.tasks.settings import TaskSettings
from meshway.testing.clock import ManualClock
from meshway.testing.fake_key_value import FakeKeyValue
from meshway.testing.registry_fakes import FakeCards, FakeEgress, FakeSecretBox, card_facts

ECHO = AgentId("echo")
HOME = "http://127.0.0.1:9001"
SERVER = Principal(PrincipalId("server"), frozenset({parse_scope("serve:ec*")}))
TWIN = Principal(PrincipalId("twin"), frozenset({parse_scope("serve:ec*")}))
CALLER = Principal(PrincipalId("caller"), frozenset({Scope("call")}))


class World:
    def __init__(self, clock, **settings):
        self.clock = clock
        self.cards = FakeCards({HOME: card_facts(url=HOME)})
        self.key_value = FakeKeyValue(clock)
        limits = RegistrySettings(**settings)
        directory = Directory(self.key_value, settings=limits)
        store = AgentStore(self.key_value, directory)
        self.places = RegistryPlaces(
            store=store,
            directory=directory,
            presence=PresenceTracker(store, directory, clock=clock, settings=limits),
            admission=Admission(calls_in_flight_max=10),
            reader=InstanceReader(self.cards, FakeEgress(), limits),
            credentials=AgentCredentials(FakeSecretBox()),
            clock=clock,
            settings=limits,
        )
        self.balancer = Balancer(clock=clock, settings=RoutingSettings(), chance=random.Random(1))

    async def register(self, who=LOCAL_OPERATOR, agent_id="echo", **fields):
        if "card" not in fields and "instances" not in fields:
            fields.setdefault("url", HOME)
        return await RegisterAgent(self.places).execute(who, Registration(id=agent_id, **fields))

    async def update(self, who=LOCAL_OPERATOR, **patch):
        return await UpdateAgent(self.places).execute(who, ECHO, AgentPatch(**patch))

    async def beat(self, who=LOCAL_OPERATOR, **fields):
        return await HeartbeatAgent(self.places, self.balancer).execute(who, ECHO, Heartbeat(**fields))

    def answers_at(self, *urls):
        for url in urls:
            self.cards.cards[url] = card_facts(url=url)

    def credential(self):
        return self.places.credentials.open(self.places.agent(ECHO))


@pytest.fixture
def world(clock):
    return World(clock)


def fields_of(refused):
    return [wrong.field for wrong in refused.value.fields]


# Registering


async def test_by_url_the_card_is_read_and_the_agent_is_online(world):
    done = await world.register(labels={"zone": "eu"}, capacity=4)
    assert done.created
    (instance,) = done.agent.instances
    assert (instance.state, instance.last_seen_ms) == (AgentState.ONLINE, world.clock.now_ms())
    assert (instance.labels, instance.capacity, instance.url) == ({"zone": "eu"}, 4, HOME)
    assert instance.lease_until_ms is None
    assert done.agent.card.name == "Echo"


async def test_by_card_nobody_is_asked_and_the_agent_is_suspect(world):
    done = await world.register(card=b"{}")
    assert world.cards.fetched == []
    assert (done.agent.instances[0].state, done.agent.by_url) == (AgentState.SUSPECT, False)


@pytest.mark.parametrize("error", [UpstreamUnreachable, DeadlineExceeded])
async def test_an_agent_that_does_not_answer_is_refused_with_the_field(world, error):
    async def fetch(url, *, credential=None):
        raise error("Nobody there.")

    world.cards.fetch = fetch
    with pytest.raises(UpstreamUnreachable) as refused:
        await world.register()
    assert fields_of(refused) == ["url"]
    assert world.places.directory.get("echo") is None


async def test_of_several_instances_the_one_that_does_not_answer_is_named(world):
    with pytest.raises(UpstreamUnreachable) as refused:
        await world.register(instances=[InstanceSpec(url=HOME), InstanceSpec(url="http://127.0.0.1:9")])
    assert fields_of(refused) == ["instances.1.url"]


async def test_everything_that_is_wrong_is_said_at_once(world):
    with pytest.raises(InvalidRequest) as refused:
        await world.register(
            url="ftp://x",
            labels={"bad key": "x"},
            capacity=0,
            weight=0,
            settings=AgentSettings(timeout_ms=0),
            instances=[InstanceSpec(url=HOME, id="Not An Id")],
        )
    expected = ["settings.timeout_ms", "url", "labels.bad key", "capacity", "weight", "instances.0.id"]
    assert fields_of(refused) == expected
    assert world.cards.fetched == []


@pytest.mark.parametrize("agent_id", ["watch", "Echo", "", "-a", "a" * 64, "a/b"])
async def test_a_wrong_id_is_named(world, agent_id):
    with pytest.raises(InvalidRequest) as refused:
        await world.register(agent_id=agent_id)
    assert fields_of(refused) == ["id"]


@pytest.mark.parametrize(
    "fields", [{"url": None}, {"url": HOME, "card": b"{}"}, {"card": b"{}", "instances": [InstanceSpec(url=HOME)]}]
)
async def test_url_and_card_exclude_each_other_and_one_is_needed(world, fields):
    with pytest.raises(InvalidRequest):
        await world.register(**fields)


async def test_too_many_labels_and_long_urls_are_refused(world):
    with pytest.raises(InvalidRequest) as refused:
        await world.register(url=HOME + "/" + "x" * 2_100, labels={f"k{n}": "" for n in range(65)})
    assert fields_of(refused) == ["url", "labels"]


async def test_a_card_that_points_where_the_hub_may_not_go_is_refused_with_the_interface(world):
    world.cards.cards[HOME] = card_facts(url="http://169.254.169.254/latest")
    with pytest.raises(EgressDenied) as refused:
        await world.register()
    assert fields_of(refused) == ["card.supportedInterfaces.0.url"]


@pytest.mark.parametrize(("binding", "version"), [("GRPC", "1.0"), ("JSONRPC", "0.2"), ("JSONRPC", "2.0")])
async def test_an_agent_the_hub_cannot_speak_with_is_refused_and_told_why(world, binding, version):
    world.cards.cards[HOME] = card_facts(binding=binding, version=version)
    with pytest.raises(InvalidRequest, match=binding) as refused:
        await world.register()
    assert fields_of(refused) == ["card.supportedInterfaces"]


async def test_registering_needs_a_serve_scope_for_the_id(world):
    await world.register(SERVER)
    for who, agent_id in ((CALLER, "echo"), (SERVER, "other"), (ANONYMOUS, "echo")):
        with pytest.raises(Forbidden):
            await world.register(who, agent_id)


async def test_only_the_registering_key_or_an_admin_replaces_and_the_owner_stays(world):
    await world.register(SERVER)
    with pytest.raises(Forbidden):
        await world.register(TWIN)
    done = await world.register(LOCAL_OPERATOR)
    assert (done.created, done.agent.registered_by) == (False, SERVER.id)
    await world.register(SERVER)


async def test_a_replacement_keeps_the_first_time_and_drops_everything_else(world):
    first = await world.register(labels={"zone": "eu"}, settings=AgentSettings(timeout_ms=5))
    world.clock.advance(1_000)
    again = await world.register()
    assert again.agent.registered_at_ms == first.agent.registered_at_ms
    assert (again.agent.instances[0].labels, again.agent.settings) == ({}, AgentSettings())
    assert again.agent.instances[0].id == first.agent.instances[0].id


async def test_a_replacement_of_the_same_place_keeps_the_lease_and_ends_a_drain(world):
    await world.register()
    await world.beat(ttl_ms=60_000)
    await DrainAgent(world.places).execute(LOCAL_OPERATOR, ECHO)
    again = await world.register()
    assert again.agent.instances[0].state is AgentState.ONLINE
    assert again.agent.instances[0].lease_until_ms == world.clock.now_ms() + 60_000


async def test_posting_the_same_card_again_keeps_what_traffic_showed(world):
    done = await world.register(card=b"{}")
    world.places.presence.saw_traffic("echo", done.agent.instances[0].id, ok=True)
    again = await world.register(card=b"{}")
    assert again.agent.instances[0].state is AgentState.ONLINE


async def test_an_agent_seen_offline_a_moment_ago_is_online_once_it_registers(world):
    done = await world.register()
    world.places.presence.saw_traffic("echo", done.agent.instances[0].id, ok=False)
    again = await world.register()
    assert again.agent.instances[0].state is AgentState.ONLINE


async def test_the_hub_keeps_so_many_agents_and_replacing_stays_possible(clock):
    world = World(clock, agents_max=2, instances_max=2)
    await world.register(agent_id="a")
    await world.register(agent_id="b")
    with pytest.raises(CapacityReached):
        await world.register(agent_id="c")
    await world.register(agent_id="a")
    with pytest.raises(InvalidRequest) as refused:
        await world.register(agent_id="a", instances=[InstanceSpec(url=f"{HOME}/{n}") for n in range(3)])
    assert fields_of(refused) == ["instances"]


async def test_replicas_whose_cards_name_one_address_are_called_where_they_are(world):
    shared = card_facts(url="http://balancer.test/rpc")
    world.cards.cards |= {"http://one.test:81": shared, "http://two.test:82": shared}
    specs = [InstanceSpec(url="http://one.test:81"), InstanceSpec(url="http://two.test:82")]
    done = await world.register(instances=specs)
    called = [instance.interfaces[0].url for instance in done.agent.instances]
    assert called == ["http://one.test:81/rpc", "http://two.test:82/rpc"]


async def test_a_single_agent_is_called_where_its_card_says(world):
    world.cards.cards[HOME] = card_facts(url="http://elsewhere.test/rpc")
    done = await world.register()
    assert done.agent.instances[0].interfaces[0].url == "http://elsewhere.test/rpc"


async def test_the_same_url_twice_is_refused(world):
    with pytest.raises(InvalidRequest) as refused:
        await world.register(instances=[InstanceSpec(url=HOME), InstanceSpec(url=HOME)])
    assert fields_of(refused)


def test_entries_of_one_id_become_instances_of_one_agent():
    entries = [
        Registration(id="a", url="http://x", labels={"zone": "eu"}, credential="s"),
        Registration(id="b", url="http://y"),
        Registration(id="a", url="http://z", capacity=3),
    ]
    merged = merge_registrations(entries)
    assert [(r.id, [s.url for _, s in r.specs()]) for r in merged] == [
        ("a", ["http://x", "http://z"]),
        ("b", ["http://y"]),
    ]
    assert (merged[0].credential, merged[0].specs()[1][1].capacity) == ("s", 3)
    with pytest.raises(InvalidRequest):
        merge_registrations([entries[0], Registration(id="a", card=b"{}")])


# Credentials


async def test_a_credential_is_sealed_and_used_to_read_the_card(world):
    done = await world.register(credential="secret")
    assert world.cards.fetched == [(HOME, "secret")]
    assert done.agent.credential != "secret"
    assert world.credential() == "secret"


async def test_a_credential_stays_at_its_origin_and_is_dropped_at_another(world):
    world.answers_at("http://evil.test", HOME + "/v2")
    await world.register(credential="secret")
    await world.register(url=HOME + "/v2")
    assert world.credential() == "secret"
    await world.register(url="http://evil.test")
    assert world.credential() is None
    assert world.cards.fetched[-1] == ("http://evil.test", None)


async def test_a_card_that_leads_to_another_origin_drops_the_credential(world):
    await world.register(credential="secret")
    world.cards.cards[HOME] = card_facts(url="http://evil.test")
    await world.register()
    assert world.credential() is None


async def test_patching_the_url_to_another_origin_drops_the_credential(world):
    world.answers_at("http://evil.test")
    await world.register(credential="secret")
    agent = await world.update(url="http://evil.test")
    assert (agent.credential, agent.instances[0].url) == (None, "http://evil.test")
    assert world.cards.fetched[-1] == ("http://evil.test", None)


async def test_an_instance_at_another_origin_drops_the_credential(world):
    world.answers_at("http://evil.test")
    await world.register(credential="secret")
    await ManageInstances(world.places).add(LOCAL_OPERATOR, ECHO, InstanceSpec(url="http://evil.test"))
    assert world.credential() is None
    assert world.cards.fetched[-1] == ("http://evil.test", None)


async def test_a_probed_card_at_another_origin_drops_the_credential_and_a_bad_one_changes_nothing(world):
    done = await world.register(credential="secret")
    instance_id = done.agent.instances[0].id
    refresh = RefreshCard(world.places)
    await refresh.execute(ECHO, instance_id, card_facts("New", url=HOME))
    assert (world.places.agent(ECHO).card.name, world.credential()) == ("New", "secret")
    await refresh.execute(ECHO, instance_id, card_facts("Bad", binding="GRPC"))
    await refresh.execute(ECHO, instance_id, card_facts("Bad", url="http://169.254.169.254"))
    assert (world.places.agent(ECHO).card.name, world.credential()) == ("New", "secret")
    await refresh.execute(ECHO, instance_id, card_facts("Moved", url="http://evil.test"))
    assert (world.places.agent(ECHO).card.name, world.credential()) == ("Moved", None)


# Changing


async def test_a_patch_changes_what_it_names_and_null_removes(world):
    await world.register(labels={"zone": "eu", "gpu": "1"}, capacity=4, weight=2, credential="secret")
    patch = InstancePatch(labels={"gpu": None, "rack": "7"}, capacity=None)
    agent = await world.update(instance=patch, settings=SettingsPatch(timeout_ms=5_000))
    (instance,) = agent.instances
    assert (instance.labels, instance.capacity, instance.weight) == ({"zone": "eu", "rack": "7"}, None, 2)
    assert (agent.settings, world.credential()) == (AgentSettings(timeout_ms=5_000), "secret")
    agent = await world.update(instance=InstancePatch(labels=None, weight=None), settings=None, credential=None)
    (instance,) = agent.instances
    assert (instance.labels, instance.weight, agent.settings, agent.credential) == ({}, 1, AgentSettings(), None)


async def test_a_patch_that_is_wrong_changes_nothing(world):
    before = (await world.register()).agent
    for patch, field in (
        ({"instance": InstancePatch(capacity=0)}, "capacity"),
        ({"instance": InstancePatch(weight=5_000)}, "weight"),
        ({"settings": SettingsPatch(timeout_ms=0)}, "settings.timeout_ms"),
        ({"url": "ftp://x"}, "url"),
        ({"card": b"{}"}, "card"),
        ({"url": HOME, "card": b"{}"}, "card"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            await world.update(**patch)
        assert fields_of(refused) == [field]
    assert world.places.shown(ECHO) == before


async def test_a_patch_without_effect_writes_nothing(world):
    await world.register()
    writes = len(world.key_value.writes)
    await world.update()
    assert len(world.key_value.writes) == writes


async def unwanted(agent_id):
    """Calls of agents with a URL end as they end."""
    raise AssertionError(f"work of {agent_id} was cancelled")


async def test_others_may_neither_change_drain_nor_remove(world):
    await world.register(SERVER)
    spec, one = InstanceSpec(url=HOME), InstanceId("x")
    for who in (TWIN, CALLER):
        for forbidden in (
            lambda who: world.update(who),
            lambda who: DrainAgent(world.places).execute(who, ECHO),
            lambda who: ResumeAgent(world.places).execute(who, ECHO),
            lambda who: RemoveAgent(world.places, cancel_running=unwanted).execute(who, ECHO),
            lambda who: ManageInstances(world.places).add(who, ECHO, spec),
            lambda who: ManageInstances(world.places).update(who, ECHO, one, InstancePatch()),
            lambda who: ManageInstances(world.places).remove(who, ECHO, one),
        ):
            with pytest.raises(Forbidden):
                await forbidden(who)
    await RemoveAgent(world.places, cancel_running=unwanted).execute(SERVER, ECHO)


async def test_what_is_not_there_is_not_found(world):
    for missing in (
        world.update(),
        world.beat(),
        DrainAgent(world.places).execute(LOCAL_OPERATOR, ECHO),
        RemoveAgent(world.places, cancel_running=unwanted).execute(LOCAL_OPERATOR, ECHO),
        ShowAgent(world.places).execute(LOCAL_OPERATOR, ECHO),
    ):
        with pytest.raises(AgentNotFound):
            await missing
    await world.register()
    with pytest.raises(AgentNotFound):
        await DrainAgent(world.places).execute(LOCAL_OPERATOR, ECHO, InstanceId("nope"))


async def test_draining_one_instance_leaves_its_siblings_and_resuming_shows_the_truth(world):
    world.answers_at("http://two.test")
    done = await world.register(
        instances=[InstanceSpec(url=HOME, id="one"), InstanceSpec(url="http://two.test", id="two")]
    )
    assert {i.id for i in done.agent.instances} == {"one", "two"}
    agent = await DrainAgent(world.places).execute(LOCAL_OPERATOR, ECHO, InstanceId("one"))
    assert [i.state for i in agent.instances] == [AgentState.DRAINING, AgentState.ONLINE]
    world.places.presence.saw_traffic("echo", "one", ok=False)
    agent = await ResumeAgent(world.places).execute(LOCAL_OPERATOR, ECHO)
    assert [i.state for i in agent.instances] == [AgentState.SUSPECT, AgentState.ONLINE]


async def test_instances_are_added_changed_and_removed_but_never_the_last(world):
    world.answers_at("http://two.test")
    manage = ManageInstances(world.places)
    await world.register()
    with pytest.raises(UpstreamUnreachable) as refused:
        await manage.add(LOCAL_OPERATOR, ECHO, InstanceSpec(url="http://dead.test"))
    assert fields_of(refused) == ["url"]
    added = await manage.add(LOCAL_OPERATOR, ECHO, InstanceSpec(url="http://two.test", id="two", capacity=3))
    assert (added.state, added.capacity) == (AgentState.ONLINE, 3)
    changed = await manage.update(LOCAL_OPERATOR, ECHO, InstanceId("two"), InstancePatch(weight=5))
    assert (changed.weight, changed.capacity) == (5, 3)
    first = world.places.agent(ECHO).instances[0].id
    await manage.remove(LOCAL_OPERATOR, ECHO, first)
    with pytest.raises(Conflict):
        await manage.remove(LOCAL_OPERATOR, ECHO, InstanceId("two"))


# Heartbeats


async def test_a_heartbeat_gives_a_lease_and_its_load_counts(world):
    done = await world.register(capacity=2)
    taken = await world.beat(ttl_ms=5_000, in_flight=2)
    assert taken.instance.lease_until_ms == world.clock.now_ms() + 5_000
    assert world.balancer.in_flight("echo", done.agent.instances[0].id) == 2


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"ttl_ms": 499}, "ttl_ms"),
        ({"ttl_ms": 10**12}, "ttl_ms"),
        ({"in_flight": -1}, "in_flight"),
        ({"instance": "Not An Id"}, "instance"),
    ],
)
async def test_a_wrong_heartbeat_is_named(world, fields, wrong):
    await world.register()
    with pytest.raises(InvalidRequest) as refused:
        await world.beat(**fields)
    assert fields_of(refused) == [wrong]


async def test_with_several_instances_a_heartbeat_says_whose_it_is(world):
    world.answers_at("http://two.test")
    await world.register(instances=[InstanceSpec(url=HOME, id="one"), InstanceSpec(url="http://two.test", id="two")])
    with pytest.raises(InvalidRequest, match="one, two"):
        await world.beat()
    await world.beat(instance="two")
    assert [i.lease_until_ms is None for i in world.places.agent(ECHO).instances] == [True, False]


async def test_replicas_with_keys_of_their_own_may_send_heartbeats_and_callers_not(world):
    await world.register(SERVER)
    await world.beat(TWIN)
    with pytest.raises(Forbidden):
        await world.beat(CALLER)


# Seeing


async def test_finding_and_showing_carry_live_times(world):
    done = await world.register()
    world.clock.advance(5_000)
    world.places.presence.saw_traffic("echo", done.agent.instances[0].id, ok=True)
    page = await FindAgents(world.places).execute(CALLER, AgentQuery())
    shown = await ShowAgent(world.places).execute(CALLER, ECHO)
    assert page.items == [shown]
    assert shown.instances[0].last_seen_ms == world.clock.now_ms()
    with pytest.raises(Forbidden):
        await FindAgents(world.places).execute(ANONYMOUS, AgentQuery())


async def test_a_watch_resumes_after_its_last_event_and_begins_anew_at_another_hub(world):
    watch = WatchAgents(world.places)
    await world.register(agent_id="a")
    async with asyncio.timeout(5):
        events = watch.execute(CALLER)
        assert await anext(events) == PictureAnew()
        first = await anext(events)
        await world.register(agent_id="b")
        resumed = await anext(watch.execute(CALLER, first.event_id))
        assert resumed.agent_id == "b"
        for unknown in ("", "junk", "1-2", first.event_id.replace("-", "x-", 1), f"{first.event_id}9999"):
            again = watch.execute(CALLER, unknown)
            assert await anext(again) == PictureAnew()
            assert (await anext(again)).agent_id == "a"
    with pytest.raises(Forbidden):
        watch.execute(ANONYMOUS)


async def test_listing_tasks_needs_an_agent_and_the_scope_call(world):
    tasks = ListTasks(
        world.places.directory,
        TaskOwners(world.key_value, settings=TaskSettings(), clock=ManualClock()),
        world.places.admission,
    )
    with pytest.raises(AgentNotFound):
        await tasks.execute(CALLER, ECHO, ListFilter())
    await world.register()
    assert (await tasks.execute(CALLER, ECHO, ListFilter())).total_size == 0
    with pytest.raises(Forbidden):
        await tasks.execute(SERVER, ECHO, ListFilter())


async def test_registrations_survive_a_restart(world, clock):
    await world.register(SERVER, labels={"zone": "eu"}, credential="secret")
    later = Directory(world.key_value, settings=RegistrySettings())
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        duty = group.create_task(later.run())
        await later.wait_ready()
        duty.cancel()
    assert later.get("echo") == world.places.agent(ECHO)
