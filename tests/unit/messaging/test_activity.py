"""The figures of channels that keep nothing, and who is named in them."""

from meshway.kernel.metrics import NullMetrics
from meshway.messaging.activity import Activity
from meshway.messaging.names import ChannelKind, ChannelName
from meshway.observability.prometheus import PrometheusMetrics

EVENTS, QUERIES = ChannelKind.EVENTS, ChannelKind.QUERIES


def test_a_channel_nobody_used_has_figures_of_nothing():
    figures = Activity(NullMetrics()).figures_of(EVENTS, ChannelName("a"))
    assert figures == {"published": 0, "missed": 0, "subscribers": 0}


def test_who_listens_by_a_pattern_counts_for_every_channel_it_covers():
    activity = Activity(NullMetrics())
    for pattern in ("a.b", "a.*", "a.>", ">", "a.*.c", "b"):
        activity.joined(EVENTS, pattern)
    assert activity.figures_of(EVENTS, ChannelName("a.b"))["subscribers"] == 4
    assert activity.figures_of(EVENTS, ChannelName("a.b.c"))["subscribers"] == 3
    assert activity.figures_of(EVENTS, ChannelName("a"))["subscribers"] == 1
    for pattern in ("a.b", "a.*", "a.>", ">", "a.*.c", "b"):
        activity.left(EVENTS, pattern)
    assert activity.figures_of(EVENTS, ChannelName("a.b"))["subscribers"] == 0
    assert list(activity.names(EVENTS)) == []


def test_names_are_those_used_and_those_listened_to_in_order():
    activity = Activity(NullMetrics())
    activity.published(ChannelName("used"), 3)
    activity.joined(EVENTS, "heard")
    activity.joined(EVENTS, "any.*")
    assert list(activity.names(EVENTS)) == ["heard", "used"]
    assert list(activity.names(QUERIES)) == []


def test_of_too_many_names_the_idle_ones_are_forgotten():
    activity = Activity(NullMetrics())
    for number in range(5_000):
        activity.published(ChannelName("busy"), 1)
        activity.published(ChannelName(f"once-{number}"), 1)
    assert activity.figures_of(EVENTS, ChannelName("busy"))["published"] == 5_000
    assert activity.figures_of(EVENTS, ChannelName("once-0"))["published"] == 0
    assert len(list(activity.names(EVENTS))) == 4_096


def test_metrics_count_by_kind_and_outcome():
    metrics = PrometheusMetrics()
    activity = Activity(metrics)
    activity.published(ChannelName("a"), 3)
    activity.missed("a.*", 2)
    activity.asked(QUERIES, ChannelName("q"), "timed_out")
    activity.joined(QUERIES, "q")
    text = metrics.render()[0].decode()
    for line in (
        'meshway_messages_accepted_total{kind="events"} 3',
        "meshway_events_missed_total 2",
        'meshway_request_outcomes_total{kind="queries",outcome="timed_out"} 1',
        'meshway_channel_listeners{kind="queries"} 1',
    ):
        assert line in text
