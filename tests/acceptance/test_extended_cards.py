"""GetExtendedAgentCard: relayed, and rewritten as the public card is."""

import httpx
import pytest
from a2a.types import GetExtendedAgentCardRequest

from support.hub_process import HubProcess
from support.sdk_agent import SdkAgents
from support.sdk_client import stock_client


@pytest.mark.parametrize("dialect", ["j10", "r10"])
async def test_extended_card_has_the_hubs_address_and_the_agents_skills(
    hub: HubProcess, sdk_agents: SdkAgents, dialect: str
) -> None:
    async with httpx.AsyncClient() as http:
        client = await stock_client(http, f"{hub.url}/a2a/j10", dialect, streaming=False)
        card = await client.get_extended_agent_card(GetExtendedAgentCardRequest())
    assert [skill.id for skill in card.skills] == ["script", "secret"]
    assert {interface.url for interface in card.supported_interfaces} == {f"{hub.url}/a2a/j10"}
    assert str(sdk_agents.port) not in str(card)


async def test_agent_without_an_extended_card_says_so_in_the_protocols_words(hub: HubProcess) -> None:
    call = {"jsonrpc": "2.0", "id": 7, "method": "GetExtendedAgentCard", "params": {}}
    status, _, answer = hub.request("POST", "/a2a/r10", call, headers={"a2a-version": "1.0"})
    assert status == 200
    assert answer["id"] == 7
    assert answer["error"]["code"] == -32007
