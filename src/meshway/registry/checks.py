"""What may be said of an agent and its instances: bounds of labels, capacity, weight and settings. Pure; finds all
faults at once."""

import re
from collections.abc import Mapping

from meshway.kernel.delegation import HOPS_MAX
from meshway.kernel.errors import FieldError
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import AgentSettings

__all__ = [
    "ATTEMPTS_MAX",
    "CALLS_MAX",
    "CAPACITY_MAX",
    "TASK_TIMEOUT_MAX_MS",
    "TIMEOUT_MAX_MS",
    "WEIGHT_MAX",
    "check_capacity",
    "check_labels",
    "check_settings",
    "check_url_form",
    "check_weight",
]

# Calls at once of one process: more than any has sockets for.
CAPACITY_MAX = 1_000_000
# Ratios finer than one in a thousand make no difference that could be measured.
WEIGHT_MAX = 1_000
# A day, as for every wait of a caller.
TIMEOUT_MAX_MS = 86_400_000
# As long as an open task is kept.
TASK_TIMEOUT_MAX_MS = 30 * 86_400_000
# What fails so often will not succeed; at the longest back-off these take most of a day.
ATTEMPTS_MAX = 1_000
# Of one root task; what needs more is a program, not a delegation.
CALLS_MAX = 1_000_000
# What HTTP servers and proxies take without being configured for more.
_URL_CHARS_MAX = 2_048
# Kubernetes' own bounds leave room; a key must survive `?label=key=value`, so no '=' and no blanks in it.
_LABEL_KEY = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")
_LABEL_VALUE_CHARS_MAX = 256


def check_labels(labels: Mapping[str, str], field: str, settings: RegistrySettings) -> list[FieldError]:
    wrong = []
    if len(labels) > settings.labels_max:
        wrong.append(FieldError(field, f"{len(labels)} labels; at most {settings.labels_max} are kept"))
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key):
            text = "a label's key is 1 to 128 of A-Z a-z 0-9 . _ / -, beginning and ending with a letter or digit"
            wrong.append(FieldError(f"{field}.{key[:64]}", text))
        elif len(value) > _LABEL_VALUE_CHARS_MAX or not value.isprintable():
            text = f"a label's value is at most {_LABEL_VALUE_CHARS_MAX} printable characters"
            wrong.append(FieldError(f"{field}.{key}", text))
    return wrong[:16]


def check_capacity(capacity: int | None, field: str) -> list[FieldError]:
    if capacity is None or 1 <= capacity <= CAPACITY_MAX:
        return []
    return [FieldError(field, f"use 1 to {CAPACITY_MAX} calls at once, or leave it out for no limit; drain to stop")]


def check_weight(weight: int, field: str) -> list[FieldError]:
    if 1 <= weight <= WEIGHT_MAX:
        return []
    return [FieldError(field, f"use 1 to {WEIGHT_MAX}; drain the instance to send it nothing")]


def check_settings(settings: AgentSettings, prefix: str = "settings.") -> list[FieldError]:
    """Fields are named with `prefix`. None always stands for the hub's default."""
    bounds = (
        ("timeout_ms", settings.timeout_ms, TIMEOUT_MAX_MS, " ms"),
        ("task_timeout_ms", settings.task_timeout_ms, TASK_TIMEOUT_MAX_MS, " ms"),
        ("attempts_max", settings.attempts_max, ATTEMPTS_MAX, ""),
        ("depth_max", settings.depth_max, HOPS_MAX, ""),
        ("calls_max", settings.calls_max, CALLS_MAX, ""),
    )
    return [
        FieldError(f"{prefix}{name}", f"use 1 to {most}{unit}, or null for the hub's default")
        for name, value, most, unit in bounds
        if value is not None and not 1 <= value <= most
    ]


def check_url_form(url: str, field: str) -> list[FieldError]:
    """What no egress rule needs to look at: length, and parts that a base URL cannot have."""
    if len(url) > _URL_CHARS_MAX:
        return [FieldError(field, f"use at most {_URL_CHARS_MAX} characters")]
    if "?" in url or "#" in url:
        return [FieldError(field, "give the agent's base URL, without a query or fragment")]
    return []
