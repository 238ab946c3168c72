"""`meshway command`: have one responder do something."""

from collections.abc import Sequence

import click

from meshway.cli.hub import HubOptions, connect, hub_options, reach, run
from meshway.cli.request import read_attributes, read_data, show_reply
from meshway.client import RequestReply

__all__ = ["command"]


@click.command("command")
@click.argument("channel")
@click.argument("data", required=False)
@click.option("--text", "as_text", is_flag=True, help="DATA is plain text, not JSON.")
@click.option("--attribute", "attributes", multiple=True, metavar="KEY=VALUE", help="Repeat for more.")
@click.option("--timeout-ms", type=click.IntRange(min=1), metavar="N", help="Wait this long at most; default 60 s.")
@hub_options
def command(
    *,
    channel: str,
    data: str | None,
    as_text: bool,
    attributes: Sequence[str],
    timeout_ms: int | None,
    hub: HubOptions,
) -> None:
    """Send a command to whoever answers on CHANNEL, wait, and print what came back. DATA `-` reads standard input.

    Exit code 0: it was carried out; 1: it was refused, nobody answers there, or the answer came too late.

    \b
    Examples:
      meshway command lights.kitchen '{"on": true}'
      meshway command deploy '{"version": "1.4"}' --timeout-ms 300000
    """
    sent, pairs = read_data(data, as_text=as_text), read_attributes(attributes)

    async def work() -> RequestReply:
        async with connect(hub) as client:
            await reach(client)
            return await client.command(channel, sent, timeout_ms=timeout_ms, attributes=pairs)

    show_reply(run(work()), as_json=hub.as_json)
