"""`meshway queues`: work for one worker at a time, with leases, retries and dead letters."""

import sys
from collections.abc import Sequence

import click
from rich.text import Text

from meshway.cli.bulk_send import Post
from meshway.cli.hub import HubOptions, connect, hub_options, reach, run
from meshway.cli.message_form import MessageOptions
from meshway.cli.message_lines import MessageLines
from meshway.cli.output import print_json, print_table, shown, table
from meshway.cli.receive import CommandRunner, Receive, Wanted, work_off
from meshway.cli.send import SendInput, message_input, send_messages
from meshway.client import ChannelInfo, DeadLetter, MeshwayClient, NewMessage, Page, Receipt, RedriveStarted

__all__ = ["command"]

_PAGE_ITEMS_MAX = 500
_DATA_WIDTH = 48


@click.group("queues", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Work for one worker at a time: nothing is lost, what fails is tried again, what keeps failing is kept apart.

    \b
    Examples:
      meshway queues send invoices '{"order": 17}'
      meshway queues receive invoices
      meshway queues stats
    """


@command.command("send", short_help="Put messages into a queue.")
@click.argument("queue")
@message_input
@click.option("--delay-ms", type=click.IntRange(min=0), metavar="N", help="Due so much later.")
@click.option("--deliver-at", metavar="TIME", help="Due at this time, such as 2026-12-24T18:00:00Z.")
@click.option("--expires-in-ms", type=click.IntRange(min=1), metavar="N", help="Dropped when nobody took it by then.")
@click.option("--priority", type=click.Choice(["low", "normal", "high", "urgent"]), help="Default: normal.")
@click.option("--ordering-key", metavar="KEY", help="In ordered queues: one message of a key at a time, in order.")
@hub_options
def _send(
    *,
    queue: str,
    given: SendInput,
    delay_ms: int | None,
    deliver_at: str | None,
    expires_in_ms: int | None,
    priority: str | None,
    ordering_key: str | None,
    hub: HubOptions,
) -> None:
    """Put messages into QUEUE: arguments, lines of --file, or `-` for standard input. Each is one JSON value.

    On disk when the command ends; --json prints a receipt each. Ctrl-C says where to go on, and the same file sent
    again with the same --id-prefix is filtered for as long as the queue remembers (its dedupe_window_ms).

    \b
    Examples:
      meshway queues send invoices '{"order": 17}' --priority high
      meshway queues send invoices --file orders.jsonl --id-prefix monday
      grep ERROR app.log | meshway queues send triage --text -
      meshway queues send reminders '"call Ada"' --deliver-at 2026-12-24T18:00:00Z
    """
    options = MessageOptions(
        delay_ms=delay_ms,
        deliver_at=deliver_at,
        expires_in_ms=expires_in_ms,
        priority=priority,
        ordering_key=ordering_key,
    )

    def post_to(client: MeshwayClient, name: str) -> Post:
        async def post(messages: Sequence[NewMessage]) -> Sequence[Receipt]:
            return await client.enqueue_many(name, messages)

        return post

    send_messages(queue, given, hub, post_to, options)


@command.command("receive", short_help="Take messages and acknowledge them.")
@click.argument("queue")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="At most N messages; default 1.")
@click.option("--all", "everything", is_flag=True, help="Until nothing is due.")
@click.option("--follow", is_flag=True, help="For ever, until Ctrl-C; survives restarts of the hub.")
@click.option(
    "--wait-ms", type=click.IntRange(0, 55_000), default=1_000, show_default=True, help="Wait for the first one."
)
@click.option("--data", "data_only", is_flag=True, help="Print only the data of each message.")
@click.option("--no-ack", is_flag=True, help="Print deliveries with their ids and do not settle them.")
@click.option("--exec", "shell_command", metavar="CMD", help="Run CMD on each instead of printing it.")
@click.option(
    "--concurrency", type=click.IntRange(1, 1_000), default=1, show_default=True, help="Commands of --exec at once."
)
@hub_options
def _receive(  # noqa: PLR0913 (one per option)
    *,
    queue: str,
    count: int | None,
    everything: bool,
    follow: bool,
    wait_ms: int,
    data_only: bool,
    no_ack: bool,
    shell_command: str | None,
    concurrency: int,
    hub: HubOptions,
) -> None:
    """Take messages from QUEUE, print each as one line of JSON, and acknowledge it once the line is out.

    With --exec each message's data is the standard input of CMD: exit 0 acknowledges it, anything else is a retry. CMD
    finds MESHWAY_MESSAGE_ID, MESHWAY_ATTEMPT, MESHWAY_ATTRIBUTES and MESHWAY_CONTENT_TYPE in its environment; leases
    are extended while it runs.

    \b
    Examples:
      meshway queues receive invoices
      meshway queues receive invoices --all --data > today.jsonl
      meshway queues receive invoices --follow --exec ./make-invoice --concurrency 4
    """
    if everything and count is not None:
        raise click.UsageError("--all and --count exclude each other.")
    if shell_command is not None and (no_ack or data_only):
        raise click.UsageError("--exec prints nothing itself: leave out --no-ack and --data.")
    if no_ack and data_only:
        raise click.UsageError("--no-ack prints what is needed to settle; --data would leave it out.")
    wanted = Wanted(count=count or (None if everything or follow else 1), wait_ms=wait_ms, follows=follow)

    async def work(lines: MessageLines) -> None:
        async with connect(hub) as client:
            await reach(client)
            if shell_command is not None:
                done = await work_off(client, queue, CommandRunner(shell_command, queue), wanted, concurrency)
                click.echo(f"{queue}: {done}.", err=True)
                return
            receive = Receive(client, queue, lines, acks=not no_ack)
            await receive.run(wanted)
            if not receive.received:
                click.echo(f"Nothing is due in {queue}.", err=True)

    with MessageLines(data_only=data_only) as lines:
        run(work(lines))


@command.command("peek", short_help="Print what waits.")
@click.argument("queue")
@click.option("--count", type=click.IntRange(1, _PAGE_ITEMS_MAX), default=20, show_default=True, help="At most.")
@click.option("--data", "data_only", is_flag=True, help="Print only the data of each message.")
@hub_options
def _peek(*, queue: str, count: int, data_only: bool, hub: HubOptions) -> None:
    """Print what waits in QUEUE without taking it, in the order in which it would be handed out.

    \b
    Example:
      meshway queues peek invoices --data
    """

    async def work() -> None:
        lines = MessageLines(data_only=data_only)
        async with connect(hub) as client:
            page = await client.peek(queue, limit=count)
            for message in page.items:
                await lines.write(client, message)

    run(work())


@command.command("stats", short_help="Show how much waits and what is dead.")
@click.argument("queues", nargs=-1)
@click.option("--prefix", help="Only queues whose name begins so.")
@hub_options
def _stats(queues: Sequence[str], prefix: str | None, hub: HubOptions) -> None:
    """Show how much waits, is held, is delayed and is dead, of all queues or of the named ones.

    \b
    Examples:
      meshway queues stats
      meshway queues stats invoices --json
    """

    async def work() -> Sequence[ChannelInfo]:
        async with connect(hub) as client:
            if queues:
                return [await client.channel_info("queues", name) for name in queues]
            found: list[ChannelInfo] = []
            cursor: str | None = None
            while True:
                page = await client.list_channels("queues", prefix=prefix, limit=_PAGE_ITEMS_MAX, cursor=cursor)
                found += page.items
                if (cursor := page.next_cursor) is None:
                    return found

    items = run(work())
    if hub.as_json:
        print_json({"items": items, "next_cursor": None})
        return
    if not items:
        click.echo("No queues. The first message makes one: meshway queues send NAME DATA", err=True)
        return
    rows = table("QUEUE", "WAITING", "HELD", "DELAYED", "DEAD", "LEASE", "ATTEMPTS")
    for item in items:
        figures = [f"{item.figures.get(name, 0):,}" for name in ("waiting", "held", "delayed")]
        dead = item.figures.get("dead", 0)
        rows.add_row(
            Text(item.name),
            *figures,
            Text(f"{dead:,}", style="red" if dead else ""),
            f"{item.settings.get('lease_ms')} ms",
            str(item.settings.get("attempts_max")),
        )
    print_table(rows)


@command.command("dead-letters", short_help="List dead letters with their reason.")
@click.argument("queue")
@click.option("--count", type=click.IntRange(1, _PAGE_ITEMS_MAX), default=50, show_default=True, help="At most.")
@click.option("--cursor", help="Go on where the page before ended.")
@click.option("--history", is_flag=True, help="Every attempt of each, too.")
@hub_options
def _dead_letters(*, queue: str, count: int, cursor: str | None, history: bool, hub: HubOptions) -> None:
    """List what used up its attempts or was rejected, oldest first, with the reason.

    \b
    Examples:
      meshway queues dead-letters invoices --history
      meshway queues dead-letters invoices --json | jq -r '.items[].id'
    """

    async def work() -> Page[DeadLetter]:
        async with connect(hub) as client:
            return await client.dead_letters(queue, limit=count, cursor=cursor)

    page = run(work())
    if hub.as_json:
        print_json(page)
        return
    if not page.items:
        click.echo(f"{queue} has no dead letters.", err=True)
        return
    _print_dead_letters(page.items, history=history)
    if page.next_cursor is not None:
        click.echo(f"More: repeat with --cursor {page.next_cursor}", err=True)
    click.echo(f"Put them back: meshway queues redrive {queue}", err=True)


@command.command("redrive", short_help="Put dead letters back.")
@click.argument("queue")
@click.argument("ids", nargs=-1)
@click.option("--rate", "rate_per_s", type=click.FloatRange(0.001, 10_000), metavar="N", help="At most N a second.")
@hub_options
def _redrive(*, queue: str, ids: Sequence[str], rate_per_s: float | None, hub: HubOptions) -> None:
    """Put dead letters back into QUEUE, the named ones or all; their attempts start again at 1.

    \b
    Examples:
      meshway queues redrive invoices
      meshway queues redrive invoices 0197... --rate 10
    """

    async def work() -> RedriveStarted:
        async with connect(hub) as client:
            return await client.redrive(queue, ids=list(ids) or None, rate_per_s=rate_per_s)

    started = run(work())
    if hub.as_json:
        print_json(started)
        return
    how = "Back in" if rate_per_s is None else f"On their way, {rate_per_s:g} a second, to"
    click.echo(f"{how} {queue}: {started.messages:,}")


@command.command("purge", short_help="Drop all messages of a queue.")
@click.argument("queue")
@click.option("--yes", is_flag=True, help="Do not ask.")
@hub_options
def _purge(*, queue: str, yes: bool, hub: HubOptions) -> None:
    """Drop all messages of QUEUE, those that are held or delayed too. Dead letters stay.

    \b
    Example:
      meshway queues purge invoices
    """
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("Nobody can be asked here; --yes says that you mean it.")
        click.confirm(f"Drop all messages of {queue}?", abort=True)

    async def work() -> int:
        async with connect(hub) as client:
            return await client.purge(queue)

    purged = run(work())
    if hub.as_json:
        print_json({"purged": purged})
    else:
        click.echo(f"{purged:,} messages of {queue} are gone.")


def _print_dead_letters(letters: Sequence[DeadLetter], *, history: bool) -> None:
    rows = table("ID", "SINCE", "ATTEMPTS", "REASON", "DATA")
    for letter in letters:
        rows.add_row(
            shown(letter.id),
            Text(letter.dead_at),
            str(letter.attempts[-1].attempt if letter.attempts else 0),
            shown(letter.reason),
            shown(_start_of_data(letter)),
        )
        for each in letter.attempts if history else ():
            rows.add_row("", Text(each.ended_at), str(each.attempt), shown(f"{each.outcome}: {each.reason}"), "")
    print_table(rows)


def _start_of_data(letter: DeadLetter) -> str:
    message = letter.message
    if message.data_ref is not None:
        return f"({message.data_ref.size} bytes in the blob store)"
    text = message.bytes[: _DATA_WIDTH * 4].decode("utf-8", "replace")
    return text if len(text) <= _DATA_WIDTH else text[: _DATA_WIDTH - 1] + "…"
