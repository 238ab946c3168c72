"""The figures of several processes as those of one."""

import math

from prometheus_client.parser import text_string_to_metric_families

from meshway.observability.merged import merge_expositions
from meshway.observability.prometheus import PrometheusMetrics


def process(calls, *, agents=3.0, in_flight=1.0, seconds=(), only=None):
    metrics = PrometheusMetrics()
    counter = metrics.counter("meshway_calls", "Calls.", ["agent", "outcome"])
    counter.labels("a", "ok").inc(calls)
    if only is not None:
        counter.labels(only, "ok").inc()
    metrics.gauge("meshway_in_flight", "Calls under way.").set(in_flight)
    metrics.gauge_read_from("meshway_agents", "Agents.", lambda: agents)
    spread = metrics.histogram("meshway_call_seconds", "Time.", buckets=(0.1, 1.0))
    for each in seconds:
        spread.observe(each)
    return metrics.render()[0]


def values(text):
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_counters_and_gauges_add_up():
    merged = values(merge_expositions([process(3), process(4), process(5)]))
    assert merged["meshway_calls_total", (("agent", "a"), ("outcome", "ok"))] == 12
    assert merged["meshway_in_flight", ()] == 3


def test_histograms_add_up_bucket_by_bucket():
    merged = values(merge_expositions([process(0, seconds=[0.05, 0.5]), process(0, seconds=[0.5, 5.0])]))
    buckets = {dict(labels)["le"]: value for (name, labels), value in merged.items() if name.endswith("_bucket")}
    assert buckets == {"0.1": 1, "1.0": 3, "+Inf": 4}
    assert (merged["meshway_call_seconds_count", ()], merged["meshway_call_seconds_sum", ()]) == (4, 6.05)


def test_what_all_know_of_the_same_thing_is_not_added():
    merged = values(merge_expositions([process(0, agents=2), process(0, agents=3)]))
    assert merged["meshway_agents", ()] == 3


def test_the_start_is_that_of_the_first():
    def started(at):
        name = "meshway_process_start_time_seconds"
        return f"# HELP {name} Since.\n# TYPE {name} gauge\n{name} {at}\n".encode()

    assert values(merge_expositions([started("1.7e9"), started("1.8e9")]))[started_name()] == 1.7e9


def started_name():
    return "meshway_process_start_time_seconds", ()


def test_what_one_process_alone_has_is_there():
    merged = values(merge_expositions([process(1), process(1, only="b")]))
    assert merged["meshway_calls_total", (("agent", "b"), ("outcome", "ok"))] == 1


def test_each_family_is_described_once_before_its_series():
    text = merge_expositions([process(1), process(1, only="b"), process(1)]).decode()
    lines = text.split("\n")[:-1]
    heads = [line for line in lines if line.startswith("#")]
    assert len(heads) == len(set(heads))
    seen = None
    for line in lines:
        if line.startswith("# TYPE"):
            seen = line.split(" ")[2].removesuffix("_total")
        elif not line.startswith("#"):
            assert seen is not None
            assert line.startswith(seen)


def test_one_text_is_left_as_it_is():
    text = process(1)
    assert merge_expositions([text]) is text


def test_labels_with_spaces_braces_and_quotes_keep_their_series():
    odd = 'a "b" {c} \\ d\ne\u2028f'
    merged = values(merge_expositions([process(1, only=odd), process(1, only=odd)]))
    assert merged["meshway_calls_total", (("agent", odd), ("outcome", "ok"))] == 2


def test_large_fractional_and_unknown_values_survive():
    def gauge(value):
        return f"# HELP meshway_x X.\n# TYPE meshway_x gauge\nmeshway_x {value}\n".encode()

    assert values(merge_expositions([gauge("0.25"), gauge("0.5")]))["meshway_x", ()] == 0.75
    assert values(merge_expositions([gauge("1e+300"), gauge("1.0")]))["meshway_x", ()] == 1e300
    unknown = values(merge_expositions([gauge("NaN"), gauge("1.0")]))["meshway_x", ()]
    assert math.isnan(unknown)
    assert values(merge_expositions([gauge("+Inf"), gauge("1.0")]))["meshway_x", ()] == float("inf")
