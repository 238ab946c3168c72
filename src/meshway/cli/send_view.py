"""What a person or a program sees of a send: a bar with rate and time left, receipts as JSON lines, or nothing."""

import sys
from collections.abc import Sequence
from types import TracebackType

import click
import msgspec
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from meshway.cli.bulk_send import Sent
from meshway.cli.output import console
from meshway.client import Receipt

__all__ = ["ReceiptView"]


class ReceiptView:
    """A bar on standard error where that is a terminal; with `as_json` each receipt on standard output at once."""

    def __init__(self, *, as_json: bool, bytes_total: int | None) -> None:
        """`bytes_total`: the size of the file; None for what has no size, whose end nobody can tell."""
        self._as_json = as_json
        self._progress: Progress | None = None
        self._row: TaskID | None = None
        # Receipts and a bar would write over each other where both go to one terminal.
        if sys.stderr.isatty() and not (as_json and sys.stdout.isatty()):
            left = () if bytes_total is None else (BarColumn(), TimeRemainingColumn())
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("{task.fields[count]:,} messages"),
                TextColumn("{task.fields[rate]:,.0f}/s"),
                *left,
                console=console(stderr=True),
                transient=True,
            )
            self._row = self._progress.add_task("send", total=bytes_total, count=0, rate=0.0)

    def __enter__(self) -> "ReceiptView":
        if self._progress is not None:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, sent: Sent, receipts: Sequence[Receipt]) -> None:
        if self._as_json:
            click.echo(b"\n".join(_receipt_line(receipt) for receipt in receipts))
        if self._progress is not None and self._row is not None:
            self._progress.update(self._row, completed=sent.bytes_read, count=sent.messages, rate=sent.rate_per_s)


def _receipt_line(receipt: Receipt) -> bytes:
    line: dict[str, object] = {"id": receipt.id, "duplicate": receipt.duplicate}
    if receipt.sequence is not None:
        line["sequence"] = receipt.sequence
    return msgspec.json.encode(line)
