"""The one WebSocket of a client: connected when it is needed, connected again when it breaks, shared by everything.

disconnected -> dialling -> welcomed -> (draining ->) disconnected ...

Calls carry a `ref` and wait for the frame that answers it; those that may be repeated are sent again over the next
connection until their deadline. Subscriptions are established again after each connect, from where they stand. A hub
that refuses us (a wrong key) fails what waits; a hub that is away is tried again with jitter for as long as somebody
waits or listens.
"""

import asyncio
import logging
import random
from typing import Protocol

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from meshway.client.connection import HubConnection, problem_error
from meshway.client.errors import ClientError, ConnectionLost, HubError, HubUnreachable, UnexpectedAnswer
from meshway.client.owned_tasks import OwnedTasks
from meshway.protocols.link.frames import (
    PROTOCOL_VERSION,
    Accepted,
    Ack,
    Acked,
    Bye,
    CancelTasks,
    Credit,
    Deliveries,
    Draining,
    Error,
    HubFrame,
    Messages,
    Missed,
    Pong,
    Publish,
    Replied,
    Reply,
    Report,
    Reported,
    Request,
    Requests,
    Response,
    Serve,
    Served,
    Settle,
    Settled,
    SettleTasks,
    Subscribe,
    Subscribed,
    Tasks,
    Unsubscribe,
    Unsubscribed,
    Welcome,
)

__all__ = ["Backoff", "LinkSession", "LinkSubscription", "SubscriptionFrame", "is_passing", "passes_in_time"]

_log = logging.getLogger(__name__)

# A hub answers a handshake in milliseconds; beyond this it is not there.
_CONNECT_TIMEOUT_S = 10.0
# The closing handshake: a hub that does not answer it is gone already.
_CLOSE_TIMEOUT_S = 2.0
# Silence after which the hub is asked whether it lives, and how long it may take to say so.
_PING_INTERVAL_S = 15.0
_PING_TIMEOUT_S = 15.0
# A hub that does not confirm the end of a subscription by then is busy or gone; nothing depends on it.
_UNSUBSCRIBE_TIMEOUT_S = 2.0
# Above what the hub sends in one frame: 256 messages of 8 MiB are cut by the hub, never sent as one.
_FRAME_BYTES_MAX = 256 * 1024 * 1024
# A broken connection is made again after this long, doubled each time up to the second figure, with jitter.
_RECONNECT_INITIAL_S = 0.1
_RECONNECT_MAX_S = 5.0
# Answers to a handshake, or to a request, that say "later", not "no".
_PASSING_STATUSES = frozenset({500, 502, 503, 504})

_decode = msgspec.json.Decoder(HubFrame).decode
_encode = msgspec.json.Encoder().encode

CallFrame = Settle | Ack | Reply | Publish | Request | Report | SettleTasks
SubscriptionFrame = Subscribed | Messages | Missed | Deliveries | Requests | Served | Tasks | CancelTasks


class LinkSubscription(Protocol):
    """What listens on the link. All methods are called on the loop, never concurrently, and must not wait."""

    def subscribe_frame(self, subscription_id: str) -> Subscribe | Serve:
        """The frame that establishes it from where it stands now, credit included. Called after each connect."""

    def accept(self, frame: SubscriptionFrame) -> None:
        """A frame of this subscription."""

    def lost(self) -> None:
        """The connection broke: what was granted on it is void. The session connects again."""

    def fail(self, error: ClientError) -> None:
        """The hub refuses it for good; it is forgotten."""


class Backoff:
    """Growing waits with jitter, for one who tries again."""

    def __init__(self, initial_s: float = _RECONNECT_INITIAL_S, max_s: float = _RECONNECT_MAX_S) -> None:
        self._initial_s = initial_s
        self._max_s = max_s
        self._next_s = initial_s

    def reset(self) -> None:
        self._next_s = self._initial_s

    def next_s(self) -> float:
        """Between half of the present step and all of it: the same for all would bring everybody back at once."""
        step = self._next_s
        self._next_s = min(step * 2, self._max_s)
        return step * random.uniform(0.5, 1.0)  # noqa: S311  jitter, not a secret


def is_passing(error: HubError) -> bool:
    """Whether the same request may succeed soon: the hub restarts, drains, or its store is away for a moment."""
    return error.status in {502, 503} and error.code != "no_responder"


def passes_in_time(error: HubError) -> bool:
    """The same for one who has work to finish and stays: a disk that is full gets room, while a sender must know."""
    return is_passing(error) or error.code == "storage_full"


