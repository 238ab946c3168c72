"""Lines from a file, a pipe or the command line sent in batches, in order; an interruption says where to go on."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import click

from meshway.cli.failure import Failure
from meshway.cli.hub import failure_of
from meshway.cli.line_source import Line, LineSource, LineTooLong
from meshway.cli.message_form import MessageForm, WrongLine
from meshway.client import ClientError, HubError, NewMessage, Receipt

__all__ = ["BulkSend", "Post", "Resume", "SendView", "Sent"]

# Large enough that the hub's commit is shared by many, small enough that an interrupted batch is quickly repeated.
BATCH_MESSAGES_MAX = 500
# A batch this large takes the hub some milliseconds; a single larger line is a batch of its own.
BATCH_BYTES_MAX = 1_048_576
_EXIT_INTERRUPTED = 130

Post = Callable[[Sequence[NewMessage]], Awaitable[Sequence[Receipt]]]


@dataclass(slots=True)
class Sent:
    """How far a send has come. `through_line`: everything up to this line is with the hub."""

    messages: int = 0
    duplicates: int = 0
    through_line: int = 0
    # Up to this line a batch was on its way when it ended; the same as `through_line` where none was.
    attempted_line: int = 0
    bytes_read: int = 0
    started_s: float = field(default_factory=time.monotonic)

    @property
    def rate_per_s(self) -> float:
        return self.messages / max(time.monotonic() - self.started_s, 0.001)


class SendView(Protocol):
    """What is shown while it goes on."""

    def show(self, sent: Sent, receipts: Sequence[Receipt]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What a person needs to go on: the options that name the place, and whether there is a place to name."""

    id_prefix: str
    is_file: bool
    skip: int = 0


class BulkSend:
    """One run. The first Ctrl-C ends it after the batch under way, a second one at once; both say what is in."""

    def __init__(self, form: MessageForm, post: Post, view: SendView, resume: Resume) -> None:
        self._form = form
        self._post = post
        self._view = view
        self._resume = resume
        self.sent = Sent(through_line=resume.skip, attempted_line=resume.skip)
        self.is_interrupted = False
        self._is_posting = False
        self._task: asyncio.Task[object] | None = None

    async def run(self, lines: LineSource) -> Sent:
        """Send all lines. Raises: Failure with what is in, and how to go on."""
        self._task = asyncio.current_task()
        with self._interruptible():
            lines.start()
            try:
                while not self.is_interrupted and (
                    batch := await lines.take(count_max=BATCH_MESSAGES_MAX, bytes_max=BATCH_BYTES_MAX)
                ):
                    await self._send(batch)
            except asyncio.CancelledError:
                if not self.is_interrupted or self._task is None:
                    raise
                # Our own, of the signal: it ends here, as a failure that says where.
                self._task.uncancel()
            except LineTooLong as error:
                raise self._stopped(f"Line {error.number} is too long: is this a file of lines?", exit_code=2) from None
            except OSError as error:
                raise self._stopped(f"Reading failed: {error.strerror or error}") from None
        if self.is_interrupted:
            raise self._stopped("Interrupted.", exit_code=_EXIT_INTERRUPTED, code="interrupted")
        return self.sent

    async def _send(self, batch: Sequence[Line]) -> None:
        messages: list[NewMessage] = []
        wrong: WrongLine | None = None
        for line in batch:
            try:
                messages.append(self._form.message(line.number, line.content))
            except WrongLine as error:
                wrong = error
                break
        good = batch[: len(messages)]
        if good:
            await self._post_batch(good, messages)
        if wrong is not None:
            # The lines before it are in: their order and their numbers stay what they are.
            raise self._stopped(f"Line {wrong.number} {wrong.reason}.", exit_code=2, code="invalid_line")

    async def _post_batch(self, batch: Sequence[Line], messages: Sequence[NewMessage]) -> None:
        self.sent.attempted_line = batch[-1].number
        self._is_posting = True
        try:
            receipts = await self._post(messages)
        except HubError as error:
            raise self._refused(error, batch) from error
        except ClientError as error:
            failure = failure_of(error)
            raise self._stopped(failure.message, exit_code=failure.exit_code, code=failure.code) from error
        finally:
            self._is_posting = False
        self.sent.messages += len(receipts)
        self.sent.duplicates += sum(receipt.duplicate for receipt in receipts)
        self.sent.through_line = batch[-1].number
        self.sent.bytes_read = batch[-1].end
        self._view.show(self.sent, receipts)

    def _refused(self, error: HubError, batch: Sequence[Line]) -> Failure:
        failure = failure_of(error)
        detail = failure.message
        for wrong in error.fields:
            # Fields of a post are named by the place in the batch: `messages.3.delay_ms`.
            room, _, rest = wrong.field.partition(".")
            place, _, member = rest.partition(".")
            if room == "messages" and place.isdecimal() and int(place) < len(batch):
                detail = f"Line {batch[int(place)].number}: {member or 'the message'} {wrong.message}"
        # A refused batch is refused as a whole, but where the hub names what it took.
        if not error.accepted:
            self.sent.attempted_line = self.sent.through_line
        return self._stopped(detail, hint=failure.hint, exit_code=failure.exit_code, code=failure.code)

    def _stopped(self, detail: str, *, hint: str = "", exit_code: int = 1, code: str = "failed") -> Failure:
        sent, resume = self.sent, self._resume
        if not resume.is_file:
            state = f"{sent.messages:,} of the messages are in."
            again = f"Repeat with --id-prefix {resume.id_prefix}: what is in already is filtered."
        else:
            state = f"{sent.messages:,} messages are in, through line {sent.through_line:,}."
            if sent.attempted_line > sent.through_line:
                state += f" Lines {sent.through_line + 1:,} to {sent.attempted_line:,} may be."
            again = f"Go on with --skip {sent.through_line} --id-prefix {resume.id_prefix}"
        hints = [state, again, hint]
        return Failure(detail, hint="\n  ".join(filter(None, hints)), exit_code=exit_code, code=code)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        try:
            yield
        finally:
            # A signal that came with the last line has nothing to interrupt any more.
            self._task = None
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _interrupt(self) -> None:
        if self._is_posting and not self.is_interrupted:
            click.echo("Finishing the batch under way; once more gives it up.", err=True)
        elif self._task is not None:
            self._task.cancel()
        self.is_interrupted = True
