"""Stops: they hold at once and everywhere, survive restarts, and are lifted only by who may."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from meshway.gateway.admission import Admission
from meshway.gateway.stop_agents import StopAgents
from meshway.kernel.errors import AgentNotFound, AgentStopped, EngineUnavailable, Forbidden
from meshway.kernel.ids import AgentId, PrincipalId
from meshway.kernel.principal import Principal, Scope, parse_scope
from meshway.registry.agent_store import AgentStore
from meshway.registry.directory import Directory
from meshway.registry.settings import RegistrySettings
from meshway.tasks.stops import StopBook
from meshway.testing.fake_key_value import FakeKeyValue
from meshway.testing.registry_fakes import an_agent

ECHO, OTHER = AgentId("echo"), AgentId("other")
ADMIN = Principal(PrincipalId("root"), frozenset({Scope("admin")}))
SERVER = Principal(PrincipalId("server"), frozenset({parse_scope("serve:echo")}))
TWIN = Principal(PrincipalId("twin"), frozenset({parse_scope("serve:echo")}))


def anyone(_stop):
    """Every stop may be lifted."""


@asynccontextmanager
async def following(*books):
    """The books follow the store; they are ready when this is entered."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(book.run()) for book in books]
        for book in books:
            await book.wait_ready()
        yield
        for task in tasks:
            task.cancel()


class Ears:
    """Hears what a book tells its listeners."""

    def __init__(self, book):
        self._told = asyncio.Queue()
        book.listen(lambda agent_id, stop: self._told.put_nowait((agent_id, stop and stop.by)))

    async def hear(self):
        async with asyncio.timeout(5):
            return await self._told.get()


@pytest.fixture
def key_value(clock):
    return FakeKeyValue(clock)


@pytest.fixture
def book(key_value, clock):
    return StopBook(key_value, clock)


async def test_a_stopped_agent_takes_no_new_work_and_others_do(book, clock):
    stop = await book.stop(ECHO, ADMIN, reason="it spams")
    assert (stop.by, stop.at_ms, stop.reason) == ("root", clock.now_ms(), "it spams")
    assert (book.is_stopped(ECHO), book.is_stopped(OTHER)) == (True, False)
    with pytest.raises(AgentStopped, match="it spams") as refused:
        book.check(ECHO)
    assert (refused.value.agent, refused.value.retry_after_ms) == ("echo", 30_000)
    book.check(OTHER)


async def test_a_stop_of_everything_holds_for_every_agent_and_is_lifted_as_a_whole(book):
    await book.stop(None, ADMIN)
    await book.stop(ECHO, ADMIN)
    assert book.is_stopped(OTHER)
    with pytest.raises(AgentStopped, match="All agents"):
        book.check(OTHER)
    assert await book.resume(None, check=anyone)
    assert (book.is_stopped(ECHO), book.is_stopped(OTHER)) == (True, False)


async def test_a_stop_survives_a_restart(book, key_value, clock):
    await book.stop(ECHO, ADMIN)
    after = StopBook(key_value, clock)
    async with following(after):
        assert after.is_stopped(ECHO)


async def test_other_hubs_follow_and_their_listeners_are_told(book, key_value, clock):
    elsewhere = StopBook(key_value, clock)
    ears = Ears(elsewhere)
    async with following(book, elsewhere):
        await book.stop(ECHO, ADMIN)
        assert await ears.hear() == ("echo", "root")
        await book.stop(None, ADMIN)
        assert await ears.hear() == (None, "root")
        await book.resume(ECHO, check=anyone)
        assert await ears.hear() == ("echo", None)
        assert elsewhere.is_stopped(OTHER)


async def test_what_was_lifted_while_the_watch_was_lost_is_lifted(book, key_value, clock):
    elsewhere = StopBook(key_value, clock)
    await book.stop(ECHO, ADMIN)
    ears = Ears(elsewhere)
    async with following(elsewhere):
        assert await ears.hear() == ("echo", "root")
        key_value.lose_watches()
        await book.resume(ECHO, check=anyone)
        assert await ears.hear() == ("echo", None)
        assert not elsewhere.is_stopped(ECHO)


async def test_the_first_stop_stands(book, clock):
    first = await book.stop(ECHO, ADMIN, reason="one")
    clock.advance(1)
    assert await book.stop(ECHO, ADMIN, reason="two") == first


