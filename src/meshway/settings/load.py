"""Reads the settings: defaults, then the file, then the environment, then flags; a later source wins.

A list is replaced as a whole, never merged. Every problem is reported at once, with the place that has to be changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from meshway.settings.checks import check_settings
from meshway.settings.convert import Converter
from meshway.settings.model import AgentEntry, Settings
from meshway.settings.problems import Problem, SettingsError
from meshway.settings.schema import is_model, model_fields, setting_keys
from meshway.settings.sources import Given, from_environment, from_file, from_flags

__all__ = ["DEFAULT_ORIGIN", "Effective", "load_settings"]

DEFAULT_ORIGIN = "default"


@dataclass(frozen=True, slots=True)
class Effective:
    """The settings in force. `origins` has the source of every dotted key, those inside lists of tables too."""

    settings: Settings
    origins: Mapping[str, str]


def load_settings(*, file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Effective:
    """Read and check everything. `file` None: no file (`sources.find_settings_file` looks for one).

    Raises: SettingsError naming every problem.
    """
    known = setting_keys(Settings)
    problems: list[Problem] = []
    given: dict[str, Given] = {}
    if file is not None:
        given |= {each.key: each for each in from_file(file, known, problems)}
    given |= {each.key: each for each in from_environment(environ, known, problems)}
    given |= {each.key: each for each in from_flags(flags, known, problems)}

    converter = Converter()
    values: dict[str, object] = {}
    for key, each in given.items():
        converted = converter.convert(each.raw, known[key].type, key=key, source=each.source, lines=each.lines)
        values[key] = _resolved(key, converted, each.folder)
    problems += converter.problems
    origins = dict.fromkeys(known, DEFAULT_ORIGIN) | {key: each.source for key, each in given.items()}
    origins |= converter.origins
    if problems:
        raise SettingsError(problems)
    try:
        settings = _build(Settings, "", values)
    except _Contradiction as error:
        sources = [each.source for key, each in given.items() if key.startswith(f"{error.section}.")]
        raise SettingsError([Problem(error.section, sources[0] if sources else "settings", str(error))]) from error
    problems = check_settings(settings, origins)
    if problems:
        raise SettingsError(problems)
    return Effective(settings, origins)


def _build(model: type[msgspec.Struct], prefix: str, values: Mapping[str, object]) -> Settings:
    return _struct(model, prefix, values)  # type: ignore[return-value]  # called with Settings only


def _struct(model: type[msgspec.Struct], prefix: str, values: Mapping[str, object]) -> msgspec.Struct:
    """The model with the values that were given; whatever is absent keeps the model's own default."""
    arguments: dict[str, object] = {}
    for name, field in model_fields(model).items():
        key = f"{prefix}{name}"
        if is_model(field.type):
            if any(each.startswith(f"{key}.") for each in values):
                arguments[field.name] = _struct(field.type, f"{key}.", values)
        elif key in values:
            arguments[field.name] = values[key]
    try:
        return model(**arguments)
    except ValueError as error:
        raise _Contradiction(prefix.rstrip("."), str(error)) from error


class _Contradiction(Exception):
    """Settings of one section that cannot be together."""

    def __init__(self, section: str, text: str) -> None:
        super().__init__(text)
        self.section = section


def _resolved(key: str, value: object, folder: Path | None) -> object:
    """Paths in a file mean: relative to that file, so that a hub can be started from anywhere."""
    if folder is None:
        return value
    if key == "data" and isinstance(value, str):
        return str(folder / Path(value).expanduser())
    if key == "agents" and isinstance(value, tuple):
        return tuple(_with_card_path(entry, folder) if isinstance(entry, AgentEntry) else entry for entry in value)
    return value


def _with_card_path(entry: AgentEntry, folder: Path) -> AgentEntry:
    return (
        entry
        if entry.card is None
        else msgspec.structs.replace(entry, card=str(folder / Path(entry.card).expanduser()))
    )
