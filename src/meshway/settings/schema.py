"""The settings as a flat list of dotted keys, read off the model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Union, get_args, get_origin

import msgspec

__all__ = ["SettingKey", "is_model", "item_model", "may_be_none", "model_fields", "setting_keys"]

# A field's type as msgspec gives it: a class, or one of typing's special forms.
FieldType = object


@dataclass(frozen=True, slots=True)
class SettingKey:
    """One thing that can be set. `key` is dotted (`auth.required`); `default` is what holds when nobody sets it."""

    key: str
    type: FieldType
    default: object
    environment: str


def setting_keys(model: type[msgspec.Struct]) -> Mapping[str, SettingKey]:
    """All keys in the model's order. A list of tables (`keys`, `agents`) is one key."""
    return {setting.key: setting for setting in _walk(model, "")}


def model_fields(model: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(model)}


def item_model(field_type: FieldType) -> type[msgspec.Struct] | None:
    """The model of one table in a list of tables, None for every other type."""
    arguments = get_args(field_type)
    if get_origin(field_type) is tuple and arguments and is_model(arguments[0]):
        return arguments[0]  # type: ignore[no-any-return]  # is_model looked
    return None


def is_model(field_type: FieldType) -> bool:
    return isinstance(field_type, type) and issubclass(field_type, msgspec.Struct)


def may_be_none(field_type: FieldType) -> bool:
    return get_origin(field_type) in {Union, UnionType} and type(None) in get_args(field_type)


def _walk(model: type[msgspec.Struct], prefix: str) -> Iterator[SettingKey]:
    for name, field in model_fields(model).items():
        key = f"{prefix}{name}"
        if is_model(field.type):
            yield from _walk(field.type, f"{key}.")
        else:
            environment = f"MESHWAY_{key.replace('.', '_').upper()}"
            yield SettingKey(key=key, type=field.type, default=field.default, environment=environment)
