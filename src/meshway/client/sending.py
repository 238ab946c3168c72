"""Sending messages so that each is kept once: posts that failed on the way are repeated with the same ids.

Each channel has a lane. Posts that wait in a lane at the same moment travel together, one group at a time, so that the
order of one client's posts is kept whatever has to be repeated. A post is never split; where the hub refuses a group
of several, each goes again by itself, so that everybody gets the answer that is theirs.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from meshway.client.channel_messages import Receipt
from meshway.client.errors import ClientError, ConnectionLost, HubError, HubUnreachable, UnexpectedAnswer
from meshway.client.link import Backoff, is_passing
from meshway.client.outgoing import Outgoing
from meshway.client.owned_tasks import OwnedTasks

__all__ = ["Carrier", "SendKind", "Sender"]

SendKind = Literal["events", "streams", "queues"]

# Above this a group only gets later, not cheaper: the cost of a frame is spread thin long before.
_GROUP_MESSAGES_MAX = 256
_GROUP_BYTES_MAX = 1024 * 1024


class Carrier(Protocol):
    """Brings one group to the hub."""

    async def carry(
        self, kind: SendKind, channel: str, messages: Sequence[bytes], *, deadline: float
    ) -> Sequence[Receipt]:
        """Receipts in order, by `deadline` (loop time). Repeats on a lost connection itself.

        Raises: HubError as the hub answered; HubUnreachable when time is up.
        """


@dataclass(slots=True)
class _Post:
    """What one caller sends in one call."""

    messages: Sequence[Outgoing]
    deadline: float
    receipts: asyncio.Future[Sequence[Receipt]]
    size: int = 0


@dataclass(slots=True)
class _Lane:
    kind: SendKind
    channel: str
    waiting: deque[_Post] = field(default_factory=deque)


class Sender:
    """`timeout_s` bounds each post from the call to its receipts, repeats included."""

    def __init__(self, carrier: Carrier, tasks: OwnedTasks, *, timeout_s: float) -> None:
        self._carrier = carrier
        self._tasks = tasks
        self._timeout_s = timeout_s
        self._lanes: dict[tuple[SendKind, str], _Lane] = {}

    async def send(self, kind: SendKind, channel: str, messages: Sequence[Outgoing]) -> Sequence[Receipt]:
        """All or none; the receipts in order.

        Cancelling the call does not call the messages back. Raises: HubError as the hub answered this post alone;
        HubUnreachable (ConnectionLost when it may have been kept) after `timeout_s`.
        """
        loop = asyncio.get_running_loop()
        size = sum([len(message.document) for message in messages])
        post = _Post(messages, loop.time() + self._timeout_s, loop.create_future(), size)
        lane = self._lanes.get((kind, channel))
        if lane is None:
            lane = _Lane(kind, channel)
            self._tasks.start(self._empty(lane), name=f"meshway-send-{channel}")
            self._lanes[kind, channel] = lane
        lane.waiting.append(post)
        return await post.receipts

    async def _empty(self, lane: _Lane) -> None:
        """Send what waits until nothing does; whoever posts next makes the lane anew."""
        backoff = Backoff()
        try:
            while group := _next_group(lane):
                if await self._send_group(lane, group):
                    backoff.reset()
                else:
                    await asyncio.sleep(backoff.next_s())
        finally:
            del self._lanes[lane.kind, lane.channel]
            for post in lane.waiting:
                _fail(post, _closed())

    async def _send_group(self, lane: _Lane, group: Sequence[_Post]) -> bool:
        """False: what is still in time waits in front again, for the hub asks us to come back later."""
        try:
            receipts = await self._carry(lane, group)
        except HubError as error:
            if is_passing(error):
                return self._postpone(lane, group, error)
            if len(group) == 1:
                _fail(group[0], error)
                return True
            for index, post in enumerate(group):
                if not await self._send_group(lane, [post]):
                    lane.waiting.extendleft(reversed(group[index + 1 :]))
                    return False
        except HubUnreachable as error:
            return self._postpone(lane, group, error)
        except ClientError as error:
            for post in group:
                _fail(post, error)
        except asyncio.CancelledError:
            for post in group:
                _fail(post, _closed())
            raise
        else:
            _distribute(group, receipts)
        return True

    async def _carry(self, lane: _Lane, group: Sequence[_Post]) -> Sequence[Receipt]:
        documents = [message.document for post in group for message in post.messages]
        receipts = await self._carrier.carry(lane.kind, lane.channel, documents, deadline=group[0].deadline)
        if len(receipts) != len(documents):
            raise UnexpectedAnswer(f"{len(receipts)} receipts came for {len(documents)} messages.", url="")
        return receipts

    def _postpone(self, lane: _Lane, group: Sequence[_Post], error: ClientError) -> bool:
        now = asyncio.get_running_loop().time()
        in_time = [post for post in group if post.deadline > now and not post.receipts.done()]
        for post in group:
            if post.deadline <= now:
                _fail(post, error)
        lane.waiting.extendleft(reversed(in_time))
        return False


def _next_group(lane: _Lane) -> list[_Post]:
    group: list[_Post] = []
    count = size = 0
    waiting = lane.waiting
    while waiting:
        post = waiting[0]
        count += len(post.messages)
        size += post.size
        if group and (count > _GROUP_MESSAGES_MAX or size > _GROUP_BYTES_MAX):
            break
        waiting.popleft()
        # A caller that left before its post was sent wants it no more.
        if not post.receipts.done():
            group.append(post)
    return group


def _distribute(group: Sequence[_Post], receipts: Sequence[Receipt]) -> None:
    at = 0
    for post in group:
        part = receipts[at : at + len(post.messages)]
        at += len(post.messages)
        if not post.receipts.done():
            post.receipts.set_result([_own(*pair) for pair in zip(post.messages, part, strict=True)])


def _own(message: Outgoing, receipt: Receipt) -> Receipt:
    """The hub saw an id of ours before: that was this very post, repeated. For the caller it is the first."""
    if receipt.duplicate and message.is_own_id:
        return Receipt(id=receipt.id, sequence=receipt.sequence)
    return receipt


def _fail(post: _Post, error: ClientError) -> None:
    if not post.receipts.done():
        post.receipts.set_exception(error)


def _closed() -> ClientError:
    return ConnectionLost("The client was closed before the hub had answered.", url="")
