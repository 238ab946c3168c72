"""From a task's log to the queue of notifications: one message per event and config, none left out.

The log is the truth. Whatever happens to a task or a config only marks the config; then the log is asked how far it
goes, and what the config has not been given yet is queued. So it does not matter who appended, whether the hub died
between the append and the queue, or how often a config is marked: repeats carry the same message id and are dropped.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

from meshway.engine.ports import Enqueued, Log, LogBounds, Queue, QueueAppend
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineError, EngineUnavailable, LimitError, MeshwayError
from meshway.kernel.ids import AgentId, TaskId
from meshway.tasks.push_configs import PushConfig, PushConfigStore, push_config_key
from meshway.tasks.tokens import events_subject
from meshway.tasks.values import TaskEvent

__all__ = ["PUSH_QUEUE", "Notice", "QueueNotifications"]

_log = logging.getLogger(__name__)

PUSH_QUEUE = "_push"
# Configs looked at in one call of the store, and messages of one append: others' calls wait for no more.
_CONFIGS_PER_ROUND = 200
_MESSAGES_PER_ROUND = 500
# Numbers are stored this much later: a crash repeats at most what was queued meanwhile, and the engine, which remembers
# message ids for two minutes, drops most of that.
_SAVE_AFTER_MS = 5_000
# Marks come from memory, so a look at everything finds only what another hub left behind when it died.
_LOOK_AGAIN_MS = 3_600_000
_RETRY_S = 1.0
# Saving at the end spares repeats after the next start; it must not hold up the end.
_LAST_SAVE_S = 2.0


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """A message of the queue: this event, to this config. `made`: the config's `created_at_ms`."""

    agent: AgentId
    task: TaskId
    config: str
    number: int
    made: int

    @property
    def key(self) -> str:
        return push_config_key(self.agent, self.task, self.config)


class _Receiver:
    """A config, and the number of the last event that was queued for it."""

    __slots__ = ("config", "queued")

    def __init__(self, config: PushConfig) -> None:
        self.config = config
        self.queued = config.last_queued

    @property
    def subject(self) -> str:
        return events_subject(self.config.agent_id, self.config.task_id)


