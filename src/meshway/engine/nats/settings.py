"""Settings of the NATS engine: where the cluster is, who we are there, and how much of it we use."""

from typing import Annotated

import msgspec

__all__ = ["NatsSettings"]


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The defaults suit a server on the same machine; `servers` is what `meshway up --engine` is given."""

    # Any of the cluster's; the others are learned from it.
    servers: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    # Of the three ways to show who we are the operator sets one: a .creds file (JWT and key) ...
    credentials_file: str | None = None
    # ... a file with the seed of an nkey ...
    nkey_seed_file: str | None = None
    # ... or what could stand before the @ in an address, where lists of processes show it: user and password, a token.
    user: str | None = None
    # Of `user`.
    password: str | None = None
    # Instead of a user.
    token: str | None = None
    # PEM; with it the connection is encrypted, and the servers must show a certificate of this authority.
    tls_ca_file: str | None = None
    # PEM; the hub's own, where servers ask for one.
    tls_certificate_file: str | None = None
    # Of that certificate.
    tls_key_file: str | None = None
    # The JetStream domain, where the cluster has several.
    domain: str | None = None
    # First token of all subjects and of the names of streams: several meshes on one cluster.
    prefix: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9_-]{1,32}$")] = "mw"
    # Copies of everything; None: three in a cluster, one on a single server.
    replicas: Annotated[int, msgspec.Meta(ge=1, le=5)] | None = None
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
