"""build_hub: every room made, wired and started, in the order in which they need each other."""

import logging
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from meshway import __version__
from meshway.assembly.channels import ChannelGround, Channels, build_channels
from meshway.assembly.configured_agents import ConfiguredAgents
from meshway.assembly.door import HubGate, base_url_of, principal_of_pairs, shown_credentials
from meshway.assembly.duties import Duties
from meshway.assembly.engines import open_engine
from meshway.assembly.mesh import Mesh, agree_on_secret, make_mesh
from meshway.assembly.tasks import TaskGround, Tasks, build_tasks
from meshway.assembly.worker_metrics import WorkerMetrics
from meshway.edges.a2a.handler import A2AEdge
from meshway.edges.a2a.ports import A2AServices
from meshway.edges.channels.handler import ChannelsEdge
from meshway.edges.channels.ports import ChannelEdgeServices
from meshway.edges.http.runtime import HttpRuntime
from meshway.edges.http.server import HubServer
from meshway.edges.link.edge import LINK_PATH, LinkEdge
from meshway.edges.link.services import LinkServices
from meshway.edges.rest.app import build_rest_app
from meshway.edges.rest.services import AgentUseCases, HubStatus, RestServices
from meshway.engine.ports import Engine
from meshway.gateway.admission import Admission
from meshway.gateway.agent_credentials import AgentCredentials
from meshway.gateway.call_agent import CallAgent, CallPlaces
from meshway.gateway.channel_use_cases import ChannelUseCases
from meshway.gateway.drain_agent import DrainAgent, ResumeAgent
from meshway.gateway.find_agents import FindAgents, ShowAgent
from meshway.gateway.heartbeat_agent import HeartbeatAgent
from meshway.gateway.instance_reader import InstanceReader
from meshway.gateway.list_tasks import ListTasks
from meshway.gateway.manage_instances import ManageInstances
from meshway.gateway.manage_keys import ManageKeys
from meshway.gateway.ports import SecretBox
from meshway.gateway.refresh_card import RefreshCard
from meshway.gateway.register_agent import RegisterAgent
from meshway.gateway.registry_places import RegistryPlaces
from meshway.gateway.remove_agent import RemoveAgent
from meshway.gateway.serve_card import ServeCard
from meshway.gateway.show_mesh import ShowMesh
from meshway.gateway.update_agent import UpdateAgent
from meshway.gateway.watch_agents import WatchAgents
from meshway.kernel.clock import Clock, SystemClock
from meshway.observability.prometheus import PrometheusMetrics
from meshway.observability.trace import Tracer
from meshway.protocols.a2a.card import serve_card
from meshway.registry.agent_store import AgentStore
from meshway.registry.directory import Directory
from meshway.registry.presence_gossip import PresenceGossip
from meshway.registry.presence_tracker import PresenceTracker
from meshway.registry.prober import Prober
from meshway.routing.balancer import Balancer
from meshway.security.addresses import is_loopback_host
from meshway.security.egress import CheckedEgress
from meshway.security.hosts import HostRules
from meshway.security.keys import KeyRing
from meshway.security.listen import check_listen_address
from meshway.security.push_signing import PushSigner
from meshway.security.secret_box import load_secret_key, open_secret_box
from meshway.settings.model import Settings
from meshway.upstreams.a2a.cards import A2ACards
from meshway.upstreams.a2a.transport import A2ATransport
from meshway.upstreams.http1 import Http1Client
from meshway.upstreams.webhook import WebhookSender

__all__ = ["Hub", "build_hub", "hub_url"]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Hub:
    """A hub that is ready to serve; `url` is what a person on this machine would type."""

    server: HubServer
    url: str
    engine: Engine
    status: HubStatus
    configured: ConfiguredAgents
    duties: Duties


@dataclass(frozen=True, slots=True)
class _Ground:
    """What stands before any use case: time, counting, the store and who may come in."""

    settings: Settings
    clock: Clock
    metrics: PrometheusMetrics
    engine: Engine
    mesh: Mesh
    keys: KeyRing
    credentials: AgentCredentials
    secret_box: SecretBox
    egress: CheckedEgress
    loopback: bool
    url: str
    signer: PushSigner


