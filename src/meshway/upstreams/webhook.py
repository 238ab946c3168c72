"""Push notifications on their way out: one POST over our own HTTP client, whose dialler pins the checked address."""

import asyncio
import email.utils

from meshway.gateway.push_ports import Notification, NotificationAnswer
from meshway.kernel.clock import Clock
from meshway.upstreams.http1 import Http1Client, Http1Response, Origin, encode_request

__all__ = ["WebhookSender"]

# More digits are no time anybody waits; the number would not be one of seconds.
_SECONDS_DIGITS_MAX = 9


class WebhookSender:
    """Implements the port NotificationSender. Follows no redirect: a receiver that moved is configured anew.

    The client asks the egress rules for the addresses of a host, also of one that is an address, each time it connects,
    and connects to those it was given: a name that changes after the check leads nowhere else.
    """

    def __init__(self, client: Http1Client, *, timeout_ms: int, clock: Clock) -> None:
        self._client = client
        self._timeout_ms = timeout_ms
        self._clock = clock

    async def send(self, notification: Notification) -> NotificationAnswer:
        """See NotificationSender. The answer's body is not read: nothing in it matters."""
        origin, target = Origin.parse(notification.url)
        wire = encode_request(
            b"POST", target.encode("ascii"), origin.host_header, notification.headers, notification.body
        )
        deadline = asyncio.get_running_loop().time() + self._timeout_ms / 1000
        response = await self._client.exchange(origin, wire, deadline=deadline)
        try:
            return NotificationAnswer(response.status, self._retry_after_ms(response))
        finally:
            # An answer that is not here as a whole by now costs its connection, not our patience.
            response.close()

    def _retry_after_ms(self, response: Http1Response) -> int | None:
        """Seconds, or a date (RFC 9110, 10.2.3); None for what is neither."""
        value = response.header(b"retry-after")
        if value is None:
            return None
        text = value.decode("latin-1").strip()
        if text.isascii() and text.isdigit():
            return int(text) * 1000 if len(text) <= _SECONDS_DIGITS_MAX else None
        try:
            at = email.utils.parsedate_to_datetime(text)
            return max(0, round(at.timestamp() * 1000) - self._clock.now_ms())
        except (ValueError, OverflowError):
            return None
