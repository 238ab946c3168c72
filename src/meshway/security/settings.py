"""What an operator may set about access: keys, hosts and egress."""

from typing import Annotated

import msgspec

__all__ = ["AuthSettings", "EgressSettings", "HostSettings", "KeyEntry"]


class AuthSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `[auth]`."""

    # Demand a key even on loopback and before the first key exists.
    required: bool = False
    # A starting hub gives up when it cannot read the keys for this long: serving without them could let anybody in.
    start_timeout_ms: Annotated[int, msgspec.Meta(ge=100, le=600_000)] = 10_000


class KeyEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[keys]]` entry: a key that lives in the configuration and is never written to the store."""

    # What logs and `meshway keys list` show; owns the caller's tasks, so it stays when the key is rotated.
    name: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
    # The key as clients send it. Shorter ones could be guessed. Better: `key_sha256`, which is of no use to a thief.
    key: Annotated[str, msgspec.Meta(min_length=24, max_length=256, pattern=r"^[!-~]+$")] | None = None
    # SHA-256 of the key in hex: `printf %s "$KEY" | sha256sum`.
    key_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{64}$")] | None = None
    # Rights: call, admin, serve:<agent pattern>.
    scopes: tuple[str, ...] = ("call",)


class HostSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `[hosts]`: under which names the hub answers."""

    # Host headers accepted besides loopback names and that of `public_url`: `name`, `name:port`, `*.suffix`, a network
    # such as `10.0.0.0/8` (for probes that use the address), or `*`.
    allow: tuple[str, ...] = ()
    # Web pages that may call the hub from a browser: `https://app.example`, or `*`.
    origins: tuple[str, ...] = ()


class EgressSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `[egress]`: where the hub may connect to."""

    # May agents live on loopback and private networks? Unset: only when the hub itself listens on loopback.
    allow_private: bool | None = None
    # Hosts (`name`, `*.suffix`) and networks (`10.1.0.0/16`) that are allowed although private. Never helps metadata or
    # link-local addresses.
    allow: tuple[str, ...] = ()
    # Name servers that hang must not hang calls; the default is what a resolver needs for one retry.
    dns_timeout_ms: Annotated[int, msgspec.Meta(ge=50, le=60_000)] = 6_000
    # A short memory spares a lookup per dial and still follows a failover within seconds; 0 turns it off.
    dns_cache_ms: Annotated[int, msgspec.Meta(ge=0, le=3_600_000)] = 5_000
