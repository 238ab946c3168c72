"""Where settings come from, and under which names: a TOML file, `MESHWAY_...` variables, flags."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meshway.settings.convert import read_text
from meshway.settings.problems import Problem, SettingsError, suggestion
from meshway.settings.schema import SettingKey
from meshway.settings.toml_lines import key_lines

__all__ = ["FILE_NAME", "Given", "find_settings_file", "from_environment", "from_file", "from_flags"]

FILE_NAME = "meshway.toml"
_PREFIX = "MESHWAY_"
# Read by the SDK and the CLI, not settings of a hub.
_NOT_SETTINGS = frozenset({"MESHWAY_URL", "MESHWAY_API_KEY", "MESHWAY_CONFIG"})
# Kubernetes sets such variables in every pod for each service beside it: a service called `meshway` gives
# MESHWAY_SERVICE_HOST and MESHWAY_PORT=tcp://10.0.0.1:7070, one called `meshway-nats` MESHWAY_NATS_SERVICE_HOST.
_KUBERNETES_NAME = re.compile(
    r"MESHWAY_(?:[A-Z0-9_]+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)"
)
_KUBERNETES_VALUE = re.compile(r"(?:tcp|udp|sctp)://.*")
# Far more than any hand-written file; whatever is larger was named by mistake.
_FILE_BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Given:
    """One value somebody set. `lines`: sources of the keys inside a list of tables; `folder`: where the file is."""

    key: str
    raw: object
    source: str
    lines: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None


def find_settings_file(explicit: Path | None, *, environ: Mapping[str, str], folder: Path) -> Path | None:
    """The file named by `--config`, else by MESHWAY_CONFIG, else `meshway.toml` in `folder` where there is one."""
    if explicit is not None:
        return explicit
    if environ.get("MESHWAY_CONFIG"):
        return Path(environ["MESHWAY_CONFIG"])
    default = folder / FILE_NAME
    return default if default.is_file() else None


def from_file(path: Path, known: Mapping[str, SettingKey], problems: list[Problem]) -> Iterator[Given]:
    """Raises: SettingsError when the file cannot be read or is no TOML. Unknown keys are added to `problems`."""
    text = _read(path)
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SettingsError([Problem("", str(path), f"is no TOML: {error}")]) from None
    lines = {key: f"{path} line {line}" for key, line in key_lines(text).items()}
    yield from _walk(document, "", path, lines, known, problems)


def from_environment(
    environ: Mapping[str, str], known: Mapping[str, SettingKey], problems: list[Problem]
) -> Iterator[Given]:
    """`MESHWAY_` and the dotted key in capitals with `_` (or `__`) for each dot. An empty variable is not set."""
    by_name = {setting.environment: setting for setting in known.values()}
    by_name |= {f"{_PREFIX}{setting.key.replace('.', '__').upper()}": setting for setting in known.values()}
    seen: dict[str, str] = {}
    for name in sorted(name for name in environ if name.startswith(_PREFIX)):
        value = environ[name]
        if name in _NOT_SETTINGS or value == "" or _is_from_kubernetes(name, value):
            continue
        setting = by_name.get(name)
        if setting is None:
            problems.append(Problem("", name, f"there is no such setting.{suggestion(name, by_name)}"))
        elif setting.key in seen:
            problems.append(Problem(setting.key, name, f"is set twice, as {seen[setting.key]} too; keep one"))
        else:
            seen[setting.key] = name
            yield Given(setting.key, read_text(value, setting.type), name)


def from_flags(
    flags: Mapping[str, object], known: Mapping[str, SettingKey], problems: list[Problem]
) -> Iterator[Given]:
    """Dotted key -> value; None is a flag that was not given. Text is read like a variable's."""
    for key, value in flags.items():
        source = f"--{key.replace('.', '-').replace('_', '-')}"
        setting = known.get(key)
        if value is None:
            continue
        if setting is None:
            problems.append(Problem(key, source, f"there is no such setting.{suggestion(key, known)}"))
        else:
            yield Given(key, read_text(value, setting.type) if isinstance(value, str) else value, source)


def _walk(
    table: Mapping[str, object],
    prefix: str,
    path: Path,
    lines: Mapping[str, str],
    known: Mapping[str, SettingKey],
    problems: list[Problem],
) -> Iterator[Given]:
    for name, value in table.items():
        key = f"{prefix}{name}"
        source = lines.get(key, str(path))
        if key in known:
            yield Given(key, value, source, lines=lines, folder=path.parent)
        elif any(each.startswith(f"{key}.") for each in known):
            if isinstance(value, dict):
                yield from _walk(value, f"{key}.", path, lines, known, problems)
            else:
                problems.append(Problem(key, source, f"is a section; write it as [{key}] with its settings below"))
        else:
            problems.append(Problem(key, source, f"there is no such setting.{_near(key, name, known)}"))


def _near(key: str, name: str, known: Mapping[str, SettingKey]) -> str:
    """The same name in another section is the likelier mistake than a misspelling."""
    elsewhere = [each for each in known if each.rpartition(".")[2] == name]
    if len(elsewhere) == 1:
        return f" Did you mean {elsewhere[0]}?"
    sections = {each.partition(".")[0] for each in known}
    return suggestion(key, [*known, *sections])


def _is_from_kubernetes(name: str, value: str) -> bool:
    return bool(_KUBERNETES_NAME.fullmatch(name) or (name.endswith("_PORT") and _KUBERNETES_VALUE.fullmatch(value)))


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise SettingsError([Problem("", str(path), f"cannot be read: {error.strerror or error}")]) from None
    if len(content) > _FILE_BYTES_MAX:
        raise SettingsError([Problem("", str(path), f"is larger than {_FILE_BYTES_MAX} bytes; is it the right file?")])
    try:
        # Windows editors put a byte order mark first, which TOML does not allow.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError([Problem("", str(path), f"is not UTF-8 (byte {error.start})")]) from None
