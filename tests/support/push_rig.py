"""Push notifications of one hub over the embedded engine in a folder, with a receiver that a test writes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

from meshway.engine.embedded import EmbeddedEngine, EmbeddedSettings, open_embedded_engine
from meshway.engine.ports import DeadLetter, Log, LogAppend, Queue
from meshway.gateway.admission import Admission
from meshway.gateway.deliver_notifications import DeliverNotifications
from meshway.gateway.manage_push_configs import ManagePushConfigs
from meshway.gateway.ports import EgressRules
from meshway.gateway.push_ports import Notification, NotificationAnswer, NotificationSender
from meshway.gateway.push_secrets import PushSecrets
from meshway.gateway.push_settings import PushSettings
from meshway.gateway.queue_notifications import PUSH_QUEUE, QueueNotifications
from meshway.gateway.write_notification import NotificationWriter
from meshway.kernel.clock import Clock
from meshway.kernel.ids import AgentId, ContextId, InstanceId, PrincipalId, TaskId, new_id
from meshway.kernel.metrics import NullMetrics
from meshway.kernel.principal import Principal, Scope
from meshway.protocols.a2a.shapes import JSON_0_3, lower_task
from meshway.security.egress import CheckedEgress
from meshway.security.push_signing import PushSigner
from meshway.security.secret_box import AesGcmBox
from meshway.security.settings import EgressSettings
from meshway.tasks.event_writer import header_of
from meshway.tasks.push_configs import PushConfigStore
from meshway.tasks.settings import TaskSettings
from meshway.tasks.tokens import events_subject
from meshway.tasks.values import TaskEvent, TaskOwner, TaskState

__all__ = [
    "ANN",
    "ECHO",
    "PATIENCE_S",
    "TASK",
    "FakeReceiver",
    "PushRig",
    "artifact_update",
    "event_number",
    "owner_record",
    "push_rig",
    "status_update",
    "task_event",
]

ANN = Principal(PrincipalId("ann"), frozenset({Scope("call")}))
ECHO = AgentId("echo")
TASK = TaskId("t-1")
SECRET_KEY = b"0123456789abcdef0123456789abcdef"
PATIENCE_S = 10.0

Event = tuple[TaskState, dict]


def task_event(state: TaskState = TaskState.SUBMITTED, *, task: str = TASK) -> Event:
    document = {"id": task, "contextId": "c", "status": {"state": state.value}, "history": []}
    return state, {"task": document}


def status_update(state: TaskState = TaskState.WORKING, *, task: str = TASK) -> Event:
    return state, {"statusUpdate": {"taskId": task, "contextId": "c", "status": {"state": state.value}}}


def artifact_update(text: str, *, append: bool = True, task: str = TASK) -> Event:
    artifact = {"artifactId": "a", "parts": [{"text": text}]}
    update = {"taskId": task, "contextId": "c", "artifact": artifact, "append": append}
    return TaskState.WORKING, {"artifactUpdate": update}


def owner_record(task_id: str = TASK, who: Principal = ANN) -> TaskOwner:
    return TaskOwner(
        task_id=TaskId(task_id),
        context_id=ContextId("c"),
        agent_id=ECHO,
        instance_id=InstanceId("one"),
        principal_id=who.id,
        state=TaskState.WORKING,
        created_at_ms=0,
        status_at_ms=0,
    )


class FakeReceiver:
    """A NotificationSender. `answer` is asked for each notification; an exception it returns is raised."""

    def __init__(self) -> None:
        self.sent: list[Notification] = []
        self.answer: Callable[[Notification], NotificationAnswer | Exception] = lambda _: NotificationAnswer(200)
        self._arrived = asyncio.Event()

    async def send(self, notification: Notification) -> NotificationAnswer:
        await asyncio.sleep(0)
        self.sent.append(notification)
        self._arrived.set()
        answer = self.answer(notification)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def wait_sent(self, count: int) -> Sequence[Notification]:
        async with asyncio.timeout(PATIENCE_S):
            while len(self.sent) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.sent

    @property
    def numbers(self) -> list[int]:
        return [event_number(notification) for notification in self.sent]

    @property
    def bodies(self) -> list[dict]:
        return [json.loads(notification.body) for notification in self.sent]


def event_number(notification: Notification) -> int:
    return int(dict(notification.headers)[b"meshway-event-number"])


class PushRig:
    """One hub's worth. `owners` are the tasks it knows; the duties run as long as `running` does."""

    def __init__(
        self,
        engine: EmbeddedEngine,
        clock: Clock,
        *,
        sender: NotificationSender | None = None,
        egress: EgressRules | None = None,
        wrap_queue: Callable[[Queue], Queue] = lambda queue: queue,
        wrap_log: Callable[[Log], Log] = lambda log: log,
        **settings: int,
    ) -> None:
        self.engine = engine
        self.clock = clock
        self.receiver = FakeReceiver()
        self.owners = {TASK: owner_record()}
        self.concurrency = settings.pop("concurrency", 32)
        self.settings = PushSettings(**settings)
        self.configs = PushConfigStore(engine.key_value, settings=TaskSettings())
        self.log, self.queue = wrap_log(engine.log), wrap_queue(engine.queue)
        self.queueing = QueueNotifications(self.configs, log=self.log, queue=self.queue, clock=clock)
        self.signer = PushSigner(SECRET_KEY, issuer="https://hub.example")
        secrets = PushSecrets(AesGcmBox(SECRET_KEY))
        self.writer = NotificationWriter(
            self.log,
            secrets=secrets,
            signer=self.signer,
            lower_task=lambda task: json.dumps(lower_task(json.loads(task), "task", JSON_0_3)).encode(),
            clock=clock,
        )
        self.deliver = DeliverNotifications(
            self.configs,
            engine=SimpleNamespace(queue=self.queue, queue_admin=engine.queue_admin),
            writer=self.writer,
            sender=sender or self.receiver,
            settings=self.settings,
            concurrency=self.concurrency,
            clock=clock,
            chance=lambda: 0.999,
        )
        self.manage = ManagePushConfigs(
            self.configs,
            log=self.log,
            owner_of=self.owner_of,
            egress=egress or CheckedEgress(EgressSettings(), loopback=True, clock=clock),
            secrets=secrets,
            admission=Admission(calls_in_flight_max=100),
            clock=clock,
        )

    async def owner_of(self, agent_id: AgentId, task_id: TaskId) -> TaskOwner | None:
        return self.owners.get(task_id) if agent_id == ECHO else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator["PushRig"]:
        """Follow the store, queue and deliver until the block ends."""
        # Not a TaskGroup: fixtures enter in one task and leave in another.
        loop = asyncio.get_running_loop()
        duties = [loop.create_task(duty()) for duty in (self.configs.run, self.queueing.run, self.deliver.run)]
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.configs.wait_ready()
            yield self
        finally:
            for duty in duties:
                duty.cancel()
            ends = await asyncio.gather(*duties, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends), ends

    async def create(self, *, version: str = "1.0", principal: Principal = ANN, **fields: object) -> dict:
        document = {"taskId": TASK, "url": "http://127.0.0.1:9/hook"} | fields
        kept = await self.manage.create(principal, ECHO, json.dumps(document).encode(), version=version)
        return json.loads(kept)

    async def attach(self, *, version: str = "1.0", task: str = TASK, **fields: object) -> None:
        """A config that came with the message that begins the task."""
        config = json.dumps({"url": "http://127.0.0.1:9/hook"} | fields).encode()
        await self.manage.attach(owner_record(task), config, version=version, after=0)

    async def append(self, *events: Event, task: str = TASK) -> None:
        """What the hub does for each event: into the log, then a word to whoever notifies."""
        self.queueing.events_appended(ECHO, TaskId(task), await self.write(*events, task=task))

    async def write(self, *events: Event, task: str = TASK) -> Sequence[TaskEvent]:
        """Into the log, and then the hub dies."""
        subject = events_subject(ECHO, task)
        (bounds,) = await self.engine.log.bounds([subject])
        begin = 1 if bounds is None else bounds.last + 1
        written = [
            TaskEvent(number=number, body=json.dumps(body).encode(), state=state, at_ms=self.clock.now_ms())
            for number, (state, body) in enumerate(events, begin)
        ]
        await self.engine.log.append(
            [
                LogAppend(subject=subject, message_id=new_id(), data=event.body, headers=header_of(event))
                for event in written
            ]
        )
        return written

    async def dead_letters(self) -> Sequence[DeadLetter]:
        return await self.engine.queue_admin.dead_letters(PUSH_QUEUE)

    async def wait_dead(self, count: int) -> Sequence[DeadLetter]:
        await self.until(lambda: self._counts(dead=count))
        return await self.dead_letters()

    async def wait_empty(self) -> None:
        """Nothing waits, is held or is to be retried."""
        await self.until(lambda: self._counts(waiting=0, held=0, delayed=0))

    async def wait_retrying(self) -> None:
        """What was handed out is back, to be retried."""
        await self.until(lambda: self._holds_none_leased())

    async def until(self, question: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if await question():
                    return
                await asyncio.sleep(0.005)

    async def _counts(self, **wanted: int) -> bool:
        (depth,) = await self.engine.queue.depth([PUSH_QUEUE])
        return all(getattr(depth, name) == count for name, count in wanted.items())

    async def _holds_none_leased(self) -> bool:
        # `held` counts retries too, so the duty itself is asked: whoever is out has a place.
        return self.deliver.in_flight == 0


@asynccontextmanager
async def push_rig(folder: Path, clock: Clock, **options: object) -> AsyncIterator[PushRig]:
    """A rig whose duties run."""
    engine = await open_embedded_engine(folder, settings=EmbeddedSettings(), clock=clock, metrics=NullMetrics())
    try:
        async with PushRig(engine, clock, **options).running() as rig:
            yield rig
    finally:
        await engine.close()
