"""What agents' handlers have said and the hub has not confirmed yet. Pure: no I/O, no clock.

    appended -> sent -> confirmed (gone)
                  └──── the connection broke: to be sent again

Per delivery, reports are numbered from 1 without gaps; what the hub confirms is a number, and everything up to it.
"""

from collections import deque
from dataclasses import dataclass, field

import msgspec

from meshway.protocols.link.frames import Hold, ReportItem

__all__ = ["TaskOutbox"]

# What a report costs beside its event: the numbers around it in memory and on the wire.
_ITEM_OVERHEAD_BYTES = 128


@dataclass(slots=True)
class _Reports:
    """Of one delivery. `events` follow `confirmed` one by one; `sent` is the last one that was given out."""

    confirmed: int = 0
    sent: int = 0
    events: deque[bytes] = field(default_factory=deque)

    @property
    def last(self) -> int:
        return self.confirmed + len(self.events)


class TaskOutbox:
    """Deliveries take turns where not everything fits into a batch, so that none waits for a talkative one."""

    def __init__(self, *, events_max: int, bytes_max: int) -> None:
        self._events_max = events_max
        self._bytes_max = bytes_max
        self._events = 0
        self._bytes = 0
        self._deliveries: dict[str, _Reports] = {}
        # Those with something to send, in the order of their turns; a dict for its order.
        self._ready: dict[str, None] = {}

    @property
    def has_room(self) -> bool:
        """Whether more should be said. `append` takes it anyway: the end of a task must never wait for room."""
        return self._events < self._events_max and self._bytes < self._bytes_max

    @property
    def has_unsent(self) -> bool:
        return bool(self._ready)

    @property
    def is_empty(self) -> bool:
        """Everything that was said is confirmed, or dropped."""
        return self._events == 0

    def open(self, delivery_id: str) -> None:
        """From here on the delivery can be reported on."""
        self._deliveries[delivery_id] = _Reports()

    def append(self, delivery_id: str, event: bytes) -> int:
        """The number the report got; 0 where the delivery is not open (any more)."""
        reports = self._deliveries.get(delivery_id)
        if reports is None:
            return 0
        reports.events.append(event)
        self._count(event, 1)
        self._ready[delivery_id] = None
        return reports.last

    def is_confirmed(self, delivery_id: str) -> bool:
        """Whether nothing of this delivery waits for the hub."""
        reports = self._deliveries.get(delivery_id)
        return reports is None or not reports.events

    def next_batch(self, *, items_max: int, bytes_max: int) -> list[ReportItem]:
        """The next reports to send, which count as sent. An event beyond `bytes_max` goes alone."""
        batch: list[ReportItem] = []
        room = bytes_max
        while self._ready and len(batch) < items_max:
            delivery_id = next(iter(self._ready))
            reports = self._deliveries[delivery_id]
            taken = self._take(delivery_id, reports, items_max - len(batch), room, may_exceed=not batch)
            batch += taken
            room -= sum(_size(bytes(item.event)) for item in taken)
            del self._ready[delivery_id]
            if reports.sent < reports.last:
                self._ready[delivery_id] = None
                # The batch is full: its next report did not fit.
                break
        return batch

    def confirm(self, delivery_id: str, source: int) -> None:
        """The hub has everything up to `source`."""
        reports = self._deliveries.get(delivery_id)
        if reports is None:
            return
        while reports.events and reports.confirmed < source:
            self._count(reports.events.popleft(), -1)
            reports.confirmed += 1
        reports.sent = max(reports.sent, reports.confirmed)
        if reports.sent >= reports.last:
            self._ready.pop(delivery_id, None)

    def rewind(self, delivery_id: str) -> None:
        """What was sent and not confirmed is to be sent again."""
        reports = self._deliveries.get(delivery_id)
        if reports is None:
            return
        reports.sent = reports.confirmed
        if reports.events:
            self._ready[delivery_id] = None

    def clear(self, delivery_id: str) -> None:
        """Forget what was said and not confirmed."""
        reports = self._deliveries.get(delivery_id)
        if reports is None:
            return
        for event in reports.events:
            self._count(event, -1)
        reports.events.clear()
        reports.sent = reports.confirmed
        self._ready.pop(delivery_id, None)

    def close(self, delivery_id: str) -> None:
        """Forget the delivery with all that was said about it."""
        self.clear(delivery_id)
        self._deliveries.pop(delivery_id, None)

    def holds(self) -> list[Hold]:
        """What to show to a hub after the connection was lost."""
        return [Hold(delivery_id=each, source=reports.confirmed) for each, reports in self._deliveries.items()]

    def _take(
        self, delivery_id: str, reports: _Reports, items_max: int, bytes_max: int, *, may_exceed: bool
    ) -> list[ReportItem]:
        taken: list[ReportItem] = []
        while reports.sent < reports.last and len(taken) < items_max:
            event = reports.events[reports.sent - reports.confirmed]
            bytes_max -= _size(event)
            if bytes_max < 0 and not (may_exceed and not taken):
                break
            reports.sent += 1
            taken.append(ReportItem(delivery_id=delivery_id, source=reports.sent, event=msgspec.Raw(event)))
        return taken

    def _count(self, event: bytes, sign: int) -> None:
        self._events += sign
        self._bytes += sign * _size(event)


def _size(event: bytes) -> int:
    return len(event) + _ITEM_OVERHEAD_BYTES
