"""The credential an agent demands of its callers: sealed in its record, opened only to call or probe it."""

from meshway.gateway.ports import SecretBox
from meshway.kernel.ids import AgentId
from meshway.registry.values import Agent

__all__ = ["AgentCredentials"]


class AgentCredentials:
    """Seals to one agent: moved to another agent's record, a credential does not open."""

    def __init__(self, box: SecretBox) -> None:
        self._box = box

    def seal(self, agent_id: AgentId, credential: str) -> str:
        return self._box.seal(credential, context=_context(agent_id))

    def open(self, agent: Agent) -> str | None:
        """The plain credential, None when the agent has none. Raises: StoreCorrupt, as the SecretBox does."""
        return None if agent.credential is None else self._box.open(agent.credential, context=_context(agent.id))


def _context(agent_id: AgentId) -> str:
    return f"agent:{agent_id}"
