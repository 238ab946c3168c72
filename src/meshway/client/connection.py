"""HTTP to one hub: the only module of the SDK that knows httpx; its exceptions end here."""

import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from meshway.client.delegation import delegation_headers
from meshway.client.errors import ConnectionLost, HubError, HubUnreachable, UnexpectedAnswer, WrongField
from meshway.protocols.sse import SseEvent, SseOverflow, SseParser

__all__ = ["DEFAULT_URL", "HubConnection", "problem_error", "retry_after_ms"]

DEFAULT_URL = "http://127.0.0.1:7070"
# A hub on the same machine or network answers a connect in milliseconds; beyond this it is not there.
_CONNECT_TIMEOUT_S = 5.0
# Of control-plane calls: registering by URL makes the hub fetch a card, which it bounds itself well below this.
_CONTROL_TIMEOUT_S = 30.0
# The hub sends a comment after every 4 s of silence; several missed ones mean that the path is dead.
_STREAM_SILENCE_S = 20.0
# Above what a page of 500 large agents takes, and a bound against a server that never stops.
_BODY_BYTES_MAX = 64 * 1024 * 1024
# The largest blob a hub keeps: what could be sent can be fetched.
_DOWNLOAD_BYTES_MAX = 1024 * 1024 * 1024
# One event carries at most one artifact chunk or one agent with its card; the hub bounds bodies below this.
_EVENT_BYTES_MAX = 64 * 1024 * 1024
# What a hub says when it takes a call no more is shorter.
_REFUSAL_BYTES_MAX = 16 * 1024

Decoded = TypeVar("Decoded")


class _WireFieldError(msgspec.Struct):
    field: str = ""
    message: str = ""


class _WireReceipt(msgspec.Struct):
    id: str = ""


class _WireProblem(msgspec.Struct):
    """RFC 9457, as far as the SDK reads it."""

    title: str = ""
    status: int = 0
    detail: str = ""
    code: str = ""
    errors: list[_WireFieldError] = []
    retry_after_ms: int | None = None
    receipts: list[_WireReceipt | None] = []


class _WireReason(msgspec.Struct, frozen=True):
    """google.rpc.ErrorInfo."""

    reason: str = ""
    domain: str = ""
    metadata: Mapping[str, str] = {}

    @property
    def is_of_draining_hub(self) -> bool:
        """A call that was cut says `DRAINING` too, but not that it had not begun."""
        return (self.reason, self.domain, self.metadata.get("begun")) == ("DRAINING", "meshway", "false")


class _WireRpcError(msgspec.Struct):
    data: list[_WireReason] = []


class _WireRefusal(msgspec.Struct):
    """An error of JSON-RPC as A2A has it."""

    error: _WireRpcError


