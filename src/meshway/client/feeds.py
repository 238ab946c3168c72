"""Following channels: subscriptions to events and tails of streams, as things to iterate over.

What arrives waits here until it is asked for, at most what was granted; so a slow program slows nobody else. Events
that come faster than that are missed, and the feed says how many; streams wait for us.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Literal, Self

import msgspec

from meshway.client.channel_messages import ChannelMessage, Missed, read_message
from meshway.client.channels import start_text
from meshway.client.errors import ClientError, HubError, HubUnreachable, UnexpectedAnswer
from meshway.client.link import Backoff, LinkSession, SubscriptionFrame, is_passing
from meshway.protocols.link import frames

__all__ = ["EventFeed", "MessageFeed", "StreamFeed"]

# Messages that may wait here; enough to hide the way to the hub and back, few enough to forget.
_WINDOW_MESSAGES = 1_024
_WINDOW_MESSAGES_MIN = 8
# The same in bytes, by the size of the messages seen so far.
_WINDOW_BYTES = 16 * 1024 * 1024
# Weight of the newest group in the moving average of sizes.
_SIZE_WEIGHT = 0.25
# What was read is acknowledged when nothing more is at hand, and at least this often.
_ACK_EVERY_MESSAGES = 256
# On the way out nobody waits long; what was not acknowledged comes again.
_LAST_ACK_TIMEOUT_S = 2.0
# How far our clock may be ahead of the hub's where a time has to stand for a place in a stream.
_CLOCKS_APART = timedelta(seconds=2)


class MessageFeed:
    """Messages of a channel or pattern, in order, for ever: `async with feed: async for message in feed: ...`.

    Entering waits until the hub confirms, so what is sent from there on arrives. A lost connection is made again as
    long as it takes. One loop at a time; leaving the block, or `aclose`, ends it.

    Raises: HubUnreachable when it could not begin in time; HubError when the hub refuses; UnexpectedAnswer.
    """

    kind: Literal["events", "streams"]

    def __init__(self, session: LinkSession, channel: str, *, start_timeout_s: float) -> None:
        self._session = session
        self._channel = channel
        self._start_timeout_s = start_timeout_s
        self._id: str | None = None
        self._arrived: deque[ChannelMessage | Missed] = deque()
        # Granted and not come yet.
        self._outstanding = 0
        self._average_bytes = 0.0
        self._is_confirmed = False
        self._is_closed = False
        self._failure: ClientError | None = None
        self._changed = asyncio.Event()

    async def start(self) -> None:
        """What entering does; iterating does it by itself. Idempotent."""
        if self._id is None and not self._is_closed:
            self._id = await self._session.subscribe(self)
        try:
            async with asyncio.timeout(self._start_timeout_s):
                while not (self._is_confirmed or self._failure or self._is_closed):
                    await self._change()
        except TimeoutError:
            await self.aclose()
            raise HubUnreachable(
                f"The hub did not confirm the subscription to {self._channel} within {self._start_timeout_s:g} s. "
                "Is it running? Start one with `meshway up`, or set MESHWAY_URL.",
                url="",
            ) from None
        if self._failure is not None:
            raise self._failure

    async def aclose(self) -> None:
        """Idempotent; a loop over the feed ends once it has had what arrived before."""
        self._is_closed = True
        self._changed.set()
        if self._id is not None:
            await self._session.unsubscribe(self._id)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def take(self) -> ChannelMessage | Missed | None:
        """The next one; None when the feed was closed."""
        if not self._is_confirmed:
            await self.start()
        while not self._arrived:
            if self._failure is not None:
                raise self._failure
            if self._is_closed:
                return None
            await self._change()
        taken = self._arrived.popleft()
        window = self._window()
        if self._outstanding + len(self._arrived) <= window // 2:
            await self._grant(window - self._outstanding - len(self._arrived))
        return taken

    def subscribe_frame(self, subscription_id: str) -> frames.Subscribe:
        """As LinkSubscription."""
        self._outstanding = max(self._window() - len(self._arrived), 0)
        return frames.Subscribe(
            id=subscription_id, kind=self.kind, channel=self._channel, credit=self._outstanding, **self._position()
        )

    def accept(self, frame: SubscriptionFrame) -> None:
        """As LinkSubscription."""
        match frame:
            case frames.Subscribed():
                self._is_confirmed = True
                self._confirmed(frame)
            case frames.Messages():
                self._outstanding -= len(frame.messages)
                self._keep(frame)
            case frames.Missed():
                self._arrived.append(Missed(missed=frame.missed))
            case _:
                return
        self._changed.set()

    def lost(self) -> None:
        """As LinkSubscription."""
        self._outstanding = 0

    def fail(self, error: ClientError) -> None:
        """As LinkSubscription. What arrived before is still there to be had."""
        self._failure = error
        self._changed.set()

    def _position(self) -> dict[str, str | None]:
        """Where to begin, as members of the Subscribe frame."""
        return {}

    def _confirmed(self, frame: frames.Subscribed) -> None:
        """The subscription stands."""

    def _read(self, frame: frames.Messages) -> list[ChannelMessage]:
        return [read_message(document, ChannelMessage) for document in frame.messages]

    def _keep(self, frame: frames.Messages) -> None:
        try:
            messages = self._read(frame)
        except msgspec.MsgspecError as error:
            self.fail(UnexpectedAnswer(f"The hub sent a message this SDK cannot read: {error}", url=""))
            return
        if messages:
            size = sum([len(message.document) for message in messages]) / len(messages)
            self._average_bytes += (size - self._average_bytes) * _SIZE_WEIGHT
        self._arrived.extend(messages)

    def _window(self) -> int:
        if self._average_bytes * _WINDOW_MESSAGES <= _WINDOW_BYTES:
            return _WINDOW_MESSAGES
        return max(int(_WINDOW_BYTES / self._average_bytes), _WINDOW_MESSAGES_MIN)

    async def _grant(self, messages: int) -> None:
        if self._id is None or not self._session.is_connected:
            return
        self._outstanding += messages
        await self._session.send(frames.Credit(id=self._id, messages=messages))

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class EventFeed(MessageFeed):
    """Events as they are published, and Missed where some are gone."""

    kind = "events"

    def __init__(self, session: LinkSession, pattern: str, *, group: str | None = None, start_timeout_s: float) -> None:
        super().__init__(session, pattern, start_timeout_s=start_timeout_s)
        self._group = group

    def lost(self) -> None:
        """Events of the time without a connection are gone, nobody knows how many."""
        super().lost()
        if self._is_confirmed and not self._is_closed:
            self._arrived.append(Missed(missed=None))
            self._changed.set()

    def _position(self) -> dict[str, str | None]:
        return {"group": self._group}

    async def __aiter__(self) -> AsyncIterator[ChannelMessage | Missed]:
        while (taken := await self.take()) is not None:
            yield taken


class StreamFeed(MessageFeed):
    """Messages of a stream, or of several by a pattern: first those that are kept, then live, no gap, no repetition.

    `cursor` is where it stands: the last message that was handed out. With a `reader` the hub keeps the position too:
    a message counts as read when the loop comes back for another.
    """

    kind = "streams"

    def __init__(
        self,
        session: LinkSession,
        pattern: str,
        *,
        start: str | None = None,
        cursor: str | None = None,
        reader: str | None = None,
        start_timeout_s: float,
    ) -> None:
        super().__init__(session, pattern, start_timeout_s=start_timeout_s)
        self._start = start
        self._reader = reader
        # After the last message that arrived here: a new connection goes on there.
        self._received = cursor
        self._is_pattern = "*" in pattern or ">" in pattern
        self.cursor = cursor
        # Read and not yet acknowledged to the hub.
        self._read_sequence: int | None = None
        self._read_unacked = 0

    async def __aiter__(self) -> AsyncIterator[ChannelMessage]:
        while True:
            if not self._arrived or self._read_unacked >= _ACK_EVERY_MESSAGES:
                await self._ack()
            taken = await self.take()
            if not isinstance(taken, ChannelMessage):
                return
            self.cursor = taken.cursor or self.cursor
            yield taken
            self._read_sequence = taken.sequence
            self._read_unacked += 1

    async def aclose(self) -> None:
        """As MessageFeed; tells the hub first how far the reader came, where there is a connection."""
        if not self._is_closed and self._session.is_connected:
            with contextlib.suppress(ClientError):
                await self._ack(_LAST_ACK_TIMEOUT_S)
        await super().aclose()

    def _position(self) -> dict[str, str | None]:
        if self._received is not None:
            return {"cursor": self._received}
        return {"start": self._start, "reader": self._reader}

    def _confirmed(self, frame: frames.Subscribed) -> None:
        # Without it, a tail that begins at `new` and loses its connection before the first message would not know
        # where it began.
        if self._received is None:
            self._received = frame.cursor
        if self._received is None and self._start in (None, "new") and self._reader is None:
            since = datetime.now(UTC) - _CLOCKS_APART
            self._start = start_text(since)

    def _read(self, frame: frames.Messages) -> list[ChannelMessage]:
        messages = super()._read(frame)
        if not self._is_pattern:
            for message in messages:
                msgspec.structs.force_setattr(message, "cursor", str(message.sequence))
        elif messages:
            msgspec.structs.force_setattr(messages[-1], "cursor", frame.cursor)
        self._received = frame.cursor or (messages[-1].cursor if messages else None) or self._received
        return messages

    async def _ack(self, timeout_s: float | None = None) -> None:
        sequence = self._read_sequence
        if sequence is None or self._reader is None or not self._read_unacked:
            return
        self._read_unacked = 0
        deadline = asyncio.get_running_loop().time() + (timeout_s or self._start_timeout_s)
        frame = frames.Ack(ref="", channel=self._channel, reader=self._reader, sequence=sequence)
        backoff = Backoff()
        while True:
            try:
                await self._session.call(frame, deadline=deadline, is_repeatable=True, is_closing=True)
            except HubError as error:
                wait_s = backoff.next_s()
                # A hub whose store is away for a moment is no reason to end a feed.
                if not is_passing(error) or asyncio.get_running_loop().time() + wait_s > deadline:
                    raise
            else:
                return
            await asyncio.sleep(wait_s)