@dataclass(frozen=True, slots=True)
class _Registry:
    """Who is there, and which instance is asked."""

    places: RegistryPlaces
    balancer: Balancer


@dataclass(frozen=True, slots=True)
class _Edges:
    """The data planes that enter below ASGI."""

    a2a: A2AEdge
    channels: ChannelsEdge
    link: LinkEdge


@asynccontextmanager
async def build_hub(settings: Settings, *, port: int, group: str = "") -> AsyncIterator[Hub]:
    """Everything but the listening socket, which is bound to `port` already. Closed in reverse order.

    Processes that serve one port together are given the same `group`.

    Raises: DataDirLocked, SchemaTooNew, StoreCorrupt, EngineUnavailable, InvalidRequest naming a setting.
    """
    async with AsyncExitStack() as stack:
        ground = await _lay_ground(settings, stack, port, group)
        yield await _raise_house(ground, stack)


async def _lay_ground(settings: Settings, stack: AsyncExitStack, port: int, group: str) -> _Ground:
    clock = SystemClock()
    metrics = PrometheusMetrics()
    loopback = is_loopback_host(settings.host)
    data_dir = Path(settings.data)
    engine = await open_engine(settings, clock=clock, metrics=metrics)
    stack.push_async_callback(engine.close)
    keys = KeyRing(
        engine.key_value,
        settings=settings.auth,
        configured=settings.keys,
        clock=clock,
        open_allowed=loopback or settings.insecure,
    )
    await keys.start()
    stack.push_async_callback(keys.aclose)
    check_listen_address(settings.host, authenticated=keys.is_configured, insecure=settings.insecure)
    egress = CheckedEgress(settings.egress, loopback=loopback, clock=clock)
    stack.callback(egress.close)
    secret_box = open_secret_box(data_dir, secret_key=settings.secret_key)
    await agree_on_secret(engine, secret_box.key_id)
    url = hub_url(settings, port)
    duties = await stack.enter_async_context(Duties())
    mesh = make_mesh(engine, duties, url=url, group=group, clock=clock, settings=settings.mesh)
    stack.push_async_callback(mesh.leave)
    return _Ground(
        settings=settings,
        clock=clock,
        metrics=metrics,
        engine=engine,
        mesh=mesh,
        keys=keys,
        credentials=AgentCredentials(secret_box),
        secret_box=secret_box,
        egress=egress,
        loopback=loopback,
        url=url,
        signer=PushSigner(load_secret_key(data_dir, secret_key=settings.secret_key), issuer=url),
    )


async def _raise_house(ground: _Ground, stack: AsyncExitStack) -> Hub:
    settings, metrics, duties = ground.settings, ground.metrics, ground.mesh.duties
    client = Http1Client(settings=settings.http1, egress=ground.egress, metrics=metrics)
    stack.push_async_callback(client.aclose)
    registry = await _registry(ground, client, stack)
    places = registry.places
    register = RegisterAgent(places)
    status = HubStatus(
        version=__version__,
        engine=ground.engine,
        is_started=lambda: True,
        agents_count=lambda: sum(1 for _ in places.directory.all()),
    )
    metrics.gauge_read_from("meshway_agents", "Agents registered.", lambda: float(status.agents_count()))
    tasks = await _tasks(ground, registry, client, stack)
    channels = await _channels(ground, places.admission)
    rest = _rest_services(ground, registry, register, status, (channels, tasks))
    edges = _Edges(
        _a2a_edge(ground, places, tasks.calls),
        _channels_edge(ground, channels.use_cases),
        _link_edge(ground, channels, tasks),
    )
    server = _server(ground, edges, rest, places.admission)
    configured = ConfiguredAgents(register, settings.agents)
    return Hub(server, ground.url, ground.engine, status, configured, duties)