class HubConnection:
    """A pool of connections to one hub, or to one mesh of hubs. Safe for many tasks of one event loop.

    `url` may be a list of hubs of the same mesh, separated by commas: where one cannot be reached, the next is tried.
    """

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        self._urls = _checked_urls(url or os.environ.get("MESHWAY_URL") or DEFAULT_URL)
        self._present = 0
        key = _checked_key(api_key or os.environ.get("MESHWAY_API_KEY") or "")
        # What shows who is calling, on every request and on the WebSocket's handshake.
        self.credentials = {"Authorization": f"Bearer {key}"} if key else {}
        self._ssl = _ssl_context(self._urls)
        self._http = httpx.AsyncClient(
            headers=self.credentials,
            timeout=httpx.Timeout(_CONTROL_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            # Every call may hold a connection for as long as an agent thinks.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            # A proxy from the environment cannot reach the hub on this machine.
            trust_env=not all(map(_is_loopback, self._urls)),
            verify=self._ssl,
        )

    @property
    def url(self) -> str:
        """Of the hub that is used now, without a slash at the end."""
        return self._urls[self._present]

    def advance(self, url: str) -> None:
        """The hub at `url` does not answer: the next one, if there is another and nobody has moved on already."""
        if url == self.url:
            self._present = (self._present + 1) % len(self._urls)

    @property
    def is_loopback(self) -> bool:
        """Whether the present hub is on this machine, where no proxy leads to."""
        return _is_loopback(self.url)

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """For other connections to the same hub; None where it speaks plain http."""
        return self._ssl if self.url.startswith("https://") else None

    async def aclose(self) -> None:
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        answer_type: type[Decoded],
        *,
        params: Mapping[str, str] | None = None,
        body: object = msgspec.UNSET,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = _CONTROL_TIMEOUT_S,
    ) -> Decoded:
        """One exchange: `body` as JSON, or `content` as it is. Raises: HubUnreachable, ConnectionLost, HubError,
        UnexpectedAnswer."""
        async with self.exchange(
            method, path, params=params, body=body, content=content, headers=headers, silence_s=timeout_s
        ) as response:
            answer = await self.read(response)
            if not response.is_success:
                raise self.refusal(response, answer)
            return self.decode(answer or b"null", answer_type, response)

    async def download(self, path: str) -> bytes:
        """A body as it is. Raises: as `request`."""
        async with self.exchange("GET", path, headers={"Accept": "*/*"}) as response:
            answer = await self.read(response, bytes_max=_DOWNLOAD_BYTES_MAX)
            if not response.is_success:
                raise self.refusal(response, answer)
            return answer

    async def events(self, response: httpx.Response) -> AsyncIterator[SseEvent]:
        """Server-sent events as they arrive. Raises: ConnectionLost when the stream breaks or falls silent."""
        parser = SseParser(event_bytes_max=_EVENT_BYTES_MAX)
        async for chunk in self._chunks(response):
            try:
                arrived = parser.feed(chunk)
            except SseOverflow as error:
                raise self.unexpected(response, b"", str(error)) from error
            for event in arrived:
                yield event

    async def read(self, response: httpx.Response, *, bytes_max: int = _BODY_BYTES_MAX) -> bytes:
        """The whole body, bounded. Raises: ConnectionLost, UnexpectedAnswer."""
        parts: list[bytes] = []
        size = 0
        async for chunk in self._chunks(response):
            size += len(chunk)
            if size > bytes_max:
                raise self.unexpected(response, b"".join(parts), f"more than {bytes_max} bytes")
            parts.append(chunk)
        return b"".join(parts)

    def decode(self, content: bytes, answer_type: type[Decoded], response: httpx.Response) -> Decoded:
        """Raises: UnexpectedAnswer saying what came instead."""
        try:
            return msgspec.json.decode(content, type=answer_type)
        except msgspec.MsgspecError as error:
            raise self.unexpected(response, content, str(error)) from error

    def refusal(self, response: httpx.Response, content: bytes) -> HubError | UnexpectedAnswer:
        """The error a response that is no success stands for."""
        error = problem_error(content, status=response.status_code, retry_after_ms=retry_after_ms(response))
        return error or self.unexpected(response, content, f"HTTP {response.status_code} without a problem document")

    def unexpected(self, response: httpx.Response, content: bytes, reason: str) -> UnexpectedAnswer:
        start = content[:80].decode("utf-8", "replace")
        return UnexpectedAnswer(
            f"{response.request.method} {response.request.url} was not answered as a Meshway hub would ({reason}; "
            f"it begins {start!r}). Is {self.url} the hub's address? Set MESHWAY_URL or pass url=.",
            url=self.url,
        )

    @asynccontextmanager
    async def exchange(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = msgspec.UNSET,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float = _STREAM_SILENCE_S,
    ) -> AsyncIterator[httpx.Response]:
        """A response of any status whose body is still to come; read it with `events` or `read`.

        `silence_s` bounds each wait for bytes. Raises: HubUnreachable, ConnectionLost.
        """
        sent = {"Accept": "application/json", **delegation_headers(), **(headers or {})}
        if content is not None:
            sent["Content-Type"] = "application/octet-stream"
        if body is not msgspec.UNSET:
            content = msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        timeout = httpx.Timeout(_CONTROL_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S, read=silence_s)

        def request_to(url: str) -> httpx.Request:
            return self._http.build_request(
                method, url + path, params=params, content=content, headers=sent, timeout=timeout
            )

        response = await self._send(request_to)
        try:
            yield response
        finally:
            await response.aclose()

    async def _send(self, request_to: Callable[[str], httpx.Request]) -> httpx.Response:
        """From the first hub that takes the request; one that has taken it is not asked again elsewhere.

        A hub that shuts down refuses calls. Where it is the only one known, others may stand behind its address.
        """
        failure: httpx.TransportError | None = None
        refused: httpx.Response | None = None
        tries_left = len(self._urls)
        while tries_left:
            tries_left -= 1
            url = self.url
            try:
                response = await self._http.send(request_to(url), stream=True)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                failure = error
                self.advance(url)
                continue
            except httpx.TransportError as error:
                raise self._lost(error) from error
            if not await self._is_draining(response):
                return response
            if refused is None and len(self._urls) == 1:
                tries_left += 1
            refused = response
            self.advance(url)
        if refused is not None:
            return refused
        raise HubUnreachable(
            f"No hub answers at {', '.join(self._urls)} ({_reason(failure)}). "
            "Start one with `meshway up`, or set MESHWAY_URL.",
            url=self.url,
        ) from failure

    async def _is_draining(self, response: httpx.Response) -> bool:
        """Whether the hub refused a call because it shuts down; the answer can still be read.

        Raises: ConnectionLost.
        """
        size = response.headers.get("content-length", "")
        if "meshway-draining" not in response.headers or not size.isdigit() or int(size) > _REFUSAL_BYTES_MAX:
            return False
        try:
            content = await response.aread()
        except httpx.TransportError as error:
            raise self._lost(error) from error
        try:
            refusal = msgspec.json.decode(content, type=_WireRefusal)
        except msgspec.MsgspecError:
            return False
        return any(each.is_of_draining_hub for each in refusal.error.data)

    async def _chunks(self, response: httpx.Response) -> AsyncIterator[bytes]:
        try:
            async for chunk in response.aiter_bytes():
                yield chunk
        except httpx.TransportError as error:
            raise self._lost(error) from error

    def _lost(self, error: httpx.TransportError) -> ConnectionLost:
        return ConnectionLost(
            f"The connection to the hub at {self.url} broke before the answer was complete ({_reason(error)}). "
            "The request may have been carried out.",
            url=self.url,
        )


