"""Who is calling, and what the key says they may do. Values only: who checks a key is a port of the gateway."""

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.kernel.ids import AgentId, PrincipalId

__all__ = ["ANONYMOUS", "LOCAL_OPERATOR", "Principal", "Scope", "parse_scope"]

# Agent ids and the two wildcards of fnmatch; anything else could never match an id.
_SERVE_PATTERN = re.compile(r"[a-z0-9*?-]{1,63}")


@dataclass(frozen=True, slots=True)
class Scope:
    """One right: `call`, `admin`, or `serve` with a pattern of agent ids (`serve:billing-*`)."""

    name: str
    pattern: str | None = None

    def __str__(self) -> str:
        return self.name if self.pattern is None else f"{self.name}:{self.pattern}"


@dataclass(frozen=True, slots=True)
class Principal:
    """The caller of one request. `id` owns tasks and registrations and is what logs show; `admin` may do everything."""

    id: PrincipalId
    scopes: frozenset[Scope] = field(default_factory=frozenset)
    may_call: bool = field(init=False)
    is_admin: bool = field(init=False)

    def __post_init__(self) -> None:
        names = {scope.name for scope in self.scopes}
        object.__setattr__(self, "is_admin", "admin" in names)
        object.__setattr__(self, "may_call", bool(names & {"call", "admin"}))

    def may_serve(self, agent_id: AgentId) -> bool:
        """May this principal register and speak for the agent?"""
        if self.is_admin:
            return True
        return any(
            scope.name == "serve" and scope.pattern is not None and fnmatchcase(agent_id, scope.pattern)
            for scope in self.scopes
        )


def parse_scope(text: str, *, field: str = "scopes") -> Scope:
    """Read `call`, `admin` or `serve:<pattern>`. Raises: InvalidRequest naming `field`."""
    name, separator, pattern = text.partition(":")
    if name in {"call", "admin"} and not separator:
        return Scope(name)
    if name == "serve" and _SERVE_PATTERN.fullmatch(pattern):
        return Scope(name, pattern)
    message = f"{text!r} is no scope; use call, admin or serve:<agent pattern> such as serve:billing-*"
    raise InvalidRequest(message, fields=[FieldError(field, message)])


# Open mode on loopback: whoever reaches the port is the person at the keyboard.
LOCAL_OPERATOR = Principal(PrincipalId("local"), frozenset({Scope("admin")}))
# A request without a key where keys are demanded: no rights at all.
ANONYMOUS = Principal(PrincipalId("anonymous"))
