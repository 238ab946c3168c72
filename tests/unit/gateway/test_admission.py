"""Rights and places."""

import asyncio

import pytest

from meshway.gateway.admission import Admission
from meshway.kernel.errors import Draining, Forbidden, TooManyInFlight
from meshway.kernel.ids import AgentId, PrincipalId
from meshway.kernel.principal import ANONYMOUS, LOCAL_OPERATOR, Principal, Scope, parse_scope
from meshway.testing.registry_fakes import an_agent

ECHO = AgentId("echo")
CALLER = Principal(PrincipalId("caller"), frozenset({Scope("call")}))
SERVER = Principal(PrincipalId("server"), frozenset({parse_scope("serve:ec*")}))


def test_calling_needs_the_scope_call():
    admission = Admission(calls_in_flight_max=10)
    admission.admit_call(CALLER, ECHO)
    admission.admit_call(LOCAL_OPERATOR, ECHO)
    for principal in (SERVER, ANONYMOUS):
        with pytest.raises(Forbidden, match="call"):
            admission.admit_call(principal, ECHO)
    assert admission.in_flight == 2


def test_calls_beyond_the_maximum_are_told_when_to_come_back():
    admission = Admission(calls_in_flight_max=1)
    admission.admit_call(CALLER, ECHO)
    with pytest.raises(TooManyInFlight) as refused:
        admission.admit_call(CALLER, ECHO)
    assert refused.value.retry_after_ms
    admission.release_call()
    admission.admit_call(CALLER, ECHO)


async def test_a_draining_hub_takes_nothing_new_and_is_idle_when_the_last_call_ends():
    admission = Admission(calls_in_flight_max=10)
    admission.admit_call(CALLER, ECHO)
    admission.begin_drain()
    with pytest.raises(Draining):
        admission.admit_call(CALLER, ECHO)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await admission.wait_idle()
    admission.release_call()
    async with asyncio.timeout(1):
        await admission.wait_idle()


async def test_a_drain_without_calls_is_idle_at_once():
    admission = Admission(calls_in_flight_max=10)
    admission.admit_call(CALLER, ECHO)
    admission.release_call()
    admission.begin_drain()
    async with asyncio.timeout(1):
        await admission.wait_idle()


def test_managing_is_for_admins_and_the_key_that_registered():
    admission = Admission(calls_in_flight_max=10)
    agent = an_agent("echo", registered_by=SERVER.id)
    admission.admit_manage(SERVER, agent)
    admission.admit_manage(LOCAL_OPERATOR, agent)
    twin = Principal(PrincipalId("twin"), SERVER.scopes)
    for principal in (CALLER, twin, Principal(SERVER.id, frozenset({Scope("call")}))):
        with pytest.raises(Forbidden):
            admission.admit_manage(principal, agent)


def test_serving_goes_by_the_pattern_and_reading_needs_any_scope():
    admission = Admission(calls_in_flight_max=10)
    admission.admit_serve(SERVER, ECHO)
    with pytest.raises(Forbidden, match="serve:other"):
        admission.admit_serve(SERVER, AgentId("other"))
    admission.admit_read(CALLER)
    admission.admit_read(SERVER)
    with pytest.raises(Forbidden):
        admission.admit_read(ANONYMOUS)
    with pytest.raises(Forbidden):
        admission.admit_admin(CALLER)
