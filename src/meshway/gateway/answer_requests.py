"""Take commands and queries to answer them, over a connection or by polling, and send the answers back."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal

import msgspec

from meshway.engine.ports import Bus, BusMessage
from meshway.gateway.admission import Admission
from meshway.gateway.queue_places import check_between
from meshway.gateway.reply_tickets import ReplyTicket, ReplyTickets
from meshway.kernel.clock import Clock
from meshway.kernel.errors import FieldError, PayloadTooLarge, wrong_field
from meshway.kernel.principal import Principal
from meshway.messaging.activity import Activity
from meshway.messaging.names import (
    ChannelKind,
    ChannelPattern,
    channel_of_subject,
    parse_channel_pattern,
    pattern_covers,
)
from meshway.messaging.request_wire import Answer, encode_answer
from meshway.messaging.requests import REPLY_REASON_CHARACTERS_MAX, HeldRequest, ReplyIn
from meshway.messaging.responder_pool import ResponderPool, WaitingRequest
from meshway.messaging.responders import ResponderPools
from meshway.messaging.settings import MessagingSettings
from meshway.messaging.subscription_places import SubscriptionPlaces

__all__ = ["AnswerRequests", "Responder", "check_request_kind"]

_COUNT_MAX = 1_000
# The hub that waits for an answer takes it within milliseconds; one that cannot within this counts as gone.
_TAKEN_WITHIN_MS = 5_000
# Clocks of two hubs may differ by this much; the hub that waits knows exactly, so an early "stale" is the worse error.
_CLOCKS_APART_MS = 5_000


class Responder:
    """One who answers. Between two calls of `take` it is not handed anything."""

    def __init__(self, pool: ResponderPool, *, kind: ChannelKind, tickets: ReplyTickets) -> None:
        self._pool = pool
        self._kind = kind
        self._tickets = tickets

    async def take(self, count_max: int) -> Sequence[HeldRequest]:
        """Wait for at least one request, up to `count_max`; several responders who wait share what arrives.

        What was taken is this responder's alone: unanswered, it times out at its caller's. A cancelled call leaves
        its requests to others. Raises: EngineUnavailable, Draining; join again.
        """
        return [self._held(request) for request in await self._pool.take(count_max)]

    def _held(self, request: WaitingRequest) -> HeldRequest:
        message = request.message
        ticket = ReplyTicket(message.reply_to or "", request.deadline_ms, channel_of_subject(message.subject))
        return HeldRequest(
            request_id=self._tickets.write(self._kind, ticket),
            deadline_ms=request.deadline_ms,
            timeout_ms=request.timeout_ms,
            document=message.data,
        )


class AnswerRequests:
    """Each request goes to one responder of the mesh, whichever patterns they serve."""

    def __init__(
        self,
        bus: Bus,
        pools: ResponderPools,
        tickets: ReplyTickets,
        activity: Activity,
        *,
        admission: Admission,
        places: SubscriptionPlaces,
        settings: MessagingSettings,
        clock: Clock,
    ) -> None:
        self._bus = bus
        self._pools = pools
        self._tickets = tickets
        self._activity = activity
        self._admission = admission
        self._places = places
        self._settings = settings
        self._clock = clock

    def join(self, principal: Principal, kind: ChannelKind, pattern: str) -> AbstractAsyncContextManager[Responder]:
        """Be there for requests; active when `__aenter__` returns.

        Raises: Forbidden, InvalidRequest naming `channel` or `kind`, at once; TooManyInFlight, Draining and
        EngineUnavailable on entering.
        """
        self._admission.admit_channel(principal)
        check_request_kind(kind)
        return self._serve(kind, parse_channel_pattern(pattern), linger_ms=0)

    async def poll(
        self, principal: Principal, kind: ChannelKind, channel: str, *, count: int, wait_ms: int
    ) -> Sequence[HeldRequest]:
        """Up to `count` (1 to 1,000) as soon as there is one, nothing after `wait_ms`; `channel` may be a pattern.

        Between two polls callers still find a responder, for `responder_grace_ms`; their requests wait meanwhile.
        Raises: Forbidden, InvalidRequest naming `channel`, `count` or `wait_ms`, TooManyInFlight, Draining,
        EngineUnavailable.
        """
        self._admission.admit_channel(principal)
        check_request_kind(kind)
        pattern = parse_channel_pattern(channel)
        check_between("count", count, 1, _COUNT_MAX)
        check_between("wait_ms", wait_ms, 0, self._settings.long_poll_max_ms)
        async with self._serve(kind, pattern, linger_ms=self._settings.responder_grace_ms) as responder:
            try:
                async with asyncio.timeout(wait_ms / 1000):
                    return await responder.take(count)
            except TimeoutError:
                return []

    async def reply(
        self, principal: Principal, kind: ChannelKind | None, channel: str | None, answer: ReplyIn
    ) -> Literal["done", "stale"]:
        """Bring an answer to its caller. `done`: the caller has it; `stale`: nobody waits for it (any more).

        `kind` and `channel` are what the answer was sent to, None where the way there names none.
        The first answer counts. One that is refused here leaves the request open for another answer.
        Raises: Forbidden, InvalidRequest naming the member, PayloadTooLarge, EngineUnavailable.
        """
        self._admission.admit_channel(principal)
        if kind is not None:
            check_request_kind(kind)
        ticket = self._tickets.read(kind, answer.request_id)
        if channel is not None and not pattern_covers(parse_channel_pattern(channel), ticket.channel):
            raise wrong_field("request_id", f"belongs to channel {ticket.channel!r}; answer there")
        self._check(answer)
        if self._clock.now_ms() > ticket.deadline_ms + _CLOCKS_APART_MS:
            return "stale"
        data = encode_answer(Answer(executed=answer.executed, data=answer.data, error=answer.error))
        message = BusMessage(subject=ticket.reply_to, data=data)
        # A request of its own, because only the one who waits can say that the answer reached it.
        outcome = await self._bus.request(message, timeout_ms=_TAKEN_WITHIN_MS)
        return "done" if isinstance(outcome, BusMessage) else "stale"

    def _check(self, answer: ReplyIn) -> None:
        if answer.executed:
            if answer.error is not None:
                raise wrong_field(
                    "error", "says why a request was not executed; send executed false with it, or leave it"
                )
        elif answer.data is not msgspec.UNSET:
            raise wrong_field("data", "goes with executed true; what was not executed has an error instead")
        elif not answer.error or len(answer.error) > REPLY_REASON_CHARACTERS_MAX:
            raise wrong_field(
                "error", f"must say in 1 to {REPLY_REASON_CHARACTERS_MAX:,} characters why it was not executed"
            )
        size = 0 if answer.data is msgspec.UNSET else len(answer.data)
        if size > self._settings.data_bytes_max:
            text = (
                f"The reply has {size:,} bytes of data, more than {self._settings.data_bytes_max:,} ([messaging] "
                "data_bytes_max). Store it with POST /v1/blobs and reply with its sha256; the request is still open."
            )
            raise PayloadTooLarge(text, fields=[FieldError("data", "is too large")])

    @asynccontextmanager
    async def _serve(
        self, kind: ChannelKind, pattern: ChannelPattern, *, linger_ms: int
    ) -> AsyncGenerator[Responder, None]:
        with self._places.take():
            async with self._pools.serve(kind, pattern, linger_ms=linger_ms) as pool:
                self._activity.joined(kind, pattern)
                try:
                    yield Responder(pool, kind=kind, tickets=self._tickets)
                finally:
                    self._activity.left(kind, pattern)


def check_request_kind(kind: ChannelKind) -> None:
    """Only commands and queries have replies. Raises: InvalidRequest naming `kind`."""
    if kind not in (ChannelKind.COMMANDS, ChannelKind.QUERIES):
        raise wrong_field("kind", "must be commands or queries")
