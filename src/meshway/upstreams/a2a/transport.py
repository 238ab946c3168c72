"""The relay's outbound half: choose how to speak to an instance, send, and give the answer in the caller's dialect.

Where caller and instance speak the same dialect, bodies and events pass through as the bytes they are.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import msgspec

from meshway.gateway.agent_credentials import AgentCredentials
from meshway.gateway.ports import AgentCall, AgentReply, AgentStream, StreamEvent
from meshway.kernel.deadline import Deadline
from meshway.kernel.errors import DeadlineExceeded, OperationUnsupported
from meshway.protocols.a2a.core_stream import CoreTranslator, core_of_answer
from meshway.protocols.a2a.dialect import Binding, Dialect, Version
from meshway.protocols.a2a.inbound import StreamTranslator, decode_reply
from meshway.protocols.a2a.outbound import WireRequest, encode_request
from meshway.protocols.a2a.requests import A2ARequest
from meshway.registry.values import Agent, AgentInterface, Instance
from meshway.upstreams.a2a.credentials import credential_header
from meshway.upstreams.a2a.settings import A2AUpstreamSettings
from meshway.upstreams.http1 import Http1Client, Http1Response, Origin

__all__ = ["A2ATransport"]

_EVENT_STREAM = b"text/event-stream"
_OTHER_VERSION = {Version.V1_0: Version.V0_3, Version.V0_3: Version.V1_0}
_OTHER_BINDING = {Binding.JSONRPC: Binding.HTTP_JSON, Binding.HTTP_JSON: Binding.JSONRPC}
# JSON-RPC, and the REST sends: always POST, never with an id in the path.
_FIXED_PATHS = frozenset({"", "/message:send", "/message:stream", "/v1/message:send", "/v1/message:stream"})
# Prepared heads kept; one per interface and kind of request in use.
_HEADS_MAX = 4_096

HeaderTuple = tuple[tuple[bytes, bytes], ...]


class A2ATransport:
    """AgentTransport over our own HTTP/1.1 client."""

    def __init__(self, client: Http1Client, *, credentials: AgentCredentials, settings: A2AUpstreamSettings) -> None:
        self._client = client
        self._credentials = credentials
        self._settings = settings
        self._heads: dict[tuple[str, str, int], _Head] = {}
        # The instance last seen under an id, how it was asked, and the interface chosen for that.
        self._choices: dict[tuple[str, str], tuple[Instance, Dialect, AgentInterface]] = {}

    async def call(self, agent: Agent, instance: Instance, call: AgentCall) -> AgentReply | AgentStream:
        """See AgentTransport."""
        request = call.payload
        assert isinstance(request, A2ARequest)
        interface = self._choose(agent, instance, request.dialect)
        filled = call.context_id if request.context_id is None else None
        wire = encode_request(request, interface, context_id=filled)
        head = self._head(agent, interface, wire)
        response = await self._client.exchange(
            head.origin, _assemble(head.lines, wire, call), deadline=self._deadline_s(call.deadline), method=wire.method
        )
        content_type = response.header(b"content-type") or b""
        if response.status == 200 and content_type.startswith(_EVENT_STREAM):
            if call.wants_core:
                # The caller's time bounds its wait; what is recorded is read to its end.
                return AgentStream(_core_events(response, CoreTranslator(request, interface)))
            return AgentStream(_events(response, StreamTranslator(request, interface), call.deadline))
        body = await response.read()
        reply = decode_reply(request, interface, response.status, content_type, body)
        answer = AgentReply(reply.status, reply.content_type, reply.body, reply.task)
        if call.wants_core:
            answer.core = core_of_answer(request, interface, response.status, body)
        return answer

    def _choose(self, agent: Agent, instance: Instance, dialect: Dialect) -> AgentInterface:
        key = (agent.id, instance.id)
        known = self._choices.get(key)
        if known is not None and known[0] is instance and known[1] is dialect:
            return known[2]
        interface = _choose_interface(instance, dialect)
        if len(self._choices) >= _HEADS_MAX:
            self._choices.clear()
        self._choices[key] = (instance, dialect, interface)
        return interface

    def _deadline_s(self, deadline: Deadline | None) -> float | None:
        if deadline is None:
            return asyncio.get_running_loop().time() + self._settings.stream_first_byte_ms / 1000
        # The loop's clock is the monotonic clock that made the deadline.
        return deadline.at_ms / 1000

    def _head(self, agent: Agent, interface: AgentInterface, wire: WireRequest) -> "_Head":
        """Request line and the headers that do not change from call to call; made once where no task id is in them."""
        # Looked up by identity: the usual header tuples are constants, and a kept one cannot be another's namesake.
        key = (interface.url, wire.path, id(wire.headers))
        known = self._heads.get(key)
        if known is not None and known.headers is wire.headers and known.credential == agent.credential:
            return known
        origin, base = Origin.parse(interface.url)
        made = _Head(origin, self._make_head(origin, base, agent, wire), wire.headers, agent.credential)
        if wire.path in _FIXED_PATHS and not wire.query:
            if len(self._heads) >= _HEADS_MAX:
                self._heads.clear()
            self._heads[key] = made
        return made

    def _make_head(self, origin: Origin, base: str, agent: Agent, wire: WireRequest) -> bytes:
        target = base.rstrip("/") + wire.path if wire.path else base
        if wire.query:
            target += ("&" if "?" in target else "?") + wire.query
        lines = [b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (wire.method, target.encode("ascii"), origin.host_header)]
        lines.extend(b"%b: %b\r\n" % pair for pair in wire.headers)
        credential = self._credentials.open(agent)
        if credential is not None:
            lines.append(b"%b: %b\r\n" % credential_header(credential))
        return b"".join(lines)


class _Head(msgspec.Struct, frozen=True):
    """Prepared lines, and what they were prepared from."""

    origin: Origin
    lines: bytes
    headers: HeaderTuple
    credential: str | None


def _assemble(head: bytes, wire: WireRequest, call: AgentCall) -> bytes:
    passed_on = call.headers
    if len(passed_on) == 2 and wire.method == b"POST":
        # The relay's usual request, with its trace and its chain, in one formatting.
        parts = (head, *passed_on[0], *passed_on[1], len(wire.body), wire.body)
        return b"%b%b: %b\r\n%b: %b\r\ncontent-length: %d\r\n\r\n%b" % parts
    lines = [head]
    lines.extend(b"%b: %b\r\n" % pair for pair in passed_on)
    if wire.method != b"GET":
        lines.append(b"content-length: %d\r\n" % len(wire.body))
    lines.append(b"\r\n")
    lines.append(wire.body)
    return b"".join(lines)


def _choose_interface(instance: Instance, wanted: Dialect) -> AgentInterface:
    """The interface that needs the least translation: same dialect, same version, same binding, any.

    Raises: OperationUnsupported when the instance offers none the hub speaks (only gRPC, say).
    """
    other_version, other_binding = _OTHER_VERSION[wanted.version], _OTHER_BINDING[wanted.binding]
    for version, binding in (
        (wanted.version, wanted.binding),
        (wanted.version, other_binding),
        (other_version, wanted.binding),
        (other_version, other_binding),
    ):
        for interface in instance.interfaces:
            if interface.version == version.value and interface.binding == binding.value:
                return interface
    offered = ", ".join(f"{each.binding} {each.version}" for each in instance.interfaces) or "nothing"
    raise OperationUnsupported(
        f"Instance {instance.id!r} offers {offered}; the hub speaks JSONRPC and HTTP+JSON in A2A 1.0 and 0.3."
    )


async def _events(
    response: Http1Response, translator: StreamTranslator, deadline: Deadline | None
) -> AsyncGenerator[StreamEvent, None]:
    """Event by event as they arrive; closing it closes the upstream connection."""
    chunks = response.chunks() if deadline is None else _until(deadline, response.chunks())
    try:
        async for data in chunks:
            for frame, seen in translator.feed(data):
                yield StreamEvent(frame, seen)
        for frame, seen in translator.finish():
            yield StreamEvent(frame, seen)
    finally:
        response.close()


async def _core_events(response: Http1Response, translator: CoreTranslator) -> AsyncGenerator[StreamEvent, None]:
    """The same in A2A 1.0, whoever asked, and however long it takes."""
    try:
        async for data in response.chunks():
            for frame, seen, core in translator.feed(data):
                yield StreamEvent(frame, seen, core)
        for frame, seen, core in translator.finish():
            yield StreamEvent(frame, seen, core)
    finally:
        response.close()


async def _until(deadline: Deadline, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The chunks as long as there is time. Raises: DeadlineExceeded.

    Only the wait for the agent stands under the time-out: held across a yield it would strike whoever reads.
    """
    at_s, loop = deadline.at_ms / 1000, asyncio.get_running_loop()
    try:
        while True:
            async with asyncio.timeout_at(at_s):
                chunk = await anext(chunks, None)
            # An agent that never pauses leaves the time-out no moment to strike.
            if loop.time() >= at_s:
                raise TimeoutError
            if chunk is None:
                return
            yield chunk
    except TimeoutError:
        text = f"The stream did not end within {deadline.timeout_ms} ms (Meshway-Timeout-Ms)."
        raise DeadlineExceeded(text, may_have_acted=True) from None
