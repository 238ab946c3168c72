"""The control plane with everything real below it, except the registry's store (in memory) and the network (a dict).

Channels and tasks stand on an embedded engine in a folder of their own. Agents by URL have a card and answer no call.
"""

import asyncio
import json
import random
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvicorn
from starlette.applications import Starlette

from meshway.assembly.channels import ChannelGround, build_channels
from meshway.assembly.duties import Duties
from meshway.assembly.mesh import make_mesh
from meshway.assembly.tasks import TaskGround, Tasks, build_tasks
from meshway.edges.rest import AgentUseCases, HubStatus, RestServices, RestSettings, build_rest_app
from meshway.engine.embedded import EmbeddedSettings, open_embedded_engine
from meshway.engine.ports import EngineHealth
from meshway.gateway.admission import Admission
from meshway.gateway.agent_credentials import AgentCredentials
from meshway.gateway.channel_use_cases import ChannelUseCases
from meshway.gateway.drain_agent import DrainAgent, ResumeAgent
from meshway.gateway.find_agents import FindAgents, ShowAgent
from meshway.gateway.heartbeat_agent import HeartbeatAgent
from meshway.gateway.instance_reader import InstanceReader
from meshway.gateway.manage_instances import ManageInstances
from meshway.gateway.manage_keys import ManageKeys
from meshway.gateway.ports import AgentCall, AgentReply, AgentStream
from meshway.gateway.push_ports import Notification, NotificationAnswer
from meshway.gateway.register_agent import RegisterAgent
from meshway.gateway.registry_places import RegistryPlaces
from meshway.gateway.remove_agent import RemoveAgent
from meshway.gateway.show_mesh import ShowMesh
from meshway.gateway.update_agent import UpdateAgent
from meshway.gateway.watch_agents import WatchAgents
from meshway.kernel.clock import SystemClock
from meshway.kernel.errors import MeshwayError, UpstreamUnreachable
from meshway.kernel.metrics import NullMetrics
from meshway.messaging.settings import MessagingSettings
from meshway.protocols.a2a.card import read_card
from meshway.registry.agent_store import AgentStore
from meshway.registry.directory import Directory
from meshway.registry.presence_tracker import PresenceTracker
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import Agent, CardFacts, Instance
from meshway.routing.balancer import Balancer
from meshway.routing.settings import RoutingSettings
from meshway.security.credentials import read_credentials
from meshway.security.keys import KeyRing
from meshway.security.push_signing import PushSigner
from meshway.security.settings import AuthSettings
from meshway.settings.model import Settings
from meshway.tasks.settings import TaskSettings
from meshway.testing.fake_key_value import FakeKeyValue
from meshway.testing.registry_fakes import FakeEgress, FakeSecretBox

__all__ = ["FakeEngine", "RestHub", "card_document", "rest_hub", "served"]


