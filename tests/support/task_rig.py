"""The rooms of tasks of one hub over the embedded engine in a folder, for tests: no process, no socket.

Time passes when the test says so (`pass_time`). `TaskParts` names the classes the rooms are made of, so that a test can
plant one with a fault. Gates hold up what the hub writes; `line.is_cut` refuses it, as a full disk would.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import msgspec

from meshway.engine.embedded import EmbeddedEngine, EmbeddedSettings, open_embedded_engine
from meshway.engine.ports import (
    FromSequence,
    Log,
)
from meshway.gateway.accept_once import AcceptOnce
from meshway.gateway.accept_task import AcceptTask
from meshway.gateway.admission import Admission
from meshway.gateway.cancel_running import CancelRunningTasks
from meshway.gateway.cancel_task import CancelTask
from meshway.gateway.chain_tokens import ChainTokens
from meshway.gateway.delegation_guard import DelegationGuard
from meshway.gateway.delegation_settings import DelegationSettings
from meshway.gateway.follow_task import FollowTask
from meshway.gateway.inbox_calls import InboxCalls
from meshway.gateway.inspect_inbox import InspectInbox
from meshway.gateway.lease_tasks import HandedTask, LeaseTasks
from meshway.gateway.list_tasks import ListTasks
from meshway.gateway.ports import AgentCall, TaskStream
from meshway.gateway.report_tasks import HoldShown, Reported, ReportTasks, TaskReport, TaskSettlementItem
from meshway.gateway.root_ledger import RootLedger
from meshway.gateway.show_task import ShowTask
from meshway.gateway.stop_agents import StopAgents
from meshway.gateway.submit_task import SubmitTask, Submitted, TaskSubmission
from meshway.gateway.task_places import TaskPlaces
from meshway.gateway.watch_tasks import WatchTasks
from meshway.kernel.errors import OperationUnsupported, TaskNotCancelable
from meshway.kernel.ids import AgentId, InstanceId, PrincipalId, TaskId
from meshway.kernel.metrics import NullMetrics
from meshway.kernel.operations import AgentOperation
from meshway.kernel.principal import Principal, Scope
from meshway.registry.agent_store import AgentStore
from meshway.registry.directory import Directory
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import Agent, AgentSettings, AgentState, CardFacts, Instance
from meshway.tasks.audit import AuditLog
from meshway.tasks.children import TaskChildren
from meshway.tasks.claims import Claim, Claims
from meshway.tasks.event_writer import EventWriter, event_of_entry
from meshway.tasks.hub_tasks import HubTasks
from meshway.tasks.idempotency import IdempotencyKeys
from meshway.tasks.inbox import Inbox
from meshway.tasks.owners import ListFilter, OwnedPage, TaskOwners
from meshway.tasks.receipts import Receipt
from meshway.tasks.send_terms import SendTerms
from meshway.tasks.settings import TaskSettings
from meshway.tasks.stops import StopBook
from meshway.tasks.tokens import events_subject
from meshway.tasks.tracks import TaskTracks
from meshway.tasks.turn_closer import TurnCloser
from meshway.tasks.values import TaskEvent, TaskState
from meshway.testing.clock import ManualClock
from meshway.testing.registry_fakes import FakeSecretBox
from support.gates import InboxLine, Line

__all__ = [
    "ADMIN",
    "ANN",
    "COMPLETED",
    "COUNTER",
    "LEASE_MS",
    "PATIENCE_S",
    "QUESTION",
    "SETTINGS",
    "Reader",
    "TaskParts",
    "TaskRig",
    "artifact",
    "asked",
    "both",
    "open_engine",
    "outcome_of",
    "status",
    "task_rig",
]

ANN = Principal(PrincipalId("ann"), frozenset({Scope("call")}))
ADMIN = Principal(PrincipalId("boss"), frozenset({Scope("admin")}))
COUNTER = AgentId("counter")
PATIENCE_S = 5.0
LEASE_MS = 10_000
SETTINGS = TaskSettings(lease_ms=LEASE_MS, task_timeout_ms=100_000, inbox_ttl_ms=200_000)
_CARD = CardFacts(
    name="Counter",
    description="",
    version="1",
    skills=(),
    interfaces=(),
    streaming=True,
    push_notifications=True,
    extended_card=False,
    document="{}",
    original="{}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskParts:
    """What the rooms are made of."""

    log: Callable[[Log], Log] = lambda log: log
    owners: type[TaskOwners] = TaskOwners
    tracks: type[TaskTracks] = TaskTracks
    tasks: type[HubTasks] = HubTasks
    cancel: type[CancelTask] = CancelTask
    lease: type[LeaseTasks] = LeaseTasks
    report: type[ReportTasks] = ReportTasks
    watch: type[WatchTasks] = WatchTasks


@dataclass(frozen=True, slots=True)
class _Reader:
    """CallReader of a call that the test makes."""

    terms: SendTerms | None = None

    def send_terms(self) -> SendTerms:
        assert self.terms is not None
        return self.terms

    def history_length(self) -> int | None:
        return None


@dataclass(slots=True)
class Reader:
    """Somebody who follows a task: all the events seen so far, and whether the stream has ended."""

    stream: TaskStream
    seen: list[TaskEvent] = field(default_factory=list)
    is_over: bool = False
    reading: "asyncio.Task[None] | None" = None
    grew: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        async for events in self.stream.events:
            self.seen += events
            self.grew.set()
        self.is_over = True
        self.grew.set()

    async def until(self, last: int, *, patience_s: float = PATIENCE_S) -> None:
        """Until it has seen the event of this number. Raises: TimeoutError."""
        async with asyncio.timeout(patience_s):
            while not self.seen or self.seen[-1].number < last:
                self.grew.clear()
                await self.grew.wait()

    async def to_the_end(self) -> list[TaskEvent]:
        async with asyncio.timeout(PATIENCE_S):
            while not self.is_over:
                self.grew.clear()
                await self.grew.wait()
        return self.seen

    @property
    def numbers(self) -> list[int]:
        return [event.number for event in self.seen]


class TaskRig:
    """One hub's worth. `start` it, `stop` it; the engine is yours to close."""

    def __init__(
        self,
        engine: EmbeddedEngine,
        clock: ManualClock,
        *,
        settings: TaskSettings | None = None,
        agent: AgentSettings | None = None,
        parts: TaskParts | None = None,
    ) -> None:
        self.engine = engine
        self.clock = clock
        self.settings = settings or TaskSettings()
        self.parts = parts or TaskParts()
        self.told: list[tuple[str, str]] = []
        self.readers: list[Reader] = []
        self._agent = Agent(
            id=COUNTER,
            card=_CARD,
            instances=(),
            registered_at_ms=0,
            registered_by=ANN.id,
            settings=agent or AgentSettings(),
            by_url=False,
            pull=True,
        )
        self._duties: list[asyncio.Task[None]] = []
        self._make()

    def _make(self) -> None:
        engine, clock, settings, parts = self.engine, self.clock, self.settings, self.parts
        self.line = Line(engine.log)
        log = parts.log(self.line)
        self.writer = EventWriter(log)
        self.tracks = parts.tracks(log, self.writer)
        self.owners = parts.owners(engine.key_value, settings=settings, clock=clock)
        self.inbox_line = InboxLine(engine.queue)
        self.inbox = Inbox(self.inbox_line, engine.queue_admin, settings=settings)
        self.closer = TurnCloser(self.owners, self.inbox)
        self.tasks = parts.tasks(
            tracks=self.tracks, owners=self.owners, inbox=self.inbox, closer=self.closer, clock=clock
        )
        self.stops = StopBook(engine.key_value, clock)
        self.claims = Claims()
        self.directory = Directory(engine.key_value, settings=RegistrySettings())
        self.agents = AgentStore(engine.key_value, self.directory)
        admission = Admission(calls_in_flight_max=1_000)
        chains, ledger = ChainTokens(FakeSecretBox()), RootLedger()
        self.places = TaskPlaces(
            directory=self.directory,
            admission=admission,
            tasks=self.tasks,
            claims=self.claims,
            children=TaskChildren(engine.key_value, retention_ms=settings.open_retention_ms),
            stops=self.stops,
            guard=DelegationGuard(chains, ledger, DelegationSettings(), clock),
            ledger=ledger,
            chains=chains,
            clock=clock,
            settings=settings,
        )
        self._make_verbs(admission)

    def _make_verbs(self, admission: Admission) -> None:
        engine, clock, places, parts = self.engine, self.clock, self.places, self.parts
        # No task here belongs to an agent with a URL, and nobody asks to be notified.
        nobody = SimpleNamespace()
        self.cancelling = parts.cancel(places, agents=nobody, pumps=nobody)
        self.leasing = parts.lease(places)
        self.reporting = parts.report(places, chance=lambda: 0.0)
        self.watch = parts.watch(places, self.reporting, self.cancelling)
        self.inbox.on_put(self.watch.watch)
        accept_task = AcceptTask(places, push_configs=nobody)
        accept = AcceptOnce(places, accept_task, IdempotencyKeys(engine.key_value, clock))
        self.show = ShowTask(places, get_relayed=nobody)
        self.submitting = SubmitTask(places, accept, self.show)
        self.calls = InboxCalls(places, accept=accept, cancel=self.cancelling)
        self.following = FollowTask(places, attach_relayed=nobody)
        self.inspect = InspectInbox(places, accept_task)
        self.listing = ListTasks(self.directory, self.owners, admission, self.tracks)
        running = CancelRunningTasks(places, self.cancelling, nobody)
        audit = AuditLog(engine.log, clock)
        self.stopping = StopAgents(self.directory, admission, self.stops, audit, cancel_running=running.execute)

    # The hub's life

    async def start(self, *, recover: bool = True) -> None:
        """Ready to serve when this returns."""
        # Not a TaskGroup: whoever starts it may be another task than whoever stops it.
        loop = asyncio.get_running_loop()
        self._duties = [loop.create_task(duty()) for duty in (self.writer.run, self.stops.run)]
        async with asyncio.timeout(PATIENCE_S):
            await self.stops.wait_ready()
        await self.agents.change(COUNTER, lambda _: self._agent)
        if recover:
            await self.watch.recover()

    async def stop(self, *, flush: bool = True) -> None:
        """Without `flush`: as a crash does it."""
        readings = [reader.reading for reader in self.readers if reader.reading is not None]
        for duty in (*self._duties, *readings):
            duty.cancel()
        ends = await asyncio.gather(*self._duties, *readings, return_exceptions=True)
        for reader in self.readers:
            await reader.stream.aclose()
        self.readers.clear()
        self._duties.clear()
        failed = [end for end in ends if end is not None and not isinstance(end, asyncio.CancelledError)]
        assert not failed, failed
        if flush:
            await self.writer.flush()
            await self.closer.flush()

    async def restart(self, *, crash: bool = False, engine: EmbeddedEngine | None = None) -> None:
        """The same hub again, which knows nothing but what is stored. On the same engine where no other is given."""
        await self.stop(flush=not crash)
        self.engine = engine or self.engine
        self._make()
        await self.start()

    async def settle_down(self) -> None:
        """Records stored, ended turns out of the inbox: what the hub does in the background."""
        await self.closer.flush()

    async def pass_time(self, milliseconds: int) -> None:
        """And have the hub look after everything then."""
        self.clock.advance(milliseconds)
        await self.watch.look()

    # Clients

    async def submit(self, text: str = "5", **more: object) -> str:
        """The id of the task."""
        return (await self.submitted(text, **more)).shown.owner.task_id

    async def submitted(self, text: str = "5", **more: object) -> Submitted:
        return await self.submitting.execute(ANN, TaskSubmission(agent=COUNTER, text=text, **more))

    async def send(self, text: str, *, wait_ms: int = 0, key: str | None = None, **terms: object) -> dict:
        """SendMessage, the result's task; a further turn where it has a `task_id`."""
        terms = {"blocking": wait_ms > 0, **terms}
        reply = await self.calls.send(self._call(text, key=key, **terms), wait_ms=wait_ms)
        return msgspec.json.decode(reply.core)["task"]

    async def send_stream(self, text: str, **terms: object) -> Reader:
        return self._read(await self.calls.stream(self._call(text, **terms)))

    def _call(self, text: str, *, key: str | None = None, **terms: object) -> AgentCall:
        message_id = str(terms.pop("message_id", f"m-{text}"))
        message = {"messageId": message_id, "role": "ROLE_USER", "parts": [{"text": text}]}
        read = SendTerms(message=msgspec.json.encode(message), message_id=message_id, **terms)
        return AgentCall(
            agent_id=COUNTER,
            operation=AgentOperation.SEND_MESSAGE,
            principal=ANN,
            deadline=None,
            payload=None,
            reader=_Reader(read),
            idempotency_key=key,
        )

    async def get(self, task_id: str) -> dict:
        return msgspec.json.decode((await self.show.execute(ANN, TaskId(task_id))).task)

    async def receipts(self, task_id: str) -> Sequence[Receipt]:
        return await self.show.receipts(ANN, TaskId(task_id))

    async def cancel(self, task_id: str) -> None:
        await self.cancelling.execute(ANN, COUNTER, TaskId(task_id))

    async def follow(self, task_id: str, *, after: int = 0) -> Reader:
        """`GET /v1/tasks/{id}/events`."""
        return self._read(await self.following.execute(ANN, TaskId(task_id), after=after))

    async def subscribe(self, task_id: str, *, last_event_id: str | None = None) -> Reader:
        """SubscribeToTask."""
        owner = await self.places.owned(ANN, COUNTER, TaskId(task_id))
        call = AgentCall(
            agent_id=COUNTER,
            operation=AgentOperation.SUBSCRIBE_TASK,
            principal=ANN,
            deadline=None,
            payload=None,
            reader=_Reader(),
            task_id=TaskId(task_id),
            last_event_id=last_event_id,
        )
        return self._read(await self.calls.subscribe(call, owner))

    def _read(self, stream: TaskStream) -> Reader:
        reader = Reader(stream)
        reader.reading = asyncio.get_running_loop().create_task(reader.run())
        self.readers.append(reader)
        return reader

    async def list_tasks(self, principal: Principal = ANN, **query: object) -> OwnedPage:
        return await self.listing.execute(principal, COUNTER, ListFilter(**query))

    # Instances

    async def take(self, count: int = 10, *, instance: str = "one", wait_ms: int = 0) -> Sequence[HandedTask]:
        """What an instance is given. The engine looks for what is due first, as it does each second."""
        await self.engine.sweep()
        await self.join(instance)
        return await self.leasing.execute(COUNTER, InstanceId(instance), count=count, wait_ms=wait_ms, told=self._heard)

    async def join(self, instance: str) -> None:
        """Register the instance; nothing where it is."""
        new = Instance(id=InstanceId(instance), url="", interfaces=(), state=AgentState.ONLINE)

        def decide(stored: Agent | None) -> Agent:
            assert stored is not None
            if stored.instance(new.id) is not None:
                return stored
            return msgspec.structs.replace(stored, instances=(*stored.instances, new))

        await self.agents.change(COUNTER, decide)

    async def take_one(self, *, instance: str = "one") -> HandedTask:
        (handed,) = await self.take(1, instance=instance)
        return handed

    def _heard(self, claim: Claim, reason: str) -> None:
        self.told.append((claim.delivery_id, reason))

    async def say(self, handed: HandedTask, *bodies: dict, source: int = 1) -> Reported:
        """Events of this delivery, the first of them under the number `source`."""
        ids = {"taskId": handed.item.task_id, "contextId": handed.item.context_id}
        return await self.report(
            handed.claim.delivery_id, [{kind: ids | body} for each in bodies for kind, body in each.items()], source
        )

    async def report(self, delivery_id: str, bodies: Sequence[dict], source: int) -> Reported:
        reports = [
            TaskReport(delivery_id, number, msgspec.json.encode(body)) for number, body in enumerate(bodies, source)
        ]
        (outcome,) = await self.reporting.report(COUNTER, reports)
        return outcome

    async def settle(
        self, handed: HandedTask, action: str, *, delay_ms: int | None = None, reason: str | None = None
    ) -> str:
        return await self.settle_delivery(handed.claim.delivery_id, action, delay_ms=delay_ms, reason=reason)

    async def settle_delivery(
        self, delivery_id: str, action: str, *, delay_ms: int | None = None, reason: str | None = None
    ) -> str:
        item = TaskSettlementItem(delivery_id, action, delay_ms=delay_ms, reason=reason)
        (outcome,) = await self.reporting.settle(COUNTER, [item])
        return outcome

    async def leave(self, instance: str) -> None:
        """An instance says good-bye."""
        await self.reporting.release_all(COUNTER, InstanceId(instance))

    def lose_connection(self, instance: str) -> None:
        """What the hub does when the connection of an instance breaks."""
        ends_ms = self.clock.monotonic_ms() + self.settings.reconnect_grace_ms
        for claim in self.claims.held_by(COUNTER, InstanceId(instance)):
            claim.grace_ends_ms = ends_ms

    async def show_hold(self, delivery_id: str, *, instance: str = "one") -> HoldShown:
        """An instance that lost its connection is back."""
        (shown,) = await self.reporting.show_holds(COUNTER, InstanceId(instance), [delivery_id], self._heard)
        return shown

    # What is stored

    async def log_of(self, task_id: str) -> Sequence[TaskEvent]:
        """From the engine itself: the truth."""
        subject = events_subject(COUNTER, task_id)
        return [event_of_entry(entry) for entry in await self.engine.log.read(subject, FromSequence(1), limit=1_000)]

    async def states_of(self, task_id: str) -> list[str]:
        return [event.state.name for event in await self.log_of(task_id)]

    async def waiting(self) -> list[str]:
        """Turns in the inbox, as `<task>.<turn>`."""
        return [message.message_id for message in await self.inbox.peek(COUNTER, limit=500)]

    async def dead(self) -> list[str]:
        return [letter.message.message_id for letter in await self.inbox.dead_letters(COUNTER, limit=500)]


