"""`meshway config`: what a hub started here would run with."""

import os
from pathlib import Path

import click
import msgspec
from rich.text import Text

from meshway.cli.hub import json_option
from meshway.cli.kernel_errors import kernel_failures
from meshway.cli.output import print_json, print_table, table
from meshway.settings.load import DEFAULT_ORIGIN, load_settings
from meshway.settings.show import SettingRow, describe
from meshway.settings.sources import find_settings_file

__all__ = ["command"]


@click.group("config", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """The settings in effect.

    \b
    Example:
      meshway config show --changed
    """


@command.command("show")
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings; default ./meshway.toml if there is one.",
)
@click.option("--changed", is_flag=True, help="Only what is not the default.")
@json_option
def _show_config(*, file: Path | None, changed: bool, as_json: bool) -> None:
    """Print every setting, its value, and where it came from: default, file and line, or variable. Secrets are masked.

    \b
    Examples:
      meshway config show
      meshway config show --config /etc/meshway.toml --changed
      MESHWAY_PORT=8080 meshway config show --json | jq '.items[] | select(.key == "port")'
    """
    with kernel_failures():
        found = find_settings_file(file, environ=os.environ, folder=Path.cwd())
        rows = describe(load_settings(file=found, environ=os.environ, flags={}))
    shown = [row for row in rows if not changed or row.origin != DEFAULT_ORIGIN]
    if as_json:
        print_json(
            {
                "items": [{"key": row.key, "value": row.value, "origin": row.origin} for row in shown],
                "next_cursor": None,
            }
        )
        return
    _print_rows(shown)


def _print_rows(rows: list[SettingRow]) -> None:
    if not rows:
        click.echo("Everything is at its default.", err=True)
        return
    lines = table("SETTING", "VALUE", "FROM")
    for row in rows:
        value = "(not set)" if row.value is None else msgspec.json.encode(row.value).decode()
        style = "dim" if row.origin == DEFAULT_ORIGIN else ""
        lines.add_row(Text(row.key, style=style), Text(value, style=style), Text(row.origin, style=style))
    print_table(lines)