async def test_an_outcome_that_is_unknown_is_asked_for_again(book, key_value):
    key_value.undecided = 1
    await book.stop(ECHO, ADMIN)
    assert book.is_stopped(ECHO)
    key_value.undecided = 1
    assert await book.resume(ECHO, check=anyone)
    assert not book.is_stopped(ECHO)


async def test_an_unreadable_stop_stops(book, key_value, clock):
    await book.stop(ECHO, ADMIN)
    (write,) = key_value.writes
    await key_value.write([type(write)(key="stops.agent.other", value=b"?")])
    after = StopBook(key_value, clock)
    async with following(after):
        assert after.is_stopped(OTHER)


# The verb


class FakeAudit:
    """Keeps what it is told."""

    def __init__(self):
        self.entries = []

    async def append(self, principal_id, action, *, agent_id=None, details=None):
        self.entries.append((principal_id, action, agent_id, details))


class Verbs:
    def __init__(self, key_value, book, directory):
        self.audit = FakeAudit()
        self.cancelled = []
        self.book = book
        self.fail_with = None
        self.verb = StopAgents(
            directory, Admission(calls_in_flight_max=1), book, self.audit, cancel_running=self.cancel_running
        )

    async def cancel_running(self, agent_id):
        assert self.book.is_stopped(agent_id or OTHER)
        self.cancelled.append(agent_id)
        if self.fail_with is not None:
            raise self.fail_with
        return 3


@pytest.fixture
async def verbs(key_value, book):
    directory = Directory(key_value, settings=RegistrySettings())
    store = AgentStore(key_value, directory)
    await store.change(ECHO, lambda _: an_agent("echo", registered_by=SERVER.id))
    return Verbs(key_value, book, directory)


async def test_stopping_refuses_new_work_then_cancels_what_runs_and_leaves_a_trace(verbs):
    stopped = await verbs.verb.stop(ADMIN, ECHO, reason="it spams")
    assert stopped.cancelled == 3
    assert verbs.cancelled == [ECHO]
    assert verbs.audit.entries == [("root", "agent_stopped", ECHO, {"reason": "it spams", "cancelled": 3})]


async def test_stopping_and_resuming_everything_leaves_a_trace(verbs):
    await verbs.verb.stop(ADMIN, None)
    assert await verbs.verb.resume(ADMIN, None)
    assert not await verbs.verb.resume(ADMIN, None)
    assert [entry[1] for entry in verbs.audit.entries] == ["all_stopped", "all_resumed"]


async def test_a_cancellation_that_fails_leaves_the_stop_and_its_trace(verbs):
    verbs.fail_with = EngineUnavailable("gone")
    with pytest.raises(EngineUnavailable):
        await verbs.verb.stop(ADMIN, ECHO)
    assert verbs.book.is_stopped(ECHO)
    assert verbs.audit.entries == [("root", "agent_stopped", ECHO, {})]


async def test_the_key_that_registered_an_agent_stops_it_and_lets_it_go_on(verbs):
    await verbs.verb.stop(SERVER, ECHO)
    assert await verbs.verb.resume(SERVER, ECHO)


async def test_no_other_key_does(verbs):
    for who, agent_id in ((TWIN, ECHO), (SERVER, None)):
        with pytest.raises(Forbidden):
            await verbs.verb.stop(who, agent_id)
        with pytest.raises(Forbidden):
            await verbs.verb.resume(who, agent_id)
    assert not verbs.audit.entries


@pytest.mark.parametrize("before", [(ADMIN,), (SERVER, ADMIN), (ADMIN, SERVER)])
async def test_an_agent_does_not_lift_the_stop_of_an_admin(verbs, before):
    for who in before:
        await verbs.verb.stop(who, ECHO)
    with pytest.raises(Forbidden, match="admin"):
        await verbs.verb.resume(SERVER, ECHO)
    assert verbs.book.is_stopped(ECHO)
    assert await verbs.verb.resume(ADMIN, ECHO)


async def test_an_unknown_agent_is_not_stopped_but_the_stop_of_a_removed_one_is_lifted(verbs):
    with pytest.raises(AgentNotFound):
        await verbs.verb.stop(ADMIN, OTHER)
    await verbs.book.stop(OTHER, ADMIN)
    assert await verbs.verb.resume(ADMIN, OTHER)
