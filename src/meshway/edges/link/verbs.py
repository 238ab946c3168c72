"""What a client asks for and gets an answer to: from its frame to the verb, and back to the frame of the answer."""

import msgspec

from meshway.edges.link.codec import decode_messages
from meshway.gateway.channel_use_cases import ChannelUseCases
from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.kernel.principal import Principal
from meshway.messaging.names import ChannelKind
from meshway.messaging.requests import ReplyIn, RequestIn
from meshway.protocols.link import frames

__all__ = ["LinkVerbs"]


class LinkVerbs:
    """Raises what the verbs raise."""

    def __init__(self, channels: ChannelUseCases) -> None:
        self._channels = channels

    async def publish(self, principal: Principal, frame: frames.Publish) -> frames.Accepted:
        """Waits for nothing before its verb does: the order of publishes rests on it."""
        messages = decode_messages(frame.messages)
        match frame.kind:
            case "events":
                receipts = await self._channels.publish_events.execute(principal, frame.channel, messages)
            case "streams":
                receipts = await self._channels.append_to_stream.execute(principal, frame.channel, messages)
            case "queues":
                receipts = await self._channels.enqueue_messages.execute(principal, frame.channel, messages)
            case "commands" | "queries":
                message = "must be events, streams or queues; commands and queries are sent as request frames"
                raise InvalidRequest(f"kind: {message}", fields=[FieldError("kind", message)])
        return frames.Accepted(ref=frame.ref, receipts=list(receipts))

    async def settle(self, principal: Principal, frame: frames.Settle) -> frames.Settled:
        outcomes = await self._channels.settle_deliveries.execute(principal, frame.queue, frame.settlements)
        return frames.Settled(ref=frame.ref, outcomes=list(outcomes))

    async def ack(self, principal: Principal, frame: frames.Ack) -> frames.Acked:
        position = await self._channels.manage_readers.ack(principal, frame.channel, frame.reader, frame.sequence)
        return frames.Acked(ref=frame.ref, sequence=position)

    async def reply(self, principal: Principal, frame: frames.Reply) -> frames.Replied:
        answer = ReplyIn(request_id=frame.request_id, executed=frame.executed, data=frame.data, error=frame.error)
        outcome = await self._channels.answer_requests.reply(principal, None, None, answer)
        return frames.Replied(ref=frame.ref, outcome=outcome)

    async def request(self, principal: Principal, frame: frames.Request) -> frames.Response:
        request = RequestIn(
            data=frame.data,
            data_base64=frame.data_base64,
            data_ref=frame.data_ref,
            content_type=frame.content_type,
            attributes=frame.attributes,
            timeout_ms=frame.timeout_ms,
            cache_key=frame.cache_key,
            cache_ttl_ms=frame.cache_ttl_ms,
        )
        reply = await self._channels.send_request.execute(principal, ChannelKind(frame.kind), frame.channel, request)
        return frames.Response(
            ref=frame.ref,
            executed=reply.executed,
            data=msgspec.UNSET if isinstance(reply.data, msgspec.UnsetType) else reply.data,
            error=reply.error,
            cache=reply.cache,
        )
