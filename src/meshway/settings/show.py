"""The settings in force as rows, for `meshway config show`."""

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from meshway.settings.convert import is_secret
from meshway.settings.load import DEFAULT_ORIGIN, Effective
from meshway.settings.schema import is_model, item_model, model_fields

__all__ = ["MASK", "SettingRow", "describe"]

MASK = "********"


@dataclass(frozen=True, slots=True)
class SettingRow:
    """`value` is plain JSON data, None when unset; secrets are masked. `origin` says who set it."""

    key: str
    value: object
    origin: str


def describe(effective: Effective) -> list[SettingRow]:
    """One row per key, in the model's order; one per field of each table in a list of tables."""
    return [
        SettingRow(key, _shown(key, value), effective.origins.get(key, DEFAULT_ORIGIN))
        for key, value in _walk(effective.settings, "")
    ]


def _walk(struct: msgspec.Struct, prefix: str) -> Iterator[tuple[str, object]]:
    for name, field in model_fields(type(struct)).items():
        key = f"{prefix}{name}"
        value = getattr(struct, field.name)
        if is_model(field.type):
            yield from _walk(value, f"{key}.")
        elif item_model(field.type) is not None and value:
            for index, item in enumerate(value):
                yield from _walk(item, f"{key}.{index}.")
        else:
            yield key, value


def _shown(key: str, value: object) -> object:
    if value is not None and is_secret(key):
        return MASK
    if isinstance(value, str) and "@" in value:
        return _without_password(value)
    return msgspec.to_builtins(value)


def _without_password(text: str) -> str:
    """`nats://user:password@host` without what is before the @."""
    parts = urlsplit(text)
    if not parts.scheme or "@" not in parts.netloc:
        return text
    return parts._replace(netloc=f"{MASK}@{parts.netloc.rpartition('@')[2]}").geturl()
