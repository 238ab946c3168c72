"""Taking work from a queue on the command line: print and acknowledge, or run a command on each message."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import click
import msgspec

from meshway.cli.ending import Ending
from meshway.cli.failure import Failure
from meshway.cli.message_lines import MessageLines
from meshway.client import ClientError, Delivery, HubError, HubUnreachable, MeshwayClient, Retry, SettlementItem

__all__ = ["CommandRunner", "Receive", "Wanted", "work_off"]

Result = TypeVar("Result")

# Of one lease: few enough that a slow reader of our output keeps none of them past its lease.
_LEASE_MESSAGES_MAX = 256
# One long poll of `--follow`; the hub answers at once when something is due.
_POLL_MS = 30_000
_PAUSE_INITIAL_S = 0.1
_PAUSE_MAX_S = 5.0
_PASSING = {"draining", "engine_unavailable", "too_many_in_flight"}
_KILL_AFTER_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How much. `count` None: until nothing is due, or with `follows` for ever; `wait_ms` for the first message."""

    count: int | None
    wait_ms: int
    follows: bool


class Receive:
    """Prints deliveries, and acknowledges each batch after it is out; without `acks` prints what settles them, too."""

    def __init__(self, client: MeshwayClient, queue: str, lines: MessageLines, *, acks: bool) -> None:
        self._client = client
        self._queue = queue
        self._lines = lines
        self._acks = acks
        self._follows = False
        self.received = 0

    async def run(self, wanted: Wanted) -> None:
        """Until there is enough, or Ctrl-C. Raises: Failure saying what was printed and not acknowledged."""
        left, wait_ms = wanted.count, wanted.wait_ms
        self._follows = wanted.follows
        with Ending() as ending:
            while left is None or left > 0:
                deliveries = await self._lease(left, wait_ms, wanted)
                with ending.deferred():
                    await self._print(deliveries)
                if ending.is_asked or (not deliveries and not wanted.follows):
                    break
                left = None if left is None else left - len(deliveries)
                # What was due at the same time has come; the rest is not waited for.
                wait_ms = wanted.wait_ms if wanted.follows else 0

    async def _lease(self, left: int | None, wait_ms: int, wanted: Wanted) -> Sequence[Delivery]:
        count = _LEASE_MESSAGES_MAX if left is None else min(left, _LEASE_MESSAGES_MAX)

        async def lease() -> Sequence[Delivery]:
            return await self._client.lease(self._queue, count=count, wait_ms=_POLL_MS if wanted.follows else wait_ms)

        return await (_persistently(lease) if wanted.follows else lease())

    async def _print(self, deliveries: Sequence[Delivery]) -> None:
        printed = 0
        try:
            for delivery in deliveries:
                await self._print_one(delivery)
                printed += 1
        finally:
            # Also when our reader has gone: what it did not get is due again at once.
            if deliveries and self._acks:
                await self._settle(deliveries[:printed], deliveries[printed:])
        self.received += printed

    async def _print_one(self, delivery: Delivery) -> None:
        if self._acks:
            await self._lines.write(self._client, delivery)
            return
        line = {
            "delivery_id": delivery.delivery_id,
            "attempt": delivery.attempt,
            "lease_until": f"{delivery.lease_until:%Y-%m-%dT%H:%M:%S}.{delivery.lease_until.microsecond // 1000:03d}Z",
            "message": msgspec.Raw(delivery.document),
        }
        self._lines.write_line(msgspec.json.encode(line))

    async def _settle(self, printed: Sequence[Delivery], unprinted: Sequence[Delivery]) -> None:
        items = [SettlementItem(delivery_id=each.delivery_id, action="ack") for each in printed]
        items += [
            SettlementItem(delivery_id=each.delivery_id, action="retry", delay_ms=0, reason="the receiver ended")
            for each in unprinted
        ]

        async def settle() -> Sequence[str]:
            return await self._client.settle(self._queue, *items)

        try:
            # Repeating is harmless: what is settled stays so, and what is too late is said to be.
            outcomes = await (_persistently(settle) if self._follows else settle())
        except ClientError as error:
            ids = ", ".join(each.id for each in printed[:3]) + (", ..." if len(printed) > 3 else "")
            raise Failure(
                f"{len(printed):,} messages were printed and could not be acknowledged: {error.detail}",
                hint=f"They come again when their lease ends: {ids}",
            ) from error
        if late := outcomes[: len(printed)].count("stale"):
            click.echo(f"{late:,} messages were acknowledged too late and come again: their lease was over.", err=True)


