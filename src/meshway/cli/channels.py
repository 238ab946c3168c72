"""`meshway channels`: settings and figures of channels of every kind."""

import json
import sys
from collections.abc import Mapping, Sequence

import click
from rich.text import Text

from meshway.cli.hub import HubOptions, connect, hub_options, run
from meshway.cli.message_form import read_pairs
from meshway.cli.output import console, print_json, print_table, table
from meshway.client import ChannelInfo, HubError, MeshwayClient
from meshway.client.channels import ChannelKindName

__all__ = ["command"]

_KINDS: Mapping[str, ChannelKindName] = {
    "events": "events",
    "streams": "streams",
    "queues": "queues",
    "commands": "commands",
    "queries": "queries",
}
_PAGE_ITEMS_MAX = 500


@click.group("channels", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Channels of every kind: list, show, configure and delete them. They also appear by themselves on first use.

    \b
    Examples:
      meshway channels list
      meshway channels set queues invoices lease_ms=60000 attempts_max=3
      meshway channels show queues invoices
    """


_kind_argument = click.argument("kind", type=click.Choice(list(_KINDS)))


@command.command("list", short_help="List channels with their figures.")
@click.argument("kind", type=click.Choice(list(_KINDS)), required=False)
@click.option("--prefix", help="Only names that begin so.")
@hub_options
def _list_channels(kind: str | None, prefix: str | None, hub: HubOptions) -> None:
    """List channels with their live figures, of one KIND or of all.

    \b
    Examples:
      meshway channels list
      meshway channels list streams --prefix audit.
    """

    async def work() -> Sequence[ChannelInfo]:
        async with connect(hub) as client:
            kinds = list(_KINDS.values()) if kind is None else [_KINDS[kind]]
            return [found for each in kinds for found in await _all_channels(client, each, prefix)]

    items = run(work())
    if hub.as_json:
        print_json({"items": items, "next_cursor": None})
        return
    if not items:
        click.echo("No channels. The first message makes one: meshway queues send NAME DATA", err=True)
        return
    rows = table("KIND", "CHANNEL", "FIGURES")
    for item in items:
        rows.add_row(item.kind, Text(item.name), _figures(item))
    print_table(rows)


@command.command("show", short_help="Show settings and figures.")
@_kind_argument
@click.argument("channel")
@hub_options
def _show_channel(kind: str, channel: str, hub: HubOptions) -> None:
    """Show a channel's settings and live figures.

    \b
    Example:
      meshway channels show queues invoices
    """

    async def work() -> ChannelInfo:
        async with connect(hub) as client:
            return await client.channel_info(_KINDS[kind], channel)

    found = run(work())
    if hub.as_json:
        print_json(found)
    else:
        _print_channel(found)


@command.command("set", short_help="Make a channel or change settings.")
@_kind_argument
@click.argument("channel")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--reset", is_flag=True, help="Settings that are not named go back to their defaults.")
@hub_options
def _set_channel(*, kind: str, channel: str, settings: Sequence[str], reset: bool, hub: HubOptions) -> None:
    """Make a channel, or change the named settings of one; `null` removes a limit.

    \b
    Examples:
      meshway channels set queues invoices lease_ms=60000 attempts_max=3
      meshway channels set streams audit retention_ms=604800000 when_full=refuse max_messages=1000000
      meshway channels set queues invoices --reset
    """
    named = {name: _value(text) for name, text in read_pairs(settings, option="setting").items()}

    async def work() -> ChannelInfo:
        async with connect(hub) as client:
            # The hub takes whole settings: what is not named here is sent back as it was.
            before = {} if reset else await _settings_of(client, _KINDS[kind], channel)
            return await client.put_channel(_KINDS[kind], channel, **{**before, **named})

    changed = run(work())
    if hub.as_json:
        print_json(changed)
    else:
        _print_channel(changed)


@command.command("delete", short_help="Delete a channel with all it holds.")
@_kind_argument
@click.argument("channel")
@click.option("--yes", is_flag=True, help="Do not ask.")
@hub_options
def _delete_channel(*, kind: str, channel: str, yes: bool, hub: HubOptions) -> None:
    """Delete a channel with all it holds: messages, dead letters, readers, settings. There is no way back.

    \b
    Example:
      meshway channels delete queues invoices
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("Nobody can be asked here; --yes says that you mean it.")
        click.confirm(f"Delete {channel} ({kind}) with all it holds?", abort=True)

    async def work() -> None:
        async with connect(hub) as client:
            await client.delete_channel(_KINDS[kind], channel)

    run(work())
    if hub.as_json:
        print_json({"kind": kind, "name": channel, "deleted": True})
    else:
        click.echo(f"{channel} ({kind}) is gone.")


async def _all_channels(client: MeshwayClient, kind: ChannelKindName, prefix: str | None) -> Sequence[ChannelInfo]:
    found: list[ChannelInfo] = []
    cursor: str | None = None
    while True:
        page = await client.list_channels(kind, prefix=prefix, limit=_PAGE_ITEMS_MAX, cursor=cursor)
        found += page.items
        if (cursor := page.next_cursor) is None:
            return found


async def _settings_of(client: MeshwayClient, kind: ChannelKindName, channel: str) -> Mapping[str, object]:
    try:
        return (await client.channel_info(kind, channel)).settings
    except HubError as error:
        if error.code != "channel_not_found":
            raise
        return {}


def _value(text: str) -> object:
    """Numbers, true, false and null as JSON has them, anything else is a word."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _print_channel(channel: ChannelInfo) -> None:
    facts = table("", "")
    facts.show_header = False
    facts.add_row(channel.kind, Text(channel.name))
    facts.add_row("owner", Text(channel.owner or "-"))
    facts.add_row("since", channel.created_at or "-")
    for name, value in channel.settings.items():
        facts.add_row(name, Text(json.dumps(value)))
    for name, value in channel.figures.items():
        facts.add_row(name, f"{value:,}")
    print_table(facts)
    if channel.readers:
        console().print()
        rows = table("READER", "POSITION", "LAG")
        for reader in channel.readers:
            rows.add_row(Text(reader.name), f"{reader.position:,}", f"{reader.lag:,}")
        print_table(rows)


def _figures(channel: ChannelInfo) -> Text:
    return Text("  ".join(f"{name} {value:,}" for name, value in channel.figures.items()) or "-")