def problem_error(content: bytes, *, status: int = 0, retry_after_ms: int | None = None) -> HubError | None:
    """The error a problem document (RFC 9457) stands for; None where the bytes are none. `status` 0: as it says."""
    try:
        problem = msgspec.json.decode(content, type=_WireProblem)
    except msgspec.MsgspecError:
        return None
    if not problem.code:
        return None
    return HubError(
        problem.detail or problem.title,
        code=problem.code,
        status=status or problem.status,
        fields=[WrongField(each.field, each.message) for each in problem.errors],
        retry_after_ms=problem.retry_after_ms if retry_after_ms is None else retry_after_ms,
        accepted=[receipt.id for receipt in problem.receipts if receipt is not None],
    )


def retry_after_ms(response: httpx.Response) -> int | None:
    """The Retry-After header in milliseconds; None when absent or a date."""
    text = response.headers.get("retry-after", "")
    return int(text) * 1000 if text.isascii() and text.isdigit() else None


def _reason(error: Exception | None) -> str:
    return str(error) or type(error).__name__


def _checked_urls(text: str) -> tuple[str, ...]:
    return tuple(_checked_url(each.strip()) for each in text.strip(" ,").split(","))


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{url!r} is no address of a hub; write it as {DEFAULT_URL}")
    return url.rstrip("/")


def _checked_key(key: str) -> str:
    # Files and variables often end in a line break. The text itself is never shown.
    plain = key.strip()
    if not (plain.isascii() and (plain.isprintable() or not plain)):
        raise ValueError("the API key (MESHWAY_API_KEY) holds a line break or another character that no key has")
    return plain


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")


def _ssl_context(urls: Sequence[str]) -> ssl.SSLContext:
    # Loading the certificate authorities costs 20 ms, which a plain http:// hub need not pay: an empty context trusts
    # nobody, so nothing becomes less safe.
    is_encrypted = any(url.startswith("https://") for url in urls)
    return ssl.create_default_context() if is_encrypted else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
