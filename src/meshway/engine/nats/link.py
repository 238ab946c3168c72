"""The connection to the cluster: requests with answers, many at once over one inbox, and who hears that it broke.

nats-py keeps the connection and its subscriptions; what it buffers while it is away would be acted on late, so nothing
is buffered. Not here: what is asked of JetStream (`jetstream.py`).
"""

import asyncio
import contextlib
import logging
import math
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import nats.errors
from nats.aio.client import Srv
from nats.aio.subscription import Subscription

from meshway.engine.nats.client import LACKS_PERMISSION, NatsClient
from meshway.engine.nats.credentials import CredentialsError
from meshway.engine.nats.failures import Unanswered
from meshway.engine.nats.measures import Measures
from meshway.engine.nats.refusals import refusal_of_connection
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.nats.wire import Incoming
from meshway.kernel.errors import EngineUnavailable

__all__ = ["Answer", "Ask", "Link", "ServerInfo"]

_log = logging.getLogger(__name__)

# Between two tries to reach a server that was lost; ten hubs that come back together are no load.
_RECONNECT_WAIT_S = 0.2
_CONNECT_TIMEOUT_S = 2
_PING_INTERVAL_S = 5
_NO_RESPONDERS = "503"
# What may wait to be written: more than this, and whoever sends waits until the server has taken it.
_UNSENT_BYTES_MAX = 16 * 1024 * 1024
# How long it may take to hear what was on its way when a subscription ends.
_LEAVE_S = 2.0
# A server that was left is the last choice for so long; if it is parted still, it is left again.
_AVOID_S = 30.0
# What the last token of a reply subject begins with: whether the answer needs a majority.
_WRITE, _QUESTION = "w", "q"
_ERROR = b'"error":'
_EVENTS = "$js.event."

Answer = Incoming
_LATE = Unanswered("NATS did not answer in time; it may have no leader at this moment")


class Ask(NamedTuple):
    """One request."""

    subject: str
    data: bytes = b""
    headers: Mapping[str, str] | None = None


class ServerInfo(NamedTuple):
    """`cluster`: its name, empty on a single server."""

    id: str
    name: str
    version: str
    api_level: int
    cluster: str
    # Of its JetStream; empty where it has none of its own.
    domain: str


