"""Posts and requests over the link: what the frames of `/v1/ws` say, in the SDK's values."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from meshway.client.channel_messages import Receipt, RequestReply
from meshway.client.errors import UnexpectedAnswer
from meshway.client.link import LinkSession
from meshway.client.outgoing import data_json
from meshway.client.sending import SendKind
from meshway.protocols.link import frames

__all__ = ["LinkCalls"]

# The hub bounds every request itself, by its own setting where the caller names no bound; this is for a hub that hangs.
_REQUEST_TIMEOUT_S = 3_600.0
# On top of the caller's bound, so that the hub's answer "too late" arrives before we give up.
_MARGIN_S = 5.0


class LinkCalls:
    """Safe for any number of tasks."""

    def __init__(self, session: LinkSession, *, reach_timeout_s: float) -> None:
        """A hub that is not there is known of after `reach_timeout_s`, long before a reply would be given up."""
        self._session = session
        self._reach_timeout_s = reach_timeout_s

    async def carry(
        self, kind: SendKind, channel: str, messages: Sequence[bytes], *, deadline: float
    ) -> Sequence[Receipt]:
        """As Carrier."""
        body = msgspec.Raw(b"[" + b",".join(messages) + b"]")
        frame = frames.Publish(ref="", kind=kind, channel=channel, messages=body)
        answer = await self._session.call(frame, deadline=deadline, is_repeatable=True)
        if not isinstance(answer, frames.Accepted):
            raise UnexpectedAnswer("The hub did not answer messages with receipts.", url="")
        return [
            Receipt(
                id=each.id,
                duplicate=each.duplicate is True,
                sequence=None if each.sequence is msgspec.UNSET else each.sequence,
            )
            for each in answer.receipts
        ]

    async def request(
        self,
        kind: Literal["commands", "queries"],
        channel: str,
        data: object,
        *,
        timeout_ms: int | None = None,
        attributes: Mapping[str, str] | None = None,
        cache_key: str | None = None,
        cache_ttl_ms: int | None = None,
    ) -> RequestReply:
        """A query may be asked again over another connection; a command is sent once. Raises: as LinkSession.call."""
        frame = frames.Request(
            ref="",
            kind=kind,
            channel=channel,
            data=msgspec.Raw(data_json(data)),
            attributes=None if attributes is None else dict(attributes),
            timeout_ms=timeout_ms,
            cache_key=cache_key,
            cache_ttl_ms=cache_ttl_ms,
        )
        wait_s = _REQUEST_TIMEOUT_S if timeout_ms is None else timeout_ms / 1000
        deadline = asyncio.get_running_loop().time() + wait_s + _MARGIN_S
        answer = await self._session.call(
            frame, deadline=deadline, is_repeatable=kind == "queries", reach_timeout_s=self._reach_timeout_s
        )
        if not isinstance(answer, frames.Response):
            raise UnexpectedAnswer("The hub did not answer a request with a response.", url="")
        return RequestReply(executed=answer.executed, error=answer.error, cache=answer.cache, data_json=answer.data)
