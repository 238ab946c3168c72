"""`meshway streams`: messages that are kept, numbered and read from any place."""

import shlex
from collections.abc import Sequence

import click
from rich.text import Text

from meshway.cli.bulk_send import Post
from meshway.cli.ending import Ending
from meshway.cli.hub import HubOptions, connect, hub_options, reach, run
from meshway.cli.message_lines import MessageLines
from meshway.cli.output import print_json, print_table, table
from meshway.cli.send import SendInput, message_input, send_messages
from meshway.client import MeshwayClient, NewMessage, Page, Receipt, StreamFeed, StreamReader

__all__ = ["command"]

# Of one page; large enough that a long read is few requests.
_PAGE_MESSAGES_MAX = 500
_START_HELP = "Where to begin: first, new, a sequence, last:N or time:2026-11-22T07:00:00Z."


@click.group("streams", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Messages that are kept and numbered, to be read from any place, again and again.

    \b
    Examples:
      meshway streams append audit '{"who": "ada"}'
      meshway streams read audit --from last:10
      meshway streams tail audit --from first
    """


@command.command("append", short_help="Append messages.")
@click.argument("stream")
@message_input
@hub_options
def _append(stream: str, given: SendInput, hub: HubOptions) -> None:
    """Append messages: arguments, lines of --file, or `-` for standard input. Each is one JSON value.

    Kept when the command ends; --json prints each one's sequence. Ctrl-C says where to go on.

    \b
    Examples:
      meshway streams append audit '{"who": "ada"}'
      meshway streams append audit --file events.jsonl --id-prefix monday
      meshway streams read audit --all | meshway streams append copy --envelope -
    """

    def post_to(client: MeshwayClient, name: str) -> Post:
        async def post(messages: Sequence[NewMessage]) -> Sequence[Receipt]:
            return await client.append(name, *messages)

        return post

    send_messages(stream, given, hub, post_to)


@command.command("read", short_help="Print what a stream holds.")
@click.argument("stream")
@click.option("--from", "start", default="first", show_default=True, help=_START_HELP)
@click.option("--reader", metavar="NAME", help="Begin after this reader's position instead.")
@click.option("--count", type=click.IntRange(min=1), default=100, show_default=True, help="How many at most.")
@click.option("--all", "everything", is_flag=True, help="Everything up to the end.")
@click.option("--data", "data_only", is_flag=True, help="Print only the data of each message.")
@hub_options
def _read(
    *, stream: str, start: str, reader: str | None, count: int, everything: bool, data_only: bool, hub: HubOptions
) -> None:
    """Print what STREAM holds, one JSON object a line, and end.

    \b
    Examples:
      meshway streams read audit
      meshway streams read audit --from last:10 --data
      meshway streams read audit --from time:2026-11-22T07:00:00Z --all > audit.jsonl
    """

    async def work(lines: MessageLines) -> None:
        left, begin, by = count, start, reader
        async with connect(hub) as client:
            while True:
                limit = _PAGE_MESSAGES_MAX if everything else min(left, _PAGE_MESSAGES_MAX)
                page = await client.read(stream, from_=begin, limit=limit, reader=by)
                for message in page.items:
                    await lines.write(client, message)
                left -= len(page.items)
                if page.next_from is None or not page.items:
                    return
                begin, by = page.next_from, None
                if not everything and left <= 0:
                    click.echo(f"There may be more: go on with --from {begin}", err=True)
                    return

    with MessageLines(data_only=data_only) as lines:
        run(work(lines))


@command.command("tail", short_help="Follow streams.")
@click.argument("pattern")
@click.option("--from", "start", help=f"{_START_HELP} Default: new.")
@click.option("--cursor", help="Go on where a tail ended; it said so.")
@click.option("--reader", metavar="NAME", help="Go on after this reader's position, and move it along.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N messages.")
@click.option("--data", "data_only", is_flag=True, help="Print only the data of each message.")
@hub_options
def _tail(
    *,
    pattern: str,
    start: str | None,
    cursor: str | None,
    reader: str | None,
    count: int | None,
    data_only: bool,
    hub: HubOptions,
) -> None:
    """Print PATTERN's messages, those that are kept and then new ones, one JSON object a line, until Ctrl-C.

    Survives restarts of the hub, without gap or repetition. At the end standard error says how to go on.

    \b
    Examples:
      meshway streams tail audit
      meshway streams tail audit --from first --data | jq .who
      meshway streams tail "logs.>" --from time:2026-11-22T07:00:00Z
    """
    if sum(option is not None for option in (start, cursor, reader)) > 1:
        raise click.UsageError("--from, --cursor and --reader exclude each other.")

    async def work(lines: MessageLines) -> None:
        async with connect(hub) as client:
            await reach(client)
            tail = _Tail(client.tail(pattern, from_=start, cursor=cursor, reader=reader), cursor)
            with Ending():
                async with tail.feed:
                    await tail.print_all(client, lines, count)
                    if reader is not None and tail.cursor is not None:
                        # The feed counts a message as read when the next one is asked for; here all were printed.
                        await client.readers.ack(pattern, reader, int(tail.cursor))
            if tail.cursor is not None and reader is None:
                click.echo(f"Go on with: meshway streams tail {shlex.quote(pattern)} --cursor {tail.cursor}", err=True)

    with MessageLines(data_only=data_only) as lines:
        run(work(lines))


class _Tail:
    """Where a tail stands: after what was printed, not after what has arrived."""

    def __init__(self, feed: StreamFeed, cursor: str | None) -> None:
        self.feed = feed
        self.cursor = cursor

    async def print_all(self, client: MeshwayClient, lines: MessageLines, count: int | None) -> None:
        """For ever, or `count` messages."""
        left = count
        async for message in self.feed:
            await lines.write(client, message)
            self.cursor = self.feed.cursor
            if left is not None and (left := left - 1) == 0:
                return


@command.command("readers", short_help="List durable readers.")
@click.argument("stream")
@hub_options
def _list_readers(stream: str, hub: HubOptions) -> None:
    """List STREAM's durable readers: how far each is, and how much lies behind.

    \b
    Example:
      meshway streams readers audit
    """

    async def work() -> Page[StreamReader]:
        async with connect(hub) as client:
            return await client.readers.list(stream)

    page = run(work())
    if hub.as_json:
        print_json(page)
        return
    rows = table("READER", "POSITION", "LAG", "MOVED")
    for reader in page.items:
        rows.add_row(Text(reader.name), str(reader.position), str(reader.lag), Text(reader.updated_at))
    print_table(rows)


@command.command("seek", short_help="Make or move a durable reader.")
@click.argument("stream")
@click.argument("reader")
@click.option("--from", "start", default="new", show_default=True, help=_START_HELP)
@hub_options
def _seek(stream: str, reader: str, start: str, hub: HubOptions) -> None:
    """Make a durable READER of STREAM, or move one, back too.

    \b
    Examples:
      meshway streams seek audit billing --from first
      meshway streams tail audit --reader billing
    """

    async def work() -> StreamReader:
        async with connect(hub) as client:
            return await client.readers.put(stream, reader, from_=start)

    found = run(work())
    if hub.as_json:
        print_json(found)
    else:
        click.echo(f"{reader} goes on in {stream} after sequence {found.position}.")
