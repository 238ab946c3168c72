"""Push notification configs of a task, as A2A has them: create, get, list, delete. Core A2A 1.0 JSON in and out.

The hub delivers itself; no agent ever learns of these configs.
"""

import re

import msgspec

from meshway.engine.ports import Log
from meshway.gateway.admission import Admission
from meshway.gateway.ports import EgressRules
from meshway.gateway.push_ports import OwnerOfTask
from meshway.gateway.push_secrets import PushSecrets, ReceiverSecrets
from meshway.kernel.clock import Clock
from meshway.kernel.errors import Forbidden, InvalidRequest, MalformedBody, TaskNotFound, wrong_field
from meshway.kernel.ids import AgentId, TaskId
from meshway.kernel.principal import Principal
from meshway.tasks.push_configs import PushConfig, PushConfigStore, push_config_key
from meshway.tasks.tokens import events_subject
from meshway.tasks.values import TaskOwner

__all__ = ["ManagePushConfigs"]

# An id is shown in paths and logs; the others are headers, of which receivers take 8 KiB mostly.
_ID_CHARACTERS_MAX = 256
_SECRET_CHARACTERS_MAX = 4_096
_SCHEME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_HEADER_TEXT = re.compile(r"[!-~]([ -~]*[!-~])?")


class _Authentication(msgspec.Struct, omit_defaults=True):
    scheme: str | None = None
    credentials: str | None = None


class _Config(msgspec.Struct, kw_only=True, omit_defaults=True, rename="camel"):
    """TaskPushNotificationConfig (specification, section 4.3.1). Absent and null are the same."""

    tenant: str | None = None
    id: str | None = None
    task_id: str | None = None
    url: str | None = None
    token: str | None = None
    authentication: _Authentication | None = None


class _Configs(msgspec.Struct, rename="camel"):
    """All in one page: there are few."""

    configs: list[_Config]
    next_page_token: str = ""


_decode = msgspec.json.Decoder(_Config).decode
_encode = msgspec.json.Encoder().encode


