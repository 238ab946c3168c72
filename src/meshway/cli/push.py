"""`meshway push`: push notifications that could not be delivered."""

from collections.abc import Sequence

import click
from rich.text import Text

from meshway.cli.hub import HubOptions, connect, hub_options, run
from meshway.cli.output import print_json, print_table, shown, table
from meshway.client import LostNotification, Page

__all__ = ["command"]

# As many as the hub sends again in one call.
_REDRIVE_MAX = 500


@click.group("push", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Push notifications (webhooks) that could not be delivered: see why, and send them again. Needs an admin key.

    \b
    Examples:
      meshway push dead-letters
      meshway push redrive
    """


@command.command("dead-letters", short_help="List what could not be delivered.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many at most.")
@click.option("--cursor", help="Go on where the page before ended.")
@hub_options
def _dead_letters(*, limit: int, cursor: str | None, hub: HubOptions) -> None:
    """List notifications that used up their attempts or were given up, oldest first, with the reason.

    One without a receiver cannot be sent again: its config was deleted, or ended with the task.

    \b
    Examples:
      meshway push dead-letters
      meshway push dead-letters --json | jq -r '.items[].id'
    """

    async def work() -> Page[LostNotification]:
        async with connect(hub) as client:
            return await client.push.dead_letters(limit=limit, cursor=cursor)

    page = run(work())
    if hub.as_json:
        print_json(page)
        return
    if not page.items:
        click.echo("There are no dead letters of push notifications.", err=True)
        return
    _print_dead_letters(page.items)
    if page.next_cursor is not None:
        click.echo(f"More: repeat with --cursor {page.next_cursor}", err=True)
    click.echo("Send them again: meshway push redrive", err=True)


@command.command("redrive", short_help="Send dead letters again.")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@hub_options
def _redrive(*, ids: Sequence[str], hub: HubOptions) -> None:
    """Send notifications again, the named ones or the oldest 500; their attempts start again at 1.

    A receiver gets them in the order of the task's events. One without a receiver is dropped.

    \b
    Examples:
      meshway push redrive
      meshway push redrive taskpush.billing.0197...
    """

    async def work() -> list[str]:
        async with connect(hub) as client:
            return await client.push.redrive(ids=list(ids) or None)

    redriven = run(work())
    if hub.as_json:
        print_json({"notifications": redriven})
        return
    click.echo(f"{len(redriven):,} push notifications are sent again.")
    if not ids and len(redriven) == _REDRIVE_MAX:
        click.echo("There may be more: repeat it.", err=True)


def _print_dead_letters(letters: Sequence[LostNotification]) -> None:
    rows = table("ID", "TASK", "EVENT", "RECEIVER", "SINCE", "ATTEMPTS", "REASON")
    for each in letters:
        rows.add_row(
            shown(each.id),
            shown(each.task_id),
            str(each.event_number),
            shown(each.url or "-"),
            Text(each.dead_at),
            str(each.attempts[-1].attempt if each.attempts else 0),
            shown(each.reason),
        )
    print_table(rows)
