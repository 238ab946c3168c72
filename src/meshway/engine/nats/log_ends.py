"""Where subjects end: remembered for those that were written last, asked of the leader for the others.

What is remembered may be old, since other hubs write too: a write says what it follows, and the server refuses it.
"""

from collections import OrderedDict
from collections.abc import Sequence

from meshway.engine.nats.failures import ApiError, Unanswered
from meshway.engine.nats.jetstream import JetStream, Stored
from meshway.engine.nats.log_entries import End, end_of, has_message_id, is_ours, number_of
from meshway.engine.nats.streams import Layout

__all__ = ["NEVER_WRITTEN", "LogEnds"]

# Of numbers that are remembered: two minutes of a few hundred entries a second.
_NUMBERS_MAX = 32_768

NEVER_WRITTEN = End(0, None, 0, 0, 0)


class LogEnds:
    """Of subjects as the ports name them."""

    def __init__(self, jetstream: JetStream, layout: Layout, *, cached_max: int) -> None:
        self._jetstream = jetstream
        self._layout = layout
        self._cached_max = cached_max
        self._ends: OrderedDict[str, End] = OrderedDict()
        # Numbers of entries by stream sequence: a repetition is answered with it even if they were trimmed meanwhile.
        self._numbers: OrderedDict[int, int] = OrderedDict()

    def get(self, subject: str) -> End | None:
        """What is remembered: true once, and no older than the last message that the feed gave."""
        end = self._ends.get(subject)
        if end is not None:
            self._ends.move_to_end(subject)
        return end

    def put(self, subject: str, end: End) -> None:
        """Remember, unless a later one is known."""
        known = self._ends.get(subject)
        if not end.seq or (known is not None and known.seq > end.seq):
            # Of a subject without messages nothing may be remembered: when it has none again, it may have had some
            # between, and a write after number 0 would not be refused.
            return
        self._ends[subject] = end
        self._ends.move_to_end(subject)
        while len(self._ends) > self._cached_max:
            self._ends.popitem(last=False)

    def drop(self, subject: str) -> None:
        self._ends.pop(subject, None)

    def heard(self, subject: str, stored: Stored) -> None:
        """Another hub may have written it."""
        if not is_ours(stored):
            self._ends.pop(subject, None)
            return
        if has_message_id(stored):
            self._numbers[stored.seq] = number_of(stored)
            while len(self._numbers) > _NUMBERS_MAX:
                self._numbers.popitem(last=False)
        # Also of a subject that nobody asked for here: who heard of a task is likely to write to it next.
        known = self._ends.get(subject)
        if known is None or known.seq < stored.seq:
            self.put(subject, end_of(stored))

    def number_at(self, seq: int) -> int | None:
        """Of an entry that was heard not long ago."""
        return self._numbers.get(seq)

    async def look_up(self, subjects: Sequence[str]) -> Sequence[End | ApiError | Unanswered]:
        """As the leader has them now, all at once."""
        names = [self._layout.log + subject for subject in subjects]
        names += [self._layout.log_end + subject for subject in subjects]
        found = await self._jetstream.last_of_each(self._layout.log_stream, names)
        ends: list[End | ApiError | Unanswered] = []
        for place, subject in enumerate(subjects):
            last, marker = found[place], found[len(subjects) + place]
            if last is None:
                end = NEVER_WRITTEN if marker is None else _judged(marker)
                ends.append(end._replace(seq=0) if isinstance(end, End) else end)
                continue
            end = _judged(last)
            if isinstance(end, End):
                self.put(subject, end)
            ends.append(end)
        return ends


def _judged(last: Stored | ApiError | Unanswered) -> End | ApiError | Unanswered:
    if not isinstance(last, Stored):
        return last
    if not is_ours(last):
        return ApiError(0, 0, f"its subject {last.subject} ends with a message that Meshway did not write")
    return end_of(last)
