"""What instances that poll have to be told, kept until they next ask: which of their tasks have ended meanwhile."""

from collections import OrderedDict, deque

from meshway.kernel.ids import AgentId, InstanceId
from meshway.tasks.claims import Claim

__all__ = ["TaskPolls"]

# Those that never ask again are forgotten, the longest silent first: more instances than one hub serves.
_INSTANCES_MAX = 10_000
# Of one instance: as many as it may hold by one call. It finds out about older ones when it reports.
_NOTICES_MAX = 1_000


class TaskPolls:
    """One per hub; used from the event loop only."""

    def __init__(self) -> None:
        self._notices: OrderedDict[tuple[AgentId, InstanceId], deque[str]] = OrderedDict()

    def told(self, claim: Claim, _reason: str) -> None:
        """The work on this must end."""
        key = (claim.agent_id, claim.instance_id)
        self._notices.setdefault(key, deque(maxlen=_NOTICES_MAX)).append(claim.delivery_id)
        self._notices.move_to_end(key)
        if len(self._notices) > _INSTANCES_MAX:
            self._notices.popitem(last=False)

    def take(self, agent_id: AgentId, instance_id: InstanceId) -> tuple[str, ...]:
        """What the instance has not been told yet, once."""
        return tuple(self._notices.pop((agent_id, instance_id), ()))
