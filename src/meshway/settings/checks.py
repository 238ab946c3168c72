"""What a single field's type cannot say: forms, and settings that only make sense together."""

from collections.abc import Callable, Iterator, Mapping

from meshway.engine.nats.settings import is_nats_engine, settings_of_engine
from meshway.kernel.errors import InvalidRequest
from meshway.kernel.ids import parse_agent_id
from meshway.security.configured_keys import configured_principals
from meshway.security.egress import HostPatterns
from meshway.security.hosts import HostRules
from meshway.security.secret_box import decode_secret_key
from meshway.settings.model import Settings
from meshway.settings.problems import Problem

__all__ = ["check_settings"]


def check_settings(settings: Settings, origins: Mapping[str, str]) -> list[Problem]:
    """Everything that is wrong, in the order of the model; empty when the hub can start with it."""
    problems: list[Problem] = []
    checks: tuple[Callable[[], object], ...] = (
        lambda: decode_secret_key(settings.secret_key),
        lambda: configured_principals(settings.keys),
        lambda: HostPatterns(settings.egress.allow, field="egress.allow"),
        # Its constructor reads every entry and the public URL.
        lambda: HostRules(settings.hosts, loopback=True, public_url=settings.public_url, demands_key=lambda: True),
    )
    problems += _wrong_engine(settings, origins)
    for check in checks:
        try:
            check()
        except InvalidRequest as error:
            problems += [Problem(each.field, _source_of(each.field, origins), each.message) for each in error.fields]
    problems += _wrong_agents(settings, origins)
    return problems


def _source_of(key: str, origins: Mapping[str, str]) -> str:
    """The origin of the key, of the nearest key around it, or of the first one inside it."""
    around = key
    while around:
        if around in origins:
            return origins[around]
        inside = next((origins[each] for each in origins if each.startswith(f"{around}.")), None)
        if inside is not None:
            return inside
        around = around.rpartition(".")[0]
    return "settings"


def _wrong_engine(settings: Settings, origins: Mapping[str, str]) -> Iterator[Problem]:
    if settings.engine == "embedded":
        return
    if not is_nats_engine(settings.engine):
        message = f"expected embedded, or an address such as nats://127.0.0.1:4222, got {settings.engine!r}"
        yield Problem("engine", origins["engine"], message)
        return
    try:
        settings_of_engine(settings.engine, settings.nats)
    except InvalidRequest as error:
        yield Problem("engine", origins["engine"], error.fields[0].message)


def _wrong_agents(settings: Settings, origins: Mapping[str, str]) -> Iterator[Problem]:
    for index, agent in enumerate(settings.agents):
        key = f"agents.{index}"
        try:
            parse_agent_id(agent.id, field=f"{key}.id")
        except InvalidRequest as error:
            yield Problem(f"{key}.id", _source_of(f"{key}.id", origins), error.fields[0].message)
        if (agent.url is None) == (agent.card is None):
            yield Problem(key, _source_of(key, origins), "give either url or card")
