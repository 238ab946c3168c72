"""For every tree of calls: no limit is passed, every cycle is found, and nobody but a hub writes a chain."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshway.gateway.chain_tokens import ChainTokens
from meshway.gateway.delegation_guard import DelegationGuard
from meshway.gateway.delegation_settings import DelegationSettings
from meshway.gateway.root_ledger import RootLedger
from meshway.kernel.delegation import Chain, Hop
from meshway.kernel.errors import DeadlineExceeded, DelegationRefused, InvalidRequest
from meshway.kernel.ids import AgentId, PrincipalId
from meshway.kernel.principal import Principal, Scope
from meshway.security.secret_box import AesGcmBox
from meshway.testing.clock import ManualClock

CLIENT = Principal(PrincipalId("client"), frozenset({Scope("call")}))
START_MS = 1_800_000_000_000

# Who calls (a place among the tokens given out so far, modulo; None: the client), whom, after how long, within what.
calls = st.lists(
    st.tuples(
        st.none() | st.integers(0, 50),
        st.sampled_from("abcdef"),
        st.integers(0, 400),
        st.none() | st.integers(1, 2_000),
    ),
    max_size=60,
)
limits = st.fixed_dictionaries(
    {
        "depth_max": st.integers(1, 5),
        "calls_max": st.integers(0, 8),
        "wall_ms_max": st.integers(1, 5_000),
        "allow_cycles": st.booleans(),
    }
)
hops = st.lists(st.builds(Hop, st.from_regex(r"[a-z0-9]{1,63}", fullmatch=True), st.text(max_size=80)), min_size=1)
chains = st.builds(
    Chain,
    hops.map(lambda found: tuple(found[:16])),
    st.integers(0, 2**53),
    st.none() | st.integers(0, 2**53),
)
TOKENS = ChainTokens(AesGcmBox(b"k" * 32))


def reasons(chain, agent_id, settings, calls_made, now_ms):
    """Why this call must be refused, said once more and plainly."""
    if chain.deadline_ms is not None and now_ms >= chain.deadline_ms:
        yield "deadline"
    if len(chain.hops) + 1 > settings["depth_max"]:
        yield "depth"
    if not settings["allow_cycles"] and agent_id in {hop.agent_id for hop in chain.hops}:
        yield "cycle"
    if calls_made + 1 > settings["calls_max"]:
        yield "calls"
    if now_ms > chain.started_at_ms + settings["wall_ms_max"]:
        yield "wall_time"


@given(calls, limits)
def test_a_call_is_refused_exactly_when_a_limit_says_so(tree, settings):
    clock = ManualClock(START_MS)
    guard = DelegationGuard(TOKENS, RootLedger(), DelegationSettings(**settings), clock)
    given_out = []
    calls_of = Counter()
    for number, (caller, agent, wait_ms, deadline_ms) in enumerate(tree):
        clock.advance(wait_ms)
        now_ms, agent_id = clock.now_ms(), AgentId(agent)
        chain, token = (None, None) if caller is None or not given_out else given_out[caller % len(given_out)]
        expected = [] if chain is None else list(reasons(chain, agent_id, settings, calls_of[chain.root], now_ms))
        if expected:
            with pytest.raises((DelegationRefused, DeadlineExceeded)) as refused:
                guard.admit(CLIENT, agent_id, token)
            assert refused.value.extensions["limit"] in expected
            assert chain.shown() in refused.value.detail
            continue
        above = guard.admit(CLIENT, agent_id, token).chain_above
        assert above == chain
        if above is not None:
            calls_of[above.root] += 1
        child = guard.child(above, agent_id, f"t{number}", None if deadline_ms is None else now_ms + deadline_ms)
        assert above is None or above.deadline_ms is None or child.deadline_ms <= above.deadline_ms
        given_out.append((child, guard.token(child)))


@given(chains)
def test_every_chain_comes_back_as_it_was(chain):
    assert ChainTokens(AesGcmBox(b"k" * 32)).read(TOKENS.write(chain)) == chain


@given(chains, st.data())
def test_a_token_that_was_changed_in_any_way_is_refused(chain, data):
    token = TOKENS.write(chain)
    change = data.draw(st.sampled_from(["replace", "cut", "insert", "append", "swap"]))
    place = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.characters(min_codepoint=32, max_codepoint=126))
    changed = {
        "replace": token[:place] + letter + token[place + 1 :],
        "cut": token[:place],
        "insert": token[:place] + letter + token[place:],
        "append": token + letter,
        "swap": token[place:] + token[:place],
    }[change]
    if changed == token:
        return
    with pytest.raises(InvalidRequest):
        TOKENS.read(changed)


@given(st.text(max_size=300))
def test_what_no_hub_wrote_is_refused(text):
    with pytest.raises(InvalidRequest):
        TOKENS.read(text)
