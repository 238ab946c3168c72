"""The head of a data call as the edge understands it: made once per connection while the client repeats itself."""

from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from meshway.edges.channels.paths import DataCall
from meshway.edges.channels.ports import ChannelEdgeServices
from meshway.edges.http.decoding import check_json_type, decode_body, decode_query
from meshway.edges.http.exchange import Exchange, RequestHead
from meshway.edges.http.headers import timeout_ms_of
from meshway.gateway.ports import Credentials
from meshway.kernel.errors import ContentTypeUnsupported

__all__ = ["Call", "KeyCheck"]

Model = TypeVar("Model", bound=msgspec.Struct)

# What a feed may still show after its key was revoked; the same as on a WebSocket.
_KEY_CHECK_INTERVAL_MS = 5_000


class Call:
    """Where a request goes, who shows what, and its query."""

    __slots__ = ("_is_json", "_query", "credentials", "head", "kind", "name", "operation", "timeout_ms", "traceparent")

    def __init__(self, place: DataCall, head: RequestHead, services: ChannelEdgeServices) -> None:
        """Raises: Unauthenticated, InvalidRequest for a header that cannot be read, ContentTypeUnsupported."""
        self.operation, self.kind, self.name = place
        self.head = head
        headers = head.headers
        coding = headers.get(b"content-encoding", b"identity").lower()
        if coding != b"identity":
            shown = coding.decode("latin-1")[:32]
            raise ContentTypeUnsupported(f"Bodies are read as they are, not in the coding {shown!r}; send it unpacked.")
        self.credentials: Credentials = services.credentials_of(headers)
        self.timeout_ms = timeout_ms_of(headers)
        # Only who traces pays for it: a message without a trace is a few bytes shorter in every store.
        self.traceparent: str | None = None
        if b"traceparent" in headers:
            self.traceparent = dict(services.trace_of(headers))[b"traceparent"].decode()
        self._is_json = False
        self._query: object = None

    def query(self, model: type[Model]) -> Model:
        """Raises: InvalidRequest naming every wrong parameter."""
        known = self._query
        if not isinstance(known, model):
            pairs = parse_qsl(self.head.query.decode("latin-1"), keep_blank_values=True)
            known = self._query = decode_query(pairs, model)
        return known

    def body(self, exchange: Exchange, decoder: "msgspec.json.Decoder[Model]", model: type[Model]) -> Model:
        """The body as `model`, which `decoder` decodes.

        Raises: ContentTypeUnsupported, MalformedBody, InvalidRequest with every wrong field.
        """
        if not self._is_json:
            check_json_type(self.head.headers.get(b"content-type", b"").decode("latin-1"))
            self._is_json = True
        body = exchange.body
        # The decoder takes the strings inside raw members on trust, and those of plain ASCII deserve it.
        if body.isascii():
            try:
                return decoder.decode(body)
            except (msgspec.MsgspecError, RecursionError):
                pass
        return decode_body(body, model)


class KeyCheck:
    """Whether a key that opened a feed still holds; asked with each batch, looked up now and then."""

    __slots__ = ("_credentials", "_looked_ms", "_services")

    def __init__(self, call: Call, services: ChannelEdgeServices) -> None:
        self._credentials = call.credentials
        self._services = services
        self._looked_ms = services.clock.monotonic_ms()

    def __call__(self) -> None:
        """Raises: Unauthenticated."""
        now_ms = self._services.clock.monotonic_ms()
        if now_ms - self._looked_ms >= _KEY_CHECK_INTERVAL_MS:
            self._looked_ms = now_ms
            self._services.authenticate(self._credentials)