def card_document(name: str = "Weather", *, url: str = "http://127.0.0.1:9000", **more: object) -> dict[str, object]:
    """A valid A2A 1.0 card."""
    return {
        "name": name,
        "description": f"{name} tells what it knows",
        "version": "1.0.0",
        "supportedInterfaces": [{"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
        "capabilities": {"streaming": True},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [{"id": "forecast", "name": "Forecast", "description": "Looks ahead", "tags": ["sky", "rain"]}],
        **more,
    }


class Network:
    """CardReader: URLs in `cards` answer, others do not; posted cards are read for real."""

    def __init__(self) -> None:
        self.cards: dict[str, Mapping[str, object]] = {}
        self.fetched: list[tuple[str, str | None]] = []
        self.fail_with: MeshwayError | None = None

    async def fetch(self, url: str, *, credential: str | None = None) -> CardFacts:
        self.fetched.append((url, credential))
        if self.fail_with is not None:
            raise self.fail_with
        if url not in self.cards:
            raise UpstreamUnreachable(f"Nobody answers at {url}.")
        return read_card(json.dumps(self.cards[url]).encode())

    def read(self, document: bytes) -> CardFacts:
        return read_card(document)


@dataclass
class FakeEngine:
    """What `/readyz` asks the engine for."""

    name: str = "embedded"
    durability: str = "on disk before yes"
    answer: EngineHealth = field(default_factory=lambda: EngineHealth(writable=True))
    fail_with: MeshwayError | None = None
    is_stuck: bool = False

    async def health(self) -> EngineHealth:
        if self.is_stuck:
            await asyncio.Event().wait()
        if self.fail_with is not None:
            raise self.fail_with
        return self.answer


@dataclass
class RestHub:
    """The application, a client that calls it in process, and what a test may turn."""

    app: Starlette
    http: httpx.AsyncClient
    network: Network
    store: FakeKeyValue
    keys: KeyRing
    engine: FakeEngine
    status: HubStatus
    balancer: Balancer
    services: RestServices

    @property
    def channels(self) -> ChannelUseCases:
        """The verbs whose calls are not served here: for putting messages where the control plane finds them."""
        return self.services.channels

    async def register(self, agent_id: str, *, url: str | None = None, **more: object) -> dict[str, object]:
        """Register by URL at an agent that answers."""
        url = url or f"http://{agent_id}.test"
        self.network.cards.setdefault(url, card_document(agent_id.title(), url=url))
        answer = await self.http.post("/v1/agents", json={"id": agent_id, "url": url, **more})
        assert answer.status_code in (200, 201), answer.text
        registered: dict[str, object] = answer.json()
        return registered


class NobodyAnswers:
    """AgentTransport and NotificationSender without a network."""

    async def call(self, agent: Agent, instance: Instance, call: AgentCall) -> AgentReply | AgentStream:
        raise UpstreamUnreachable(f"Nobody answers at {instance.url}.")

    async def send(self, notification: Notification) -> NotificationAnswer:
        raise UpstreamUnreachable(f"Nobody answers at {notification.url}.")


@dataclass(frozen=True)
class _Rooms:
    channels: ChannelUseCases
    work: Tasks
    mesh: ShowMesh


@asynccontextmanager
async def rooms_of_work(places: RegistryPlaces, balancer: Balancer, settings: Settings) -> AsyncIterator[_Rooms]:
    """Channels, tasks and a mesh of one hub, on an engine of their own."""
    clock, metrics, nobody = places.clock, NullMetrics(), NobodyAnswers()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = await open_embedded_engine(folder, settings=EmbeddedSettings(), clock=clock, metrics=metrics)
        stack.push_async_callback(engine.close)
        duties = await stack.enter_async_context(Duties())
        mesh = make_mesh(engine, duties, url="http://hub", group="", clock=clock, settings=settings.mesh)
        channel_ground = ChannelGround(
            engine=engine,
            mesh=mesh,
            admission=places.admission,
            secret_box=FakeSecretBox(),
            settings=settings.messaging,
            clock=clock,
            metrics=metrics,
        )
        task_ground = TaskGround(
            settings=settings,
            clock=clock,
            metrics=metrics,
            engine=engine,
            mesh=mesh,
            secret_box=FakeSecretBox(),
            egress=FakeEgress(),
            registry=places,
            balancer=balancer,
            transport=nobody,
            sender=nobody,
            signer=PushSigner(bytes(32), issuer="http://hub"),
        )
        channels = (await build_channels(channel_ground)).use_cases
        work = await build_tasks(task_ground, stack)
        yield _Rooms(channels, work, ShowMesh(mesh.hubs, mesh.leases, engine, places.admission))


@asynccontextmanager
async def rest_hub(
    *,
    open_allowed: bool = True,
    settings: RestSettings | None = None,
    registry: RegistrySettings | None = None,
    messaging: MessagingSettings | None = None,
    tasks: TaskSettings | None = None,
    is_started: Callable[[], bool] = lambda: True,
) -> AsyncIterator[RestHub]:
    clock, store, network, engine = SystemClock(), FakeKeyValue(), Network(), FakeEngine()
    registry = registry or RegistrySettings()
    directory = Directory(store, settings=registry)
    agents = AgentStore(store, directory)
    presence = PresenceTracker(agents, directory, clock=clock, settings=registry)
    admission = Admission(calls_in_flight_max=10)
    balancer = Balancer(clock=clock, settings=RoutingSettings(), chance=random.Random(1))
    keys = KeyRing(store, settings=AuthSettings(), configured=(), clock=clock, open_allowed=open_allowed)
    places = RegistryPlaces(
        store=agents,
        directory=directory,
        presence=presence,
        admission=admission,
        reader=InstanceReader(network, FakeEgress(), registry),
        credentials=AgentCredentials(FakeSecretBox()),
        clock=clock,
        settings=registry,
    )
    status = HubStatus(version="1.2.3", engine=engine, is_started=is_started, agents_count=lambda: len(directory))
    whole = Settings(messaging=messaging or MessagingSettings(), tasks=tasks or TaskSettings())
    async with asyncio.TaskGroup() as duties:
        follow = duties.create_task(directory.run())
        await directory.wait_ready()
        await keys.start()
        async with rooms_of_work(places, balancer, whole) as rooms:
            services = RestServices(
                agents=_agent_use_cases(places, balancer),
                channels=rooms.channels,
                tasks=rooms.work.use_cases,
                audit=rooms.work.audit,
                push_jwks=PushSigner(bytes(32), issuer="http://hub").jwks,
                keys=ManageKeys(keys, admission, clock=clock),
                mesh=rooms.mesh,
                status=status,
                principal_of=lambda headers: keys.authenticate(read_credentials(headers)),
                render_metrics=_rendered,
                metrics=NullMetrics(),
            )
            app = build_rest_app(services, settings)
            transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://hub") as http:
                yield RestHub(app, http, network, store, keys, engine, status, balancer, services)
        await keys.aclose()
        follow.cancel()


async def _rendered() -> tuple[bytes, str]:
    return b"meshway_up 1\n", "text/plain; version=0.0.4; charset=utf-8"


async def _nobody_runs(_: object) -> int:
    return 0


def _agent_use_cases(places: RegistryPlaces, balancer: Balancer) -> AgentUseCases:
    return AgentUseCases(
        register=RegisterAgent(places),
        find=FindAgents(places),
        show=ShowAgent(places),
        update=UpdateAgent(places),
        remove=RemoveAgent(places, cancel_running=_nobody_runs),
        drain=DrainAgent(places),
        resume=ResumeAgent(places),
        heartbeat=HeartbeatAgent(places, balancer),
        instances=ManageInstances(places),
        watch=WatchAgents(places),
        in_flight=balancer.in_flight,
    )


@asynccontextmanager
async def served(app: Starlette, *, port: int = 0) -> AsyncIterator[str]:
    """The application behind a real server on a loopback port: for what must be seen as it streams."""
    listener = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1))
    async with asyncio.TaskGroup() as group:
        group.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