async def _registry(ground: _Ground, client: Http1Client, stack: AsyncExitStack) -> _Registry:
    """Who is there, and which instance is asked; returns once the known agents are loaded."""
    settings, clock, mesh = ground.settings, ground.clock, ground.mesh
    duties = mesh.duties
    cards = A2ACards(client, egress=ground.egress, settings=settings.a2a_upstream)
    directory = Directory(ground.engine.key_value, settings=settings.registry)
    duties.start("directory", directory.run)
    await directory.wait_ready()
    store = AgentStore(ground.engine.key_value, directory)
    presence = PresenceTracker(
        store, directory, clock=clock, settings=settings.registry, is_cut_off=lambda: mesh.hubs.is_cut_off
    )
    # What was seen last is stored once more on the way out; a hub that starts again believes it.
    stack.push_async_callback(presence.flush)
    places = RegistryPlaces(
        store=store,
        directory=directory,
        presence=presence,
        admission=Admission(calls_in_flight_max=settings.gateway.calls_in_flight_max),
        reader=InstanceReader(cards, ground.egress, settings.registry),
        credentials=ground.credentials,
        clock=clock,
        settings=settings.registry,
    )
    chance = random.Random()  # noqa: S311  spreads load and probes; nothing is guessed from it
    hub_probes = settings.registry.probe_interval_ms > 0
    balancer = Balancer(clock=clock, settings=settings.routing, chance=chance, hub_probes=hub_probes)
    prober = Prober(
        directory,
        presence,
        cards,
        clock=clock,
        settings=settings.registry,
        chance=chance,
        open_credential=ground.credentials.open,
        card_seen=RefreshCard(places).execute,
    )
    if mesh.hubs.is_shared:
        duties.start("presence_gossip", PresenceGossip(ground.engine.bus, presence, hub_id=mesh.hubs.me).run)
    duties.start("presence_sweep", presence.run_sweep)
    duties.start("presence_writer", presence.run_writer)
    mesh.once("prober", prober.run)
    return _Registry(places, balancer)


async def _tasks(ground: _Ground, registry: _Registry, client: Http1Client, stack: AsyncExitStack) -> Tasks:
    settings = ground.settings
    task_ground = TaskGround(
        settings=settings,
        clock=ground.clock,
        metrics=ground.metrics,
        engine=ground.engine,
        mesh=ground.mesh,
        secret_box=ground.secret_box,
        egress=ground.egress,
        registry=registry.places,
        balancer=registry.balancer,
        transport=A2ATransport(client, credentials=ground.credentials, settings=settings.a2a_upstream),
        sender=WebhookSender(client, timeout_ms=settings.push.timeout_ms, clock=ground.clock),
        signer=ground.signer,
    )
    return await build_tasks(task_ground, stack)


async def _channels(ground: _Ground, admission: Admission) -> Channels:
    channel_ground = ChannelGround(
        engine=ground.engine,
        mesh=ground.mesh,
        admission=admission,
        secret_box=ground.secret_box,
        settings=ground.settings.messaging,
        clock=ground.clock,
        metrics=ground.metrics,
    )
    return await build_channels(channel_ground)


def _a2a_edge(ground: _Ground, places: RegistryPlaces, calls: CallPlaces) -> A2AEdge:
    settings = ground.settings
    tracer = Tracer(random.Random())  # noqa: S311  span ids must be unlikely to meet, not hard to guess
    return A2AEdge(
        A2AServices(
            call_agent=CallAgent(calls, clock=ground.clock, settings=settings.gateway),
            list_tasks=ListTasks(places.directory, calls.owners, places.admission, calls.tracks),
            serve_card=ServeCard(
                places.directory,
                serve_card,
                base_url_of=base_url_of(settings.public_url, ground.url),
                demands_key=lambda: ground.keys.demands_key,
            ),
            credentials_of=shown_credentials,
            authenticate=ground.keys.authenticate,
            trace_of=_trace_of(tracer),
            is_agent=lambda agent_id: places.directory.get(agent_id) is not None,
            clock=ground.clock,
            metrics=ground.metrics,
        )
    )