class ManagePushConfigs:
    """Somebody else's task, and one that is not there, are not found, both in the same words."""

    def __init__(
        self,
        configs: PushConfigStore,
        *,
        log: Log,
        owner_of: OwnerOfTask,
        egress: EgressRules,
        secrets: PushSecrets,
        admission: Admission,
        clock: Clock,
    ) -> None:
        self._configs = configs
        self._log = log
        self._owner_of = owner_of
        self._egress = egress
        self._secrets = secrets
        self._admission = admission
        self._clock = clock

    async def create(self, principal: Principal, agent_id: AgentId, params: bytes, *, version: str) -> bytes:
        """Keep a config of a task; one of the same id is replaced. The receiver is told of what comes from now on.

        `params` names the task (`taskId`); without `id` the config is called like its task, as the stock SDK does it.
        `version`, "1.0" or "0.3", is what its creator speaks. Returns the config as kept.
        Raises: Forbidden, TaskNotFound, MalformedBody, InvalidRequest, EgressDenied, CapacityReached, StorageFull,
        EngineUnavailable.
        """
        wire = _read(params)
        task_id = TaskId(wire.task_id or "")
        owner = await self._admit(principal, agent_id, task_id)
        self._check(wire, "")
        # Before the config is kept: what is appended in between is queued when the config is seen.
        (bounds,) = await self._log.bounds([events_subject(agent_id, task_id)])
        return await self._keep(owner, wire, version=version, after=0 if bounds is None else bounds.last)

    def check_inline(self, config: bytes) -> None:
        """What `attach` would refuse, before a task is begun for it.

        Raises: MalformedBody, InvalidRequest, EgressDenied.
        """
        self._check(_read(config), "configuration.taskPushNotificationConfig.")

    async def attach(self, owner: TaskOwner, config: bytes, *, version: str, after: int) -> None:
        """Keep the config that came with a message; `owner` is the record of its task, made by the same call.

        The receiver is told of the events after number `after`: 0 for a task that begins, else the last one of before
        the message. Raises: as `create`.
        """
        wire = _read(config)
        self._check(wire, "configuration.taskPushNotificationConfig.")
        await self._keep(owner, wire, version=version, after=after)

    async def get(self, principal: Principal, agent_id: AgentId, task_id: TaskId, config_id: str) -> bytes:
        """Raises: Forbidden, TaskNotFound (also: no such config), EngineUnavailable, StoreCorrupt."""
        await self._admit(principal, agent_id, task_id)
        config = await self._configs.get(agent_id, task_id, config_id)
        if config is None:
            raise TaskNotFound(f"Task {task_id!r} has no push notification config {config_id!r}.", agent=agent_id)
        return _encode(self._shown(config, principal))

    async def list_of(self, principal: Principal, agent_id: AgentId, task_id: TaskId) -> bytes:
        """A ListTaskPushNotificationConfigsResponse, oldest first. Raises: as `get`."""
        await self._admit(principal, agent_id, task_id)
        found = await self._configs.list_of(agent_id, task_id)
        ordered = sorted(found, key=lambda config: (config.created_at_ms, config.config_id))
        return _encode(_Configs([self._shown(config, principal) for config in ordered]))

    async def delete(self, principal: Principal, agent_id: AgentId, task_id: TaskId, config_id: str) -> None:
        """What waits for the receiver is dropped. Idempotent. Raises: Forbidden, TaskNotFound, EngineUnavailable."""
        await self._admit(principal, agent_id, task_id)
        await self._configs.delete(push_config_key(agent_id, task_id, config_id))

    async def _admit(self, principal: Principal, agent_id: AgentId, task_id: TaskId) -> TaskOwner:
        self._admission.admit_read(principal)
        if not principal.may_call:
            raise Forbidden(f"Key {principal.id!r} may not see tasks; that needs the scope 'call'.", agent=agent_id)
        owner = await self._owner_of(agent_id, task_id)
        if owner is None or not (principal.is_admin or owner.principal_id == principal.id):
            raise TaskNotFound(f"There is no task {task_id!r} of yours at agent {agent_id!r}.", agent=agent_id)
        return owner

    def _check(self, wire: _Config, prefix: str) -> None:
        self._egress.check_url(wire.url or "", field=f"{prefix}url")
        for name, text in (("id", wire.id), ("tenant", wire.tenant)):
            if text is not None and len(text) > _ID_CHARACTERS_MAX:
                raise wrong_field(f"{prefix}{name}", f"use at most {_ID_CHARACTERS_MAX} characters")
        _check_header(wire.token, f"{prefix}token")
        authentication = wire.authentication
        if authentication is None:
            return
        _check_header(authentication.credentials, f"{prefix}authentication.credentials")
        if not _SCHEME.fullmatch(authentication.scheme or ""):
            raise wrong_field(f"{prefix}authentication.scheme", "name an HTTP authentication scheme, such as Bearer")

    async def _keep(self, owner: TaskOwner, wire: _Config, *, version: str, after: int) -> bytes:
        config_id = wire.id or owner.task_id
        authentication = wire.authentication or _Authentication()
        secrets = ReceiverSecrets(wire.token or "", authentication.credentials or "")
        config = PushConfig(
            agent_id=owner.agent_id,
            task_id=owner.task_id,
            config_id=config_id,
            principal_id=owner.principal_id,
            url=wire.url or "",
            tenant=wire.tenant or "",
            scheme=authentication.scheme or "",
            sealed=self._secrets.seal(push_config_key(owner.agent_id, owner.task_id, config_id), secrets),
            version=version,
            created_at_ms=self._clock.now_ms(),
            last_queued=after,
        )
        return _encode(_wire(await self._configs.put(config), secrets))

    def _shown(self, config: PushConfig, principal: Principal) -> _Config:
        """An admin who looks at somebody else's config sees everything but its secrets."""
        is_own = config.principal_id == principal.id
        return _wire(config, self._secrets.open(config) if is_own else ReceiverSecrets())


def _wire(config: PushConfig, secrets: ReceiverSecrets) -> _Config:
    authentication = _Authentication(config.scheme, secrets.credentials or None) if config.scheme else None
    return _Config(
        tenant=config.tenant or None,
        id=config.config_id,
        task_id=config.task_id,
        url=config.url,
        token=secrets.token or None,
        authentication=authentication,
    )


def _read(document: bytes) -> _Config:
    try:
        return _decode(document)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"This is no push notification config: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBody(f"The push notification config is not JSON: {error}.") from None


def _check_header(text: str | None, field: str) -> None:
    if text and (len(text) > _SECRET_CHARACTERS_MAX or not _HEADER_TEXT.fullmatch(text)):
        raise wrong_field(
            field, f"use at most {_SECRET_CHARACTERS_MAX:,} printable ASCII characters, no space at the ends"
        )