class Link:
    """Used from one event loop, from `open` to `close`."""

    def __init__(self, settings: NatsSettings, measures: Measures) -> None:
        self._settings = settings
        self._measures = measures
        self._client = NatsClient(settings)
        self._inbox = ""
        self._asked = 0
        # By the last token of the reply subject.
        self._waiting: dict[str, Callable[[Answer | Unanswered], None]] = {}
        # When the calls that wait were begun, by their first token, the oldest first.
        self._begun: dict[str, float] = {}
        # Since when calls were in vain, as long as nothing was written since.
        self._in_vain_since = math.inf
        # When a write was answered last; of the loop's clock.
        self.served_at = -math.inf
        self._listeners: list[Callable[[bool], None]] = []
        self._last_error = ""
        # A subject that this user may not use: it stays so until somebody changes it.
        self.denied = ""
        # Whether this user may hear what servers tell of themselves: elections above all.
        self.hears_events = True
        # Somebody was not answered: whoever looks after the streams waits for this.
        self.unanswered = asyncio.Event()

    @classmethod
    async def open(cls, settings: NatsSettings, measures: Measures, *, tls_name: str | None = None) -> "Link":
        """Connect. `tls_name`: whose certificate the servers show, where their address does not say it.

        Raises: EngineUnavailable with what to look at.
        """
        link = cls(settings, measures)
        try:
            await link._connect(tls_name)
        except BaseException:
            with contextlib.suppress(Exception):
                await link._client.close()
            raise
        return link

    @property
    def in_flight(self) -> int:
        """Requests on their way."""
        return len(self._waiting)

    async def close(self) -> None:
        """Idempotent."""
        self._fail_all("the connection to NATS was closed")
        if not self._client.is_closed:
            await self._client.close()

    @property
    def is_connected(self) -> bool:
        return self._client.is_connected

    @property
    def server_info(self) -> ServerInfo:
        """What the server said of itself when it was connected to."""
        # Nothing public has `api_lvl` and `cluster`.
        said = self._client._server_info
        return ServerInfo(
            id=str(said.get("server_id", "")),
            name=str(said.get("server_name", "")),
            version=str(said.get("version", "")),
            api_level=int(said.get("api_lvl", 0)),
            cluster=said.get("cluster") or "",
            domain=said.get("domain") or "",
        )

    @property
    def max_payload(self) -> int:
        """Bytes of one message, as the server has it."""
        return self._client.max_payload

    @property
    def trouble(self) -> str:
        """Why it is not connected, for people."""
        return self._last_error or "NATS is away"

    @property
    def waits_s(self) -> float:
        """How long somebody has been waiting, or waited in vain, while nothing was written."""
        since = min(self._in_vain_since, next(iter(self._begun.values()), math.inf))
        return max(0.0, asyncio.get_running_loop().time() - since)

    def suspect(self) -> None:
        """What was answered says that nothing can be written."""
        self._in_vain_since = min(self._in_vain_since, asyncio.get_running_loop().time())

    def other_servers(self) -> Sequence[Srv]:
        """Of the cluster, as far as they are known."""
        return self._client.other_servers

    async def go_to(self, server: Srv) -> None:
        """Leave the server for this one: what is on its way is answered as when a connection breaks."""
        await self._client.go_to(server, avoid_s=_AVOID_S)

    def listen(self, listener: Callable[[bool], None]) -> None:
        """Call with True when the connection is back and with False when it broke. For life."""
        self._listeners.append(listener)

    # Asking

    async def ask(self, ask: Ask, *, timeout_ms: int | None = None, again_ms: int | None = None) -> Answer:
        """The first answer. Raises: Unanswered, also where nobody listens."""
        (answer,) = await self.ask_all([ask], timeout_ms=timeout_ms, again_ms=again_ms)
        if isinstance(answer, Unanswered):
            raise answer
        return answer

    async def ask_all(
        self, asks: Sequence[Ask], *, timeout_ms: int | None = None, again_ms: int | None = None
    ) -> Sequence[Answer | Unanswered]:
        """All on their way before any is waited for; answers in the order of the questions.

        `again_ms`: what was not answered for so long is sent once more, and again; for what may be asked twice.
        """
        if not asks:
            return []
        loop = asyncio.get_running_loop()
        answers = _Answers(len(asks))
        tokens = [self._token(_WRITE if again_ms is None else _QUESTION) for _ in asks]
        for place, token in enumerate(tokens):
            self._waiting[token] = partial(answers.take, place)
        self._begun[tokens[0]] = loop.time()
        ends_at = loop.time() + (timeout_ms or self._settings.request_timeout_ms) / 1000
        try:
            while answers.left and (left_s := ends_at - loop.time()) > 0:
                within_s = left_s if again_ms is None else min(left_s, again_ms / 1000)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(within_s):
                        await self._send_unanswered(asks, tokens, answers)
                        await answers.wait()
        finally:
            del self._begun[tokens[0]]
            for token in tokens:
                self._waiting.pop(token, None)
        judged = [_LATE if answer is None else _judged(answer) for answer in answers.found]
        missing = sum(isinstance(answer, Unanswered) for answer in judged)
        if missing:
            self._miss(missing)
        return judged

    async def _send_unanswered(self, asks: Sequence[Ask], tokens: Sequence[str], answers: "_Answers") -> None:
        for place, ask in enumerate(asks):
            if answers.found[place] is not None:
                continue
            try:
                await self._publish(ask, reply=f"{self._inbox}.{tokens[place]}")
            except EngineUnavailable as error:
                answers.take(place, Unanswered(error.detail, nothing_happened=True))

    async def collect(self, ask: Ask, take: Callable[[Answer], bool], *, timeout_ms: int | None = None) -> None:
        """Give every answer to `take` until it says that it was the last. Raises: Unanswered."""
        done: asyncio.Future[Unanswered | None] = asyncio.get_running_loop().create_future()

        def heard(answer: Answer | Unanswered) -> None:
            if done.done():
                return
            judged = _judged(answer)
            if isinstance(judged, Unanswered):
                done.set_result(judged)
            elif take(judged):
                done.set_result(None)

        token = self._token(_QUESTION)
        self._waiting[token] = heard
        self._begun[token] = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout((timeout_ms or self._settings.request_timeout_ms) / 1000):
                await self._publish(ask, reply=f"{self._inbox}.{token}")
                failure = await done
        except TimeoutError:
            failure = Unanswered("NATS did not answer in time")
        except EngineUnavailable as error:
            failure = Unanswered(error.detail, nothing_happened=True)
        finally:
            del self._begun[token]
            self._waiting.pop(token, None)
        if failure is not None:
            self._miss(1)
            raise failure

    # Plain messages

    async def publish(self, subject: str, data: bytes = b"", *, headers: Mapping[str, str] | None = None) -> None:
        """To whoever listens. Raises: EngineUnavailable."""
        await self._publish(Ask(subject, data, headers), reply="")

    def post(self, subject: str, data: bytes = b"", *, headers: Mapping[str, str] | None = None) -> None:
        """The same for little that is sent while something is heard: it is written soon. Raises: EngineUnavailable."""
        if not self._client.is_connected:
            raise EngineUnavailable(self.trouble)
        self._client.post(subject, "", data, headers)

    async def publish_with_reply(
        self, subject: str, data: bytes, *, reply: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """The same, with the subject that answers go to. Raises: EngineUnavailable."""
        await self._publish(Ask(subject, data, headers), reply=reply)

    async def hear(self, subject: str, heard: Callable[[Incoming], None], *, group: str = "") -> Subscription:
        """`heard` is called as each message is read: in the order of arrival over all subjects that are heard so.

        It must not block. Costs no task. End it with `leave`. Raises: EngineUnavailable.
        """
        try:
            return await self._client.hear(subject, heard, group=group)
        except nats.errors.Error as error:
            raise EngineUnavailable(f"NATS cannot be listened to: {_text(error)}") from error

    async def leave(self, subscription: Subscription) -> None:
        """End what `hear` began; what the server had sent before is heard until this returns."""
        try:
            if self._client.is_connected:
                with _cancellable():
                    async with asyncio.timeout(_LEAVE_S):
                        await subscription.drain()  # type: ignore[no-untyped-call] # the library leaves it so
        except (TimeoutError, nats.errors.Error) as error:
            _log.debug("nats_subscription_not_drained", extra={"reason": _text(error)})
        finally:
            # The library would begin one that could not be drained again after a reconnect, and keep its task.
            subscription._stop_processing()
            self._client._remove_sub(subscription._id)

    async def flush(self) -> None:
        """Until the server has seen everything that was sent before. Raises: EngineUnavailable."""
        try:
            with _cancellable():
                await self._client.flush(timeout=max(1, self._settings.request_timeout_ms // 1000))
        except nats.errors.Error as error:
            raise EngineUnavailable(f"NATS does not answer: {_text(error)}") from error

    def new_inbox(self) -> str:
        """A subject that nobody else uses."""
        return self._client.new_inbox()

    async def _publish(self, ask: Ask, *, reply: str) -> None:
        headers = None if ask.headers is None else dict(ask.headers)
        try:
            if self._client.pending_data_size > _UNSENT_BYTES_MAX:
                await self.flush()
            await self._client.publish(ask.subject, ask.data, reply=reply, headers=headers)
        except nats.errors.MaxPayloadError:
            text = f"{len(ask.data)} bytes are more than this NATS server takes (max_payload {self.max_payload})"
            raise EngineUnavailable(text) from None
        except nats.errors.Error as error:
            raise EngineUnavailable(f"{self.trouble} ({_text(error)})") from error

    def _token(self, kind: str) -> str:
        self._asked += 1
        return f"{kind}{self._asked}"

    def _heard(self, message: Answer) -> None:
        token = message.subject.rpartition(".")[2]
        # Refusals need no majority, and what has no data is the word of a server or a consumer.
        if message.data and token[0] == _WRITE and _ERROR not in message.data:
            self.served_at = asyncio.get_running_loop().time()
            self._in_vain_since = math.inf
        waiting = self._waiting.get(token)
        if waiting is not None:
            waiting(message)

    def _miss(self, count: int) -> None:
        self.suspect()
        self._measures.unanswered.inc(count)
        self.unanswered.set()

    def _fail_all(self, reason: str) -> None:
        for waiting in list(self._waiting.values()):
            waiting(Unanswered(reason))

    # The connection

    async def _connect(self, tls_name: str | None) -> None:
        settings = self._settings
        try:
            signer = self._client.signer()
            async with asyncio.timeout(settings.start_timeout_ms / 1000):
                await self._client.connect(
                    list(settings.servers),
                    name="meshway",
                    error_cb=self._on_error_at_start,
                    disconnected_cb=self._on_disconnected,
                    reconnected_cb=self._on_reconnected,
                    connect_timeout=_CONNECT_TIMEOUT_S,
                    # Seconds; fractions are fine.
                    reconnect_time_wait=_RECONNECT_WAIT_S,  # type: ignore[arg-type]
                    max_reconnect_attempts=-1,
                    ping_interval=_PING_INTERVAL_S,
                    pending_size=-1,
                    skip_subject_validation=True,
                    signature_cb=signer,
                    user=settings.user,
                    password=settings.password,
                    token=settings.token,
                    tls=self._tls(),
                    tls_hostname=tls_name,
                )
        except TimeoutError:
            raise EngineUnavailable(f"No NATS server answers at {self._where()}: {self.trouble}") from None
        except CredentialsError as error:
            raise EngineUnavailable(f"Who this hub is to NATS cannot be shown: {error}") from error
        except (nats.errors.Error, OSError, ValueError) as error:
            raise EngineUnavailable(f"NATS at {self._where()} cannot be used: {error}") from error
        # What a running hub meets may pass.
        self._client._error_cb = self._on_error
        self._inbox = self._client.new_inbox()
        await self.hear(f"{self._inbox}.*", self._heard)

    def _tls(self) -> ssl.SSLContext | None:
        settings = self._settings
        if settings.tls_ca_file is None and settings.tls_certificate_file is None:
            return None
        try:
            context = ssl.create_default_context(cafile=settings.tls_ca_file)
            if settings.tls_certificate_file is not None:
                context.load_cert_chain(settings.tls_certificate_file, settings.tls_key_file)
        except (OSError, ssl.SSLError) as error:
            raise EngineUnavailable(f"The TLS files for NATS cannot be used: {error}") from error
        return context

    def _where(self) -> str:
        return ", ".join(server.rpartition("@")[2] for server in self._settings.servers)

    async def _on_error_at_start(self, error: Exception) -> None:
        """Raises: EngineUnavailable where waiting would not help; it ends the library's tries."""
        refusal = refusal_of_connection(error, self._settings)
        if refusal is not None:
            raise EngineUnavailable(f"NATS at {self._where()} cannot be used: {refusal}")
        await self._on_error(error)

    async def _on_error(self, error: Exception) -> None:
        self._measures.errors.labels(type(error).__name__).inc()
        text = _text(error)
        if LACKS_PERMISSION in text.lower():
            if _EVENTS in text.lower():
                # Nothing fails for it: what they would tell is asked for.
                self.hears_events = False
            else:
                self.denied = text
        if text != self._last_error:
            _log.warning("nats_error", extra={"reason": text})
        self._last_error = text

    async def _on_disconnected(self) -> None:
        if self._client.is_closed:
            return
        _log.warning("nats_disconnected", extra={"reason": self._last_error})
        # What was not sent yet would be sent when it is back, and acted on late.
        self._client._pending, self._client._pending_data_size = [], 0
        self._fail_all("the connection to NATS broke")
        for listener in self._listeners:
            listener(False)

    async def _on_reconnected(self) -> None:
        _log.info("nats_reconnected")
        self._measures.reconnects.inc()
        self._last_error = self.denied = ""
        self.hears_events = True
        self._in_vain_since = math.inf
        for listener in self._listeners:
            listener(True)


class _Answers:
    """Of many requests, as they come; the first one of each counts."""

    def __init__(self, count: int) -> None:
        self.found: list[Answer | Unanswered | None] = [None] * count
        self.left = count
        self._all: asyncio.Future[None] | None = None

    def take(self, place: int, answer: Answer | Unanswered) -> None:
        if self.found[place] is None:
            self.found[place] = answer
            self.left -= 1
            if not self.left and self._all is not None and not self._all.done():
                self._all.set_result(None)

    async def wait(self) -> None:
        """Until all are there."""
        if self.left:
            self._all = asyncio.get_running_loop().create_future()
            await self._all


@contextlib.contextmanager
def _cancellable() -> Iterator[None]:
    """Around calls in which the library uses `asyncio.wait_for`.

    Python 3.11's forgets a cancellation that comes together with the answer, and the task would go on for ever.
    """
    task = asyncio.current_task()
    before = 0 if task is None else task.cancelling()
    yield
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _judged(answer: Answer | Unanswered) -> Answer | Unanswered:
    """A status of the server, in place of an answer, is none."""
    if isinstance(answer, Unanswered) or answer.data:
        return answer
    if answer.headers.get("Status") == _NO_RESPONDERS:
        reason = "nobody at NATS answers for this: the stream has no leader at this moment, or was deleted"
        return Unanswered(reason, nothing_happened=True)
    return answer
