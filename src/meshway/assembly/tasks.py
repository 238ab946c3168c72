"""The rooms of tasks, wired: what the hub does with work that is left at it, and with what agents say about theirs."""

from contextlib import AsyncExitStack
from dataclasses import dataclass

from meshway.assembly.mesh import Mesh
from meshway.engine.ports import Engine
from meshway.gateway.accept_once import AcceptOnce
from meshway.gateway.accept_task import AcceptTask
from meshway.gateway.agent_tasks import AgentTasks
from meshway.gateway.call_agent import CallPlaces
from meshway.gateway.call_once import CallOnce
from meshway.gateway.cancel_running import CancelRunningTasks
from meshway.gateway.cancel_task import CancelTask
from meshway.gateway.chain_tokens import ChainTokens
from meshway.gateway.claim_news import ClaimNews
from meshway.gateway.delegation_guard import DelegationGuard
from meshway.gateway.deliver_notifications import DeliverNotifications
from meshway.gateway.follow_task import FollowTask
from meshway.gateway.inbox_calls import InboxCalls
from meshway.gateway.inspect_inbox import InspectInbox
from meshway.gateway.inspect_push import InspectPush
from meshway.gateway.lease_tasks import LeaseTasks
from meshway.gateway.limit_gossip import LimitGossip
from meshway.gateway.manage_push_configs import ManagePushConfigs
from meshway.gateway.ports import AgentTransport, EgressRules, SecretBox
from meshway.gateway.pump_marks import PumpMarks
from meshway.gateway.push_inbox import PushInbox
from meshway.gateway.push_ports import NotificationSender, NotificationSigner
from meshway.gateway.push_secrets import PushSecrets
from meshway.gateway.queue_notifications import QueueNotifications
from meshway.gateway.recorded_calls import RecordedCalls
from meshway.gateway.registry_places import RegistryPlaces
from meshway.gateway.relay_call import RelayCall, RelayPlaces
from meshway.gateway.report_tasks import ReportTasks
from meshway.gateway.root_ledger import RootLedger
from meshway.gateway.serve_agent import ServeAgent
from meshway.gateway.show_task import ShowTask
from meshway.gateway.stop_agents import StopAgents
from meshway.gateway.submit_task import SubmitTask
from meshway.gateway.sweep_tasks import SweepTasks
from meshway.gateway.take_push_config import TakePushConfig
from meshway.gateway.task_places import TaskPlaces
from meshway.gateway.task_pumps import TaskPumps
from meshway.gateway.task_use_cases import TaskUseCases
from meshway.gateway.watch_tasks import WatchTasks
from meshway.gateway.write_notification import NotificationWriter
from meshway.kernel.clock import Clock
from meshway.kernel.delegation import DelegationLimits
from meshway.kernel.ids import AgentId
from meshway.kernel.metrics import Metrics
from meshway.protocols.a2a.canonical import core_request, lower_core_task
from meshway.registry.directory import Directory
from meshway.routing.balancer import Balancer
from meshway.settings.model import Settings
from meshway.tasks.audit import AuditLog
from meshway.tasks.children import TaskChildren
from meshway.tasks.claims import Claims
from meshway.tasks.event_writer import EventWriter
from meshway.tasks.hub_tasks import HubTasks
from meshway.tasks.idempotency import IdempotencyKeys
from meshway.tasks.inbox import Inbox
from meshway.tasks.owners import TaskOwners
from meshway.tasks.push_configs import PushConfigStore
from meshway.tasks.stops import StopBook
from meshway.tasks.tracks import TaskTracks
from meshway.tasks.turn_closer import TurnCloser

