"""A responder: answers commands or queries of a channel or pattern."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from meshway.client.channel_messages import RequestMessage, read_message
from meshway.client.errors import ClientError
from meshway.client.handlers import HandlerCall, Refused, reason_of, shortened
from meshway.client.link import LinkSession, SubscriptionFrame
from meshway.client.outgoing import data_json
from meshway.client.service import Service
from meshway.protocols.link import frames

__all__ = ["FetchRequest", "RequestKind", "Responder", "ResponderFigures"]

_log = logging.getLogger(__name__)

RequestKind = Literal["commands", "queries"]
FetchRequest = Callable[[RequestMessage], Awaitable[RequestMessage]]


class ResponderFigures(msgspec.Struct):
    """What a responder has done. `late`: replies nobody waited for any more."""

    answered: int = 0
    refused: int = 0
    failed: int = 0
    late: int = 0


class Responder(Service):
    """`await responder.run()`, or `async with client.responder(...):` to have it run beside other work.

    The handler gets a `RequestMessage` and returns the data of the reply. `Refused` says that it was not done and why;
    so does any other exception, with its type and text. A handler that takes longer than the caller waits is cancelled.
    """

    def __init__(
        self,
        channel: str,
        handler: Callable[[RequestMessage], Awaitable[object] | object],
        session: LinkSession,
        *,
        kind: RequestKind,
        concurrency: int,
        drain_timeout_s: float,
        fetch: FetchRequest,
    ) -> None:
        super().__init__(drain_timeout_s=drain_timeout_s)
        self.channel = channel
        self.kind = kind
        self.figures = ResponderFigures()
        self._handler = HandlerCall(handler, concurrency=concurrency)
        self._session = session
        self._concurrency = concurrency
        self._fetch = fetch
        self._id: str | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._outstanding = 0
        self._freed = asyncio.Event()
        self._confirmed = asyncio.Event()

    async def ready(self) -> None:
        """Wait until the hub knows this responder: requests sent from here on find it. Raises: as `run`."""
        while not self._confirmed.is_set():
            await self._confirmed.wait()
        if self._failure is not None:
            raise self._failure

    def subscribe_frame(self, subscription_id: str) -> frames.Subscribe:
        """As LinkSubscription."""
        self._outstanding = self._free_slots
        return frames.Subscribe(id=subscription_id, kind=self.kind, channel=self.channel, credit=self._outstanding)

    def accept(self, frame: SubscriptionFrame) -> None:
        """As LinkSubscription."""
        if isinstance(frame, frames.Subscribed):
            self._confirmed.set()
        if not isinstance(frame, frames.Requests):
            return
        self._outstanding -= len(frame.requests)
        arrived = asyncio.get_running_loop().time()
        for each in frame.requests:
            self._quiet.clear()
            task = self._group.create_task(self._answer(each, arrived + each.timeout_ms / 1000))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def lost(self) -> None:
        """As LinkSubscription."""
        self._outstanding = 0

    def fail(self, error: ClientError) -> None:
        """As LinkSubscription."""
        super().fail(error)
        self._confirmed.set()

    @property
    def _free_slots(self) -> int:
        return 0 if self._stopping.is_set() else self._concurrency - len(self._running)

    async def _serve(self, group: asyncio.TaskGroup) -> None:
        self._id = await self._session.subscribe(self)
        granting = group.create_task(self._grant(self._id))
        await self._stopping.wait()
        await self._session.unsubscribe(self._id)
        granting.cancel()
        await self._until_quiet(group)
        for task in tuple(self._running):
            task.cancel()

    def _close(self) -> None:
        self._handler.close()

    async def _grant(self, subscription_id: str) -> None:
        while True:
            await self._freed.wait()
            self._freed.clear()
            credit = self._free_slots - self._outstanding
            if credit > 0 and self._session.is_connected:
                self._outstanding += credit
                await self._session.send(frames.Credit(id=subscription_id, messages=credit))

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not self._running:
            self._quiet.set()
        self._freed.set()

    async def _answer(self, item: frames.RequestItem, deadline: float) -> None:
        reply = frames.Reply(ref="", request_id=item.request_id)
        try:
            async with asyncio.timeout_at(deadline):
                await self._fill(reply, item)
        except TimeoutError:
            self.figures.late += 1
            _log.warning("request_took_too_long", extra={"channel": self.channel, "timeout_ms": item.timeout_ms})
            return
        try:
            answer = await self._session.call(reply, deadline=deadline, is_repeatable=True, is_closing=True)
        except ClientError as error:
            _log.warning("reply_lost", extra={"channel": self.channel, "error": error.detail})
            return
        if isinstance(answer, frames.Replied) and answer.outcome != "done":
            self.figures.late += 1
            _log.info("reply_stale", extra={"channel": self.channel})

    async def _fill(self, reply: frames.Reply, item: frames.RequestItem) -> None:
        """Run the handler and put into the reply what it said."""
        try:
            request = read_message(item.message, RequestMessage, request_id=item.request_id, timeout_ms=item.timeout_ms)
            if request.data_ref is not None:
                request = await self._fetch(request)
            result = await self._handler(request)
            if result is not None:
                reply.data = msgspec.Raw(data_json(result))
            self.figures.answered += 1
        except Refused as refusal:
            self.figures.refused += 1
            reply.executed, reply.error = False, shortened(refusal.reason)
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
            reply.executed, reply.error = False, "the responder stopped"
        except Exception as error:  # noqa: BLE001  the boundary of a request: whatever the handler raised is its answer
            self.figures.failed += 1
            _log.warning("request_failed", extra={"channel": self.channel}, exc_info=error)
            reply.executed, reply.error = False, reason_of(error)
