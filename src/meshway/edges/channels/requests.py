"""Commands and queries: asking, and answering by long poll for responders that cannot hold a socket."""

from collections.abc import Sequence

import msgspec

from meshway.edges.channels.call import Call
from meshway.edges.http.exchange import Exchange
from meshway.edges.rest.channel_models import LeaseBody
from meshway.gateway.channel_use_cases import ChannelUseCases
from meshway.kernel.clock import rfc3339_ms
from meshway.kernel.principal import Principal
from meshway.messaging.names import ChannelKind
from meshway.messaging.requests import HeldRequest, ReplyIn, RequestIn
from meshway.protocols.link.frames import RequestItem

__all__ = ["Requests"]

_JSON = b"application/json"
_NOTHING = b'{"requests":[]}'
_lease_decoder = msgspec.json.Decoder(LeaseBody)
_reply_decoder = msgspec.json.Decoder(ReplyIn)
_request_decoder = msgspec.json.Decoder(RequestIn)
_encode = msgspec.json.Encoder().encode


class _Requests(msgspec.Struct):
    requests: Sequence[RequestItem]


class _Outcome(msgspec.Struct):
    outcome: str


class Requests:
    """Both kinds; which one is in the path."""

    def __init__(self, use_cases: ChannelUseCases) -> None:
        self._send = use_cases.send_request
        self._answer = use_cases.answer_requests

    async def send(self, exchange: Exchange, call: Call, principal: Principal) -> int:
        request = call.body(exchange, _request_decoder, RequestIn)
        reply = await self._send.execute(
            principal,
            ChannelKind(call.kind),
            call.name,
            request,
            timeout_ms=call.timeout_ms,
            traceparent=call.traceparent,
        )
        exchange.respond(200, _JSON, _encode(reply))
        return 200

    async def lease(self, exchange: Exchange, call: Call, principal: Principal) -> int:
        wanted = call.body(exchange, _lease_decoder, LeaseBody)
        kind = ChannelKind(call.kind)
        body = _NOTHING
        wait_ms = 0 if exchange.is_draining else wanted.wait_ms
        if wait_ms:
            with exchange.until_drain():
                held = await self._answer.poll(principal, kind, call.name, count=wanted.count, wait_ms=wait_ms)
                body = _rendered(held)
        else:
            body = _rendered(await self._answer.poll(principal, kind, call.name, count=wanted.count, wait_ms=0))
        exchange.respond(200, _JSON, body)
        return 200

    async def reply(self, exchange: Exchange, call: Call, principal: Principal) -> int:
        answer = call.body(exchange, _reply_decoder, ReplyIn)
        outcome = await self._answer.reply(principal, ChannelKind(call.kind), call.name, answer)
        exchange.respond(200, _JSON, _encode(_Outcome(outcome)))
        return 200


def _rendered(held: Sequence[HeldRequest]) -> bytes:
    if not held:
        return _NOTHING
    items = [
        RequestItem(
            request_id=each.request_id,
            deadline=rfc3339_ms(each.deadline_ms),
            timeout_ms=each.timeout_ms,
            message=msgspec.Raw(each.document),
        )
        for each in held
    ]
    return _encode(_Requests(items))
