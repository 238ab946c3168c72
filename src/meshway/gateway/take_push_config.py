"""A message to an agent with a URL that brings a push notification config: the hub keeps it, the agent sees none."""

from collections.abc import AsyncGenerator

from meshway.gateway.call_once import CallOnce
from meshway.gateway.manage_push_configs import ManagePushConfigs
from meshway.gateway.ports import AgentCall, AgentReply, AgentStream, CoreReply, StreamEvent, TaskStream
from meshway.gateway.recorded_calls import RecordedCalls
from meshway.kernel.ids import TaskId
from meshway.registry.values import Agent
from meshway.tasks.owners import TaskOwners
from meshway.tasks.tracks import TaskTracks
from meshway.tasks.values import TaskOwner

__all__ = ["TakePushConfig"]


class TakePushConfig:
    """Around the sending of a message. Of a message that brings none it costs a look at its bytes."""

    def __init__(
        self,
        once: CallOnce,
        recorded: RecordedCalls,
        configs: ManagePushConfigs,
        *,
        owners: TaskOwners,
        tracks: TaskTracks,
    ) -> None:
        self._once = once
        self._recorded = recorded
        self._configs = configs
        self._owners = owners
        self._tracks = tracks

    async def execute(
        self, agent: Agent, call: AgentCall, owner: TaskOwner | None
    ) -> AgentReply | AgentStream | CoreReply | TaskStream:
        """Raises: MalformedBody, InvalidRequest, EgressDenied, before the agent is called; and as the call."""
        payload = call.reader.without_push_config()
        if payload is call.payload:
            return await self._once.execute(agent, call, owner)
        config = call.reader.send_terms().push_config
        if config is not None:
            self._configs.check_inline(config)
        call.payload = payload
        after = 0 if owner is None else await self._last_number(owner)
        answer = await self._once.execute(agent, call, owner)
        if config is None:
            return answer
        # Of a request that was answered before, the config is kept already.
        if isinstance(answer, AgentReply):
            if answer.task is not None:
                await self._keep(call, answer.task.task_id, config, after)
        elif isinstance(answer, AgentStream):
            answer.events = self._keeping(answer.events, call, config, after)
        return answer

    async def _last_number(self, owner: TaskOwner) -> int:
        track = await self._tracks.open(owner.agent_id, owner.task_id, context_id=owner.context_id or "")
        return track.last

    async def _keeping(
        self, events: AsyncGenerator[StreamEvent, None], call: AgentCall, config: bytes, after: int
    ) -> AsyncGenerator[StreamEvent, None]:
        """The events; the config is kept as soon as one of them names the task, before the client sees it."""
        is_kept = False
        try:
            async for event in events:
                if not is_kept and event.task is not None:
                    is_kept = True
                    await self._keep(call, event.task.task_id, config, after)
                yield event
        finally:
            await events.aclose()

    async def _keep(self, call: AgentCall, task_id: TaskId, config: bytes, after: int) -> None:
        owner = await self._owners.owner_of(call.agent_id, task_id)
        if owner is None or owner.principal_id != call.principal.id:
            return
        await self._configs.attach(owner, config, version=call.version, after=after)
        # Its events must come in, also where the agent's are not recorded.
        await self._recorded.watch(call.agent_id, task_id)
