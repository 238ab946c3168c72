"""The card that clients see: the agent's own, with the hub's address and the hub's security in it."""

from collections.abc import Callable
from typing import Literal, Protocol

from meshway.kernel.errors import AgentNotFound, ExtendedCardMissing
from meshway.kernel.ids import AgentId
from meshway.registry.directory import Directory
from meshway.registry.values import Agent, CardFacts

__all__ = ["CardWriter", "ServeCard"]

# Rewritten cards kept: agents times hosts times styles in use; each is a few KB.
_CARDS_MAX = 1_024


class CardWriter(Protocol):
    """Writes the card of either version; the protocol room's `serve_card`."""

    def __call__(
        self,
        facts: CardFacts,
        *,
        base_url: str,
        style: Literal["1.0", "union", "0.3"],
        hub_requires_key: bool,
        hub_notifies: bool = False,
    ) -> bytes: ...


class ServeCard:
    """Public: a card tells nobody anything but where to knock."""

    def __init__(
        self,
        directory: Directory,
        write: CardWriter,
        *,
        base_url_of: Callable[[bytes], str],
        demands_key: Callable[[], bool],
    ) -> None:
        """`base_url_of` makes the hub's own URL of a Host header that passed the gate, or of `public_url`."""
        self._directory = directory
        self._write = write
        self._base_url_of = base_url_of
        self._demands_key = demands_key
        self._cards: dict[tuple[str, str, str, bool, bool], tuple[Agent, bytes]] = {}

    def execute(self, agent_id: AgentId, *, host: bytes, want: Literal["default", "0.3"]) -> bytes:
        """The card's bytes, the same bytes as long as nothing changed. Raises: AgentNotFound."""
        agent = self._agent(agent_id)
        style = "0.3" if want == "0.3" else agent.settings.card
        base_url = f"{self._base_url_of(host)}/a2a/{agent.id}"
        # Notifications are made of what is recorded.
        notifies = agent.pull or agent.settings.record != "off"
        key = (agent.id, base_url, style, self._demands_key(), notifies)
        known = self._cards.get(key)
        if known is not None and known[0].card is agent.card:
            return known[1]
        card = self._write(agent.card, base_url=base_url, style=style, hub_requires_key=key[3], hub_notifies=notifies)
        if len(self._cards) >= _CARDS_MAX:
            self._cards.clear()
        self._cards[key] = (agent, card)
        return card

    def extended_base_url(self, agent_id: AgentId, *, host: bytes) -> str:
        """The base URL for the agent's extended card. Raises: AgentNotFound, ExtendedCardMissing."""
        if not self._agent(agent_id).card.extended_card:
            raise ExtendedCardMissing(f"Agent {agent_id!r} has no extended card.", agent=agent_id)
        return f"{self._base_url_of(host)}/a2a/{agent_id}"

    def own_extended_card(self, agent_id: AgentId, *, host: bytes) -> bytes | None:
        """Of an agent that connects out, which shows everybody everything; None: the agent itself must be asked.

        Raises: AgentNotFound.
        """
        agent = self._agent(agent_id)
        if not agent.pull:
            return None
        base_url = f"{self._base_url_of(host)}/a2a/{agent.id}"
        return self._write(agent.card, base_url=base_url, style="1.0", hub_requires_key=self._demands_key())

    @property
    def demands_key(self) -> bool:
        """Must cards say that the hub asks for a key?"""
        return self._demands_key()

    def _agent(self, agent_id: AgentId) -> Agent:
        agent = self._directory.get(agent_id)
        if agent is None:
            raise AgentNotFound(f"There is no agent {agent_id!r} at this hub.", agent=agent_id)
        return agent
