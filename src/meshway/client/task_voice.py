"""What one run of a handler says, from its first chunk to its end, over one delivery after the other."""

import asyncio
from collections.abc import Mapping
from typing import Literal, Protocol

from meshway.client.agent_values import Progress
from meshway.client.handlers import shortened
from meshway.client.task_events import TaskWriter, artifact_of
from meshway.protocols.link.frames import TaskDelivery, TaskSettlement

__all__ = ["RunVoice", "VoiceDesk"]

# A chunk waits so long for the next one: the last of a text is marked as such only if it is known to be the last.
_SILENCE_S = 0.05


class VoiceDesk(Protocol):
    """Where it is heard; TaskReporter."""

    def append(self, delivery_id: str, event: bytes, *, ends_delivery: bool = False) -> None:
        """Report an event."""

    async def room(self) -> None:
        """Wait while too much waits for the hub."""

    def settle(self, settlement: TaskSettlement) -> None:
        """Say what is to become of a delivery."""


class RunVoice:
    """On the loop, but for `report_cost`."""

    def __init__(self, delivery: TaskDelivery, desk: VoiceDesk) -> None:
        self._desk = desk
        self._loop = asyncio.get_running_loop()
        self._cost = 0.0
        self._said_at = 0.0
        self._silence_timer: asyncio.TimerHandle | None = None
        self.begin(delivery)

    def begin(self, delivery: TaskDelivery) -> None:
        """Speak of this delivery from here on."""
        self.delivery = delivery
        self._writer = TaskWriter(delivery.task_id, delivery.context_id, delivery.turn)

    async def say(self, value: object) -> None:
        """What a handler yielded. Waits while the hub is too far behind. Raises: TypeError for what JSON cannot say."""
        await self._desk.room()
        if isinstance(value, str):
            self._append(self._writer.chunk(value))
            self._said_at = self._loop.time()
            self._await_silence()
        elif isinstance(value, Progress):
            self._say_status("WORKING", text=value.text or None, metadata=value.metadata)
        elif value is not None:
            # Encoded first: what cannot be said leaves the text before it as it was.
            event = self._writer.artifact(artifact_of(value))
            self._append(self._writer.flush())
            self._append([event])

    async def say_result(self, value: object) -> None:
        """What a handler returned: one whole artifact."""
        await self._desk.room()
        event = self._writer.artifact(artifact_of(value))
        self._append(self._writer.finish_text())
        self._append([event])

    def report_cost(self, units: float) -> None:
        """Said with the next status, or soon. From any thread."""
        try:
            is_on_loop = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            is_on_loop = False
        if is_on_loop:
            self._add_cost(units)
        else:
            self._loop.call_soon_threadsafe(self._add_cost, units)

    def end_turn(self, state: str, text: str | None = None) -> None:
        """The last word of this delivery."""
        self._append(self._writer.finish_text())
        self._say_status(state, text=text, ends_delivery=True)

    def settle(
        self, action: Literal["retry", "fail", "release"], reason: str | BaseException, delay_ms: int | None = None
    ) -> None:
        """No last word: the hub decides what becomes of the delivery."""
        self.flush()
        settlement = TaskSettlement(
            delivery_id=self.delivery.delivery_id,
            action=action,
            delay_ms=delay_ms,
            reason=shortened(reason),
        )
        self._desk.settle(settlement)

    def flush(self) -> None:
        """Say what was held back."""
        self._append(self._writer.flush())
        if self._cost:
            self._say_status("WORKING")

    def close(self) -> None:
        if self._silence_timer is not None:
            self._silence_timer.cancel()

    def _say_status(
        self,
        state: str,
        *,
        text: str | None = None,
        metadata: Mapping[str, object] | None = None,
        ends_delivery: bool = False,
    ) -> None:
        facts = dict(metadata or {})
        if self._cost:
            facts["cost"] = self._cost
        event = self._writer.status(state, text=text, metadata=facts)
        self._cost = 0.0
        self._append(self._writer.flush())
        self._desk.append(self.delivery.delivery_id, event, ends_delivery=ends_delivery)

    def _append(self, events: list[bytes]) -> None:
        for event in events:
            self._desk.append(self.delivery.delivery_id, event)

    def _add_cost(self, units: float) -> None:
        self._cost += units
        self._await_silence()

    def _await_silence(self) -> None:
        if self._silence_timer is None:
            self._silence_timer = self._loop.call_later(_SILENCE_S, self._look_for_silence)

    def _look_for_silence(self) -> None:
        """One timer for all chunks: where another one came meanwhile, it waits for the rest of the time."""
        self._silence_timer = None
        left_s = self._said_at + _SILENCE_S - self._loop.time()
        if self._writer.holds_chunk and left_s > 0:
            self._silence_timer = self._loop.call_later(left_s, self._look_for_silence)
            return
        self.flush()