async def open_engine(folder: Path, clock: ManualClock) -> EmbeddedEngine:
    """As a starting hub does it (`assembly.engines`): each lease that is found lasts one full lease time from now."""
    # Nothing here depends on the disk, and a sync costs more than all the rest.
    engine = await open_embedded_engine(
        folder, settings=EmbeddedSettings(), clock=clock, metrics=NullMetrics(), sync=lambda _file: None
    )
    await engine.queue.renew_found_leases()
    return engine


@asynccontextmanager
async def task_rig(folder: Path, clock: ManualClock, **options: object) -> AsyncIterator[TaskRig]:
    """A hub that serves."""
    engine = await open_engine(folder, clock)
    rig = TaskRig(engine, clock, **options)
    try:
        await rig.start()
        yield rig
        await rig.stop()
    finally:
        await rig.engine.close()


def status(state: TaskState, text: str | None = None) -> dict:
    """What an instance says of its task; the rig fills in whose it is."""
    document: dict[str, object] = {"state": state.value}
    if text is not None:
        document["message"] = {"messageId": f"says-{text}", "role": "ROLE_AGENT", "parts": [{"text": text}]}
    return {"statusUpdate": {"status": document}}


def artifact(text: str, *, append: bool = True, last: bool = False) -> dict:
    part = {"artifactId": "a", "parts": [{"text": text}]}
    return {"artifactUpdate": {"artifact": part, "append": append, "lastChunk": last}}


COMPLETED = status(TaskState.COMPLETED)
QUESTION = status(TaskState.INPUT_REQUIRED, "how many?")


async def asked(rig: TaskRig) -> str:
    """A task whose agent waits for an answer."""
    task_id = await rig.submit("begin")
    reported = await rig.say(await rig.take_one(), QUESTION)
    assert reported.outcome == "done"
    await rig.settle_down()
    return task_id


async def both(*calls: Awaitable[object]) -> list[object]:
    """At the same time; results and errors."""
    async with asyncio.timeout(PATIENCE_S):
        return await asyncio.gather(*calls, return_exceptions=True)


async def outcome_of(call: Awaitable[object]) -> object:
    """Also where it is a refusal."""
    try:
        return await call
    except (TaskNotCancelable, OperationUnsupported) as error:
        return error
