"""What workers and responders have in common: they run until told to stop, then finish what they have begun."""

import asyncio
from types import TracebackType
from typing import TypeVar

from meshway.client.errors import ClientError
from meshway.client.handlers import stopping_on_signals

__all__ = ["Service"]

Self = TypeVar("Self", bound="Service")


class Service:
    """`await service.run()` for a program that does nothing else, `async with service:` to have it run beside."""

    def __init__(self, *, drain_timeout_s: float) -> None:
        self._drain_timeout_s = drain_timeout_s
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        # Set while no handler runs.
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._is_running = False
        self._failure: ClientError | None = None
        # Of whoever runs it.
        self._group: asyncio.TaskGroup
        self._background_group: asyncio.TaskGroup

    async def run(self, *, handle_signals: bool = True) -> None:
        """Serve until `stop`, SIGTERM or SIGINT (in the main thread), then drain; a second signal ends that at once.

        Survives restarts of the hub. Raises: HubError when the hub refuses (no key, a wrong name).
        """
        if self._is_running:
            raise RuntimeError("it runs already")
        self._is_running = True
        try:
            with stopping_on_signals(self._on_signal, wanted=handle_signals):
                async with asyncio.TaskGroup() as group:
                    self._group = group
                    await self._serve(group)
        finally:
            self._close()
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Take nothing more, let handlers finish within the drain's bound, end. Idempotent."""
        self._stopping.set()

    def fail(self, error: ClientError) -> None:
        """The hub refuses for good: stop, and raise this from `run`."""
        self._failure = error
        self._stopping.set()

    async def __aenter__(self: Self) -> Self:
        self._background_group = await asyncio.TaskGroup().__aenter__()
        self._background_group.create_task(self.run(handle_signals=False))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        try:
            if isinstance(error, asyncio.CancelledError):
                await self._background_group.__aexit__(kind, error, trace)
            else:
                # An error in the block does not keep handlers from finishing.
                await self._background_group.__aexit__(None, None, None)
        except BaseExceptionGroup as group:
            if self._failure is not None and group.exceptions == (self._failure,):
                raise self._failure from None
            raise

    async def _serve(self, group: asyncio.TaskGroup) -> None:
        """The service itself: from the start to the end of the drain."""
        await self._stopping.wait()

    def _close(self) -> None:
        """After the last task."""

    async def _until_quiet(self, group: asyncio.TaskGroup) -> None:
        """Wait for running handlers, as long as the drain may take."""
        hurry = group.create_task(self._hurry.wait())
        quiet = group.create_task(self._quiet.wait())
        try:
            await asyncio.wait((hurry, quiet), timeout=self._drain_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            hurry.cancel()
            quiet.cancel()

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
