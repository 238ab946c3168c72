"""What a scrape shows, read back with the parser of Prometheus' own library."""

import threading
import timeit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from meshway.kernel.metrics import Metrics
from meshway.observability.prometheus import PrometheusMetrics
from meshway.observability.series import LABELS_OVERFLOW


def scraped(metrics: PrometheusMetrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    body, content_type = metrics.render()
    assert content_type.startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_counters_gauges_and_histograms_are_shown_with_their_labels():
    metrics: Metrics = PrometheusMetrics()
    calls = metrics.counter("meshway_calls_total", "Calls.", ["agent", "outcome"])
    calls.labels("echo", "ok").inc()
    calls.labels("echo", "ok").inc(2)
    calls.labels('odd "name"\\\n', "error").inc()
    in_flight = metrics.gauge("meshway_in_flight", "Now.")
    in_flight.inc(5)
    in_flight.dec()
    metrics.gauge("meshway_depth", "Depth.", ["queue"]).labels("a").set(7)
    metrics.gauge_read_from("meshway_open", "Asked for.", lambda: 42)
    seconds = metrics.histogram("meshway_call_seconds", "Time.", ["agent"], buckets=[0.1, 1])
    for value in (0.05, 0.1, 0.5, 3):
        seconds.labels("echo").observe(value)
    found = scraped(metrics)
    assert found["meshway_calls_total", (("agent", "echo"), ("outcome", "ok"))] == 3
    assert found["meshway_calls_total", (("agent", 'odd "name"\\\n'), ("outcome", "error"))] == 1
    assert found["meshway_in_flight", ()] == 4
    assert found["meshway_depth", (("queue", "a"),)] == 7
    assert found["meshway_open", ()] == 42
    echo = ("agent", "echo")
    assert found["meshway_call_seconds_bucket", (echo, ("le", "0.1"))] == 2
    assert found["meshway_call_seconds_bucket", (echo, ("le", "1"))] == 3
    assert found["meshway_call_seconds_bucket", (echo, ("le", "+Inf"))] == 4
    assert found["meshway_call_seconds_count", (echo,)] == 4
    assert found["meshway_call_seconds_sum", (echo,)] == pytest.approx(3.65)


def test_every_name_is_ours_and_the_process_is_among_them():
    metrics = PrometheusMetrics()
    metrics.counter("meshway_things", "Without the suffix.").inc()
    names = {name for name, _ in scraped(metrics)}
    assert all(name.startswith("meshway_") for name in names)
    assert {"meshway_things_total", "meshway_process_resident_memory_bytes"} <= names


def test_two_registries_do_not_meet():
    one, other = PrometheusMetrics(), PrometheusMetrics()
    one.counter("meshway_x_total", "X.").inc()
    other.counter("meshway_x_total", "X.").inc(5)
    assert scraped(one)["meshway_x_total", ()] == 1
    assert scraped(other)["meshway_x_total", ()] == 5


def test_asking_twice_gives_the_same_metric_and_another_shape_is_an_error():
    metrics = PrometheusMetrics()
    first = metrics.counter("meshway_x_total", "X.", ["a"])
    assert metrics.counter("meshway_x_total", "X.", ["a"]).labels("v") is first.labels("v")
    with pytest.raises(ValueError, match="already"):
        metrics.counter("meshway_x_total", "X.", ["b"])
    with pytest.raises(ValueError, match="already"):
        metrics.gauge("meshway_x_total", "X.", ["a"])
    with pytest.raises(ValueError, match="already"):
        metrics.gauge_read_from("meshway_x_total", "X.", lambda: 0)
    metrics.histogram("meshway_h", "H.", buckets=[1])
    with pytest.raises(ValueError, match="already"):
        metrics.histogram("meshway_h", "H.", buckets=[2])


@pytest.mark.parametrize("name", ["calls_total", "meshway-calls", "meshway_Calls", "meshway_", ""])
def test_names_that_are_not_ours_are_refused(name):
    with pytest.raises(ValueError, match="no metric name"):
        PrometheusMetrics().counter(name, "X.")


def test_wrong_labels_and_buckets_are_refused():
    metrics = PrometheusMetrics()
    with pytest.raises(ValueError, match="2 values"):
        metrics.counter("meshway_x_total", "X.", ["a"]).labels("1", "2")
    with pytest.raises(ValueError, match="label name"):
        metrics.counter("meshway_y_total", "Y.", ["a-b"])
    with pytest.raises(ValueError, match="rise"):
        metrics.histogram("meshway_z", "Z.", buckets=[1, 1])


def test_label_values_without_end_are_counted_together_past_a_bound():
    metrics = PrometheusMetrics()
    calls = metrics.counter("meshway_calls_total", "Calls.", ["agent"])
    for number in range(20_100):
        calls.labels(f"a{number}").inc()
    found = scraped(metrics)
    assert found["meshway_calls_total", (("agent", LABELS_OVERFLOW),)] == 100
    assert found["meshway_calls_total", (("agent", "a0"),)] == 1


def test_a_figure_that_fails_does_not_hide_the_others():
    metrics = PrometheusMetrics()

    def broken() -> float:
        raise OSError("no /proc here")

    metrics.gauge_read_from("meshway_broken", "Broken.", broken)
    metrics.gauge("meshway_fine", "Fine.").set(1)
    found = scraped(metrics)
    assert found["meshway_fine", ()] == 1
    assert found["meshway_broken", ()] != found["meshway_broken", ()]


def test_counts_from_several_threads_are_all_there():
    metrics = PrometheusMetrics()
    calls = metrics.counter("meshway_calls_total", "Calls.").labels()

    def count() -> None:
        for _ in range(50_000):
            calls.inc()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert scraped(metrics)["meshway_calls_total", ()] == 200_000


def test_counting_costs_far_less_than_a_microsecond():
    metrics = PrometheusMetrics()
    calls = metrics.counter("meshway_calls_total", "Calls.", ["agent"]).labels("echo")
    seconds = metrics.histogram("meshway_call_seconds", "Time.", ["agent"]).labels("echo")
    # About 0.1 and 0.2 us here; the bound leaves room for a busy machine.
    assert min(timeit.repeat(calls.inc, number=10_000, repeat=5)) / 10_000 < 2e-6
    assert min(timeit.repeat(lambda: seconds.observe(0.02), number=10_000, repeat=5)) / 10_000 < 3e-6