class LinkSession:
    """Safe for any number of tasks of one event loop. Costs nothing until it is used."""

    def __init__(self, connection: HubConnection, tasks: OwnedTasks) -> None:
        self._connection = connection
        self._tasks = tasks
        self._runner: asyncio.Task[None] | None = None
        self._socket: ClientConnection | None = None
        self._welcome: Welcome | None = None
        self._is_draining = False
        self._calls: dict[str, asyncio.Future[HubFrame]] = {}
        self._subscriptions: dict[str, LinkSubscription] = {}
        # Those that the hub has been told to end, and who waits for it to say so.
        self._ending: dict[str, tuple[LinkSubscription, asyncio.Future[None]]] = {}
        self._last_number = 0
        # Callers that wait for a connection; the runner goes on for as long as there are any.
        self._waiting = 0
        self._changed = asyncio.Event()
        self._failure: ClientError | None = None
        # Counts refusals, so that a caller knows one that came while it waited from an older one.
        self._refusals = 0

    @property
    def is_connected(self) -> bool:
        return self._socket is not None

    async def call(
        self,
        frame: CallFrame,
        *,
        deadline: float,
        is_repeatable: bool,
        is_closing: bool = False,
        reach_timeout_s: float | None = None,
    ) -> HubFrame:
        """Send and wait for the answer until `deadline` (loop time). `is_closing` work goes to a draining hub too.

        `reach_timeout_s` bounds the wait for a connection apart from the wait for the answer.

        Raises: HubError as the hub answered; HubUnreachable when it could not be sent in time; ConnectionLost when it
        was sent and no answer came (one that is not repeatable: at once).
        """
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    socket = await self._connected(is_closing=is_closing, within_s=reach_timeout_s)
                    answer = await self._exchange_over(socket, frame, is_repeatable=is_repeatable)
                    if answer is not None:
                        return answer
        except TimeoutError:
            # A frame has a `ref` once it was sent.
            raise (self._lost(None) if frame.ref else self._unreachable()) from None

    async def send(self, frame: Credit | Unsubscribe | Bye) -> None:
        """Send where there is a connection; what these frames change is made anew with each connection anyway."""
        if self._socket is None:
            return
        try:
            await self._socket.send(_encode(frame), text=True)
        except ConnectionClosed:
            return

    async def subscribe(self, subscription: LinkSubscription) -> str:
        """Establish now or with the next connect, and after each. Returns the id that `unsubscribe` takes."""
        self._last_number += 1
        subscription_id = f"s{self._last_number}"
        self._subscriptions[subscription_id] = subscription
        if self._socket is None or self._is_draining:
            self._ensure_running()
        else:
            await self._establish(self._socket, subscription_id, subscription)
        return subscription_id

    async def unsubscribe(self, subscription_id: str) -> None:
        """End it. What the hub had sent before it knew arrives still, until this returns. Idempotent."""
        await self._leave(subscription_id, Unsubscribe(id=subscription_id))

    async def say_bye(self, subscription_id: str) -> None:
        """End a subscription that is an instance of an agent: it leaves for good. Otherwise as `unsubscribe`."""
        await self._leave(subscription_id, Bye(id=subscription_id))

    async def _leave(self, subscription_id: str, frame: Unsubscribe | Bye) -> None:
        subscription = self._subscriptions.pop(subscription_id, None)
        if subscription is None or self._socket is None:
            return
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ending[subscription_id] = (subscription, ended)
        try:
            async with asyncio.timeout(_UNSUBSCRIBE_TIMEOUT_S):
                await self.send(frame)
                await ended
        except TimeoutError:
            _log.info("unsubscribe_unanswered", extra={"subscription": subscription_id})
        finally:
            del self._ending[subscription_id]

    async def _connected(self, *, is_closing: bool, within_s: float | None) -> ClientConnection:
        """Raises: ClientError when the hub refuses us, HubUnreachable after `within_s`."""
        refusals = self._refusals
        self._waiting += 1
        try:
            async with asyncio.timeout(within_s):
                while self._socket is None or (self._is_draining and not is_closing):
                    self._ensure_running()
                    await self._changed.wait()
                    if self._refusals != refusals and self._failure is not None:
                        raise self._failure
            return self._socket
        except TimeoutError:
            raise self._unreachable() from None
        finally:
            self._waiting -= 1

    async def _exchange_over(
        self, socket: ClientConnection, frame: CallFrame, *, is_repeatable: bool
    ) -> HubFrame | None:
        """None when the connection broke and the frame may be sent again."""
        try:
            return await self._exchange(socket, frame)
        except (ConnectionLost, ConnectionClosed) as error:
            if not is_repeatable:
                raise self._lost(error) from error
            return None

    async def _exchange(self, socket: ClientConnection, frame: CallFrame) -> HubFrame:
        self._last_number += 1
        ref = frame.ref = str(self._last_number)
        content = _encode(frame)
        if self._welcome is not None and len(content) > self._welcome.frame_bytes_max:
            raise HubError(
                f"The message has {len(content)} bytes, more than the hub takes at once "
                f"({self._welcome.frame_bytes_max}); send fewer at a time, or data by reference.",
                code="payload_too_large",
                status=413,
            )
        answer: asyncio.Future[HubFrame] = asyncio.get_running_loop().create_future()
        self._calls[ref] = answer
        try:
            await socket.send(content, text=True)
            return await answer
        finally:
            del self._calls[ref]

    def _ensure_running(self) -> None:
        if self._runner is None or self._runner.done():
            self._runner = self._tasks.start(self._run(), name="meshway-link")

    async def _run(self) -> None:
        backoff = Backoff()
        while self._waiting or self._subscriptions:
            url = self._connection.url
            try:
                socket = await self._dial()
            except (HubError, UnexpectedAnswer) as refusal:
                self._refuse(refusal)
                return
            except HubUnreachable as error:
                if not isinstance(self._failure, HubUnreachable) or isinstance(self._failure, ConnectionLost):
                    # Once for each time it goes away: who starts a worker without a hub would see nothing at all.
                    _log.warning("hub_unreachable: %s", error.detail)
                self._failure = error
                self._connection.advance(url)
            else:
                backoff.reset()
                await self._serve(socket)
                self._connection.advance(url)
            await asyncio.sleep(backoff.next_s())

    async def _dial(self) -> ClientConnection:
        """A welcomed connection. Raises: HubUnreachable to try again, HubError or UnexpectedAnswer to give up."""
        url = self._connection.url
        socket: ClientConnection | None = None
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                socket = await connect(
                    "ws" + url.removeprefix("http") + "/v1/ws",
                    additional_headers=self._connection.credentials,
                    ssl=self._connection.ssl_context,
                    proxy=None if self._connection.is_loopback else True,
                    compression=None,
                    open_timeout=None,
                    ping_interval=_PING_INTERVAL_S,
                    ping_timeout=_PING_TIMEOUT_S,
                    close_timeout=_CLOSE_TIMEOUT_S,
                    max_size=_FRAME_BYTES_MAX,
                )
                self._welcome = self._read_welcome(await socket.recv(decode=False))
        except InvalidStatus as error:
            raise self._refusal(error) from error
        except (OSError, TimeoutError, WebSocketException) as error:
            await _close(socket)
            raise self._unreachable(error) from error
        except BaseException:
            await _close(socket)
            raise
        return socket

    def _read_welcome(self, content: bytes) -> Welcome:
        try:
            frame = _decode(content)
        except msgspec.MsgspecError:
            frame = None
        if not isinstance(frame, Welcome) or frame.protocol > PROTOCOL_VERSION:
            raise UnexpectedAnswer(
                f"{self._connection.url} does not speak the link of this SDK (it began with {content[:80]!r}). "
                "If it is a newer hub, upgrade meshway here.",
                url=self._connection.url,
            )
        return frame

    def _refusal(self, error: InvalidStatus) -> ClientError:
        response = error.response
        problem = problem_error(bytes(response.body or b""), status=response.status_code)
        if response.status_code in _PASSING_STATUSES or response.status_code == 429:
            return self._unreachable(problem or error)
        return problem or UnexpectedAnswer(
            f"{self._connection.url}/v1/ws answered HTTP {response.status_code}, not as a Meshway hub would. "
            "Is MESHWAY_URL the hub's address, and does every proxy on the way let WebSockets through?",
            url=self._connection.url,
        )

    async def _serve(self, socket: ClientConnection) -> None:
        """Until the connection is gone."""
        self._socket = socket
        self._is_draining = False
        _log.info("hub_connected", extra={"url": self._connection.url})
        self._notify()
        reason: BaseException | None = None
        try:
            for subscription_id, subscription in tuple(self._subscriptions.items()):
                await self._establish(socket, subscription_id, subscription)
            while True:
                self._dispatch(await socket.recv(decode=False))
        except ConnectionClosed as closed:
            reason = closed
        finally:
            self._socket = None
            self._failure = self._lost(reason)
            for answer in self._calls.values():
                if not answer.done():
                    answer.set_exception(self._failure)
            for subscription in tuple(self._subscriptions.values()):
                subscription.lost()
            for subscription_id in tuple(self._ending):
                self._end(subscription_id)
            self._notify()
            _log.info("hub_disconnected", extra={"url": self._connection.url, "reason": str(reason)})
            await _close(socket)

    async def _establish(self, socket: ClientConnection, subscription_id: str, subscription: LinkSubscription) -> None:
        if self._subscriptions.get(subscription_id) is not subscription:
            return
        try:
            await socket.send(_encode(subscription.subscribe_frame(subscription_id)), text=True)
        except ConnectionClosed:
            return

    def _dispatch(self, content: bytes) -> None:
        try:
            frame = _decode(content)
        except msgspec.MsgspecError as error:
            _log.warning("frame_unreadable", extra={"error": str(error), "begins": content[:80]})
            return
        match frame:
            case Accepted() | Settled() | Acked() | Replied() | Response() | Reported():
                answer = self._calls.get(frame.ref)
                if answer is not None and not answer.done():
                    answer.set_result(frame)
            case Subscribed() | Messages() | Missed() | Deliveries() | Requests() | Served() | Tasks() | CancelTasks():
                self._deliver(frame)
            case Unsubscribed():
                self._end(frame.id)
            case Error():
                self._take_error(frame)
            case Draining():
                self._is_draining = True
                _log.info("hub_draining", extra={"url": self._connection.url, "within_ms": frame.within_ms})
            case Welcome() | Pong():
                pass

    def _deliver(self, frame: SubscriptionFrame) -> None:
        subscription = self._subscriptions.get(frame.id)
        if subscription is None and frame.id in self._ending:
            subscription = self._ending[frame.id][0]
        if subscription is not None:
            subscription.accept(frame)

    def _end(self, subscription_id: str) -> None:
        if subscription_id in self._ending:
            ended = self._ending[subscription_id][1]
            if not ended.done():
                ended.set_result(None)

    def _take_error(self, frame: Error) -> None:
        error = problem_error(bytes(frame.problem)) or HubError(
            "The hub refused without saying why.", code="internal", status=500
        )
        if frame.id is not None:
            self._take_subscription_error(frame.id, error)
        elif frame.ref is not None:
            answer = self._calls.get(frame.ref)
            if answer is not None and not answer.done():
                answer.set_exception(error)
        else:
            # The hub ends the connection for something we sent, it does not say what: nothing of it may be repeated.
            _log.warning("link_refused", extra={"code": error.code, "detail": error.detail})
            for answer in self._calls.values():
                if not answer.done():
                    answer.set_exception(error)

    def _take_subscription_error(self, subscription_id: str, error: HubError) -> None:
        self._end(subscription_id)
        subscription = self._subscriptions.get(subscription_id)
        if subscription is None:
            return
        subscription.lost()
        if passes_in_time(error):
            _log.info("subscription_interrupted", extra={"code": error.code, "detail": error.detail})
            self._tasks.start(self._establish_later(subscription_id, subscription), name="meshway-resubscribe")
        else:
            del self._subscriptions[subscription_id]
            subscription.fail(error)

    async def _establish_later(self, subscription_id: str, subscription: LinkSubscription) -> None:
        socket = self._socket
        await asyncio.sleep(Backoff(initial_s=1.0).next_s())
        # Another connection has established it anew by itself.
        if socket is not None and socket is self._socket:
            await self._establish(socket, subscription_id, subscription)

    def _refuse(self, refusal: ClientError) -> None:
        self._failure = refusal
        self._refusals += 1
        refused, self._subscriptions = self._subscriptions, {}
        for subscription in refused.values():
            subscription.fail(refusal)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _lost(self, reason: BaseException | None) -> ConnectionLost:
        if isinstance(reason, ConnectionLost):
            return reason
        why = f" ({reason})" if reason else ""
        return ConnectionLost(
            f"The connection to the hub at {self._connection.url} broke before the answer came{why}. "
            "The request may have been carried out.",
            url=self._connection.url,
        )

    def _unreachable(self, error: BaseException | None = None) -> HubUnreachable:
        reason = error or self._failure
        if isinstance(reason, HubUnreachable) and not isinstance(reason, ConnectionLost):
            return reason
        why = f" ({str(reason) or type(reason).__name__})" if reason else ""
        return HubUnreachable(
            f"No hub answers at {self._connection.url}{why}. Start one with `meshway up`, or set MESHWAY_URL.",
            url=self._connection.url,
        )


async def _close(socket: ClientConnection | None) -> None:
    if socket is not None:
        await socket.close()
