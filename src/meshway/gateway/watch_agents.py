"""See agents change, as it happens, and go on after a lost connection."""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from meshway.gateway.registry_places import RegistryPlaces
from meshway.kernel.ids import AgentId, new_id
from meshway.kernel.principal import Principal
from meshway.registry.directory import AgentChange, PictureAnew
from meshway.registry.values import Agent

__all__ = ["AgentWatched", "WatchAgents"]


@dataclass(frozen=True, slots=True)
class AgentWatched:
    """`agent` None: it is gone. `event_id` resumes after this one."""

    event_id: str
    agent_id: AgentId
    agent: Agent | None


class WatchAgents:
    """The change feed. Event ids belong to one life of one hub; another's begin the watch anew."""

    def __init__(self, places: RegistryPlaces) -> None:
        self._places = places
        self._epoch = new_id()[:8]

    def execute(
        self, principal: Principal, last_event_id: str | None = None
    ) -> AsyncGenerator[AgentWatched | PictureAnew, None]:
        """Everything present first, then changes, for ever; resumed, the present value of what changed since.

        `PictureAnew` comes before everything present, whenever that is sent: first, or where resuming is impossible.

        The watch counts from this call. Close the generator to end it. Raises, at once: Forbidden.
        """
        self._places.admission.admit_read(principal)
        return self._events(self._places.directory.changes(self._sequence_of(last_event_id)))

    async def _events(
        self, changes: AsyncIterator[AgentChange | PictureAnew]
    ) -> AsyncGenerator[AgentWatched | PictureAnew, None]:
        async for change in changes:
            if isinstance(change, PictureAnew):
                yield change
                continue
            agent = None if change.agent is None else self._places.presence.seen(change.agent)
            yield AgentWatched(f"{self._epoch}-{change.sequence}", change.agent_id, agent)

    def _sequence_of(self, event_id: str | None) -> int | None:
        epoch, _, number = (event_id or "").partition("-")
        if epoch != self._epoch or not number.isascii() or not number.isdigit() or len(number) > 18:
            return None
        return int(number)
