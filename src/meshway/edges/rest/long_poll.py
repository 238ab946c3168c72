"""A wait on behalf of a client that may leave, and of a hub that may shut down: both end it."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.types import Receive

from meshway.edges.rest.event_stream import disconnected
from meshway.kernel.errors import MeshwayError

__all__ = ["Waited", "wait_for_client"]

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Waited(Generic[Result]):
    """`result` None: it was not ready when the wait ended. `is_client_gone`: nobody takes it any more."""

    result: Result | None
    is_client_gone: bool


@dataclass(frozen=True, slots=True)
class _Failed:
    error: MeshwayError


async def wait_for_client(
    work: Coroutine[object, object, Result], *, receive: Receive, shutdown: asyncio.Event
) -> Waited[Result]:
    """Until `work` is done, its client leaves or the hub shuts down. The request's body must have been read.

    Raises: what `work` raises.
    """
    async with asyncio.TaskGroup() as group:
        working = group.create_task(_outcome(work))
        left = group.create_task(disconnected(receive))
        ended = group.create_task(shutdown.wait())
        await asyncio.wait({working, left, ended}, return_when=asyncio.FIRST_COMPLETED)
        is_client_gone = left.done()
        for task in (working, left, ended):
            task.cancel()
    outcome = None if working.cancelled() else working.result()
    if isinstance(outcome, _Failed):
        raise outcome.error
    return Waited(outcome, is_client_gone)


async def _outcome(work: Coroutine[object, object, Result]) -> Result | _Failed:
    # As a value: the group would wrap the error.
    try:
        return await work
    except MeshwayError as error:
        return _Failed(error)
