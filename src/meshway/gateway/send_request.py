"""Ask with a command or query and wait for the one reply."""

from functools import partial
from typing import assert_never

import msgspec

from meshway.engine.ports import Bus, BusMessage, NoResponder, ReplyTimedOut
from meshway.gateway.admission import Admission
from meshway.gateway.answer_requests import check_request_kind
from meshway.kernel.clock import Clock
from meshway.kernel.errors import (
    DeadlineExceeded,
    FieldError,
    InvalidRequest,
    MeshwayError,
    ResponderMissing,
    TooManyInFlight,
    UpstreamInvalid,
    wrong_field,
)
from meshway.kernel.principal import Principal
from meshway.messaging.activity import Activity
from meshway.messaging.channel import RequestSettings
from meshway.messaging.channels import ChannelBook
from meshway.messaging.document import DocumentWriter, Origin
from meshway.messaging.incoming import IncomingMessage
from meshway.messaging.names import ChannelKind, ChannelName, parse_channel_name, subject_of
from meshway.messaging.payloads import PayloadStore
from meshway.messaging.reply_cache import ReplyCache
from meshway.messaging.request_wire import Answer, Turned, decode_answer, wire_headers
from meshway.messaging.requests import RequestIn, RequestReply
from meshway.messaging.settings import MessagingSettings

__all__ = ["SendRequest"]

_CACHE_KEY_CHARACTERS_MAX = 1_024
_TIMEOUT_HEADER = "Meshway-Timeout-Ms"
# Pools that left with the request still in them; after so many the caller hears that nobody answers.
_ASKED_MAX = 4
# Where the members of a message stand while it is rendered; callers wrote them at the root of the body.
_FIELD = "messages.0"
_BUSY_RETRY_AFTER_MS = 1_000
_TAKEN = b"{}"


