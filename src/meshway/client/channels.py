"""Channels over HTTP: settings, pages, queues by hand, readers, blobs. One method per operation of the hub."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, TypeVar
from urllib.parse import quote

import msgspec

from meshway.client.channel_messages import (
    ChannelInfo,
    ChannelMessage,
    DeadLetter,
    Delivery,
    PurgedQueue,
    Receipt,
    RedriveStarted,
    RequestReply,
    StreamReader,
    read_message,
)
from meshway.client.connection import HubConnection
from meshway.client.errors import HubUnreachable
from meshway.client.link import Backoff
from meshway.client.sending import SendKind
from meshway.client.values import Page
from meshway.messaging.settlements import SettlementItem
from meshway.protocols.link.frames import Delivery as WireDelivery

__all__ = ["ChannelCalls", "ChannelKindName", "ReadersApi", "start_text"]

ChannelKindName = Literal["events", "streams", "queues", "commands", "queries"]
Message = TypeVar("Message", bound=ChannelMessage)
# On top of `wait_ms` and `timeout_ms`, so that the hub's own answer arrives before we give up.
_MARGIN_S = 10.0
# Requests without a bound of their own wait as long as the hub's longest.
_REQUEST_TIMEOUT_S = 3_600.0


class _WireReceipts(msgspec.Struct):
    receipts: list[Receipt]


class _WirePage(msgspec.Struct):
    items: list[msgspec.Raw]
    next_cursor: str | None = None


class _WireDeliveries(msgspec.Struct):
    deliveries: list[WireDelivery]


class _WireOutcomes(msgspec.Struct):
    outcomes: list[Literal["done", "stale"]]


class _WireBlob(msgspec.Struct):
    sha256: str
    size: int


class ChannelCalls:
    """Every method raises the errors of `meshway.client.errors`."""

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection

    async def carry(
        self, kind: SendKind, channel: str, messages: Sequence[bytes], *, deadline: float
    ) -> Sequence[Receipt]:
        """As Carrier."""
        path = f"{_path(kind, channel)}/messages" if kind == "queues" else _path(kind, channel)
        body = {"messages": msgspec.Raw(b"[" + b",".join(messages) + b"]")}
        loop, backoff = asyncio.get_running_loop(), Backoff()
        while True:
            try:
                answer = await self._connection.request(
                    "POST", path, _WireReceipts, body=body, timeout_s=max(deadline - loop.time(), 1.0)
                )
            except HubUnreachable:
                if loop.time() >= deadline:
                    raise
                await asyncio.sleep(backoff.next_s())
            else:
                return answer.receipts

    async def page(
        self, kind: Literal["streams", "queues"], channel: str, params: Mapping[str, str], *, wait_ms: int = 0
    ) -> tuple[Sequence[ChannelMessage], str | None]:
        """Messages and where the next page begins."""
        page = await self._connection.request(
            "GET", f"{_path(kind, channel)}/messages", _WirePage, params=params, timeout_s=wait_ms / 1000 + _MARGIN_S
        )
        return [read_message(each, ChannelMessage) for each in page.items], page.next_cursor

    async def lease(self, queue: str, *, count: int, wait_ms: int) -> list[Delivery]:
        body = {"count": count, "wait_ms": wait_ms}
        answer = await self._connection.request(
            "POST", f"{_path('queues', queue)}/lease", _WireDeliveries, body=body, timeout_s=wait_ms / 1000 + _MARGIN_S
        )
        return [
            read_message(
                each.message,
                Delivery,
                delivery_id=each.delivery_id,
                attempt=each.attempt,
                lease_until=msgspec.convert(each.lease_until, datetime),
            )
            for each in answer.deliveries
        ]

    async def settle(self, queue: str, settlements: Iterable[SettlementItem]) -> list[Literal["done", "stale"]]:
        body = {"settlements": [_without_nulls(each) for each in settlements]}
        path = f"{_path('queues', queue)}/settle"
        return (await self._connection.request("POST", path, _WireOutcomes, body=body)).outcomes

    async def dead_letters(self, queue: str, *, limit: int, cursor: str | None) -> Page[DeadLetter]:
        params = _given(limit=limit, cursor=cursor)
        return await self._connection.request(
            "GET", f"{_path('queues', queue)}/dead-letters", Page[DeadLetter], params=params
        )

    async def redrive(self, queue: str, *, ids: Sequence[str] | None, rate_per_s: float | None) -> RedriveStarted:
        body: dict[str, object] = {}
        if ids is not None:
            body["ids"] = list(ids)
        if rate_per_s is not None:
            body["rate_per_s"] = rate_per_s
        path = f"{_path('queues', queue)}/dead-letters/redrive"
        return await self._connection.request("POST", path, RedriveStarted, body=body)

    async def purge(self, queue: str) -> int:
        path = f"{_path('queues', queue)}/purge"
        return (await self._connection.request("POST", path, PurgedQueue, params={"confirm": queue})).purged

    async def request(
        self, kind: Literal["commands", "queries"], channel: str, body: Mapping[str, object]
    ) -> RequestReply:
        timeout_ms = body.get("timeout_ms")
        timeout_s = timeout_ms / 1000 + _MARGIN_S if isinstance(timeout_ms, int) else _REQUEST_TIMEOUT_S
        return await self._connection.request(
            "POST", _path(kind, channel), RequestReply, body=body, timeout_s=timeout_s
        )

    async def put_channel(self, kind: ChannelKindName, channel: str, settings: Mapping[str, object]) -> ChannelInfo:
        return await self._connection.request("PUT", _path(kind, channel), ChannelInfo, body=dict(settings))

    async def channel_info(self, kind: ChannelKindName, channel: str) -> ChannelInfo:
        return await self._connection.request("GET", f"{_path(kind, channel)}/info", ChannelInfo)

    async def list_channels(
        self, kind: ChannelKindName, *, prefix: str | None, limit: int | None, cursor: str | None
    ) -> Page[ChannelInfo]:
        params = _given(prefix=prefix, limit=limit, cursor=cursor)
        return await self._connection.request("GET", f"/v1/{kind}", Page[ChannelInfo], params=params)

    async def delete_channel(self, kind: ChannelKindName, channel: str) -> None:
        await self._connection.request("DELETE", _path(kind, channel), type(None), params={"confirm": channel})

    async def store_blob(self, content: bytes) -> str:
        """The SHA-256 by which messages name it."""
        return (await self._connection.request("POST", "/v1/blobs", _WireBlob, content=content)).sha256

    async def fetch(self, message: Message) -> Message:
        """The message with its data; as it is where the data came with it."""
        ref = message.data_ref
        if ref is None:
            return message
        content = await self._connection.download(f"/v1/blobs/{quote(ref.sha256, safe='')}")
        fetched = msgspec.structs.replace(message, data_ref=None)
        if ref.encoding == "json":
            msgspec.structs.force_setattr(fetched, "data_json", msgspec.Raw(content))
        else:
            msgspec.structs.force_setattr(fetched, "blob", content)
        return fetched


class ReadersApi:
    """Positions in streams that the hub keeps by name: `client.readers`."""

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection

    async def put(self, channel: str, name: str, *, from_: str | int | datetime = "new") -> StreamReader:
        """Make a reader that stands before `from_`, or move one there."""
        body = {"from": start_text(from_)}
        return await self._connection.request("PUT", self._path(channel, name), StreamReader, body=body)

    async def get(self, channel: str, name: str) -> StreamReader:
        """Raises: HubError `reader_not_found`."""
        return await self._connection.request("GET", self._path(channel, name), StreamReader)

    async def list(self, channel: str) -> Page[StreamReader]:
        """All readers of one stream, by name."""
        return await self._connection.request("GET", f"{_path('streams', channel)}/readers", Page[StreamReader])

    async def remove(self, channel: str, name: str) -> None:
        await self._connection.request("DELETE", self._path(channel, name), type(None))

    async def ack(self, channel: str, name: str, sequence: int) -> int:
        """Everything up to `sequence` is done. The position now, which never moves back."""
        path = f"{self._path(channel, name)}/ack"
        return (await self._connection.request("POST", path, _WirePosition, body={"sequence": sequence})).sequence

    def _path(self, channel: str, name: str) -> str:
        return f"{_path('streams', channel)}/readers/{quote(name, safe='')}"


class _WirePosition(msgspec.Struct):
    sequence: int


def start_text(start: str | int | datetime) -> str:
    """`from=` as the hub writes it: a sequence, a time, or `first`, `new`, `last:N`, `time:...` as they are."""
    if not isinstance(start, datetime):
        return str(start)
    if start.tzinfo is None:
        raise ValueError("the time to start from has no time zone; write datetime(..., tzinfo=UTC)")
    return "time:" + start.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _path(kind: str, channel: str) -> str:
    return f"/v1/{kind}/{quote(channel, safe='')}"


def _given(**params: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in params.items() if value is not None}


def _without_nulls(item: SettlementItem) -> dict[str, object]:
    return {name: value for name, value in msgspec.structs.asdict(item).items() if value is not None}
