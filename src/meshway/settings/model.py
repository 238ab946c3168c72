"""The whole of a hub's settings. A new room adds one line: its section's name, model and default."""

from typing import Annotated

import msgspec

from meshway.coordination.settings import MeshSettings
from meshway.edges.http.settings import HttpSettings
from meshway.edges.rest.settings import RestSettings
from meshway.engine.embedded.settings import EmbeddedSettings
from meshway.engine.nats.settings import NatsSettings
from meshway.gateway.delegation_settings import DelegationSettings
from meshway.gateway.push_settings import PushSettings
from meshway.gateway.settings import GatewaySettings
from meshway.messaging.settings import MessagingSettings
from meshway.observability.settings import LogSettings
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import AgentSettings
from meshway.routing.settings import RoutingSettings
from meshway.security.settings import AuthSettings, EgressSettings, HostSettings, KeyEntry
from meshway.tasks.settings import TaskSettings
from meshway.upstreams.a2a.settings import A2AUpstreamSettings
from meshway.upstreams.http1.settings import Http1Settings

__all__ = ["AgentEntry", "Settings"]


class AgentEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[agents]]` entry: an agent that is there when the hub starts. Several with one id are its instances."""

    # The name callers use: /a2a/<id>.
    id: str
    # Where the agent answers; its card is fetched from there. Either this or `card`.
    url: str | None = None
    # File with the agent's card, for an agent that need not be up when the hub starts.
    card: str | None = None
    # For lookup and routing: labels = { zone = "eu" }.
    labels: dict[str, str] = {}
    # Calls at once; unset is no limit.
    capacity: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    # Share of the traffic relative to the other instances.
    weight: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 1
    # What the hub shows to the agent: a bearer token, or a whole header such as `X-API-Key: ...`. Better from the
    # environment (MESHWAY_AGENTS) than in a file that is shared.
    credential: str | None = None
    # How long a call waits, which card is served, whether the hub may probe.
    settings: AgentSettings = AgentSettings()


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Top level of `meshway.toml`."""

    # Loopback serves this machine only; anything else needs a key, or `insecure`.
    host: str = "127.0.0.1"
    # One port for everything; 0 takes a free one.
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 7070
    # Directory of the store, the secret key and the lock. From a file, relative to that file.
    data: str = "meshway-data"
    # `embedded` (one hub, one directory); or the servers of a NATS cluster that many hubs share: `nats://a,b,c`, or
    # `nats` for those of `nats.servers`.
    engine: str = "embedded"
    # Hub processes on the one port, one a core. Several share a nats-server: that of `engine`, or one of their own.
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    # The nats-server that several workers without an `engine` share. Unset: the one on the PATH.
    nats_server: str | None = None
    # Base of every URL the hub shows, where a proxy stands before it: https://hub.example.
    public_url: str | None = None
    # Start a few agents to try things out with.
    demo: bool = False
    # Listen anywhere without a key, where the network keeps strangers out.
    insecure: bool = False
    # Key of the stored credentials, the same on all hubs of a mesh: `openssl rand -base64 32`. Unset: `secret.key` in
    # the data directory.
    secret_key: str | None = None
    # What is logged, and how.
    log: LogSettings = LogSettings()
    # Whether a key is demanded.
    auth: AuthSettings = AuthSettings()
    # Keys that live in the configuration.
    keys: tuple[KeyEntry, ...] = ()
    # Agents that are there when the hub starts.
    agents: tuple[AgentEntry, ...] = ()
    # Under which names the hub answers, and which web pages may call it.
    hosts: HostSettings = HostSettings()
    # Where the hub may connect to.
    egress: EgressSettings = EgressSettings()
    # The embedded engine.
    embedded: EmbeddedSettings = EmbeddedSettings()
    # The NATS engine: how hubs show who they are there, and how much of the cluster they use.
    nats: NatsSettings = NatsSettings()
    # How hubs of one mesh notice each other.
    mesh: MeshSettings = MeshSettings()
    # Agents and their presence.
    registry: RegistrySettings = RegistrySettings()
    # How calls are spread over instances.
    routing: RoutingSettings = RoutingSettings()
    # How tasks are kept, handed out and given up.
    tasks: TaskSettings = TaskSettings()
    # How far agents may go in calling each other.
    delegation: DelegationSettings = DelegationSettings()
    # Push notifications of tasks.
    push: PushSettings = PushSettings()
    # Messages and channels.
    messaging: MessagingSettings = MessagingSettings()
    # What holds for every call.
    gateway: GatewaySettings = GatewaySettings()
    # The HTTP server.
    http: HttpSettings = HttpSettings()
    # The control plane.
    rest: RestSettings = RestSettings()
    # Connections to agents.
    http1: Http1Settings = Http1Settings()
    # What the hub expects of A2A agents.
    a2a_upstream: A2AUpstreamSettings = A2AUpstreamSettings()
