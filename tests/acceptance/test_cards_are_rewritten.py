"""The card a client sees: the hub's address, bindings and security in it, and nothing of where the agent lives."""

import asyncio

import pytest

from support.hub_process import HubProcess, running_hub
from support.raw_agent import raw_agent, registered_agent
from support.wire_client import V10, Reply, rpc, say, send_params

CARD = "/.well-known/agent-card.json"


async def card_of(hub: HubProcess, agent: str, *, headers: dict[str, str] | None = None, path: str = CARD) -> Reply:
    return await say(hub, "GET", f"/a2a/{agent}{path}", headers=headers)


@pytest.mark.parametrize("spoken", [("JSONRPC", "1.0"), ("HTTP+JSON", "1.0"), ("JSONRPC", "0.3"), ("HTTP+JSON", "0.3")])
async def test_card_lists_both_bindings_at_the_hub_whatever_the_agent_speaks(
    hub: HubProcess, spoken: tuple[str, str]
) -> None:
    async with registered_agent(hub, raw_agent(interfaces=[spoken])) as agent:
        card = (await card_of(hub, agent.id)).json
    base = f"{hub.url}/a2a/{agent.id}"
    offered = {(each["protocolBinding"], each["protocolVersion"], each["url"]) for each in card["supportedInterfaces"]}
    assert {("JSONRPC", "1.0", base), ("HTTP+JSON", "1.0", base)} <= offered
    assert str(agent.port) not in str(card)
    assert card["name"] == "Raw"
    assert card["skills"][0]["id"] == "raw"


async def test_unknown_fields_of_a_card_are_kept_and_signatures_are_not(hub: HubProcess) -> None:
    more = {
        "signatures": [{"protected": "e30", "signature": "abc"}],
        "futureField": {"kept": [1, 2]},
        "provider": {"organization": "Acme", "url": "https://acme.example"},
        "securitySchemes": {"own": {"apiKeySecurityScheme": {"location": "header", "name": "X-Own"}}},
        "securityRequirements": [{"schemes": {"own": {"list": []}}}],
    }
    async with registered_agent(hub, raw_agent(**more)) as agent:
        card = (await card_of(hub, agent.id)).json
        shown = (await say(hub, "GET", f"/v1/agents/{agent.id}")).json["card"]
    assert "signatures" not in card
    assert card["futureField"] == {"kept": [1, 2]}
    assert card["provider"]["organization"] == "Acme"
    # What the agent demands is the hub's to show, not the client's.
    assert "X-Own" not in str(card)
    # The registry keeps the original, signature and all.
    assert shown["signatures"] == more["signatures"]


async def test_agent_below_a_path_is_found_below_that_path(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent(path="/deep/agents/one")) as agent:
        assert agent.card_reads[0].target == "/deep/agents/one/.well-known/agent-card.json"
        await say(hub, "POST", f"/a2a/{agent.id}", rpc("SendMessage", send_params()), headers=V10)
        assert agent.seen[0].target == "/deep/agents/one/rpc"
        assert "deep" not in (await card_of(hub, agent.id)).body.decode()


async def test_old_clients_get_the_old_card_in_three_ways(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        by_header = await card_of(hub, agent.id, headers={"a2a-version": "0.3"})
        by_query = await card_of(hub, agent.id, path=f"{CARD}?A2A-Version=0.3")
        by_path = await card_of(hub, agent.id, path="/.well-known/agent.json")
        new = await card_of(hub, agent.id, headers={"a2a-version": "1.0"})
    assert by_header.body == by_query.body == by_path.body
    old = by_header.json
    assert old["url"] == f"{hub.url}/a2a/{agent.id}"
    assert old["protocolVersion"].startswith("0.3")
    assert old["preferredTransport"] == "JSONRPC"
    assert {each["transport"] for each in old["additionalInterfaces"]} == {"JSONRPC", "HTTP+JSON"}
    assert "supportedInterfaces" not in old
    assert "url" not in new.json


@pytest.mark.parametrize("style", ["union", "0.3", "1.0"])
async def test_setting_of_the_agent_decides_what_clients_get_that_do_not_say(hub: HubProcess, style: str) -> None:
    async with registered_agent(hub, raw_agent(), settings={"card": style}) as agent:
        card = (await card_of(hub, agent.id)).json
    assert ("supportedInterfaces" in card) == (style != "0.3")
    assert ("url" in card) == (style != "1.0")


async def test_changed_setting_shows_at_once(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        before = await card_of(hub, agent.id)
        await say(hub, "PATCH", f"/v1/agents/{agent.id}", {"settings": {"card": "union"}}, headers=V10)
        after = await card_of(hub, agent.id)
    assert "url" not in before.json
    assert "url" in after.json
    assert before.headers["etag"] != after.headers["etag"]


async def test_card_that_the_client_has_is_not_sent_again(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        first = await card_of(hub, agent.id)
        assert "max-age=" in first.headers["cache-control"]
        etag = first.headers["etag"]
        for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
            again = await card_of(hub, agent.id, headers={"if-none-match": known})
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
        assert (await card_of(hub, agent.id, headers={"if-none-match": '"other"'})).status == 200
        head = await say(hub, "HEAD", f"/a2a/{agent.id}{CARD}")
        assert (head.status, head.body, head.headers["etag"]) == (200, b"", etag)
        agent.card["description"] = "Another one"
        await asyncio.to_thread(hub.register, agent.id, agent.url)
        changed = await card_of(hub, agent.id, headers={"if-none-match": etag})
    assert changed.status == 200
    assert changed.json["description"] == "Another one"


async def test_card_names_the_hubs_security_where_a_key_is_asked_for(keyed, hub: HubProcess) -> None:
    async with registered_agent(keyed.hub, raw_agent()) as agent:
        card = (await card_of(keyed.hub, agent.id)).json
        old = (await card_of(keyed.hub, agent.id, headers={"a2a-version": "0.3"})).json
    schemes = card["securitySchemes"]
    kinds = {kind for scheme in schemes.values() for kind in scheme}
    assert {"httpAuthSecurityScheme", "apiKeySecurityScheme"} <= kinds
    named = {name for requirement in card["securityRequirements"] for name in requirement["schemes"]}
    assert named <= set(schemes)
    assert {scheme["type"] for scheme in old["securitySchemes"].values()} == {"http", "apiKey"}
    assert old["security"]
    async with registered_agent(hub, raw_agent()) as agent:
        assert not (await card_of(hub, agent.id)).json.get("securityRequirements")


async def test_public_url_is_the_base_of_every_url_in_a_card() -> None:
    with running_hub(env={"MESHWAY_PUBLIC_URL": "https://hub.example/base/"}) as hub:
        async with registered_agent(hub, raw_agent()) as agent:
            own = await card_of(hub, agent.id)
            other = await card_of(hub, agent.id, headers={"host": "hub.example"})
    assert own.body == other.body
    assert {each["url"] for each in own.json["supportedInterfaces"]} == {f"https://hub.example/base/a2a/{agent.id}"}


async def test_without_public_url_the_host_the_client_used_is_shown(hub: HubProcess) -> None:
    async with registered_agent(hub, raw_agent()) as agent:
        card = (await card_of(hub, agent.id, headers={"host": f"localhost:{hub.port}"})).json
    assert card["supportedInterfaces"][0]["url"] == f"http://localhost:{hub.port}/a2a/{agent.id}"
