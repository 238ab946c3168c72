"""The settings reference, written from the models and their comments: `python -m meshway.settings.reference`.

`docs/reference/settings.md` is this program's output; a test keeps the two in step.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator

import msgspec

from meshway.settings.convert import is_secret
from meshway.settings.expected import expected_text
from meshway.settings.model import Settings
from meshway.settings.schema import item_model, model_fields, setting_keys

__all__ = ["render_reference"]

_HEAD = """\
# Settings

<!-- Written by `python -m meshway.settings.reference`; change the comments in the models instead. -->

A hub takes its settings from four places; a later one wins:

1. the defaults below,
2. a TOML file: `--config FILE`, else the file named by `MESHWAY_CONFIG`, else `meshway.toml` in the working directory,
3. environment variables: `MESHWAY_` and the key in capitals, with `_` (or `__`) for each dot,
4. flags of `meshway up`.

`meshway config show` prints what is in force and where each value came from. A key that does not exist is an error, in
the file and in the environment; variables that Kubernetes makes for services (`MESHWAY_SERVICE_HOST`,
`MESHWAY_PORT=tcp://...`) are left alone. An empty variable counts as not set. In variables, lists are separated by
commas, tables are `name=value,name=value` or JSON, and lists of tables (`keys`, `agents`) are JSON. A list that is set
replaces the whole list of an earlier place. Paths in a file are relative to that file.

```toml
port = 7070
public_url = "https://hub.example"

[auth]
required = true

[[keys]]
name = "ci"
key_sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
scopes = ["call"]

[[agents]]
id = "echo"
url = "http://127.0.0.1:9000"
labels = { zone = "eu" }
```
"""
_ROW_HEAD = "| Key | Expected | Default | Variable | Why |\n|---|---|---|---|---|"
_TABLE_ROW_HEAD = "| Key | Expected | Default | Why |\n|---|---|---|---|"


def render_reference() -> str:
    """The whole page as Markdown."""
    parts = [_HEAD, "## Top level\n", _ROW_HEAD, *_rows(Settings, "")]
    for name, field in model_fields(Settings).items():
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            parts += ["", f"## [{name}]\n", _comments(Settings)[name], "", _ROW_HEAD, *_rows(field.type, f"{name}.")]
    for name, field in model_fields(Settings).items():
        table = item_model(field.type)
        if table is not None:
            variable = setting_keys(Settings)[name].environment
            parts += ["", f"## [[{name}]]\n", f"{_comments(Settings)[name]} As a variable: `{variable}`, JSON.", ""]
            parts += [_TABLE_ROW_HEAD, *_table_rows(table, "")]
    return "\n".join(parts) + "\n"


def _rows(model: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    known = setting_keys(Settings)
    comments = _comments(model)
    for name, field in model_fields(model).items():
        setting = known.get(f"{prefix}{name}")
        if setting is None or item_model(field.type) is not None:
            continue
        cells = [
            f"`{setting.key}`",
            expected_text(setting.type),
            _default(setting.default),
            f"`{setting.environment}`",
            comments.get(name, ""),
        ]
        yield _row(cells)


def _table_rows(model: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    comments = _comments(model)
    for name, field in model_fields(model).items():
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from _table_rows(field.type, f"{prefix}{name}.")
            continue
        default = "**required**" if field.required else _default(_default_of(field))
        why = comments.get(name, "") + (" Never shown." if is_secret(name) else "")
        yield _row([f"`{prefix}{name}`", expected_text(field.type), default, why])


def _default_of(field: msgspec.structs.FieldInfo) -> object:
    made_by_factory = field.default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT
    return field.default_factory() if made_by_factory else field.default


def _default(value: object) -> str:
    if value is None or value in ((), {}):
        return "none"
    return f"`{msgspec.json.encode(value).decode()}`"


def _row(cells: list[str]) -> str:
    # A bare < would begin an HTML element.
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


def _comments(model: type[msgspec.Struct]) -> dict[str, str]:
    """The comment above each field. Fields that share one comment (the second has none) share it here as well."""
    lines = textwrap.dedent(inspect.getsource(model)).splitlines()
    (definition,) = ast.parse("\n".join(lines)).body
    comments: dict[str, str] = {}
    last = ""
    for entry in definition.body if isinstance(definition, ast.ClassDef) else ():
        if not isinstance(entry, ast.AnnAssign):
            continue
        block: list[str] = []
        index = entry.lineno - 2
        while lines[index].strip().startswith("#"):
            block.insert(0, lines[index].strip().removeprefix("#").strip())
            index -= 1
        last = " ".join(block) or last
        comments[ast.unparse(entry.target)] = last
    return comments


if __name__ == "__main__":
    sys.stdout.write(render_reference())
