"""`meshway events`: fan-out to whoever listens now."""

from collections.abc import Sequence

import click

from meshway.cli.bulk_send import Post
from meshway.cli.ending import Ending
from meshway.cli.hub import HubOptions, connect, hub_options, reach, run
from meshway.cli.message_lines import MessageLines
from meshway.cli.send import SendInput, message_input, send_messages
from meshway.client import EventFeed, MeshwayClient, Missed, NewMessage, Receipt

__all__ = ["command"]


@click.group("events", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Fan-out to whoever listens now; nothing is kept.

    \b
    Examples:
      meshway events sub "news.>"
      meshway events pub news.ai '{"title": "hello"}'
    """


@command.command("pub", short_help="Publish messages.")
@click.argument("channel")
@message_input
@hub_options
def _publish(channel: str, given: SendInput, hub: HubOptions) -> None:
    """Publish messages: arguments, lines of --file, or `-` for standard input. Each is one JSON value.

    \b
    Examples:
      meshway events pub news.ai '{"title": "hello"}' '{"title": "again"}'
      tail -f app.log | meshway events pub logs.app --text -
    """

    def post_to(client: MeshwayClient, name: str) -> Post:
        async def post(messages: Sequence[NewMessage]) -> Sequence[Receipt]:
            return await client.publish(name, *messages)

        return post

    send_messages(channel, given, hub, post_to)


@command.command("sub", short_help="Print events as they come.")
@click.argument("pattern")
@click.option("--group", metavar="NAME", help="Share with others of this group: each event goes to one of you.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after N events.")
@click.option("--data", "data_only", is_flag=True, help="Print only the data of each event.")
@hub_options
def _subscribe(*, pattern: str, group: str | None, count: int | None, data_only: bool, hub: HubOptions) -> None:
    """Print events of PATTERN as they come, one JSON object a line, until Ctrl-C. Survives restarts of the hub.

    `*` stands for one token, a last `>` for the rest. What was missed is said on standard error.

    \b
    Examples:
      meshway events sub news.ai
      meshway events sub "news.>" --data | jq .title
      meshway events sub jobs --group workers
    """

    async def work(lines: MessageLines) -> None:
        async with connect(hub) as client:
            await reach(client)
            feed = client.subscribe(pattern, group=group)
            with Ending():
                async with feed:
                    await _print_events(client, feed, lines, count)

    with MessageLines(data_only=data_only) as lines:
        run(work(lines))


async def _print_events(client: MeshwayClient, feed: EventFeed, lines: MessageLines, count: int | None) -> None:
    left = count
    async for event in feed:
        if isinstance(event, Missed):
            _say_missed(event)
            continue
        await lines.write(client, event)
        if left is not None and (left := left - 1) == 0:
            return


def _say_missed(missed: Missed) -> None:
    number = "An unknown number of" if missed.missed is None else f"{missed.missed:,}"
    click.echo(f"{number} events were missed here.", err=True)