__all__ = ["TaskGround", "Tasks", "build_tasks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGround:
    """What the rooms of tasks stand on."""

    settings: Settings
    clock: Clock
    metrics: Metrics
    engine: Engine
    mesh: Mesh
    secret_box: SecretBox
    egress: EgressRules
    registry: RegistryPlaces
    balancer: Balancer
    transport: AgentTransport
    sender: NotificationSender
    signer: NotificationSigner


@dataclass(frozen=True, slots=True)
class Tasks:
    """`calls`: the rooms of an agent's call."""

    use_cases: TaskUseCases
    calls: CallPlaces
    audit: AuditLog
    running: CancelRunningTasks


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is kept of tasks."""

    tracks: TaskTracks
    owners: TaskOwners
    inbox: Inbox
    closer: TurnCloser
    children: TaskChildren
    stops: StopBook
    configs: PushConfigStore
    tasks: HubTasks


@dataclass(frozen=True, slots=True)
class _Work:
    """What is done with work that is left at the hub."""

    accept_task: AcceptTask
    accept: AcceptOnce
    cancel: CancelTask
    lease: LeaseTasks
    reports: ReportTasks
    keys: IdempotencyKeys
    push_configs: ManagePushConfigs


@dataclass(frozen=True, slots=True)
class _Relay:
    """The ways to agents that are called by URL."""

    agents: AgentTasks
    pumps: TaskPumps
    recorded: RecordedCalls


async def build_tasks(ground: TaskGround, stack: AsyncExitStack) -> Tasks:
    """Returns once stops and push configurations are loaded. Raises: EngineUnavailable."""
    duties = ground.mesh.duties
    kept = await _kept(ground, stack)
    places = _places(ground, kept)
    agents, pumps = _pumps(ground, kept)
    work = _work(ground, kept, places, _notifications(ground, kept), (agents, pumps))
    recorded = RecordedCalls(kept.tracks, kept.owners, pumps, agents, work.cancel, clock=ground.clock)
    relay = _Relay(agents, pumps, recorded)
    if ground.engine.is_shared:
        gossip = LimitGossip(ground.engine.bus, ground.mesh.hubs, ground.balancer, places.ledger)
        duties.start("limit_gossip", gossip.run)
    durable = PushInbox(places, work.lease, work.reports, agents)
    watch = WatchTasks(places, work.reports, work.cancel)
    kept.inbox.on_put(watch.watch)
    kept.inbox.on_put(durable.put)
    duties.start("task_pumps", pumps.run)
    duties.start("task_watch", watch.run)
    ground.mesh.once("task_recovery", watch.recover_always)
    duties.start("durable_delivery", durable.run)
    ground.mesh.hubs.on_lost(lambda hub_id: watch.hub_lost())
    ground.mesh.hubs.on_lost(lambda hub_id: durable.look_again())
    ground.mesh.once("task_sweep", SweepTasks(ground.engine.log, kept.owners, ground.clock).run)
    _measure(ground, places, relay)
    audit = AuditLog(ground.engine.log, ground.clock)
    running = CancelRunningTasks(places, work.cancel, relay.pumps)
    if ground.engine.is_shared:
        duties.start("held_tasks_end", running.run)
    stop = StopAgents(places.directory, places.admission, places.stops, audit, cancel_running=running.execute)
    return Tasks(
        _use_cases(ground, kept, places, work, relay, stop), _calls(ground, kept, places, work, relay), audit, running
    )


def _work(
    ground: TaskGround,
    kept: _Kept,
    places: TaskPlaces,
    push_configs: ManagePushConfigs,
    ways: tuple[AgentTasks, TaskPumps],
) -> _Work:
    agents, pumps = ways
    hubs = ground.mesh.hubs
    keys = IdempotencyKeys(
        ground.engine.key_value,
        ground.clock,
        hub_id=hubs.me if hubs.is_shared else "",
        is_alive=hubs.is_surely_alive if hubs.is_shared else None,
    )
    ground.mesh.duties.start("idempotency_keys", keys.run)
    accept_task = AcceptTask(places, push_configs=push_configs)
    return _Work(
        accept_task=accept_task,
        accept=AcceptOnce(places, accept_task, keys),
        cancel=CancelTask(places, agents=agents, pumps=pumps),
        lease=LeaseTasks(places),
        reports=_reports(ground, places),
        keys=keys,
        push_configs=push_configs,
    )


def _reports(ground: TaskGround, places: TaskPlaces) -> ReportTasks:
    mesh = ground.mesh
    if not mesh.hubs.is_shared:
        return ReportTasks(places)
    news = ClaimNews(ground.engine.bus, places.claims, hub_id=mesh.hubs.me)
    mesh.duties.start("claim_news", news.run)
    return ReportTasks(places, taken_on=news.taken_on)


async def _kept(ground: TaskGround, stack: AsyncExitStack) -> _Kept:
    duties = ground.mesh.duties
    engine, settings, clock = ground.engine, ground.settings.tasks, ground.clock
    writer = EventWriter(engine.log)
    tracks = TaskTracks(engine.log, writer)
    owners = TaskOwners(engine.key_value, settings=settings, clock=clock, is_shared=engine.is_shared)
    inbox = Inbox(engine.queue, engine.queue_admin, settings=settings)
    closer = TurnCloser(owners, inbox)
    # What was given to them and not written yet is written on the way out.
    stack.push_async_callback(closer.flush)
    stack.push_async_callback(writer.flush)
    duties.start("task_events", writer.run)
    if engine.is_shared:
        duties.start("task_events_elsewhere", tracks.run)
    duties.start("task_records", closer.run)
    duties.start("new_task_records", closer.run_new)
    stops = StopBook(engine.key_value, clock)
    duties.start("stops", stops.run)
    await stops.wait_ready()
    configs = PushConfigStore(engine.key_value, settings=settings)
    return _Kept(
        tracks=tracks,
        owners=owners,
        inbox=inbox,
        closer=closer,
        children=TaskChildren(engine.key_value, retention_ms=settings.open_retention_ms),
        stops=stops,
        configs=configs,
        tasks=HubTasks(tracks=tracks, owners=owners, inbox=inbox, closer=closer, clock=clock),
    )


def _places(ground: TaskGround, kept: _Kept) -> TaskPlaces:
    chains = ChainTokens(ground.secret_box)
    ledger = RootLedger()
    guard = DelegationGuard(
        chains,
        ledger,
        ground.settings.delegation,
        ground.clock,
        limits_of=lambda agent_id: _limits_of(ground.registry.directory, agent_id),
    )
    return TaskPlaces(
        directory=ground.registry.directory,
        admission=ground.registry.admission,
        tasks=kept.tasks,
        claims=Claims(),
        children=kept.children,
        stops=kept.stops,
        guard=guard,
        ledger=ledger,
        chains=chains,
        clock=ground.clock,
        settings=ground.settings.tasks,
    )


def _limits_of(directory: Directory, agent_id: AgentId) -> DelegationLimits | None:
    agent = directory.get(agent_id)
    if agent is None:
        return None
    own = agent.settings
    if own.depth_max is None and own.calls_max is None and own.allow_cycles is None:
        return None
    return DelegationLimits(depth_max=own.depth_max, calls_max=own.calls_max, allow_cycles=own.allow_cycles)


def _notifications(ground: TaskGround, kept: _Kept) -> ManagePushConfigs:
    engine, clock, duties = ground.engine, ground.clock, ground.mesh.duties
    secrets = PushSecrets(ground.secret_box)
    queueing = QueueNotifications(kept.configs, log=engine.log, queue=engine.queue, clock=clock)
    kept.tracks.on_written(
        lambda track, events: (
            queueing.events_appended(track.agent_id, track.task_id, events)
            if kept.configs.has_configs(track.agent_id, track.task_id)
            else None
        )
    )
    writer = NotificationWriter(
        engine.log, secrets=secrets, signer=ground.signer, lower_task=lower_core_task, clock=clock
    )
    deliver = DeliverNotifications(
        kept.configs,
        engine=engine,
        writer=writer,
        sender=ground.sender,
        settings=ground.settings.push,
        clock=clock,
    )
    ground.mesh.hubs.on_lost(lambda hub_id: queueing.catch_up())
    duties.start("push_configs", kept.configs.run)
    duties.start("push_queueing", queueing.run)
    duties.start("push_delivery", deliver.run)
    return ManagePushConfigs(
        kept.configs,
        log=engine.log,
        owner_of=kept.owners.owner_of,
        egress=ground.egress,
        secrets=secrets,
        admission=ground.registry.admission,
        clock=clock,
    )


def _pumps(ground: TaskGround, kept: _Kept) -> tuple[AgentTasks, TaskPumps]:
    registry = ground.registry
    agents = AgentTasks(
        registry.directory,
        ground.balancer,
        registry.presence,
        ground.transport,
        make_request=core_request,
        clock=ground.clock,
    )
    hubs, retention_ms = ground.mesh.hubs, ground.settings.tasks.open_retention_ms
    pumps = TaskPumps(
        kept.tracks,
        kept.owners,
        agents,
        PumpMarks(ground.engine.key_value, kept.closer, hubs, retention_ms=retention_ms),
        closer=kept.closer,
        clock=ground.clock,
        settings=ground.settings.tasks,
        broke=registry.presence.saw_broken,
    )
    hubs.on_lost(lambda hub_id: pumps.hub_lost())
    return agents, pumps


def _calls(ground: TaskGround, kept: _Kept, places: TaskPlaces, work: _Work, relay: _Relay) -> CallPlaces:
    registry = ground.registry
    relay_places = RelayPlaces(
        balancer=ground.balancer,
        owners=kept.owners,
        presence=registry.presence,
        transport=ground.transport,
        tracks=kept.tracks,
        pumps=relay.pumps,
        children=kept.children,
        guard=places.guard,
        stops=kept.stops,
    )
    relay_call = RelayCall(relay_places, clock=ground.clock, settings=ground.settings.gateway)
    once = CallOnce(relay_call, relay.recorded, work.keys, places)
    return CallPlaces(
        directory=registry.directory,
        owners=kept.owners,
        tracks=kept.tracks,
        admission=registry.admission,
        stops=kept.stops,
        inbox=InboxCalls(places, accept=work.accept, cancel=work.cancel),
        sending=TakePushConfig(once, relay.recorded, work.push_configs, owners=kept.owners, tracks=kept.tracks),
        once=once,
        recorded=relay.recorded,
        push_configs=work.push_configs,
    )


def _use_cases(
    ground: TaskGround, kept: _Kept, places: TaskPlaces, work: _Work, relay: _Relay, stop: StopAgents
) -> TaskUseCases:
    show = ShowTask(places, get_relayed=relay.recorded.get)
    return TaskUseCases(
        submit=SubmitTask(places, work.accept, show),
        show=show,
        follow=FollowTask(places, attach_relayed=relay.recorded.attach),
        cancel=work.cancel,
        inbox=InspectInbox(places, work.accept_task),
        push=InspectPush(kept.configs, places.admission, ground.engine.queue_admin),
        serve=ServeAgent(ground.registry, places),
        lease=work.lease,
        report=work.reports,
        stop=stop,
    )


def _measure(ground: TaskGround, places: TaskPlaces, relay: _Relay) -> None:
    metrics = ground.metrics
    metrics.gauge_read_from("meshway_tasks_claimed", "Tasks that instances work on.", lambda: float(len(places.claims)))
    metrics.gauge_read_from("meshway_tasks_followed", "Tasks in memory.", lambda: float(len(places.tasks.tracks)))
    metrics.gauge_read_from("meshway_task_streams", "Streams of agents that are read.", lambda: float(len(relay.pumps)))
