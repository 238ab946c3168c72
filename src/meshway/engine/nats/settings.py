"""Settings of the NATS engine: where the cluster is, who we are there, and how much of it we use."""

from collections.abc import Iterator
from typing import Annotated
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from meshway.kernel.errors import FieldError, InvalidRequest

__all__ = ["NatsSettings", "is_nats_engine", "settings_of_engine"]

_SCHEMES = frozenset({"nats", "tls"})

_TRY_MS_MIN = 100


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The defaults suit a server on the same machine."""

    # Any of the cluster's; the others are learned from it. `meshway up --engine nats://a,b,c` sets them too.
    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    # Of the three ways to show who we are the operator sets one: a .creds file (JWT and key) ...
    credentials_file: str | None = None
    # ... a file with the seed of an nkey ...
    nkey_seed_file: str | None = None
    # ... or what could stand before the @ in an address, where lists of processes show it: user and password, a token.
    user: str | None = None
    # The password of `nats.user`.
    password: str | None = None
    # Instead of a user.
    token: str | None = None
    # PEM; with it the connection is encrypted, and the servers must show a certificate of this authority.
    tls_ca_file: str | None = None
    # PEM; the hub's own, where servers ask for one.
    tls_certificate_file: str | None = None
    # PEM; the key of that certificate.
    tls_key_file: str | None = None
    # The JetStream domain, where the cluster has several.
    domain: Annotated[str, msgspec.Meta(pattern=r"^[^.*>\s]+$")] | None = None
    # First token of all subjects and of the names of streams: several meshes on one cluster.
    prefix: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,32}$")] = "mw"
    # Copies of everything; None: three in a cluster, one on a single server.
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] | None = None
    # Whether the servers run with `sync_interval: always`, which they tell nobody: what the hub says of durability.
    synced: bool = False
    # Of each stream; None: as much as the account may.
    stream_bytes_max: Annotated[int, msgspec.Meta(ge=1)] | None = None
    # An election takes up to eight seconds; what waits longer than this is not decided.
    request_timeout_ms: Annotated[int, msgspec.Meta(ge=100)] = 5_000
    # How long a start waits for a cluster that is still electing.
    start_timeout_ms: Annotated[int, msgspec.Meta(ge=100)] = 30_000
    # Publishes on their way at once; more only fill buffers.
    in_flight_max: Annotated[int, msgspec.Meta(ge=1)] = 1_024
    # How long the servers filter repeated message ids, in memory: the port promises two minutes.
    message_id_window_ms: Annotated[int, msgspec.Meta(ge=1_000)] = 120_000
    # How long deletions are remembered, so that a watcher that was away for so long learns of them.
    marker_ttl_ms: Annotated[int, msgspec.Meta(ge=1_000)] = 60_000
    # Entries one tail may have waiting in memory before it is served from the store instead.
    tail_buffer_entries_max: Annotated[int, msgspec.Meta(ge=1)] = 256
    # Changed keys one watch may have waiting; beyond it the watch is closed, for its reader is gone or stuck.
    watch_pending_max: Annotated[int, msgspec.Meta(ge=1)] = 100_000
    # Subjects whose last number is kept in memory (about 300 bytes each).
    subjects_cached_max: Annotated[int, msgspec.Meta(ge=1)] = 20_000

    def __post_init__(self) -> None:
        """Raises: ValueError for settings that contradict each other."""
        ways = [
            name for name in ("credentials_file", "nkey_seed_file", "user", "token") if getattr(self, name) is not None
        ]
        if len(ways) > 1:
            raise ValueError(f"{' and '.join(ways)}: set one of them, for a hub is one user to NATS")
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password belong together: set both, or none")
        if self.tls_key_file is not None and self.tls_certificate_file is None:
            raise ValueError("tls_key_file is the key of tls_certificate_file: set that too")
        if not self.servers:
            raise ValueError("servers: name at least one, such as nats://127.0.0.1:4222")

    @property
    def try_timeout_ms(self) -> int:
        """For one of several tries of what is safe to repeat: a request that met an election is lost, not late."""
        return max(_TRY_MS_MIN, self.request_timeout_ms * 2 // 5)

    def only(self, server: str, *, start_timeout_ms: int) -> "NatsSettings":
        """For a short visit to one server."""
        return msgspec.structs.replace(self, servers=(server,), start_timeout_ms=start_timeout_ms)

    @property
    def wants_tls(self) -> bool:
        """Then nothing is said to a server before the connection is encrypted."""
        files = (self.tls_ca_file, self.tls_certificate_file)
        return any(file is not None for file in files) or any(url.startswith(("tls:", "wss:")) for url in self.servers)


def is_nats_engine(engine: str) -> bool:
    """Whether the setting `engine` asks for this adapter; its form is checked by `settings_of_engine`."""
    return engine == "nats" or engine.partition("://")[0] in _SCHEMES


def settings_of_engine(engine: str, settings: NatsSettings) -> NatsSettings:
    """`settings` with the servers that `engine` names: `nats` keeps them, `nats://a,b:4333` replaces them.

    Who we are may stand in it too, `nats://user:password@a` or `nats://token@a`; the section [nats] hides it better.
    Raises: InvalidRequest naming `engine`.
    """
    if engine == "nats":
        return settings
    urls = list(_urls(engine))
    named = next((url for url in urls if url.username is not None), None)
    servers = tuple(f"{url.scheme}://{url.netloc.rpartition('@')[2]}" for url in urls)
    identity: dict[str, str | None] = {}
    if named is not None and named.password is None:
        identity = {"token": unquote(named.username or "")}
    elif named is not None:
        identity = {"user": unquote(named.username or ""), "password": unquote(named.password or "")}
    try:
        return msgspec.structs.replace(settings, servers=servers, **identity)
    except ValueError as error:
        raise _wrong(f"it says who we are, and so does [nats]: {error}") from error


def _urls(engine: str) -> Iterator[SplitResult]:
    scheme = engine.partition("://")[0]
    for part in engine.split(","):
        address = part.strip()
        url = _url(address if "://" in address else f"{scheme}://{address}")
        if url is None:
            raise _wrong(f"expected servers such as nats://a:4222,b:4222, got {address.rpartition('@')[2]!r}")
        yield url


def _url(address: str) -> SplitResult | None:
    try:
        url = urlsplit(address)
        is_whole = url.scheme in _SCHEMES and bool(url.hostname) and not _extras(url) and url.port != 0
    except ValueError:
        return None
    return url if is_whole else None


def _extras(url: SplitResult) -> str:
    return url.path.strip("/") + url.query + url.fragment


def _wrong(text: str) -> InvalidRequest:
    return InvalidRequest(f"engine: {text}", fields=[FieldError("engine", text)])
