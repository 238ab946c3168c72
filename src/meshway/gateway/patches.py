"""Changes to single fields of agents and instances, in the manner of JSON merge patch (RFC 7396). Pure.

UNSET leaves a field alone, None removes it or puts its default back.
"""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.registry.checks import check_capacity, check_labels, check_timeout_ms, check_weight
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import AgentSettings, Instance

__all__ = ["InstancePatch", "SettingsPatch", "patched_instance", "patched_settings"]


class InstancePatch(msgspec.Struct, frozen=True, kw_only=True):
    """Of one instance. Labels are merged one by one; None instead of labels removes all."""

    labels: dict[str, str | None] | UnsetType | None = UNSET
    capacity: int | UnsetType | None = UNSET
    weight: int | UnsetType | None = UNSET


class SettingsPatch(msgspec.Struct, frozen=True, kw_only=True):
    """Of an agent's settings."""

    timeout_ms: int | UnsetType | None = UNSET
    card: Literal["1.0", "union", "0.3"] | UnsetType | None = UNSET
    probe: bool | UnsetType | None = UNSET


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
    """None puts all defaults back. Raises: InvalidRequest naming `settings.timeout_ms`."""
    if patch is None:
        return AgentSettings()
    defaults = AgentSettings()
    timeout_ms, card, probe = settings.timeout_ms, settings.card, settings.probe
    if patch.timeout_ms is not UNSET:
        timeout_ms = patch.timeout_ms
    if patch.card is not UNSET:
        card = patch.card or defaults.card
    if patch.probe is not UNSET:
        probe = defaults.probe if patch.probe is None else patch.probe
    _refuse(check_timeout_ms(timeout_ms, "settings.timeout_ms"))
    return AgentSettings(timeout_ms=timeout_ms, card=card, probe=probe)


def _refuse(wrong: list[FieldError]) -> None:
    if wrong:
        raise InvalidRequest("; ".join(f"{w.field}: {w.message}" for w in wrong[:3]), fields=wrong)
