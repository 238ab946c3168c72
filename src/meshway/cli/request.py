"""What `command` and `query` share: the data of a request, and how its reply is shown."""

import sys
from collections.abc import Sequence

import click
import msgspec

from meshway.cli.failure import Failure
from meshway.cli.message_form import read_pairs
from meshway.cli.output import print_json
from meshway.cli.printable import printable
from meshway.client import RequestReply

__all__ = ["read_attributes", "read_data", "show_reply"]


def read_data(data: str | None, *, as_text: bool) -> object:
    """One JSON value, or text; `-` reads standard input, None is no data. Raises: click.UsageError."""
    content = sys.stdin.read() if data == "-" else data
    if content is None or as_text:
        return content
    try:
        msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise click.UsageError(f"DATA is not JSON ({error}); --text sends it as text.") from None
    return msgspec.Raw(content.encode())


def read_attributes(pairs: Sequence[str]) -> dict[str, str] | None:
    """Raises: click.UsageError."""
    return read_pairs(pairs, option="--attribute") or None


def show_reply(reply: RequestReply, *, as_json: bool) -> None:
    """The reply's data: a string bare, anything else as JSON. Raises: Failure for what was not done."""
    if as_json:
        print_json(reply)
    if not reply.executed:
        raise Failure(f"Not done: {reply.error or 'the responder gave no reason'}", code="not_executed")
    if as_json:
        return
    data = reply.data
    text = data if isinstance(data, str) else msgspec.json.encode(data).decode()
    if data is not None:
        click.echo(printable(text) if sys.stdout.isatty() else text)
