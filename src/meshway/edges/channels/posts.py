"""The three posts of messages: publish, append, enqueue; as JSON or as CloudEvents."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from meshway.edges.channels.call import Call
from meshway.edges.http.exchange import Exchange
from meshway.gateway.channel_use_cases import ChannelUseCases
from meshway.kernel.errors import ContentTypeUnsupported
from meshway.kernel.principal import Principal
from meshway.messaging.incoming import IncomingBatch, IncomingMessage
from meshway.messaging.receipts import Receipt
from meshway.protocols.cloudevents import BATCH_MEDIA_TYPE, EVENT_MEDIA_TYPE, read_batch, read_binary, read_structured

__all__ = ["Posts"]

_JSON = b"application/json"
_decoder = msgspec.json.Decoder(IncomingBatch)
_encode = msgspec.json.Encoder().encode


class _Received(NamedTuple):
    messages: Sequence[IncomingMessage]
    traceparent: str | None


class _Receipts(msgspec.Struct):
    receipts: Sequence[Receipt]


class Posts:
    """Each answers 202 with one receipt a message, once they are accepted."""

    def __init__(self, use_cases: ChannelUseCases) -> None:
        self._publish = use_cases.publish_events
        self._append = use_cases.append_to_stream
        self._enqueue = use_cases.enqueue_messages

    async def publish(self, exchange: Exchange, call: Call, principal: Principal) -> int:
        received = _read(exchange, call)
        receipts = await self._publish.execute(
            principal, call.name, received.messages, traceparent=received.traceparent
        )
        return _accept(exchange, receipts)

    async def append(self, exchange: Exchange, call: Call, principal: Principal) -> int:
        received = _read(exchange, call)
        receipts = await self._append.execute(principal, call.name, received.messages, traceparent=received.traceparent)
        return _accept(exchange, receipts)

    async def enqueue(self, exchange: Exchange, call: Call, principal: Principal) -> int:
        received = _read(exchange, call)
        receipts = await self._enqueue.execute(
            principal, call.name, received.messages, traceparent=received.traceparent
        )
        return _accept(exchange, receipts)


def _accept(exchange: Exchange, receipts: Sequence[Receipt]) -> int:
    exchange.respond(202, _JSON, _encode(_Receipts(receipts)))
    return 202


def _read(exchange: Exchange, call: Call) -> _Received:
    """Raises: ContentTypeUnsupported, MalformedBody, InvalidRequest naming every wrong field."""
    headers = call.head.headers
    content_type = headers.get(b"content-type", b"")
    if content_type == _JSON and b"ce-specversion" not in headers:
        return _Received(call.body(exchange, _decoder, IncomingBatch).messages, call.traceparent)
    media_type = content_type.partition(b";")[0].strip().lower().decode("latin-1")
    if media_type == EVENT_MEDIA_TYPE:
        events = read_structured(exchange.body)
    elif media_type == BATCH_MEDIA_TYPE:
        events = read_batch(exchange.body)
    elif media_type.startswith("application/cloudevents"):
        raise ContentTypeUnsupported(
            f"CloudEvents are read in their JSON format: {EVENT_MEDIA_TYPE}, {BATCH_MEDIA_TYPE}, or as ce-... headers."
        )
    elif any(name.startswith(b"ce-") for name in headers):
        events = read_binary(headers, exchange.body)
    else:
        return _Received(call.body(exchange, _decoder, IncomingBatch).messages, call.traceparent)
    return _Received(events.messages, call.traceparent or events.traceparent)
