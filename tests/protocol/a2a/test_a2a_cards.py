"""Agent cards: what is read, what is refused, what the hub serves instead."""

import json
from pathlib import Path

import msgspec
import pytest
from a2a.client.card_resolver import parse_agent_card
from a2a.compat.v0_3 import types as types_0_3

from meshway.kernel.errors import InvalidRequest, PayloadTooLarge
from meshway.protocols.a2a.card import CARD_BYTES_MAX, read_card, serve_card, serve_extended_card
from meshway.protocols.a2a.dialect import JSONRPC_0_3, REST_1_0
from meshway.protocols.a2a.inbound import decode_reply
from support.a2a_wire_samples import interface, rest, rpc

GOLDEN = sorted((Path(__file__).parent / "golden").glob("card-*.json"))
HUB = "https://hub.example.com/base/a2a/planner"
CARD = json.loads((Path(__file__).parent / "golden" / "card-signed-tenant.json").read_text())["card"]
CARD_0_3 = json.loads((Path(__file__).parent / "golden" / "card-0.3.json").read_text())["card"]
# Everything that would lead a client, or a secret, past the hub.
FOREIGN = (
    "agents.example.com",
    "old.example.com",
    "127.0.0.1",
    "acme",
    "accounts.google.com",
    "signature",
    "X-Agent-Key",
)


@pytest.fixture(params=GOLDEN, ids=lambda path: path.stem)
def golden(request):
    return json.loads(request.param.read_text())


def read(card: object):
    return read_card(msgspec.json.encode(card))


def fields(card: object) -> list[str]:
    with pytest.raises(InvalidRequest) as caught:
        read(card)
    return [fault.field for fault in caught.value.fields]


def test_a_card_of_either_version_is_read(golden):
    facts = read(golden["card"])
    assert {
        "name": facts.name,
        "skills": [skill.id for skill in facts.skills],
        "interfaces": [[i.url, i.binding, i.version, i.tenant] for i in facts.interfaces],
        "streaming": facts.streaming,
        "push_notifications": facts.push_notifications,
        "extended_card": facts.extended_card,
    } == golden["read"]
    assert json.loads(facts.document) == golden["document"]
    assert json.loads(facts.original) == golden["card"]


@pytest.mark.parametrize("style", ["1.0", "union", "0.3"])
def test_the_served_card_is_the_golden_one_and_always_the_same_bytes(golden, style):
    facts = read(golden["card"])
    served = serve_card(facts, base_url=HUB, style=style, hub_requires_key=True)
    assert json.loads(served) == golden[f"served_{style}"]
    assert serve_card(facts, base_url=HUB + "/", style=style, hub_requires_key=True) == served


@pytest.mark.parametrize("style", ["1.0", "union", "0.3"])
def test_nothing_in_the_served_card_leads_past_the_hub(golden, style):
    served = serve_card(read(golden["card"]), base_url=HUB, style=style, hub_requires_key=False)
    assert not [name for name in FOREIGN if name in served.decode()]
    assert "securitySchemes" not in json.loads(served)
    assert golden["card"].get("x-vendor") == json.loads(served).get("x-vendor")


def test_an_open_hub_asks_for_no_key(golden):
    served = serve_card(read(golden["card"]), base_url=HUB, style="1.0", hub_requires_key=False)
    assert json.loads(served) == golden["served_open"]


@pytest.mark.parametrize("style", ["1.0", "union", "0.3"])
def test_the_stock_sdk_reads_the_served_card(golden, style):
    served = json.loads(serve_card(read(golden["card"]), base_url=HUB, style=style, hub_requires_key=True))
    # It changes what it is given.
    card = parse_agent_card(json.loads(json.dumps(served)))
    assert {interface.url for interface in card.supported_interfaces} == {HUB}
    versions = {interface.protocol_version[:3] for interface in card.supported_interfaces}
    assert versions == ({"0.3"} if style == "0.3" else {"1.0", "0.3"})
    assert set(card.security_schemes) == {"meshwayBearer", "meshwayApiKey"}
    if style != "1.0":
        assert types_0_3.AgentCard.model_validate(served).url == HUB


def test_a_served_card_can_be_registered_at_another_hub(golden):
    for style in ("1.0", "union", "0.3"):
        served = serve_card(read(golden["card"]), base_url=HUB, style=style, hub_requires_key=True)
        again = read_card(served)
        assert [skill.id for skill in again.skills] == golden["read"]["skills"]
        assert len(again.interfaces) == (2 if style == "0.3" else 4)


