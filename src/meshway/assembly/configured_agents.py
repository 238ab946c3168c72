"""Agents from the configuration: registered when the hub starts, and tried again while they do not answer yet."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import structlog

from meshway.gateway.register_agent import RegisterAgent, Registration, merge_registrations
from meshway.kernel.errors import InvalidRequest, MeshwayError, UpstreamError
from meshway.kernel.principal import LOCAL_OPERATOR
from meshway.settings.model import AgentEntry

__all__ = ["ConfiguredAgents"]

_log = structlog.get_logger()

# An agent started together with the hub is up within seconds; one that is away for longer is asked now and then.
_RETRY_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class ConfiguredAgents:
    """One duty; ends when every agent is registered."""

    def __init__(self, register: RegisterAgent, entries: Sequence[AgentEntry]) -> None:
        """Raises: InvalidRequest for entries that contradict each other, or a card file that cannot be read."""
        self._register = register
        self._missing = merge_registrations([_registration(entry) for entry in entries])

    async def run(self) -> None:
        """Register what the configuration names; what does not answer is tried again for ever."""
        attempt = 0
        while self._missing:
            self._missing = [one for one in self._missing if not await self._registered(one, attempt)]
            if self._missing:
                await asyncio.sleep(_RETRY_PAUSES_S[min(attempt, len(_RETRY_PAUSES_S) - 1)])
                attempt += 1

    async def _registered(self, registration: Registration, attempt: int) -> bool:
        try:
            await self._register.execute(LOCAL_OPERATOR, registration)
        except UpstreamError as error:
            if attempt == 0:
                _log.warning("configured_agent_not_there_yet", agent=registration.id, reason=error.detail)
            return False
        except MeshwayError as error:
            # Trying again would give the same answer: the entry has to be mended.
            _log.error("configured_agent_refused", agent=registration.id, reason=error.detail)
            return True
        _log.info("configured_agent_registered", agent=registration.id)
        return True


def _registration(entry: AgentEntry) -> Registration:
    card = None
    if entry.card is not None:
        try:
            card = Path(entry.card).read_bytes()
        except OSError as error:
            raise InvalidRequest(f"agents: the card of {entry.id!r} cannot be read: {error}") from error
    return Registration(
        id=entry.id,
        url=entry.url,
        card=card,
        labels=dict(entry.labels),
        capacity=entry.capacity,
        weight=entry.weight,
        settings=entry.settings,
        credential=entry.credential,
    )
