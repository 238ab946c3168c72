"""Changes to single fields of agents and instances, in the manner of JSON merge patch (RFC 7396). Pure.

UNSET leaves a field alone, None removes it or puts its default back.
"""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.registry.checks import check_capacity, check_labels, check_settings, check_weight
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import AgentSettings, Instance

__all__ = ["InstancePatch", "SettingsPatch", "patched_instance", "patched_settings"]


class InstancePatch(msgspec.Struct, frozen=True, kw_only=True):
    """Of one instance. Labels are merged one by one; None instead of labels removes all."""

    labels: dict[str, str | None] | UnsetType | None = UNSET
    capacity: int | UnsetType | None = UNSET
    weight: int | UnsetType | None = UNSET


class SettingsPatch(msgspec.Struct, frozen=True, kw_only=True):
    """Of an agent's settings: the fields of AgentSettings, by the same names."""

    timeout_ms: int | UnsetType | None = UNSET
    card: Literal["1.0", "union", "0.3"] | UnsetType | None = UNSET
    probe: bool | UnsetType | None = UNSET
    task_timeout_ms: int | UnsetType | None = UNSET
    attempts_max: int | UnsetType | None = UNSET
    delivery: Literal["direct", "durable"] | UnsetType | None = UNSET
    record: Literal["all", "streams", "off"] | UnsetType | None = UNSET
    dedupe_messages: bool | UnsetType | None = UNSET
    depth_max: int | UnsetType | None = UNSET
    calls_max: int | UnsetType | None = UNSET
    allow_cycles: bool | UnsetType | None = UNSET


def patched_instance(instance: Instance, patch: InstancePatch, limits: RegistrySettings) -> Instance:
    """Raises: InvalidRequest naming `labels...`, `capacity` or `weight`."""
    labels, capacity, weight = instance.labels, instance.capacity, instance.weight
    if patch.labels is None:
        labels = {}
    elif patch.labels is not UNSET:
        merged = {**labels, **patch.labels}
        labels = {key: value for key, value in merged.items() if value is not None}
    if patch.capacity is not UNSET:
        capacity = patch.capacity
    if patch.weight is not UNSET:
        weight = 1 if patch.weight is None else patch.weight
    _refuse(
        [
            *check_labels(labels, "labels", limits),
            *check_capacity(capacity, "capacity"),
            *check_weight(weight, "weight"),
        ]
    )
    return msgspec.structs.replace(instance, labels=labels, capacity=capacity, weight=weight)


def patched_settings(settings: AgentSettings, patch: SettingsPatch | None) -> AgentSettings:
    """None puts all defaults back. Raises: InvalidRequest naming `settings.<field>`."""
    defaults = AgentSettings()
    if patch is None:
        return defaults
    named = {name: value for name, value in msgspec.structs.asdict(patch).items() if value is not UNSET}
    changes = {name: getattr(defaults, name) if value is None else value for name, value in named.items()}
    patched: AgentSettings = msgspec.structs.replace(settings, **changes)
    _refuse(check_settings(patched))
    return patched


def _refuse(wrong: list[FieldError]) -> None:
    if wrong:
        raise InvalidRequest("; ".join(f"{w.field}: {w.message}" for w in wrong[:3]), fields=wrong)
