"""Where API keys are administered: in a hub that runs, or in the data directory of one that does not."""

import logging
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from meshway.assembly.engines import open_engine
from meshway.cli.failure import EXIT_UNREACHABLE, Failure
from meshway.cli.hub import HubOptions, connect
from meshway.cli.kernel_errors import kernel_failures
from meshway.client import ApiKeyInfo, HubUnreachable, MeshwayClient, NewApiKey
from meshway.gateway.ports import ApiKey
from meshway.kernel.clock import SystemClock, parse_rfc3339_ms, rfc3339_ms
from meshway.kernel.errors import DataDirLocked
from meshway.kernel.ids import KeyId
from meshway.kernel.metrics import NullMetrics
from meshway.security.keys import KeyRing
from meshway.settings.load import load_settings
from meshway.settings.model import Settings
from meshway.settings.sources import find_settings_file

__all__ = ["KeyPlace", "open_key_place"]


class KeyPlace(Protocol):
    @property
    def name(self) -> str:
        """For people: which hub, or which directory."""

    async def create(self, name: str, scopes: Sequence[str], *, expires_at: str | None) -> NewApiKey: ...

    async def list_keys(self) -> Sequence[ApiKeyInfo]: ...

    async def revoke(self, key_id: str) -> None: ...


@asynccontextmanager
async def open_key_place(hub: HubOptions, data: str | None) -> AsyncIterator[KeyPlace]:
    """The data directory if it was named and is free; else the hub that answers; else the default directory.

    Raises: Failure when neither can be used.
    """
    settings = _settings(data)
    is_hub_named = hub.url is not None or bool(os.environ.get("MESHWAY_URL"))
    if data is None and (is_hub_named or await _answers(hub)):
        async with connect(hub) as client:
            yield _HubKeys(client)
        return
    try:
        async with _opened_store(settings) as keys:
            yield keys
    except DataDirLocked as locked:
        if not await _answers(hub):
            raise Failure(
                locked.detail.partition(";")[0] + ", which does not answer where this command looks for it.",
                hint="Set MESHWAY_URL to that hub's address (or --url), then try again.",
                exit_code=EXIT_UNREACHABLE,
                code=locked.code,
            ) from locked
        async with connect(hub) as client:
            yield _HubKeys(client)


def _settings(data: str | None) -> Settings:
    with kernel_failures():
        file = find_settings_file(None, environ=os.environ, folder=Path.cwd())
        return load_settings(file=file, environ=os.environ, flags={"data": data}).settings


async def _answers(hub: HubOptions) -> bool:
    async with connect(hub) as client:
        try:
            await client.keys.list()
        except HubUnreachable:
            return False
    return True


@dataclass(frozen=True, slots=True)
class _HubKeys:
    client: MeshwayClient

    @property
    def name(self) -> str:
        return f"the hub at {self.client.url}"

    async def create(self, name: str, scopes: Sequence[str], *, expires_at: str | None) -> NewApiKey:
        return await self.client.keys.create(name, scopes, expires_at=expires_at)

    async def list_keys(self) -> Sequence[ApiKeyInfo]:
        return (await self.client.keys.list()).items

    async def revoke(self, key_id: str) -> None:
        await self.client.keys.revoke(key_id)


@asynccontextmanager
async def _opened_store(settings: Settings) -> AsyncIterator["_StoredKeys"]:
    """Raises: DataDirLocked; Failure for everything else that is wrong with the directory, or the cluster."""
    _keep_logs_off_the_output()
    clock = SystemClock()
    engine = await open_engine(settings, clock=clock, metrics=NullMetrics())
    try:
        ring = KeyRing(
            engine.key_value, settings=settings.auth, configured=settings.keys, clock=clock, open_allowed=True
        )
        await ring.start()
        try:
            yield _StoredKeys(ring, _place_name(settings))
        finally:
            await ring.aclose()
    finally:
        await engine.close()


def _place_name(settings: Settings) -> str:
    if settings.engine == "embedded":
        return f"the data directory {Path(settings.data).resolve()}"
    return f"the mesh at {settings.engine}"


def _keep_logs_off_the_output() -> None:
    """Standard output is the command's answer; only what went wrong is said, beside it."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@dataclass(frozen=True, slots=True)
class _StoredKeys:
    ring: KeyRing
    name: str

    async def create(self, name: str, scopes: Sequence[str], *, expires_at: str | None) -> NewApiKey:
        expires_at_ms = None if expires_at is None else parse_rfc3339_ms(expires_at)
        created = await self.ring.create(name, scopes, expires_at_ms=expires_at_ms)
        key = created.key
        return NewApiKey(id=key.id, name=key.name, scopes=key.scopes, key=created.secret, expires_at=expires_at)

    async def list_keys(self) -> Sequence[ApiKeyInfo]:
        return [_shown(key) for key in await self.ring.list_keys()]

    async def revoke(self, key_id: str) -> None:
        await self.ring.revoke(KeyId(key_id))


def _shown(key: ApiKey) -> ApiKeyInfo:
    return ApiKeyInfo(
        id=key.id,
        name=key.name,
        scopes=key.scopes,
        created_at=rfc3339_ms(key.created_at_ms),
        expires_at=None if key.expires_at_ms is None else rfc3339_ms(key.expires_at_ms),
        revoked_at=None if key.revoked_at_ms is None else rfc3339_ms(key.revoked_at_ms),
    )
