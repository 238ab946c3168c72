"""Stock a2a-sdk clients bound to one dialect of the hub, made from the cards the hub serves."""

from collections.abc import AsyncIterator

import httpx
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.helpers.proto_helpers import new_text_message
from a2a.types import Role, SendMessageConfiguration, SendMessageRequest, StreamResponse

from support.sdk_agent import DIALECTS

__all__ = ["ask", "stock_client"]


async def stock_client(http: httpx.AsyncClient, agent_url: str, dialect: str, *, streaming: bool) -> Client:
    """The client a user gets who fetches the hub's card and prefers `dialect`."""
    binding, version = DIALECTS[dialect]
    resolver = A2ACardResolver(http, agent_url)
    path = "/.well-known/agent.json" if version == "0.3" else None
    card = await resolver.get_agent_card(relative_card_path=path)
    config = ClientConfig(
        streaming=streaming,
        httpx_client=http,
        supported_protocol_bindings=[binding],
        use_client_preference=True,
    )
    offered = [
        each
        for each in card.supported_interfaces
        if each.protocol_binding == binding and each.protocol_version.startswith(version)
    ]
    assert offered, card
    # A card may offer both versions on one URL; a client that knows one of them sees only that.
    del card.supported_interfaces[:]
    card.supported_interfaces.append(offered[0])
    return ClientFactory(config).create(card)


def ask(
    client: Client, text: str, *, task_id: str | None = None, context_id: str | None = None
) -> AsyncIterator[StreamResponse]:
    message = new_text_message(text, role=Role.ROLE_USER, task_id=task_id, context_id=context_id)
    return client.send_message(SendMessageRequest(message=message, configuration=SendMessageConfiguration()))
