"""One attempt to have an agent with a URL do a task of the hub's own: ask, and report its words as an instance would.

The agent has a task of its own, under its own id; what it says is told of the hub's task. After a failure that may have
reached the agent, its task is looked for before it is asked again.
"""

from collections.abc import Mapping

import msgspec

from meshway.gateway.agent_tasks import AgentTasks, CoreAnswer
from meshway.gateway.lease_tasks import HandedTask
from meshway.gateway.ports import AgentStream
from meshway.gateway.report_tasks import ReportTasks, TaskReport
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.clock import rfc3339_ms
from meshway.kernel.errors import OperationUnsupported, UpstreamBroken, UpstreamInvalid
from meshway.kernel.ids import InstanceId, TaskId
from meshway.registry.values import Agent
from meshway.tasks import event_bodies
from meshway.tasks.missed_events import missed_events
from meshway.tasks.values import TaskOwner, TaskState

__all__ = ["PushAttempt"]

Fields = dict[str, object]

_decode_event = msgspec.json.Decoder(dict[str, Fields]).decode
_decode_fields = msgspec.json.Decoder(Fields).decode
_encode = msgspec.json.Encoder().encode
_UPDATES = ("statusUpdate", "artifactUpdate")


class PushAttempt:
    """Raises what the agent or the way to it does; nothing of the hub's task has ended then."""

    def __init__(
        self, places: TaskPlaces, agents: AgentTasks, reports: ReportTasks, agent: Agent, handed: HandedTask
    ) -> None:
        self._places = places
        self._agents = agents
        self._reports = reports
        self._agent = agent
        self._handed = handed
        self._track = handed.claim.track
        self._source = 0
        self._owner: TaskOwner | None = None

    async def execute(self) -> None:
        """Until the turn has ended, or the claim is over. Raises: UpstreamError, LimitError, and others."""
        owner = await self._places.tasks.owners.owner_of(self._agent.id, self._track.task_id)
        self._owner = owner
        claim, item = self._handed.claim, self._handed.item
        message = _decode_fields(item.message)
        if claim.attempt > 1 and owner is not None and owner.agent_task_id is None:
            found = await self._agents.of_message(
                self._agent.id, item.context_id, str(message.get("messageId", "")), None
            )
            if found is not None:
                self._saw_task(_decode_fields(found), None)
        known = None if self._owner is None else self._owner.agent_task_id
        if known is not None and (claim.attempt > 1 or item.turn == 1):
            # It has the message already: what is left is to hear what became of it.
            await self._take_up(known)
            return
        answer = await self._agents.send(
            self._agent.id,
            self._instance_id,
            _encode(self._outgoing(message, known)),
            streams=self._agent.card.streaming,
            timeout_ms=self._left_ms(),
            headers=self._headers(),
        )
        if isinstance(answer, AgentStream):
            await self._read(answer)
        else:
            await self._whole(answer)
        if not self._is_over:
            known = None if self._owner is None else self._owner.agent_task_id
            if known is None:
                raise UpstreamBroken("The agent's stream ended before it said anything.", may_have_acted=True)
            await self._take_up(known)

    async def cancel(self) -> None:
        """Ask the agent to end its task, if it has one. Raises: UpstreamError, and others."""
        owner = self._owner
        if owner is not None and owner.agent_task_id is not None:
            await self._agents.cancel(self._agent.id, owner.agent_task_id, self._instance_id or InstanceId(""))

    @property
    def _is_over(self) -> bool:
        return self._handed.claim.is_over

    @property
    def _instance_id(self) -> InstanceId | None:
        return None if self._owner is None else self._owner.agent_instance_id

    def _outgoing(self, message: Fields, known: TaskId | None) -> Fields:
        """The client's message with the agent's own task in it. The context is the hub's, so that it can be found."""
        outgoing = {name: value for name, value in message.items() if name != "taskId"}
        if known is not None:
            outgoing["taskId"] = known
        return outgoing

    def _headers(self) -> tuple[tuple[bytes, bytes], ...]:
        handed = self._handed
        item = handed.item
        key = item.idempotency_key or f"{item.task_id}.{item.turn}"
        headers = [(b"meshway-chain", handed.chain.encode("ascii")), (b"idempotency-key", key.encode("ascii"))]
        if item.traceparent is not None:
            headers.append((b"traceparent", item.traceparent.encode("latin-1")))
        if handed.claim.deadline_ms is not None:
            headers.append((b"meshway-deadline", rfc3339_ms(handed.claim.deadline_ms).encode("ascii")))
        return tuple(headers)

    def _left_ms(self) -> int | None:
        deadline_ms = self._handed.claim.deadline_ms
        return None if deadline_ms is None else max(1, deadline_ms - self._places.clock.now_ms())

    async def _take_up(self, known: TaskId) -> None:
        """Hear what becomes of the agent's task. Raises: UpstreamBroken when it works on, and cannot be followed."""
        instance_id = self._instance_id or InstanceId("")
        try:
            stream = await self._agents.subscribe(self._agent.id, known, instance_id)
        except OperationUnsupported:
            await self._take_task(_decode_fields(await self._agents.get(self._agent.id, known, instance_id)))
        else:
            await self._read(stream)
            if not self._is_over:
                await self._take_task(_decode_fields(await self._agents.get(self._agent.id, known, instance_id)))
        if not self._is_over:
            raise UpstreamBroken("The agent still works on it.", may_have_acted=True)

    async def _read(self, stream: AgentStream) -> None:
        try:
            async for event in stream.events:
                if self._is_over:
                    return
                if event.core is None:
                    raise UpstreamInvalid("The agent answered with an error.", may_have_acted=True)
                await self._take(_decode_event(event.core))
        finally:
            await stream.aclose()

    async def _whole(self, answer: CoreAnswer) -> None:
        if answer.message:
            await self._take({"message": _decode_fields(answer.message)})
        else:
            await self._take({"task": _decode_fields(answer.task)})

    async def _take(self, event: Mapping[str, Fields]) -> None:
        if (message := event.get("message")) is not None:
            # An agent without tasks: its message is what the task comes to.
            await self._report(self._status_of(TaskState.COMPLETED, message))
        elif (task := event.get("task")) is not None:
            await self._take_task(task)
        else:
            for name in _UPDATES:
                if (update := event.get(name)) is not None:
                    await self._take_update(name, update)

    async def _take_task(self, task: Fields) -> None:
        """What the agent's task has and the hub's lacks."""
        self._saw_task(task, None)
        picture = await self._places.tasks.tracks.picture(self._track)
        ours = {**task, "id": self._track.task_id, "contextId": self._track.context_id}
        for body in missed_events(picture, _encode(ours), task_id=self._track.task_id):
            event = _decode_event(body)
            for name in _UPDATES:
                if (update := event.get(name)) is not None:
                    await self._take_update(name, update)

    async def _take_update(self, name: str, update: Fields) -> None:
        if isinstance(agent_task_id := update.get("taskId"), str) and agent_task_id != self._track.task_id:
            self._saw_task({"id": agent_task_id}, None)
        update = {**update, "taskId": self._track.task_id, "contextId": self._track.context_id}
        status = update.get("status")
        if isinstance(status, dict):
            if status.get("state") in (TaskState.SUBMITTED.value, TaskState.UNSPECIFIED.value):
                # The hub's task is further already.
                return
            message = status.get("message")
            if isinstance(message, dict):
                update["status"] = {**status, "message": self._own(message)}
        await self._report(_encode({name: update}))

    def _status_of(self, state: TaskState, message: Fields) -> bytes:
        return event_bodies.status(
            self._track.task_id,
            self._track.context_id,
            state,
            at_ms=self._places.clock.now_ms(),
            message=_encode(self._own(message)),
        )

    def _own(self, message: Fields) -> Fields:
        return {**message, "taskId": self._track.task_id, "contextId": self._track.context_id}

    async def _report(self, body: bytes) -> None:
        claim = self._handed.claim
        if claim.is_over:
            return
        self._source = max(self._source, claim.source) + 1
        report = TaskReport(claim.delivery_id, self._source, body)
        (outcome,) = await self._reports.report(self._agent.id, [report])
        if outcome.outcome == "refused":
            raise UpstreamInvalid(f"The agent said what its task may not have: {outcome.detail}", may_have_acted=True)

    def _saw_task(self, task: Fields, instance_id: InstanceId | None) -> None:
        """Remember the agent's own task, so that it is found again after a crash."""
        agent_task_id = task.get("id")
        owner = self._owner
        if owner is None or not isinstance(agent_task_id, str) or owner.agent_task_id == agent_task_id:
            return
        self._owner = self._places.tasks.change(
            owner, agent_task_id=TaskId(agent_task_id), agent_instance_id=instance_id or owner.agent_instance_id
        )