class SendRequest:
    """At most once: a request is never handed to a second responder, so one that timed out may have been acted on."""

    def __init__(
        self,
        bus: Bus,
        channels: ChannelBook,
        payloads: PayloadStore,
        activity: Activity,
        *,
        cache: ReplyCache,
        admission: Admission,
        settings: MessagingSettings,
        clock: Clock,
    ) -> None:
        self._bus = bus
        self._channels = channels
        self._payloads = payloads
        self._activity = activity
        self._cache = cache
        self._admission = admission
        self._settings = settings
        self._clock = clock

    async def execute(
        self,
        principal: Principal,
        kind: ChannelKind,
        channel: str,
        request: RequestIn,
        *,
        timeout_ms: int | None = None,
        traceparent: str | None = None,
    ) -> RequestReply:
        """The reply. `timeout_ms` is the header's; the body's own comes first, then the channel's, then the hub's.

        Raises: Forbidden, InvalidRequest naming the member, ResponderMissing at once (nobody has acted),
        DeadlineExceeded (somebody may have), TooManyInFlight (as many wait as may), StorageFull (large data),
        UpstreamInvalid, Draining, EngineUnavailable.
        """
        self._admission.admit_channel(principal)
        check_request_kind(kind)
        name = parse_channel_name(channel)
        wait_ms = self._wait_of(kind, name, body_ms=request.timeout_ms, header_ms=timeout_ms)
        ttl_ms = self._ttl_of(kind, request)
        origin = Origin(principal.id, self._clock.now_ms(), traceparent)
        document = await self._render(name, request, origin, keep_ms=wait_ms)
        if ttl_ms is None or request.cache_key is None:
            return await self._ask(kind, name, document, wait_ms)
        reply = await self._cache.answer(
            name,
            request.cache_key,
            partial(self._ask, kind, name, document, wait_ms, cache="miss"),
            ttl_ms=ttl_ms,
            timeout_ms=wait_ms,
        )
        if reply.cache == "hit":
            self._activity.asked(kind, name, "cached")
        return reply

    async def _ask(
        self, kind: ChannelKind, name: ChannelName, document: bytes, wait_ms: int, *, cache: str = "off"
    ) -> RequestReply:
        subject = subject_of(kind, name)
        ends_ms = self._clock.monotonic_ms() + wait_ms
        for _ in range(_ASKED_MAX):
            left_ms = max(1, round(ends_ms - self._clock.monotonic_ms()))
            asked = BusMessage(subject=subject, data=document, headers=wire_headers(left_ms))
            outcome = await self._bus.request(asked, timeout_ms=left_ms)
            if not isinstance(outcome, BusMessage):
                break
            answer = await self._received(outcome)
            if answer.turned is None:
                self._activity.asked(kind, name, "executed" if answer.executed else "refused")
                return RequestReply(executed=answer.executed, data=answer.data, error=answer.error, cache=cache)
            if answer.turned is Turned.BUSY:
                raise self._failure(kind, name, Turned.BUSY, wait_ms)
        else:
            outcome = NoResponder()
        raise self._failure(kind, name, outcome, wait_ms)

    async def _received(self, message: BusMessage) -> Answer:
        """Read an answer, and tell the hub that brought it that it arrived in time."""
        if message.reply_to is not None:
            await self._bus.publish([BusMessage(subject=message.reply_to, data=_TAKEN)])
        try:
            return decode_answer(message.data)
        except msgspec.DecodeError as error:
            text = f"A hub sent an answer that this one cannot read ({error}); do all hubs run the same version?"
            raise UpstreamInvalid(text, may_have_acted=True) from None

    def _failure(
        self, kind: ChannelKind, name: ChannelName, outcome: NoResponder | ReplyTimedOut | Turned, wait_ms: int
    ) -> MeshwayError:
        match outcome:
            case Turned():
                self._activity.asked(kind, name, "busy")
                return TooManyInFlight(
                    f"The responders of {kind.value} on {name!r} have as many requests waiting as may "
                    "([messaging] requests_waiting_max); try again, or start more of them.",
                    retry_after_ms=_BUSY_RETRY_AFTER_MS,
                )
            case NoResponder():
                self._activity.asked(kind, name, "no_responder")
                return ResponderMissing(
                    f"Nobody answers {kind.value} on {name!r} now. Start a responder; work that can wait belongs "
                    "into a queue."
                )
            case ReplyTimedOut():
                self._activity.asked(kind, name, "timed_out")
                return DeadlineExceeded(
                    f"No reply to {kind.value} on {name!r} within {wait_ms} ms; a responder may have acted.",
                    may_have_acted=True,
                )
        assert_never(outcome)

    async def _render(self, name: ChannelName, request: RequestIn, origin: Origin, *, keep_ms: int) -> bytes:
        """The request as a message of its channel."""
        if request.data is msgspec.UNSET and request.data_base64 is None and request.data_ref is None:
            raise wrong_field("data", "is missing; send null for a request without data")
        message = IncomingMessage(
            data=request.data,
            data_base64=request.data_base64,
            data_ref=request.data_ref,
            content_type=request.content_type,
            attributes=request.attributes,
        )
        writer = DocumentWriter(name, origin)
        try:
            drafts = self._payloads.draft(writer, [message])
            if drafts.large:
                await self._payloads.place(drafts, writer, [message], keep_ms=keep_ms)
        except InvalidRequest as error:
            raise _at_root(error) from None
        return drafts.accepted[0].document

    def _wait_of(self, kind: ChannelKind, name: ChannelName, *, body_ms: int | None, header_ms: int | None) -> int:
        longest = self._settings.request_timeout_max_ms
        for field, given in (("timeout_ms", body_ms), (_TIMEOUT_HEADER, header_ms)):
            if given is not None:
                if not 1 <= given <= longest:
                    raise wrong_field(field, f"choose 1 to {longest:,} ms; what takes longer is work for a queue")
                return given
        settings = self._channels.settings_of(kind, name)
        usual = settings.timeout_ms if isinstance(settings, RequestSettings) else None
        return min(usual or self._settings.request_timeout_ms, longest)

    def _ttl_of(self, kind: ChannelKind, request: RequestIn) -> int | None:
        """Time to live in the cache; None where nothing is to be cached."""
        key, ttl_ms = request.cache_key, request.cache_ttl_ms
        if key is None and ttl_ms is None:
            return None
        if kind is not ChannelKind.QUERIES:
            field = "cache_ttl_ms" if key is None else "cache_key"
            raise wrong_field(field, "is for queries only: a command is executed each time")
        if key is None:
            raise wrong_field("cache_key", "is missing; cache_ttl_ms goes with the key to keep the reply under")
        if ttl_ms is None:
            raise wrong_field("cache_ttl_ms", "is missing; say how many ms a reply kept under cache_key may be served")
        if not 0 < len(key) <= _CACHE_KEY_CHARACTERS_MAX:
            raise wrong_field("cache_key", f"must have 1 to {_CACHE_KEY_CHARACTERS_MAX:,} characters")
        if not 1 <= ttl_ms <= self._settings.cache_ttl_max_ms:
            raise wrong_field("cache_ttl_ms", f"choose 1 to {self._settings.cache_ttl_max_ms:,} ms")
        return ttl_ms


def _at_root(error: InvalidRequest) -> InvalidRequest:
    """The same complaint about the members of the body itself."""
    fields = [FieldError(_rooted(each.field), each.message) for each in error.fields]
    return InvalidRequest(_rooted(error.detail), fields=fields)


def _rooted(text: str) -> str:
    # What is wrong with the message as a whole is that it has not exactly one kind of data.
    return text.removeprefix(f"{_FIELD}.") if text.startswith(f"{_FIELD}.") else text.replace(_FIELD, "data", 1)
