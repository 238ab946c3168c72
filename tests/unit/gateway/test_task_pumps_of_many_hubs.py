"""Streams of agents where a hub was asleep, or cut off, and another took them up."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from meshway.engine.ports import FromSequence
from meshway.gateway.ports import AgentStream, StreamEvent
from meshway.gateway.pump_marks import PumpMarks
from meshway.gateway.task_pumps import TaskPumps
from meshway.kernel.ids import AgentId, ContextId, InstanceId, PrincipalId, TaskId
from meshway.tasks.settings import TaskSettings
from meshway.tasks.values import TaskOwner, TaskSeen, TaskState
from support.mesh_hubs import LOST_MS, MeshRig
from support.task_clients import until
from support.task_rig import TaskRig, task_rig

A, T, C = AgentId("a"), TaskId("t"), ContextId("c")
OWNER = TaskOwner(
    task_id=T,
    context_id=C,
    agent_id=A,
    instance_id=InstanceId("i"),
    principal_id=PrincipalId("ann"),
    state=TaskState.WORKING,
    created_at_ms=1,
    status_at_ms=1,
)


class StreamingAgent:
    """Everybody who subscribes is told what it says from then on; its task keeps all of it."""

    def __init__(self):
        self.chunks, self.listeners, self.state = [], [], "TASK_STATE_WORKING"

    def _task(self):
        task = {"id": T, "contextId": C, "status": {"state": self.state}}
        if self.chunks:
            task["artifacts"] = [{"artifactId": "x", "parts": [{"text": text} for text in self.chunks]}]
        return msgspec.json.encode(task)

    async def get(self, agent_id, task_id, instance_id):
        return self._task()

    async def subscribe(self, agent_id, task_id, instance_id):
        queue = asyncio.Queue()
        self.listeners.append(queue)
        return AgentStream(self._events(queue, b'{"task":%b}' % self._task()))

    async def _events(self, queue, first):
        try:
            yield StreamEvent(b"", core=first)
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self.listeners.remove(queue)

    async def say(self, text):
        """One after the other of those who listen hears it, so that who is last has heard what the others wrote."""
        self.chunks.append(text)
        artifact = {"artifactId": "x", "parts": [{"text": text}]}
        body = {"taskId": T, "contextId": C, "artifact": artifact, "append": True}
        for queue in list(self.listeners):
            self._tell("artifactUpdate", body, TaskState.UNSPECIFIED, queue)
            await asyncio.sleep(0.05)

    def complete(self):
        self.state = "TASK_STATE_COMPLETED"
        body = {"taskId": T, "contextId": C, "status": {"state": self.state}}
        for queue in self.listeners:
            self._tell("statusUpdate", body, TaskState.COMPLETED, queue)
            queue.put_nowait(None)

    def _tell(self, kind, body, state, queue):
        seen = TaskSeen(task_id=T, context_id=C, state=state)
        queue.put_nowait(StreamEvent(b"", seen, msgspec.json.encode({kind: body})))


class Reading:
    """What a hub needs to read streams."""

    def __init__(self, rig, mesh, name, agent):
        self.rig = rig
        self.hub = mesh.add(name)
        self.marks = PumpMarks(mesh.key_value, rig.closer, self.hub.hubs, retention_ms=60_000)
        self.pumps = TaskPumps(
            rig.tracks,
            rig.owners,
            agent,
            self.marks,
            closer=rig.closer,
            clock=rig.clock,
            settings=TaskSettings(),
            broke=lambda agent_id, instance_id: None,
        )

    async def attach(self):
        track = await self.rig.tracks.open(A, T, context_id=C)
        return await self.pumps.attach(OWNER, track)


@asynccontextmanager
async def reading_pair(folder, clock, agent):
    mesh = MeshRig(clock)
    async with task_rig(folder, clock) as rig:
        other = TaskRig(rig.engine, clock)
        await other.start(recover=False)
        one, two = Reading(rig, mesh, "a", agent), Reading(other, mesh, "b", agent)
        mesh.settle()
        rig.owners.keep(OWNER)
        await rig.settle_down()
        async with asyncio.TaskGroup() as group:
            duties = (rig.tracks.run, other.tracks.run, one.pumps.run, two.pumps.run)
            running = [group.create_task(duty()) for duty in duties]
            yield mesh, one, two
            for each in running:
                each.cancel()
        await other.stop()


async def texts(rig):
    subject_events = await rig.engine.log.read(f"task.{A}.{T}", FromSequence(1), limit=100)
    bodies = [msgspec.json.decode(entry.data) for entry in subject_events]
    updates = [body["artifactUpdate"] for body in bodies if "artifactUpdate" in body]
    return [part["text"] for update in updates for part in update["artifact"]["parts"]]


@pytest.mark.parametrize("writes_meanwhile", [True, False])
async def test_a_hub_that_slept_stops_to_read_what_another_has_taken_up(tmp_path, clock, writes_meanwhile):
    agent = StreamingAgent()
    async with reading_pair(tmp_path, clock, agent) as (mesh, one, two):
        await one.attach()
        await agent.say("1")
        await until(lambda: one.pumps.running(A, T).track.written == 2)
        mesh.run_for(LOST_MS + 500, "a")
        two.pumps.hub_lost()
        await until(lambda: len(agent.listeners) == 2)
        first_of_both = agent.listeners[0]
        mesh.settle()
        if writes_meanwhile:
            # The agent's word comes to the one that took the stream up first.
            agent.listeners[:] = agent.listeners[1:]
            await agent.say("2")
            await until(lambda: one.pumps.running(A, T).track.written == 3)
            agent.listeners.insert(0, first_of_both)
        for text in ("3", "4", "5"):
            await agent.say(text)
        await until(lambda: len(agent.listeners) == 1)
        agent.complete()
        await until(lambda: two.pumps.running(A, T) is None and one.pumps.running(A, T) is None)
        assert await texts(one.rig) == agent.chunks


async def test_a_stream_that_could_not_be_taken_up_for_the_store_was_away_is_taken_up_once_it_is_back(tmp_path, clock):
    agent = StreamingAgent()
    async with reading_pair(tmp_path, clock, agent) as (mesh, one, two):
        await one.attach()
        await until(lambda: one.pumps.running(A, T).track.written == 1)
        mesh.run_for(LOST_MS + 500, "a")
        # It has forgotten what it heard of the task.
        two.rig.tracks._elsewhere.clear()
        two.rig.line.is_away = True
        two.pumps.hub_lost()
        await until(lambda: two.rig.line.refused)
        two.rig.line.is_away = False
        await until(lambda: two.pumps.running(A, T) is not None and len(agent.listeners) == 2)
        mesh.settle()
        agent.complete()
        await until(lambda: two.pumps.running(A, T) is None and one.pumps.running(A, T) is None)