def _rest_services(
    ground: _Ground,
    registry: _Registry,
    register: RegisterAgent,
    status: HubStatus,
    rooms: tuple[Channels, Tasks],
) -> RestServices:
    places = registry.places
    channels, tasks = rooms
    agents = AgentUseCases(
        register=register,
        find=FindAgents(places),
        show=ShowAgent(places),
        update=UpdateAgent(places),
        remove=RemoveAgent(places, cancel_running=partial(tasks.running.execute, reason="its agent was removed")),
        drain=DrainAgent(places),
        resume=ResumeAgent(places),
        heartbeat=HeartbeatAgent(places, registry.balancer),
        instances=ManageInstances(places),
        watch=WatchAgents(places),
        in_flight=registry.balancer.in_flight,
    )
    return RestServices(
        agents=agents,
        channels=channels.use_cases,
        tasks=tasks.use_cases,
        audit=tasks.audit,
        push_jwks=ground.signer.jwks,
        keys=ManageKeys(ground.keys, places.admission, clock=ground.clock),
        mesh=ShowMesh(ground.mesh.hubs, ground.mesh.leases, ground.engine, places.admission),
        status=status,
        principal_of=principal_of_pairs(ground.keys),
        render_metrics=_worker_metrics(ground).render,
        metrics=ground.metrics,
    )


def _worker_metrics(ground: _Ground) -> WorkerMetrics:
    mesh = ground.mesh
    shared = WorkerMetrics(ground.metrics.render, ground.engine.bus, mesh.hubs)
    if mesh.hubs.has_group:
        mesh.duties.start("worker_metrics", shared.run)
    return shared


def _channels_edge(ground: _Ground, use_cases: ChannelUseCases) -> ChannelsEdge:
    return ChannelsEdge(
        ChannelEdgeServices(
            use_cases=use_cases,
            credentials_of=shown_credentials,
            authenticate=ground.keys.authenticate,
            trace_of=_trace_of(Tracer(random.Random())),  # noqa: S311  as for the A2A edge
            clock=ground.clock,
            metrics=ground.metrics,
        )
    )


def _link_edge(ground: _Ground, channels: Channels, tasks: Tasks) -> LinkEdge:
    settings = ground.settings
    return LinkEdge(
        LinkServices(
            channels=channels.use_cases,
            tasks=tasks.use_cases,
            places=channels.subscriptions,
            settings=settings.messaging,
            credentials_of=shown_credentials,
            authenticate=ground.keys.authenticate,
            clock=ground.clock,
            metrics=ground.metrics,
            hub_version=__version__,
            frame_bytes_max=settings.http.body_bytes_max,
        )
    )


def _server(ground: _Ground, edges: _Edges, rest: RestServices, admission: Admission) -> HubServer:
    settings = ground.settings
    rules = HostRules(
        settings.hosts,
        loopback=ground.loopback,
        public_url=settings.public_url,
        demands_key=lambda: ground.keys.demands_key,
    )
    runtime = HttpRuntime(
        routes={b"a2a": edges.a2a.handle},
        data_route=edges.channels.route,
        sockets={LINK_PATH: edges.link},
        gate=HubGate(rules, ground.keys),
        settings=settings.http,
        metrics=ground.metrics,
        report_crash=_report_crash,
    )

    def begin_drain() -> None:
        _log.info("hub_draining", bound_ms=settings.http.drain_timeout_ms)
        admission.begin_drain()
        ground.mesh.hubs.drain()
        rest.status.shutdown.set()

    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    # It speaks of each connection that opens and closes.
    logging.getLogger("websockets").setLevel(logging.WARNING)
    lingers = ground.mesh.hubs.has_group
    return HubServer(build_rest_app(rest, settings.rest), runtime, on_drain=begin_drain, lingers=lingers)


def _report_crash(path: str, error: BaseException) -> None:
    _log.error("request_crashed", path=path, exc_info=error)


def _trace_of(tracer: Tracer) -> Callable[[Mapping[bytes, bytes]], tuple[tuple[bytes, bytes], ...]]:
    def trace_of(headers: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
        child = tracer.child(headers.get(b"traceparent"), headers.get(b"tracestate"))
        if child.tracestate is None:
            return ((b"traceparent", child.traceparent),)
        return ((b"traceparent", child.traceparent), (b"tracestate", child.tracestate))

    return trace_of


def hub_url(settings: Settings, port: int) -> str:
    """What a person on this machine would type, or the URL that a proxy in front of the hub has."""
    return settings.public_url or f"http://{_shown_host(settings.host)}:{port}"


def _shown_host(host: str) -> str:
    if host in ("", "0.0.0.0", "::"):  # noqa: S104  shown as an address one can type, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host
