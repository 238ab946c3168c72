"""What commands print: tables for people, JSON for programs."""

import shutil
import sys

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from meshway.cli.printable import printable

__all__ = ["STATE_STYLES", "console", "print_json", "print_table", "shown", "table"]

STATE_STYLES = {"online": "green", "suspect": "yellow", "draining": "cyan", "offline": "red"}
# In a pipe there is no width to fit; a table is then as wide as its content, up to this.
_PIPED_WIDTH = 240


def shown(text: str) -> Text:
    """`text` of somebody else for a table: no markup is read in it, and it cannot steer the terminal."""
    return Text(printable(text))


def console(*, stderr: bool = False) -> Console:
    """A console for this moment's standard output; as wide as the terminal, or wide enough for whole rows in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    width = shutil.get_terminal_size().columns if stream.isatty() else _PIPED_WIDTH
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def table(*columns: str) -> Table:
    """An empty table in the house's look; headings are escaped nowhere, so they must be plain."""
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_table(content: Table) -> None:
    console().print(content)


def print_json(value: object) -> None:
    """Indented for the eye; one document per call."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
