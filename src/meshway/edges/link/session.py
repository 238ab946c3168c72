"""One client on one socket: reads its frames, has the verbs do them, answers, and runs its subscriptions.

Three ways through: what changes a subscription is done at once; what asks for something short goes through the lane,
in order; commands and queries, which wait for somebody else, have tasks of their own. An error is answered with the
`id` or `ref` it belongs to and the connection goes on.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import assert_never, cast

import structlog

from meshway.edges.http.sockets import Socket
from meshway.edges.link.codec import FrameRefused, decode_frame, encode_frame, problem_raw
from meshway.edges.link.lane import Lane, LaneFrame, Work
from meshway.edges.link.limits import KEY_CHECK_INTERVAL_S, REQUESTS_MAX, SUBSCRIPTIONS_MAX
from meshway.edges.link.pumps import PUMPS, PumpPlaces
from meshway.edges.link.serving import Serving
from meshway.edges.link.subscription import Subscription
from meshway.edges.link.verbs import LinkVerbs
from meshway.kernel.errors import (
    Conflict,
    Draining,
    EngineError,
    MeshwayError,
    NotFound,
    TooManyInFlight,
    Unauthenticated,
)
from meshway.protocols.link import frames
from meshway.protocols.link.frames import HubFrame

__all__ = ["CLOSE_KEY_REFUSED", "LinkSession"]

AnySubscription = Subscription[frames.Subscribe] | Subscription[frames.Serve]

_log = structlog.get_logger()

# Close codes of ours (4000 to 4999 are private, RFC 6455, 7.4.2); the last three digits are HTTP's.
CLOSE_KEY_REFUSED = 4401
_CLOSE_UNREADABLE = 1007
_CLOSE_RESTART = 1012
_RETRY_AFTER_MS = 1_000


class LinkSession:
    """A `SocketListener`. Its tasks end with the connection."""

    def __init__(
        self, places: PumpPlaces, verbs: LinkVerbs, tasks: asyncio.TaskGroup, *, still_welcome: Callable[[], object]
    ) -> None:
        """`still_welcome` raises Unauthenticated once the key is revoked or expired."""
        self._places = places
        self._socket: Socket = places.socket
        self._verbs = verbs
        self._tasks = tasks
        self._still_welcome = still_welcome
        self._loop = asyncio.get_running_loop()
        self._welcome_at = self._loop.time()
        self._lane = Lane(
            tasks,
            self._perform,
            hold=self._socket.hold_reading,
            release=self._socket.release_reading,
            rested=self._close_if_done,
        )
        self._inline_bytes_max = places.services.settings.data_bytes_max
        self._subscriptions: dict[str, AnySubscription] = {}
        # Those that were, oldest first: what a client sent before it knew of their end is no mistake of its own.
        self._over: dict[str, None] = {}
        # Instances of agents: they go on reporting after their subscription has ended.
        self._servings: dict[str, Serving] = {}
        self._requests = 0
        self._is_draining = False

    # --- SocketListener ---

    def text_received(self, text: bytes) -> None:
        try:
            frame = decode_frame(text)
        except FrameRefused as refused:
            self._refuse(refused.error, id_=refused.id, ref=refused.ref)
            if refused.id is None and refused.ref is None:
                self._socket.close(_CLOSE_UNREADABLE, refused.error.detail)
            return
        for serving in self._servings.values():
            serving.heard()
        match frame:
            case frames.Publish():
                line = f"{frame.kind} {frame.channel}"
                large = len(text) > self._inline_bytes_max or b'"data_ref"' in text
                self._lane.add(Work(frame, line, alone=large))
            case (
                frames.Settle() | frames.Ack() | frames.Reply() | frames.Report() | frames.SettleTasks() | frames.Bye()
            ):
                self._lane.add(Work(frame))
            case frames.Request():
                self._begin_request(frame)
            case frames.Ping():
                self._send(frames.Pong(ref=frame.ref))
            case frames.Subscribe() | frames.Serve() | frames.Credit() | frames.Unsubscribe():
                self._change(frame)
            case _:
                assert_never(frame)

    def drain_begun(self, *, within_ms: int) -> None:
        self._is_draining = True
        self._send(frames.Draining(within_ms=within_ms))
        for subscription in self._subscriptions.values():
            if subscription.task is not None:
                subscription.task.cancel()
        self._close_if_done()

    def swept(self, now: float, heard_at: float) -> None:
        for serving in self._servings.values():
            serving.swept(now, heard_at)
        if now - self._welcome_at < KEY_CHECK_INTERVAL_S:
            return
        self._welcome_at = now
        try:
            self._still_welcome()
        except Unauthenticated as error:
            self._socket.close(CLOSE_KEY_REFUSED, error.detail)

    # --- subscriptions ---

    def _change(self, frame: frames.Subscribe | frames.Serve | frames.Credit | frames.Unsubscribe) -> None:
        try:
            if isinstance(frame, frames.Subscribe | frames.Serve):
                self._subscribe(frame)
                return
            subscription = self._subscriptions.get(frame.id)
            if subscription is None:
                self._change_of_none(frame)
            elif isinstance(frame, frames.Credit):
                subscription.grant(frame.messages)
            elif subscription.task is not None:
                subscription.is_leaving = True
                subscription.task.cancel()
        except MeshwayError as error:
            if frame.id not in self._subscriptions:
                self._is_over(frame.id)
            self._refuse(error, id_=frame.id)

    def _change_of_none(self, frame: frames.Credit | frames.Unsubscribe) -> None:
        """Its end and this frame crossed on the way, or the client made it up."""
        if frame.id not in self._over:
            raise NotFound(f"There is no subscription {frame.id!r} on this connection.")
        if isinstance(frame, frames.Unsubscribe):
            self._send(frames.Unsubscribed(id=frame.id))

    def _is_over(self, id_: str) -> None:
        self._over[id_] = None
        if len(self._over) > SUBSCRIPTIONS_MAX:
            del self._over[next(iter(self._over))]

    def _subscribe(self, frame: frames.Subscribe | frames.Serve) -> None:
        if self._is_draining:
            raise Draining("This hub is shutting down; subscribe at another one, or here in a moment.")
        if frame.id in self._subscriptions:
            raise Conflict(f"This connection has a subscription {frame.id!r} already; it goes on as it was.")
        if len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
            raise TooManyInFlight(
                f"This connection has {SUBSCRIPTIONS_MAX} subscriptions, as many as one may; open another one."
            )
        subscription: AnySubscription
        if isinstance(frame, frames.Serve):
            subscription = Subscription[frames.Serve](frame)
            self._servings[frame.id] = Serving(self._places, self._places.services.tasks, frame)
        else:
            subscription = Subscription[frames.Subscribe](frame)
        self._subscriptions[frame.id] = subscription
        self._over.pop(frame.id, None)
        subscription.task = self._tasks.create_task(self._pump(subscription))
        subscription.task.add_done_callback(partial(self._pump_ended, subscription))

    async def _pump(self, subscription: AnySubscription) -> None:
        frame = subscription.frame
        try:
            if isinstance(frame, frames.Serve):
                await self._servings[frame.id].pump(cast("Subscription[frames.Serve]", subscription))
            else:
                pumped = cast("Subscription[frames.Subscribe]", subscription)
                await PUMPS[frame.kind](self._places, pumped)
        except Exception as error:  # noqa: BLE001  the boundary of a subscription: others of the connection go on
            self._refuse(self._explained(error, "subscribe"), id_=frame.id)

    def _pump_ended(self, subscription: AnySubscription, task: "asyncio.Task[None]") -> None:
        del self._subscriptions[subscription.frame.id]
        self._is_over(subscription.frame.id)
        if not subscription.has_begun:
            self._servings.pop(subscription.frame.id, None)
        if (subscription.has_begun or subscription.is_leaving) and not self._is_draining:
            self._send(frames.Unsubscribed(id=subscription.frame.id))

    # --- what has an answer ---

    async def _perform(self, frame: LaneFrame) -> bool:
        places = self._places
        answer: HubFrame
        match frame:
            case frames.Publish():
                work: Awaitable[HubFrame] = self._verbs.publish(places.principal, frame)
            case frames.Settle():
                work = self._verbs.settle(places.principal, frame)
                # What is settled is not held, however that turns out; extending goes on holding.
                places.held = max(0, places.held - sum(item.action != "extend" for item in frame.settlements))
            case frames.Reply():
                work = self._verbs.reply(places.principal, frame)
                places.held = max(0, places.held - 1)
            case frames.Ack():
                work = self._verbs.ack(places.principal, frame)
            case frames.Report():
                work = self._report(frame)
            case frames.SettleTasks():
                work = self._settle_tasks(frame)
            case frames.Bye():
                work = self._leave(frame)
            case _:
                assert_never(frame)
        try:
            answer = await work
        except Exception as error:  # noqa: BLE001  the boundary of a request: the connection goes on
            explained = self._explained(error, type(frame).__name__.lower())
            if isinstance(frame, frames.Bye):
                self._refuse(explained, id_=frame.id)
            else:
                self._refuse(explained, ref=frame.ref)
            return False
        self._send(answer)
        return True

    def _serving(self, id_: str) -> Serving:
        serving = self._servings.get(id_)
        if serving is None:
            raise NotFound(f"This connection serves no agent as {id_!r}.")
        return serving

    async def _report(self, frame: frames.Report) -> HubFrame:
        return await self._serving(frame.id).report(frame)

    async def _settle_tasks(self, frame: frames.SettleTasks) -> HubFrame:
        return await self._serving(frame.id).settle(frame)

    async def _leave(self, frame: frames.Bye) -> HubFrame:
        """The farewell answers in place of the subscription's own end."""
        serving = self._serving(frame.id)
        subscription = self._subscriptions.get(frame.id)
        if subscription is not None and subscription.task is not None:
            subscription.has_begun = subscription.is_leaving = False
            subscription.task.cancel()
        await serving.leave()
        self._servings.pop(frame.id, None)
        return frames.Unsubscribed(id=frame.id)

    def ended(self) -> None:
        """The connection is gone."""
        for serving in self._servings.values():
            serving.connection_lost()

    def _begin_request(self, frame: frames.Request) -> None:
        if self._requests >= REQUESTS_MAX:
            text = f"{REQUESTS_MAX} commands and queries of this connection wait for their replies, as many as may."
            self._refuse(TooManyInFlight(text, retry_after_ms=_RETRY_AFTER_MS), ref=frame.ref)
            return
        self._requests += 1
        self._tasks.create_task(self._request(frame)).add_done_callback(self._request_ended)

    async def _request(self, frame: frames.Request) -> None:
        try:
            answer = await self._verbs.request(self._places.principal, frame)
        except Exception as error:  # noqa: BLE001  the boundary of a request: the connection goes on
            self._refuse(self._explained(error, "request"), ref=frame.ref)
        else:
            self._send(answer)

    def _request_ended(self, task: "asyncio.Task[None]") -> None:
        self._requests -= 1
        self._close_if_done()

    # --- the end ---

    def _close_if_done(self) -> None:
        """Once the hub drains: as soon as nothing is under way and the client holds nothing."""
        if self._is_draining and self._lane.is_idle and not self._requests and not self._places.held:
            self._socket.close(_CLOSE_RESTART, "The hub is shutting down; connect again.")

    # --- sending ---

    def _send(self, frame: HubFrame) -> None:
        self._socket.send(encode_frame(frame))

    def _refuse(self, error: MeshwayError, *, id_: str | None = None, ref: str | None = None) -> None:
        self._send(frames.Error(problem=problem_raw(error), id=id_, ref=ref))

    def _explained(self, error: Exception, doing: str) -> MeshwayError:
        """What the client is told; faults of ours are logged, once, here."""
        if isinstance(error, MeshwayError):
            if isinstance(error, EngineError):
                _log.warning("socket_request_not_served", frame=doing, code=error.code, detail=error.detail)
            return error
        _log.error("socket_request_failed", frame=doing, exc_info=error)
        return MeshwayError("The hub failed on this request; its log says why.")
