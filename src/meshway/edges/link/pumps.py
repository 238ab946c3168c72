"""Pumps: each carries one subscription from its verb to the socket, in batches, as far as credit goes.

A pump ends by being cancelled, or by an error of its verb. It looks at the socket before it takes and, as other pumps
may have filled it meanwhile, before each frame: a thousand subscriptions of a client that does not read cost one frame,
not a thousand. Deliveries alone are sent as soon as they are taken: a cancelled pump must hold none of them, and what
was leased for a call that is cancelled goes back inside the engine.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from meshway.edges.http.sockets import Socket
from meshway.edges.link.codec import encode_frame
from meshway.edges.link.limits import BATCH_BYTES_TARGET
from meshway.edges.link.services import LinkServices
from meshway.edges.link.subscription import Subscription
from meshway.kernel.clock import rfc3339_ms
from meshway.kernel.principal import Principal
from meshway.messaging.deliveries import HeldDelivery
from meshway.messaging.events import MissedEvents
from meshway.messaging.names import ChannelKind
from meshway.messaging.requests import HeldRequest
from meshway.messaging.stream_items import StreamItem
from meshway.protocols.link.frames import (
    Deliveries,
    Delivery,
    Messages,
    Missed,
    RequestItem,
    Requests,
    Subscribe,
    Subscribed,
)

__all__ = ["PUMPS", "Pump", "PumpPlaces"]

Documented = TypeVar("Documented", StreamItem, HeldDelivery, HeldRequest)


@dataclass(slots=True)
class PumpPlaces:
    """What the pumps of one connection share. `held`: deliveries and requests handed to the client, not answered."""

    services: LinkServices
    principal: Principal
    socket: Socket
    held: int = 0

    def begin(self, subscription: Subscription[Subscribe], *, cursor: str | None = None) -> None:
        """Say that it is active."""
        subscription.has_begun = True
        self.socket.send(encode_frame(Subscribed(id=subscription.frame.id, cursor=cursor)))

    async def room(self) -> None:
        """Wait until the client has taken what was sent, other subscriptions' frames too."""
        while self.socket.must_drain:
            await self.socket.drain()


Pump = Callable[[PumpPlaces, Subscription[Subscribe]], Awaitable[None]]


async def _pump_events(places: PumpPlaces, subscription: Subscription[Subscribe]) -> None:
    frame, socket = subscription.frame, places.socket
    verb = places.services.channels.subscribe_events
    async with verb.open(places.principal, frame.channel, group=frame.group) as events:
        places.begin(subscription)
        while True:
            found = await events.take(await subscription.demand(socket))
            documents: list[bytes] = []
            for each in found:
                if isinstance(each, MissedEvents):
                    # At its place among the others; it takes no credit.
                    await _send_events(places, subscription, documents)
                    documents = []
                    socket.send(encode_frame(Missed(id=frame.id, missed=each.missed)))
                else:
                    documents.append(each)
            await _send_events(places, subscription, documents)


async def _send_events(places: PumpPlaces, subscription: Subscription[Subscribe], documents: Sequence[bytes]) -> None:
    size = sum(map(len, documents))
    fits = size <= BATCH_BYTES_TARGET
    # Events wait in the memory of the hub anyway: a batch that is too large goes out one by one.
    for part in (documents,) if fits and documents else [[each] for each in documents]:
        await places.room()
        raws = list(map(msgspec.Raw, part))
        places.socket.send(encode_frame(Messages(id=subscription.frame.id, messages=raws)))
    subscription.spend(len(documents), documents_bytes=size)


async def _pump_stream(places: PumpPlaces, subscription: Subscription[Subscribe]) -> None:
    frame, socket = subscription.frame, places.socket
    verb = places.services.channels.read_stream
    async with verb.tail(
        places.principal, frame.channel, start=frame.start, cursor=frame.cursor, reader=frame.reader
    ) as tail:
        places.begin(subscription, cursor=tail.cursor)
        while True:
            items = await tail.take(await subscription.demand(socket))
            for part in _parts(items):
                await places.room()
                raws = [msgspec.Raw(item.document) for item in part]
                socket.send(encode_frame(Messages(id=frame.id, messages=raws, cursor=part[-1].cursor)))
            _spend(subscription, items)


async def _pump_queue(places: PumpPlaces, subscription: Subscription[Subscribe]) -> None:
    frame, socket, services = subscription.frame, places.socket, places.services
    lease = services.channels.lease_messages
    lease.admit(places.principal, frame.channel)
    wait_ms = services.settings.long_poll_max_ms
    with services.places.take():
        places.begin(subscription)
        while True:
            count = await subscription.demand(socket)
            deliveries = await lease.execute(places.principal, frame.channel, count=count, wait_ms=wait_ms)
            now_ms = services.clock.now_ms()
            for part in _parts(deliveries):
                socket.send(encode_frame(Deliveries(id=frame.id, deliveries=_shown_deliveries(part, now_ms))))
            places.held += len(deliveries)
            _spend(subscription, deliveries)


def _shown_deliveries(deliveries: Sequence[HeldDelivery], now_ms: int) -> list[Delivery]:
    shown = []
    until_ms, until = -1, ""
    for held in deliveries:
        if held.lease_until_ms != until_ms:
            # The same for what was leased together, and writing it costs as much as all the rest.
            until_ms, until = held.lease_until_ms, rfc3339_ms(held.lease_until_ms)
        document = msgspec.Raw(held.document)
        shown.append(
            Delivery(
                delivery_id=held.delivery_id,
                attempt=held.attempt,
                lease_until=until,
                lease_ms=max(until_ms - now_ms, 0),
                message=document,
            )
        )
    return shown


async def _pump_requests(places: PumpPlaces, subscription: Subscription[Subscribe]) -> None:
    frame, socket = subscription.frame, places.socket
    verb = places.services.channels.answer_requests
    async with verb.join(places.principal, ChannelKind(frame.kind), frame.channel) as responder:
        places.begin(subscription)
        while True:
            requests = await responder.take(await subscription.demand(socket))
            for part in _parts(requests):
                await places.room()
                items = [
                    RequestItem(
                        request_id=held.request_id,
                        deadline=rfc3339_ms(held.deadline_ms),
                        timeout_ms=held.timeout_ms,
                        message=msgspec.Raw(held.document),
                    )
                    for held in part
                ]
                socket.send(encode_frame(Requests(id=frame.id, requests=items)))
            places.held += len(requests)
            _spend(subscription, requests)


def _parts(items: Sequence[Documented]) -> Iterator[Sequence[Documented]]:
    """`items` in frames of at most the target; one that is larger has a frame of its own."""
    start = size = 0
    for index, item in enumerate(items):
        length = len(item.document)
        if size + length > BATCH_BYTES_TARGET and index > start:
            yield items[start:index]
            start, size = index, 0
        size += length
    if start < len(items):
        yield items[start:] if start else items


def _spend(subscription: Subscription[Subscribe], items: Sequence[Documented]) -> None:
    subscription.spend(len(items), documents_bytes=sum(len(item.document) for item in items))


PUMPS: Mapping[str, Pump] = {
    "events": _pump_events,
    "streams": _pump_stream,
    "queues": _pump_queue,
    "commands": _pump_requests,
    "queries": _pump_requests,
}
