"""An agent at work: one instance of it at the hub, its runs, its capacity, its way out."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from meshway.client.agent_values import AgentOptions
from meshway.client.errors import ClientError
from meshway.client.handlers import HandlerCall, shortened
from meshway.client.link import LinkSession, SubscriptionFrame
from meshway.client.service import Service
from meshway.client.task_context import TaskContext
from meshway.client.task_events import TaskWriter
from meshway.client.task_reporter import TaskReporter
from meshway.client.task_run import TaskRun
from meshway.protocols.link import frames

__all__ = ["WAITING_MAX", "AgentProfile", "AgentService"]

_log = logging.getLogger(__name__)

# Handlers that wait for an answer of their client: each keeps its memory, and most answers come soon or never.
WAITING_MAX = 1_000
_WAITING_S = 3_600.0
# On the way out: what is left to say after the last handler has ended.
_LAST_WORDS_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentProfile:
    """How the agent is known at the hub. `card` is JSON."""

    agent: str
    instance: str
    card: bytes
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Waiting:
    run: TaskRun
    expiry: asyncio.TimerHandle


class AgentService(Service):
    """`skills` by id; `handler` takes what names no skill. What names none of them is rejected."""

    def __init__(
        self,
        profile: AgentProfile,
        session: LinkSession,
        *,
        handler: HandlerCall[TaskContext] | None,
        skills: Mapping[str, HandlerCall[TaskContext]],
        options: AgentOptions,
    ) -> None:
        super().__init__(drain_timeout_s=options.drain_timeout_s)
        self._profile = profile
        self._session = session
        self._handler = handler
        self._skills = skills
        self._options = options
        self._reporter = TaskReporter(session, options, on_lost=self._lose)
        self._id: str | None = None
        self._outstanding = 0
        self._freed = asyncio.Event()
        # What the last Serve frame showed, until the hub has answered to it.
        self._shown: list[frames.Hold] = []
        # By the id of the delivery each works on, or asked its question in.
        self._runs: dict[str, TaskRun] = {}
        self._running = 0
        # By task, oldest first.
        self._waiting: OrderedDict[str, _Waiting] = OrderedDict()

    def subscribe_frame(self, subscription_id: str) -> frames.Serve:
        """As LinkSubscription."""
        self._outstanding = self._free_slots
        self._shown = self._reporter.holds()
        return frames.Serve(
            id=subscription_id,
            agent=self._profile.agent,
            instance=self._profile.instance,
            card=msgspec.Raw(self._profile.card),
            labels=dict(self._profile.labels),
            capacity=self._options.capacity,
            credit=self._outstanding,
            holds=self._shown,
        )

    def accept(self, frame: SubscriptionFrame) -> None:
        """As LinkSubscription."""
        match frame:
            case frames.Served():
                _log.info("agent_online", extra={"agent": self._profile.agent, "instance": frame.instance})
                self._reporter.connected(frame.id, frame.holds, self._shown)
                self._shown = []
                self._freed.set()
            case frames.Tasks():
                for delivery in frame.tasks:
                    self._outstanding -= 1
                    self._take(delivery)
            case frames.CancelTasks():
                for delivery_id in frame.delivery_ids:
                    self._reporter.lose(delivery_id, frame.reason or "cancelled")
            case _:
                pass

    def lost(self) -> None:
        """As LinkSubscription."""
        self._outstanding = 0
        self._reporter.disconnected()

    def fail(self, error: ClientError) -> None:
        """As LinkSubscription: what handlers would still say, nobody takes."""
        super().fail(error)
        self._reporter.disconnected()
        self._hurry.set()

    def waits(self, run: TaskRun) -> None:
        """As RunDesk."""
        self._forget_waiting(run.delivery.task_id)
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(_WAITING_S, self._forget_waiting, run.delivery.task_id)
        self._waiting[run.delivery.task_id] = _Waiting(run, expiry)
        if len(self._waiting) > WAITING_MAX:
            self._forget_waiting(next(iter(self._waiting)))
        self._free_slot()

    @property
    def _free_slots(self) -> int:
        return 0 if self._stopping.is_set() else self._options.capacity - self._running

    async def _serve(self, group: asyncio.TaskGroup) -> None:
        self._id = await self._session.subscribe(self)
        work = [
            group.create_task(self._grant(self._id)),
            group.create_task(self._reporter.report()),
            group.create_task(self._reporter.settle_all()),
        ]
        try:
            await self._stopping.wait()
            _log.info("agent_draining", extra={"agent": self._profile.agent, "running": self._running})
            await self._until_quiet(group)
        finally:
            # Also when the program cancels us: the hub learns at once what is due again.
            self._stopping.set()
            await self._leave(self._id)
            for task in work:
                task.cancel()

    async def _leave(self, subscription_id: str) -> None:
        for run in tuple(self._runs.values()):
            run.cancel("given_back")
        if self._failure is None:
            try:
                async with asyncio.timeout(_LAST_WORDS_S):
                    await self._reporter.idle()
            except TimeoutError:
                # The leases end by themselves.
                _log.warning("agent_left_unsettled", extra={"agent": self._profile.agent})
        await self._session.say_bye(subscription_id)
        _log.info("agent_stopped", extra={"agent": self._profile.agent})

    def _close(self) -> None:
        self._reporter.close()
        for call in (self._handler, *self._skills.values()):
            if call is not None:
                call.close()

    async def _grant(self, subscription_id: str) -> None:
        while True:
            await self._freed.wait()
            self._freed.clear()
            credit = self._free_slots - self._outstanding
            if credit > 0 and self._session.is_connected:
                self._outstanding += credit
                await self._session.send(frames.Credit(id=subscription_id, messages=credit))

    def _take(self, delivery: frames.TaskDelivery) -> None:
        self._reporter.hold(delivery.delivery_id, delivery.lease_ms / 1000)
        if self._stopping.is_set():
            self._settle(delivery, "release", "the agent stopped")
            return
        try:
            waiting = self._waiting.get(delivery.task_id)
            if waiting is not None and waiting.run.awaits(delivery):
                self._resume(waiting.run, delivery)
            else:
                # Where one waits for something else, the task went on elsewhere since it asked.
                self._forget_waiting(delivery.task_id)
                self._begin(delivery)
        except msgspec.MsgspecError as error:
            _log.error("delivery_unreadable", extra={"delivery_id": delivery.delivery_id, "error": str(error)})
            self._settle(delivery, "fail", f"this agent's SDK cannot read the message: {error}")

    def _begin(self, delivery: frames.TaskDelivery) -> None:
        # An agent that declares no skills has one, whatever its callers name it.
        skill = _skill_of(delivery) if self._skills else ""
        handler = self._skills.get(skill) if skill else self._handler
        if handler is None:
            self._reject(delivery, skill)
            return
        run = TaskRun(delivery, handler, desk=self, reporter=self._reporter, retry_on=self._options.retry_on)
        self._runs[delivery.delivery_id] = run
        self._occupy_slot()
        run.task = self._group.create_task(run.run())
        run.task.add_done_callback(lambda _: self._ended(run))

    def _resume(self, run: TaskRun, delivery: frames.TaskDelivery) -> None:
        asked_in = run.delivery.delivery_id
        run.answer(delivery)
        self._waiting.pop(delivery.task_id).expiry.cancel()
        del self._runs[asked_in]
        self._runs[delivery.delivery_id] = run
        self._occupy_slot()

    def _ended(self, run: TaskRun) -> None:
        delivery = run.delivery
        if self._runs.get(delivery.delivery_id) is run:
            del self._runs[delivery.delivery_id]
        if not run.is_waiting:
            self._free_slot()
            return
        waiting = self._waiting.get(delivery.task_id)
        if waiting is not None and waiting.run is run:
            del self._waiting[delivery.task_id]
            waiting.expiry.cancel()

    def _reject(self, delivery: frames.TaskDelivery, skill: str) -> None:
        there_are = ", ".join(self._skills) or "none"
        text = f"No skill {skill!r} here" if skill else "Name the skill in the message's metadata.skill"
        writer = TaskWriter(delivery.task_id, delivery.context_id, delivery.turn)
        event = writer.status("REJECTED", text=f"{text}; there are: {there_are}.")
        self._reporter.append(delivery.delivery_id, event, ends_delivery=True)
        self._freed.set()

    def _settle(self, delivery: frames.TaskDelivery, action: Literal["fail", "release"], reason: str) -> None:
        self._reporter.settle(
            frames.TaskSettlement(delivery_id=delivery.delivery_id, action=action, reason=shortened(reason))
        )
        self._freed.set()

    def _lose(self, delivery_id: str, reason: str) -> None:
        run = self._runs.get(delivery_id)
        if run is not None:
            _log.info("task_cancelled", extra={"task_id": run.delivery.task_id, "reason": reason})
            run.cancel("lost")

    def _forget_waiting(self, task_id: str) -> None:
        """An answer that comes now begins the handler anew."""
        waiting = self._waiting.pop(task_id, None)
        if waiting is not None:
            waiting.expiry.cancel()
            waiting.run.cancel("lost")

    def _occupy_slot(self) -> None:
        self._running += 1
        self._quiet.clear()

    def _free_slot(self) -> None:
        self._running -= 1
        if not self._running:
            self._quiet.set()
        self._freed.set()


class _WireMetadata(msgspec.Struct):
    skill: object = None


class _WireMessage(msgspec.Struct):
    metadata: _WireMetadata | None = None

    @property
    def skill(self) -> str:
        skill = self.metadata.skill if self.metadata else None
        return skill if isinstance(skill, str) else ""


class _WireTask(msgspec.Struct):
    history: tuple[_WireMessage, ...] = ()


def _skill_of(delivery: frames.TaskDelivery) -> str:
    """Which skill the message asks for, or the last one before it that asked for any; "" for none.

    Who answers a question does not name the skill again. Raises: msgspec.MsgspecError.
    """
    said = [msgspec.json.decode(delivery.message, type=_WireMessage)]
    if not isinstance(delivery.task, msgspec.UnsetType):
        said += reversed(msgspec.json.decode(delivery.task, type=_WireTask).history)
    return next((message.skill for message in said if message.skill), "")
