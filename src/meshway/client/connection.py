"""HTTP to one hub: the only module of the SDK that knows httpx; its exceptions end here."""

import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

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


class HubConnection:
    """A pool of connections to one hub. Safe for many tasks of one event loop."""

    def __init__(self, url: str | None = None, api_key: str | None = None) -> None:
        self.url = _checked_url(url or os.environ.get("MESHWAY_URL") or DEFAULT_URL)
        key = _checked_key(api_key or os.environ.get("MESHWAY_API_KEY") or "")
        # What shows who is calling, on every request and on the WebSocket's handshake.
        self.credentials = {"Authorization": f"Bearer {key}"} if key else {}
        # A proxy from the environment cannot reach the hub on this machine.
        self.is_loopback = _is_loopback(self.url)
        self._ssl = _ssl_context(self.url)
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers=self.credentials,
            timeout=httpx.Timeout(_CONTROL_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            # Every call may hold a connection for as long as an agent thinks.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),
            trust_env=not self.is_loopback,
            verify=self._ssl,
        )

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
        sent = {"Accept": "application/json", **(headers or {})}
        if content is not None:
            sent["Content-Type"] = "application/octet-stream"
        if body is not msgspec.UNSET:
            content = msgspec.json.encode(body)
            sent["Content-Type"] = "application/json"
        request = self._http.build_request(
            method,
            path,
            params=params,
            content=content,
            headers=sent,
            timeout=httpx.Timeout(_CONTROL_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S, read=silence_s),
        )
        try:
            response = await self._http.send(request, stream=True)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise HubUnreachable(
                f"No hub answers at {self.url} ({_reason(error)}). Start one with `meshway up`, or set MESHWAY_URL.",
                url=self.url,
            ) from error
        except httpx.TransportError as error:
            raise self._lost(error) from error
        try:
            yield response
        finally:
            await response.aclose()

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


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__


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


def _ssl_context(url: str) -> ssl.SSLContext:
    # Loading the certificate authorities costs 20 ms, which a plain http:// hub need not pay: an empty context trusts
    # nobody, so nothing becomes less safe.
    return ssl.create_default_context() if url.startswith("https://") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