class QueueNotifications:
    """One per hub, made before the store's `run` begins. Used from the event loop only."""

    def __init__(self, configs: PushConfigStore, *, log: Log, queue: Queue, clock: Clock) -> None:
        self._configs = configs
        self._log = log
        self._queue = queue
        self._clock = clock
        self._receivers: dict[str, _Receiver] = {}
        # Keys to be looked at, and keys whose number is not stored yet.
        self._marked: dict[str, None] = {}
        self._unsaved: dict[str, None] = {}
        self._wake = asyncio.Event()
        now_ms = clock.monotonic_ms()
        self._saved_ms = self._looked_ms = now_ms
        configs.listen(self._follow)

    def events_appended(self, agent_id: AgentId, task_id: TaskId, events: Sequence[TaskEvent]) -> None:
        """The log of this task has grown: said after each append, in the same turn of the loop. Cheap."""
        if events:
            self._mark(self._configs.keys_of(agent_id, task_id))

    def catch_up(self) -> None:
        """Look at every config. Not needed at start: each config is looked at when it is first seen."""
        self._looked_ms = self._clock.monotonic_ms()
        self._mark(self._receivers)

    async def run(self) -> None:
        """The duty: queue what was marked, until cancelled. A round that fails is repeated."""
        try:
            while True:
                await self._wait()
                try:
                    await self.queue_marked()
                    if self._clock.monotonic_ms() - self._saved_ms >= _SAVE_AFTER_MS:
                        await self.save()
                except (EngineError, LimitError) as error:
                    _log.warning("notifications_not_queued", extra={"reason": error.detail})
                    await asyncio.sleep(_RETRY_S)
        finally:
            with contextlib.suppress(MeshwayError, TimeoutError):
                async with asyncio.timeout(_LAST_SAVE_S):
                    await self.save()

    async def queue_marked(self) -> None:
        """Until nothing is marked. Raises: StorageFull, EngineUnavailable; what was not done stays marked."""
        while self._marked:
            keys = list(islice(self._marked, _CONFIGS_PER_ROUND))
            for key in keys:
                # Before the look: what is appended while it lasts marks the config again.
                del self._marked[key]
            try:
                await self._queue_missing([self._receivers[key] for key in keys if key in self._receivers])
            except BaseException:
                self._mark(keys)
                raise

    async def save(self) -> None:
        """Store how far each config has come. Raises: StorageFull, EngineUnavailable; what was not done stays due."""
        self._saved_ms = self._clock.monotonic_ms()
        while self._unsaved:
            keys = list(islice(self._unsaved, _CONFIGS_PER_ROUND))
            numbers = {key: self._receivers[key].queued for key in keys if key in self._receivers}
            again = await self._configs.save_queued(numbers) if numbers else ()
            for key in keys:
                receiver = self._receivers.get(key)
                if receiver is None or receiver.queued == numbers.get(key):
                    self._unsaved.pop(key, None)
            if again:
                # Written by somebody else meanwhile: the next time will do.
                self._unsaved.update(dict.fromkeys(again))
                return

    async def _wait(self) -> None:
        """Until something is marked, or it is time to save or to look at everything."""
        now_ms = self._clock.monotonic_ms()
        wait_ms = self._looked_ms + _LOOK_AGAIN_MS - now_ms
        if self._unsaved:
            wait_ms = min(wait_ms, self._saved_ms + _SAVE_AFTER_MS - now_ms)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, wait_ms) / 1000):
                await self._wake.wait()
        self._wake.clear()
        if self._clock.monotonic_ms() - self._looked_ms >= _LOOK_AGAIN_MS:
            self.catch_up()

    async def _queue_missing(self, receivers: Sequence[_Receiver]) -> None:
        if not receivers:
            return
        bounds = await self._log.bounds([receiver.subject for receiver in receivers])
        wanted: list[tuple[_Receiver, int]] = []
        for receiver, found in zip(receivers, bounds, strict=True):
            room = _MESSAGES_PER_ROUND - len(wanted)
            missing = _missing(receiver, found)
            wanted += [(receiver, number) for number in missing[:room]]
            if len(missing) > room:
                self._mark([receiver.config.key])
        if wanted:
            await self._append(wanted)

    async def _append(self, wanted: Sequence[tuple[_Receiver, int]]) -> None:
        outcomes = await self._queue.append([_message(receiver.config, number) for receiver, number in wanted])
        stuck: set[str] = set()
        for (receiver, number), outcome in zip(wanted, outcomes, strict=True):
            key = receiver.config.key
            # What follows one that is not certain is queued again with it. Where that one was lost and they were not,
            # the receiver sees it behind them: the one case in which only the numbers tell the order.
            if isinstance(outcome, Enqueued) and key not in stuck:
                receiver.queued = max(receiver.queued, number)
                self._unsaved[key] = None
            else:
                stuck.add(key)
        if stuck:
            raise EngineUnavailable(f"The engine did not keep the notifications of {len(stuck)} push configs.")

    def _follow(self, key: str, config: PushConfig | None) -> None:
        """A config was seen, or is gone."""
        known = self._receivers.get(key)
        if config is None:
            self._receivers.pop(key, None)
            self._marked.pop(key, None)
            self._unsaved.pop(key, None)
        elif known is None or known.config.created_at_ms != config.created_at_ms:
            self._receivers[key] = _Receiver(config)
            self._mark([key])
        else:
            known.config = config
            # Another hub may have served it.
            known.queued = max(known.queued, config.last_queued)

    def _mark(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._marked[key] = None
        if self._marked:
            self._wake.set()


def _missing(receiver: _Receiver, bounds: LogBounds | None) -> range:
    """Numbers of the events that are kept and were not queued for the config."""
    if bounds is None:
        return range(0)
    return range(max(receiver.queued + 1, bounds.first), bounds.last + 1)


def _message(config: PushConfig, number: int) -> QueueAppend:
    notice = Notice(
        agent=config.agent_id, task=config.task_id, config=config.config_id, number=number, made=config.created_at_ms
    )
    # The time in the id: a config that was deleted and made again begins anew.
    return QueueAppend(
        queue=PUSH_QUEUE,
        message_id=f"{config.key}.{config.created_at_ms}.{number}",
        data=msgspec.json.encode(notice),
        ordering_key=config.key,
    )