def test_what_protojson_leaves_out_because_it_is_empty_may_be_absent():
    interfaces = [{"url": "http://a.test", "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}]
    facts = read({"name": "a", "description": "d", "version": "1", "supportedInterfaces": interfaces})
    served = json.loads(serve_card(facts, base_url=HUB, style="1.0", hub_requires_key=False))
    assert (served["skills"], served["capabilities"], served["defaultInputModes"]) == ([], {}, [])


def test_every_wrong_field_is_named_by_its_path():
    assert fields({}) == ["name", "description", "version", "supportedInterfaces"]
    assert fields(
        CARD
        | {
            "name": 7,
            "supportedInterfaces": [{"url": "ftp://x", "protocolBinding": "JSONRPC"}, {"url": "http://"}, 5],
            "capabilities": {"streaming": "yes"},
            "skills": [{"id": "", "name": "n", "tags": ["a", 1]}, {"id": "x"}, "skill"],
            "defaultInputModes": "text/plain",
            "iconUrl": "javascript:alert(1)",
            "provider": {"url": "data:text/html,x"},
        }
    ) == [
        "name",
        "supportedInterfaces.2",
        "supportedInterfaces.0.url",
        "supportedInterfaces.1.url",
        "supportedInterfaces.1.protocolBinding",
        "capabilities.streaming",
        "skills.2",
        "skills.0.id",
        "skills.0.tags.1",
        "skills.1.name",
        "defaultInputModes",
        "iconUrl",
        "provider.url",
    ]
    assert fields(
        CARD_0_3 | {"url": "http://u:p@host/", "additionalInterfaces": [{"url": "http://a b/", "transport": "JSONRPC"}]}
    ) == [
        "url",
        "additionalInterfaces.0.url",
    ]
    assert fields(CARD | {"supportedInterfaces": []}) == ["supportedInterfaces"]
    assert fields(CARD | {"supportedInterfaces": {}}) == ["supportedInterfaces"]
    assert fields(CARD_0_3 | {"securitySchemes": []}) == ["securitySchemes"]


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://x:99999999/", "//x", "x", "http:///path", "http://x/#f", "http://x/\n"]
)
def test_an_address_that_is_none_is_refused(url):
    assert fields(CARD_0_3 | {"url": url}) == ["url"]


def test_an_agent_that_offers_only_grpc_is_told_what_to_offer():
    grpc = [{"url": "h:1", "protocolBinding": "GRPC", "protocolVersion": "1.0"}]
    with pytest.raises(InvalidRequest, match=r"offers only GRPC 1\.0; the hub speaks JSONRPC and HTTP"):
        read(CARD | {"supportedInterfaces": grpc})


def test_size_and_depth_are_bounded():
    with pytest.raises(PayloadTooLarge):
        read_card(b" " * (CARD_BYTES_MAX + 1))
    deep: object = 1
    for _ in range(40):
        deep = {"x": deep}
    assert fields(CARD | {"x-deep": deep}) == ["card"]
    for document in (b"", b"{", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"name":1e999}'):
        with pytest.raises(InvalidRequest):
            read_card(document)


def test_the_extended_card_is_rewritten_like_the_public_one():
    extended = CARD | {"skills": [*CARD["skills"], {"id": "secret", "name": "Secret"}]}
    request = rpc("agent/getAuthenticatedExtendedCard", {})
    reply = decode_reply(request, interface(REST_1_0), 200, b"application/json", msgspec.json.encode(extended))
    served = serve_extended_card(request, reply, base_url=HUB, hub_requires_key=True)
    answer = json.loads(served.body)
    assert answer["id"] == 7
    assert (answer["result"]["url"], answer["result"]["skills"][1]["id"]) == (HUB, "secret")
    types_0_3.AgentCard.model_validate(answer["result"])
    assert not [name for name in FOREIGN if name in served.body.decode()]

    request = rest("GET", "/extendedAgentCard")
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "result": CARD_0_3})
    reply = decode_reply(request, interface(JSONRPC_0_3), 200, b"application/json", body)
    served = serve_extended_card(request, reply, base_url=HUB, hub_requires_key=False)
    assert {i["url"] for i in json.loads(served.body)["supportedInterfaces"]} == {HUB}


def test_an_error_instead_of_an_extended_card_passes():
    request = rpc("GetExtendedAgentCard", {})
    body = b'{"jsonrpc":"2.0","id":7,"error":{"code":-32007,"message":"none"}}'
    reply = decode_reply(request, interface(JSONRPC_0_3), 200, b"application/json", body)
    assert serve_extended_card(request, reply, base_url=HUB, hub_requires_key=True) is reply
