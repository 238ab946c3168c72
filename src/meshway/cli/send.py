"""What `events pub`, `streams append` and `queues send` share: their options, and the way to the hub."""

import functools
import io
import os
import stat
import sys
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import BinaryIO, TypeVar

import click

from meshway.cli.bulk_send import BulkSend, Post, Resume
from meshway.cli.hub import HubOptions, connect, reach, run
from meshway.cli.line_source import LineSource
from meshway.cli.message_form import Form, MessageForm, MessageOptions, WrongLine, read_pairs
from meshway.cli.send_view import ReceiptView
from meshway.client import MeshwayClient

__all__ = ["SendInput", "message_input", "send_messages"]

Command = TypeVar("Command", bound=Callable[..., object])


@dataclass(frozen=True, slots=True, kw_only=True)
class SendInput:
    """Where the messages come from, and how they are read."""

    data: Sequence[str]
    file: BinaryIO | None
    form: Form
    skip: int
    id_prefix: str | None
    attributes: Sequence[str]
    content_type: str | None


@dataclass(slots=True, kw_only=True)
class _Options:
    """As click gives them."""

    data: Sequence[str]
    file: BinaryIO | None
    text: bool
    envelope: bool
    skip: int
    id_prefix: str | None
    attributes: Sequence[str]
    content_type: str | None


_OPTION_NAMES = tuple(each.name for each in fields(_Options))


def message_input(command: Callable[..., None]) -> Callable[..., None]:
    """Add `[DATA]...` and the options of what is sent; the command gets them as one parameter, `given`."""

    @functools.wraps(command)
    def with_input(**options: object) -> None:
        raw = _Options(**{name: options.pop(name) for name in _OPTION_NAMES})  # type: ignore[arg-type]  # click checked
        command(given=_input_of(raw), **options)

    decorated: Callable[..., None] = with_input
    for decorate in reversed(_OPTIONS):
        decorated = decorate(decorated)
    return decorated


_OPTIONS: Sequence[Callable[[Callable[..., None]], Callable[..., None]]] = (
    click.argument("data", nargs=-1),
    click.option(
        "-f", "--file", type=click.File("rb"), help="Read messages from this file, one a line; `-` is standard input."
    ),
    click.option("--text", is_flag=True, help="Messages are plain text, not JSON."),
    click.option(
        "--envelope",
        is_flag=True,
        help="Messages are whole objects: data with id, attributes, delay_ms, ...; what `read` and `peek` print.",
    ),
    click.option(
        "--skip", type=click.IntRange(min=0), default=0, metavar="N", help="Leave out the first N lines: go on there."
    ),
    click.option(
        "--id-prefix",
        metavar="TEXT",
        help="Ids are TEXT-1, TEXT-2, ... by line: the same file sent again is filtered as duplicates.",
    ),
    click.option(
        "--attribute", "attributes", multiple=True, metavar="KEY=VALUE", help="For every message; repeat for more."
    ),
    click.option("--content-type", metavar="TYPE", help="For every message; default application/json or text/plain."),
)


def _input_of(raw: _Options) -> SendInput:
    data, file = raw.data, raw.file
    if raw.text and raw.envelope:
        raise click.UsageError("--text and --envelope exclude each other.")
    if tuple(data) == ("-",) and file is None:
        data, file = (), sys.stdin.buffer
    if bool(data) == (file is not None):
        raise click.UsageError("Give messages as arguments, or --file FILE, or - to read standard input.")
    if raw.skip and file is None:
        raise click.UsageError("--skip counts lines of a file or of standard input.")
    return SendInput(
        data=data,
        file=file,
        form=Form.TEXT if raw.text else Form.ENVELOPE if raw.envelope else Form.JSON,
        skip=raw.skip,
        id_prefix=raw.id_prefix,
        attributes=raw.attributes,
        content_type=raw.content_type,
    )


def send_messages(
    channel: str,
    given: SendInput,
    hub: HubOptions,
    post_to: Callable[[MeshwayClient, str], Post],
    options: MessageOptions | None = None,
) -> None:
    """Send everything and say how much it was. Raises: Failure, click.UsageError."""
    base = options or MessageOptions()
    attributes = read_pairs(given.attributes, option="--attribute")
    # A prefix of our own makes a run repeatable too, as long as somebody reads what it was.
    prefix = given.id_prefix or uuid.uuid4().hex[:12]
    form = MessageForm(
        given.form,
        MessageOptions(
            attributes=attributes,
            content_type=given.content_type,
            delay_ms=base.delay_ms,
            deliver_at=base.deliver_at,
            expires_in_ms=base.expires_in_ms,
            priority=base.priority,
            ordering_key=base.ordering_key,
        ),
        id_prefix=prefix,
        dedupes=options is not None and given.id_prefix is not None,
    )
    stream = given.file if given.file is not None else _arguments(given.data, form)

    async def work() -> None:
        view = ReceiptView(as_json=hub.as_json, bytes_total=_size(given.file))
        resume = Resume(id_prefix=prefix, is_file=given.file is not None, skip=given.skip)
        async with connect(hub) as client:
            await reach(client)
            with view:
                bulk = BulkSend(form, post_to(client, channel), view, resume)
                sent = await bulk.run(LineSource(stream, skip=given.skip))
        filtered = f", {sent.duplicates:,} of them had been there already" if sent.duplicates else ""
        noun = "message is" if sent.messages == 1 else "messages are"
        click.echo(f"{sent.messages:,} {noun} in {channel}{filtered}.", err=True)

    run(work())


def _arguments(data: Sequence[str], form: MessageForm) -> BinaryIO:
    """Arguments as lines. An argument of several lines is one message: JSON is put on one line, text cannot be."""
    lines = []
    for number, each in enumerate(data, 1):
        content = each.encode()
        if "\n" in each:
            raise click.UsageError(f"Message {number} has a line break; send it with --file, or as JSON on one line.")
        try:
            form.message(number, content)
        except WrongLine as error:
            raise click.UsageError(f"Message {number} {error.reason}.") from None
        lines.append(content)
    return io.BytesIO(b"\n".join(lines))


def _size(file: BinaryIO | None) -> int | None:
    if file is None:
        return None
    try:
        found = os.fstat(file.fileno())
    except (OSError, ValueError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None
