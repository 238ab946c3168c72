"""`meshway mesh`: the hubs that share an engine."""

import click
from rich.text import Text

from meshway.cli.hub import HubOptions, connect, hub_options, run
from meshway.cli.output import print_json, print_table, shown, table
from meshway.client import MeshStatus

__all__ = ["command"]

_STYLES = {"up": "green", "draining": "cyan", "lost": "red", "gone": "yellow"}


@click.group("mesh", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """The hubs that share an engine, and the engine's nodes. Needs an admin key.

    \b
    Examples:
      meshway mesh status
    """


@command.command("status", short_help="Show hubs, duties and the engine's nodes.")
@hub_options
def _status(*, hub: HubOptions) -> None:
    """Show which hubs there are, what each does for all, and which node of the engine leads what and lags behind.

    It is what the hub that is asked sees; one that is cut off sees itself.

    \b
    Examples:
      meshway mesh status
      meshway mesh status --json | jq '.hubs[] | select(.state != "up")'
    """

    async def work() -> MeshStatus:
        async with connect(hub) as client:
            return await client.mesh.status()

    status = run(work())
    if hub.as_json:
        print_json(status)
        return
    _print_hubs(status)
    _print_engine(status)


def _print_hubs(status: MeshStatus) -> None:
    rows = table("HUB", "STATE", "VERSION", "HOST", "PID", "SINCE", "DUTIES")
    for each in status.hubs:
        rows.add_row(
            shown(each.url + (" *" if each.is_this else "")),
            Text(each.state, style=_STYLES.get(each.state, "")),
            shown(each.version),
            shown(each.host),
            str(each.pid),
            Text(each.started_at),
            Text(", ".join(each.duties) or "-"),
        )
    print_table(rows)


def _print_engine(status: MeshStatus) -> None:
    engine = status.engine
    state = "takes writes" if engine.writable else f"refuses writes: {engine.reason}"
    click.echo(f"\nEngine {engine.name}: {state}; {engine.durability}.")
    if not engine.nodes:
        return
    rows = table("NODE", "STATE", "LAG", "LEADS")
    for each in engine.nodes:
        state = "offline" if each.offline else "up to date" if each.current else "catching up"
        style = "red" if each.offline else "green" if each.current else "yellow"
        rows.add_row(shown(each.name), Text(state, style=style), str(each.lag), Text(", ".join(each.leads) or "-"))
    print_table(rows)
