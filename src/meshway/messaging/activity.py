"""What happened lately on channels that keep nothing: events, commands and queries. In memory, of all hubs.

Figures count since the hubs started, or since the channel was forgotten: the names that were idle longest go first.
"""

from collections.abc import Iterable, Sequence
from types import MappingProxyType

import msgspec

from meshway.kernel.metrics import Metrics
from meshway.messaging.channel_counts import Figures, Listeners
from meshway.messaging.names import ChannelKind, ChannelName, is_pattern

__all__ = ["REQUEST_OUTCOMES", "Activity", "ActivityShare"]

# Per kind; a name and its figures take about 500 bytes, so all of them a few MB.
_NAMES_MAX = 4_096
# Hubs whose figures are kept, those that are gone included; the one that came first is forgotten first.
_HUBS_MAX = 1_024
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


class ActivityShare(msgspec.Struct, frozen=True, array_like=True):
    """What one hub counted of a channel, and how many listen there by this name or pattern."""

    kind: ChannelKind
    name: str
    figures: dict[str, int]
    listeners: int


class _Counts:
    """Of one hub."""

    def __init__(self) -> None:
        self.figures = {kind: Figures(_NAMES_MAX) for kind in _FIGURES}
        self.listeners = {kind: Listeners() for kind in _FIGURES}


class Activity:
    """Counts per channel for people, and per kind for metrics, where channels would be labels without bound."""

    def __init__(self, metrics: Metrics) -> None:
        self._own = _Counts()
        self._others: dict[str, _Counts] = {}
        # What other hubs are to be told; None: there are none.
        self._changed: dict[tuple[ChannelKind, str], None] | None = None
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
        self._own.listeners[kind].change(pattern, 1)
        self._note(kind, pattern)
        self._gauges[kind].inc()

    def left(self, kind: ChannelKind, pattern: str) -> None:
        self._own.listeners[kind].change(pattern, -1)
        self._note(kind, pattern)
        self._gauges[kind].dec()

    # With other hubs

    def share(self) -> None:
        """From now on there are other hubs, which are told."""
        self._changed = {}

    def shares_to_tell(self, *, is_whole: bool) -> Sequence[ActivityShare]:
        """What changed here since this was asked last, or everything."""
        changed, self._changed = self._changed or {}, {}
        own = self._own
        if is_whole:
            for kind in _FIGURES:
                listeners = own.listeners[kind]
                names = [*own.figures[kind].by_name, *listeners.by_name, *listeners.by_pattern]
                changed |= dict.fromkeys((kind, name) for name in names)
        return [
            ActivityShare(kind, name, dict(own.figures[kind].get(name)), own.listeners[kind].get(name))
            for kind, name in changed
        ]

    def heard_shares(self, hub_id: str, shares: Iterable[ActivityShare]) -> None:
        """Another hub told."""
        counts = self._others.get(hub_id)
        if counts is None:
            if len(self._others) >= _HUBS_MAX:
                self._others.pop(next(iter(self._others)))
            counts = self._others[hub_id] = _Counts()
        for share in shares:
            if share.figures:
                counts.figures[share.kind].put(share.name, share.figures)
            counts.listeners[share.kind].put(share.name, share.listeners)

    def forget_listeners(self, hub_id: str) -> None:
        """A hub is gone, and who listened there; what it counted has happened."""
        counts = self._others.get(hub_id)
        if counts is not None:
            counts.listeners = {kind: Listeners() for kind in _FIGURES}

    def _note(self, kind: ChannelKind, name: str) -> None:
        if self._changed is not None:
            self._changed[kind, name] = None

    # Reading

    def figures_of(self, kind: ChannelKind, name: ChannelName) -> dict[str, int]:
        """The channel's figures, 0 where nothing is known; `subscribers` or `responders` are those of this moment.

        Events: published, missed, subscribers. Commands and queries: asked, its outcomes, responders. A poll counts as
        a responder while it waits. What happens at other hubs comes half a second later.
        Raises: KeyError for the kinds that are kept.
        """
        figures = dict.fromkeys(_FIGURES[kind], 0)
        listeners = 0
        for counts in (self._own, *self._others.values()):
            for figure, count in counts.figures[kind].get(name).items():
                figures[figure] = figures.get(figure, 0) + count
            listeners += counts.listeners[kind].count_for(name)
        figures["subscribers" if kind is ChannelKind.EVENTS else "responders"] = listeners
        return figures

    def names(self, kind: ChannelKind) -> Iterable[ChannelName]:
        """Channels that were used or are listened to by name, ordered."""
        used: set[str] = set()
        for counts in (self._own, *self._others.values()):
            used |= counts.figures[kind].by_name.keys() | counts.listeners[kind].by_name.keys()
        return [ChannelName(name) for name in sorted(used)]

    def _of(self, kind: ChannelKind, name: str) -> dict[str, int]:
        self._note(kind, name)
        known = self._own.figures[kind]
        return known.put(name, known.by_name.get(name) or dict.fromkeys(_FIGURES[kind], 0))
