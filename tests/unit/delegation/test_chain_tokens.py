"""Chains as text: read by every hub of the mesh, changed by nobody."""

import pytest

from meshway.gateway.chain_tokens import ChainTokens
from meshway.kernel.delegation import HOPS_MAX, TASK_ID_BYTES_MAX, Chain, Hop
from meshway.kernel.errors import InvalidRequest
from meshway.kernel.ids import AgentId
from meshway.security.secret_box import AesGcmBox

CHAIN = Chain((Hop(AgentId("a"), "t1"), Hop(AgentId("b"), "zwei ~ €\n")), 1_800_000_000_000, 1_800_000_060_000)


def tokens(secret_key=b"k" * 32):
    return ChainTokens(AesGcmBox(secret_key))


def test_every_hub_with_the_secret_key_reads_it_after_a_restart_too():
    token = tokens().write(CHAIN)
    assert tokens().read(token) == CHAIN


def test_it_fits_a_header_and_is_short():
    token = tokens().write(Chain((Hop(AgentId("researcher"), "0" * 36),), 1_800_000_000_000))
    assert token.isascii()
    assert token.isprintable()
    assert " " not in token
    assert len(token) < 256


def test_the_longest_chain_fits_into_one_header_line_of_common_servers():
    longest = Chain((Hop(AgentId("a" * 63), "t" * TASK_ID_BYTES_MAX),) * HOPS_MAX, 1_800_000_000_000, 1_800_000_000_000)
    token = tokens().write(longest)
    assert len(token) <= 8_192
    assert tokens().read(token) == longest


@pytest.mark.parametrize("part", [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_one_that_was_changed_anywhere_is_refused_with_what_to_do(part):
    token = tokens().write(CHAIN)
    place = round(part * (len(token) - 1))
    changed = token[:place] + ("1" if token[place] != "1" else "2") + token[place + 1 :]
    with pytest.raises(InvalidRequest, match="exactly as the hub gave it") as refused:
        tokens().read(changed)
    assert [wrong.field for wrong in refused.value.fields] == ["Meshway-Chain"]


@pytest.mark.parametrize("text", ["", "~", "a~b", "mws1.x.y~AAAA", "€~" * 9, "~" * 9_000])
def test_what_no_hub_wrote_is_refused(text):
    with pytest.raises(InvalidRequest):
        tokens().read(text)


def test_one_of_another_mesh_is_refused():
    with pytest.raises(InvalidRequest):
        tokens(b"x" * 32).read(tokens().write(CHAIN))


def test_parts_of_two_do_not_make_a_third():
    one = tokens()
    other = Chain(CHAIN.hops[:1], CHAIN.started_at_ms, CHAIN.deadline_ms)
    first, second, third = (each.split("~") for each in (one.write(CHAIN), one.write(other), tokens().write(CHAIN)))
    for parts in ((first[0], first[1], second[2]), (first[0], second[1], first[2]), (third[0], *first[1:])):
        with pytest.raises(InvalidRequest):
            tokens().read("~".join(parts))


def test_a_chain_is_shown_from_the_client_on():
    assert CHAIN.shown().startswith("client -> a (task t1) -> b (task zwei")
    assert (CHAIN.depth, CHAIN.agents, CHAIN.root.task_id) == (2, ("a", "b"), "t1")
