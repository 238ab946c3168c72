"""Queues as workers see them: lease, settle, peek."""

from collections.abc import Sequence

import msgspec

from meshway.edges.channels.call import Call
from meshway.edges.http.exchange import Exchange
from meshway.edges.rest.channel_models import LeaseBody, PageQuery, SettleBody
from meshway.gateway.channel_use_cases import ChannelUseCases
from meshway.kernel.clock import Clock, rfc3339_ms
from meshway.kernel.principal import Principal
from meshway.messaging.deliveries import HeldDelivery
from meshway.protocols.link.frames import Delivery

__all__ = ["Queues"]

_JSON = b"application/json"
_NO_STORE = ((b"cache-control", b"no-store"),)
_NOTHING = b'{"deliveries":[]}'
_lease_decoder = msgspec.json.Decoder(LeaseBody)
_settle_decoder = msgspec.json.Decoder(SettleBody)
_encode = msgspec.json.Encoder().encode


class _Deliveries(msgspec.Struct):
    deliveries: Sequence[Delivery]


class _Outcomes(msgspec.Struct):
    outcomes: Sequence[str]


class Queues:
    """Long polls answer early, with nothing, when the hub shuts down."""

    def __init__(self, use_cases: ChannelUseCases, clock: Clock) -> None:
        self._clock = clock
        self._lease = use_cases.lease_messages
        self._settle = use_cases.settle_deliveries
        self._inspect = use_cases.inspect_queue

    async def lease(self, exchange: Exchange, call: Call, principal: Principal) -> int:
        wanted = call.body(exchange, _lease_decoder, LeaseBody)
        body = _NOTHING
        if wanted.wait_ms and not exchange.is_draining:
            with exchange.until_drain():
                held = await self._lease.execute(principal, call.name, count=wanted.count, wait_ms=wanted.wait_ms)
                body = _rendered(held, self._clock.now_ms())
        else:
            held = await self._lease.execute(principal, call.name, count=wanted.count, wait_ms=0)
            body = _rendered(held, self._clock.now_ms())
        exchange.respond(200, _JSON, body)
        return 200

    async def settle(self, exchange: Exchange, call: Call, principal: Principal) -> int:
        settlements = call.body(exchange, _settle_decoder, SettleBody).settlements
        outcomes = await self._settle.execute(principal, call.name, settlements)
        exchange.respond(200, _JSON, _encode(_Outcomes(outcomes)))
        return 200

    async def peek(self, exchange: Exchange, call: Call, principal: Principal) -> int:
        query = call.query(PageQuery)
        page = await self._inspect.peek(principal, call.name, cursor=query.cursor, limit=query.limit)
        body = b'{"items":[%b],"next_cursor":%b}' % (b",".join(page.items), _encode(page.next_cursor))
        exchange.respond(200, _JSON, body, _NO_STORE)
        return 200


def _rendered(held: Sequence[HeldDelivery], now_ms: int) -> bytes:
    if not held:
        return _NOTHING
    # What is leased together runs out together: the time is written once.
    times: dict[int, str] = {}
    deliveries = []
    for each in held:
        lease_until = times.get(each.lease_until_ms)
        if lease_until is None:
            lease_until = times[each.lease_until_ms] = rfc3339_ms(each.lease_until_ms)
        deliveries.append(
            Delivery(
                delivery_id=each.delivery_id,
                attempt=each.attempt,
                lease_until=lease_until,
                lease_ms=max(each.lease_until_ms - now_ms, 0),
                message=msgspec.Raw(each.document),
            )
        )
    return _encode(_Deliveries(deliveries))