class CommandRunner:
    """Runs a shell command for each message of a worker: its data on standard input, exit 0 means done."""

    def __init__(self, command: str, queue: str) -> None:
        self._command = command
        self._queue = queue

    async def __call__(self, delivery: Delivery) -> None:
        """Raises: Retry with how the command ended."""
        environment = {
            **os.environ,
            "MESHWAY_QUEUE": self._queue,
            "MESHWAY_MESSAGE_ID": delivery.id,
            "MESHWAY_ATTEMPT": str(delivery.attempt),
            "MESHWAY_CONTENT_TYPE": delivery.content_type,
            "MESHWAY_ATTRIBUTES": msgspec.json.encode(delivery.attributes).decode(),
        }
        # A session of its own: Ctrl-C is for us, who then let the command finish.
        process = await asyncio.create_subprocess_shell(
            self._command, stdin=asyncio.subprocess.PIPE, env=environment, start_new_session=True
        )
        try:
            # A command that does not read its input is free to.
            with suppress(BrokenPipeError, ConnectionResetError):
                await process.communicate(delivery.bytes)
            status = await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        if status:
            raise Retry(f"ended by signal {-status}" if status < 0 else f"exit status {status}")


async def work_off(client: MeshwayClient, queue: str, run_one: CommandRunner, wanted: Wanted, concurrency: int) -> str:
    """Run the command on messages until there is enough, or Ctrl-C; what became of them, in words."""
    left = wanted.count
    started = 0
    busy = 0
    moved = asyncio.Event()

    async def handler(delivery: Delivery) -> None:
        nonlocal started, busy
        started += 1
        if left is not None and started > left:
            raise Retry("taken by a receiver that had enough", delay_ms=0)
        if started == left:
            worker.stop()
        busy += 1
        moved.set()
        try:
            await run_one(delivery)
        finally:
            busy -= 1
            moved.set()

    slots = concurrency if left is None else min(concurrency, left)
    worker = client.worker(queue, handler, concurrency=slots)

    async def stop_when_idle() -> None:
        while True:
            moved.clear()
            try:
                async with asyncio.timeout(max(wanted.wait_ms, 100) / 1000):
                    await moved.wait()
            except TimeoutError:
                if not busy:
                    worker.stop()
                    return

    async with asyncio.TaskGroup() as group:
        idle = None if wanted.follows else group.create_task(stop_when_idle())
        await worker.run()
        if idle is not None:
            idle.cancel()
    figures = worker.figures
    return f"{figures.acked:,} done, {figures.retried:,} failed"


async def _persistently(call: Callable[[], Awaitable[Result]]) -> Result:
    """The answer, however long the hub is away. Raises: HubError for what waiting does not help."""
    pause_s = _PAUSE_INITIAL_S
    while True:
        try:
            return await call()
        except HubUnreachable:
            pass
        except HubError as error:
            if error.code not in _PASSING:
                raise
        if pause_s == _PAUSE_INITIAL_S:
            click.echo("The hub does not answer; waiting for it.", err=True)
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, _PAUSE_MAX_S)


async def _end(process: asyncio.subprocess.Process) -> None:
    """The command and what it started; gently first."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            async with asyncio.timeout(_KILL_AFTER_S):
                await process.wait()
                return
