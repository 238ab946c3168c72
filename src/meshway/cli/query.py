"""`meshway query`: ask one responder."""

from collections.abc import Sequence

import click

from meshway.cli.hub import HubOptions, connect, hub_options, reach, run
from meshway.cli.request import read_attributes, read_data, show_reply
from meshway.client import RequestReply

__all__ = ["command"]


@click.command("query")
@click.argument("channel")
@click.argument("data", required=False)
@click.option("--text", "as_text", is_flag=True, help="DATA is plain text, not JSON.")
@click.option("--attribute", "attributes", multiple=True, metavar="KEY=VALUE", help="Repeat for more.")
@click.option("--timeout-ms", type=click.IntRange(min=1), metavar="N", help="Wait this long at most; default 60 s.")
@click.option("--cache-key", metavar="KEY", help="Share the reply with all who ask with this key.")
@click.option("--cache-ttl-ms", type=click.IntRange(min=1), metavar="N", help="Keep the reply so long.")
@hub_options
def command(
    *,
    channel: str,
    data: str | None,
    as_text: bool,
    attributes: Sequence[str],
    timeout_ms: int | None,
    cache_key: str | None,
    cache_ttl_ms: int | None,
    hub: HubOptions,
) -> None:
    """Ask whoever answers on CHANNEL, and print the reply. DATA `-` reads standard input.

    \b
    Examples:
      meshway query prices.eur '{"item": "tea"}'
      meshway query prices.eur '{"item": "tea"}' --cache-key tea --cache-ttl-ms 60000 --json
    """
    if (cache_key is None) != (cache_ttl_ms is None):
        raise click.UsageError("--cache-key and --cache-ttl-ms go together.")
    sent, pairs = read_data(data, as_text=as_text), read_attributes(attributes)

    async def work() -> RequestReply:
        async with connect(hub) as client:
            await reach(client)
            return await client.query(
                channel,
                sent,
                timeout_ms=timeout_ms,
                attributes=pairs,
                cache_key=cache_key,
                cache_ttl_ms=cache_ttl_ms,
            )

    show_reply(run(work()), as_json=hub.as_json)
