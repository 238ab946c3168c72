"""What happened lately on channels that keep nothing: events, commands and queries. In memory, this hub's own view.

Figures count since the hub started, or since the channel was forgotten: the names that were idle longest go first.
"""

from collections import OrderedDict
from collections.abc import Iterable
from types import MappingProxyType

from meshway.kernel.metrics import Metrics
from meshway.messaging.names import ChannelKind, ChannelName, is_pattern, pattern_covers

__all__ = ["REQUEST_OUTCOMES", "Activity"]

# Per kind; a name and its figures take about 500 bytes, so all of them a few MB.
_NAMES_MAX = 4_096
_EVENT_FIGURES = ("published", "missed")
# What can become of a command or query, as figures and as label of the metric.
REQUEST_OUTCOMES = ("executed", "refused", "no_responder", "busy", "timed_out", "cached")
_REQUEST_FIGURES = ("asked", *REQUEST_OUTCOMES)
_FIGURES = MappingProxyType(
    {
        ChannelKind.EVENTS: _EVENT_FIGURES,
        ChannelKind.COMMANDS: _REQUEST_FIGURES,
        ChannelKind.QUERIES: _REQUEST_FIGURES,
    }
)


class Activity:
    """Counts per channel for people, and per kind for metrics, where channels would be labels without bound."""

    def __init__(self, metrics: Metrics) -> None:
        self._figures: dict[ChannelKind, OrderedDict[str, dict[str, int]]] = {kind: OrderedDict() for kind in _FIGURES}
        self._listeners: dict[ChannelKind, _Listeners] = {kind: _Listeners() for kind in _FIGURES}
        self._published = metrics.counter(
            "meshway_messages_accepted_total", "Messages accepted on channels", ["kind"]
        ).labels(ChannelKind.EVENTS.value)
        self._missed = metrics.counter(
            "meshway_events_missed_total", "Events that a subscriber was too slow for, where the number is known"
        )
        requests = metrics.counter(
            "meshway_request_outcomes_total", "Commands and queries by outcome", ["kind", "outcome"]
        )
        self._outcomes = {
            (kind, outcome): requests.labels(kind.value, outcome)
            for kind in (ChannelKind.COMMANDS, ChannelKind.QUERIES)
            for outcome in REQUEST_OUTCOMES
        }
        listeners = metrics.gauge("meshway_channel_listeners", "Subscribers and responders at this hub", ["kind"])
        self._gauges = {kind: listeners.labels(kind.value) for kind in _FIGURES}

    # Counting

    def published(self, name: ChannelName, messages: int) -> None:
        """So many events were accepted in one post."""
        self._of(ChannelKind.EVENTS, name)["published"] += messages
        self._published.inc(messages)

    def missed(self, pattern: str, events: int) -> None:
        """A subscriber was too slow; for a pattern nobody knows which channels they were of."""
        if not is_pattern(pattern):
            self._of(ChannelKind.EVENTS, pattern)["missed"] += events
        self._missed.inc(events)

    def asked(self, kind: ChannelKind, name: ChannelName, outcome: str) -> None:
        """One command or query is over; `outcome` is one of REQUEST_OUTCOMES."""
        figures = self._of(kind, name)
        figures["asked"] += 1
        figures[outcome] += 1
        self._outcomes[kind, outcome].inc()

    def joined(self, kind: ChannelKind, pattern: str) -> None:
        """A subscriber or responder began to listen; call `left` with the same arguments once."""
        self._listeners[kind].add(pattern)
        self._gauges[kind].inc()

    def left(self, kind: ChannelKind, pattern: str) -> None:
        self._listeners[kind].remove(pattern)
        self._gauges[kind].dec()

    # Reading

    def figures_of(self, kind: ChannelKind, name: ChannelName) -> dict[str, int]:
        """The channel's figures, 0 where nothing is known; `subscribers` or `responders` are those here and now.

        Events: published, missed, subscribers. Commands and queries: asked, its outcomes, responders. A poll counts as
        a responder while it waits. Raises: KeyError for the kinds that are kept.
        """
        known = self._figures[kind].get(name)
        figures = dict.fromkeys(_FIGURES[kind], 0) if known is None else dict(known)
        figures["subscribers" if kind is ChannelKind.EVENTS else "responders"] = self._listeners[kind].count_for(name)
        return figures

    def names(self, kind: ChannelKind) -> Iterable[ChannelName]:
        """Channels that were used or are listened to by name, ordered."""
        used = self._figures[kind].keys() | self._listeners[kind].by_name.keys()
        return [ChannelName(name) for name in sorted(used)]

    def _of(self, kind: ChannelKind, name: str) -> dict[str, int]:
        known = self._figures[kind]
        figures = known.get(name)
        if figures is None:
            if len(known) >= _NAMES_MAX:
                known.popitem(last=False)
            figures = known[name] = dict.fromkeys(_FIGURES[kind], 0)
        else:
            known.move_to_end(name)
        return figures


class _Listeners:
    """How many listen by which name and by which pattern."""

    def __init__(self) -> None:
        self.by_name: dict[str, int] = {}
        self._by_pattern: dict[str, int] = {}

    def add(self, pattern: str) -> None:
        counts = self._by_pattern if is_pattern(pattern) else self.by_name
        counts[pattern] = counts.get(pattern, 0) + 1

    def remove(self, pattern: str) -> None:
        counts = self._by_pattern if is_pattern(pattern) else self.by_name
        counts[pattern] -= 1
        if not counts[pattern]:
            del counts[pattern]

    def count_for(self, name: str) -> int:
        """Looks at every pattern: for people who ask, not for every message."""
        by_pattern = sum(count for pattern, count in self._by_pattern.items() if pattern_covers(pattern, name))
        return self.by_name.get(name, 0) + by_pattern
