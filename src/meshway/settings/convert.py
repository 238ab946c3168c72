"""One raw value (TOML, a variable, a flag) to the type of its setting, or a problem that says what was expected."""

from collections.abc import Mapping
from typing import get_args, get_origin

import msgspec

from meshway.settings.expected import expected_text
from meshway.settings.problems import Problem, suggestion
from meshway.settings.schema import is_model, item_model, may_be_none, model_fields

__all__ = ["Converter", "is_secret", "read_text"]

_SHOWN_MAX = 60
# Settings whose value must not appear in an error, a log or `config show`.
_SECRETS = frozenset({"secret_key", "key", "key_sha256", "credential", "password", "token"})
_TRUE = frozenset({"true", "1", "yes", "on"})
_FALSE = frozenset({"false", "0", "no", "off"})


def is_secret(key: str) -> bool:
    """By the last part of the dotted key."""
    return key.rpartition(".")[2] in _SECRETS


def read_text(text: str, field_type: object) -> object:
    """The raw value a variable's text stands for: numbers, `true`/`yes`/`on`, `a,b` for lists, `k=v,k=v` or JSON for
    tables, JSON for lists of tables. What cannot be read is returned as it is, for the converter to refuse.
    """
    plain = _without_none(field_type)
    origin = get_origin(plain)
    stripped = text.strip()
    if item_model(plain) is not None or stripped[:1] in {"[", "{"}:
        return _json(stripped) if origin in {tuple, dict} else text
    if origin is tuple:
        return [part.strip() for part in stripped.split(",") if part.strip()]
    if origin is dict:
        pairs = [part.partition("=") for part in stripped.split(",") if part.strip()]
        return {name.strip(): value.strip() for name, _, value in pairs}
    if plain is bool:
        lower = stripped.lower()
        return True if lower in _TRUE else False if lower in _FALSE else text
    return _number(stripped, text, plain)


class Converter:
    """Collects every problem instead of stopping at the first."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        # Where each converted value, those inside lists of tables too, came from.
        self.origins: dict[str, str] = {}

    def convert(self, raw: object, field_type: object, *, key: str, source: str, lines: Mapping[str, str]) -> object:
        """The typed value, or None after noting a problem. `lines` has the sources of keys inside a list of tables."""
        table = item_model(field_type)
        if table is not None:
            return self._tables(raw, table, key=key, source=source, lines=lines)
        self.origins[key] = source
        try:
            return msgspec.convert(raw, field_type)
        except msgspec.ValidationError:
            shown = "another value" if is_secret(key) else _shown(raw)
            self._problem(key, source, f"expected {expected_text(field_type)}, got {shown}")
            return None

    def _tables(
        self, raw: object, table: type[msgspec.Struct], *, key: str, source: str, lines: Mapping[str, str]
    ) -> object:
        if not isinstance(raw, list | tuple):
            self._problem(key, source, f"expected a list of tables ([[{key}]]), got {_shown(raw)}")
            return None
        return tuple(
            self._table(each, table, key=f"{key}.{index}", source=lines.get(f"{key}.{index}", source), lines=lines)
            for index, each in enumerate(raw)
        )

    def _table(
        self, raw: object, table: type[msgspec.Struct], *, key: str, source: str, lines: Mapping[str, str]
    ) -> object:
        if not isinstance(raw, dict):
            self._problem(key, source, f"expected a table, got {_shown(raw)}")
            return None
        self.origins[key] = source
        fields = model_fields(table)
        values: dict[str, object] = {}
        for name, value in raw.items():
            inner = f"{key}.{name}"
            inner_source = lines.get(inner, source)
            field = fields.get(name)
            if field is None:
                self._problem(inner, inner_source, f"there is no such setting.{suggestion(name, fields)}")
            elif is_model(field.type):
                values[field.name] = self._table(value, field.type, key=inner, source=inner_source, lines=lines)
            else:
                values[field.name] = self.convert(value, field.type, key=inner, source=inner_source, lines=lines)
        missing = [name for name, field in fields.items() if field.required and field.name not in values]
        for name in missing:
            self._problem(f"{key}.{name}", source, "is missing")
        return None if missing else table(**values)

    def _problem(self, key: str, source: str, message: str) -> None:
        self.problems.append(Problem(key, source, message))


def _without_none(field_type: object) -> object:
    if not may_be_none(field_type):
        return field_type
    rest = [each for each in get_args(field_type) if each is not type(None)]
    return rest[0] if len(rest) == 1 else field_type


def _number(stripped: str, text: str, plain: object) -> object:
    base = get_args(plain)[0] if hasattr(plain, "__metadata__") else plain
    if base is int and stripped.removeprefix("-").replace("_", "").isdecimal() and stripped.isascii():
        return int(stripped) if len(stripped) <= 20 else text
    return text


def _json(text: str) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _shown(raw: object) -> str:
    text = repr(raw)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."
