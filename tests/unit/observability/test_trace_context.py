"""W3C trace context: the chain is kept where there is one, and begun where there is none."""

import re
from random import Random

import pytest

from meshway.observability.trace import Tracer

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FORM = re.compile(rb"00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]")


def tracer() -> Tracer:
    return Tracer(Random(7))


def test_a_child_keeps_the_trace_and_its_flags_and_has_an_id_of_its_own():
    child = tracer().child(PARENT, b"vendor=1,other=2")
    assert FORM.fullmatch(child.traceparent)
    assert child.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert child.traceparent[:36] == PARENT[:36]
    assert child.traceparent[36:52] != PARENT[36:52]
    assert child.traceparent.endswith(b"-01")
    assert child.tracestate == b"vendor=1,other=2"


def test_what_was_not_sampled_stays_so():
    assert tracer().child(PARENT[:-1] + b"0").traceparent.endswith(b"-00")


@pytest.mark.parametrize("version", [b"01", b"cc", b"fe"])
def test_a_later_version_is_read_as_far_as_it_is_known(version):
    child = tracer().child(version + PARENT[2:] + b"-what-comes-later")
    assert child.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
    assert child.traceparent.startswith(b"00-")
    assert tracer().child(version + PARENT[2:-2] + b"ff").traceparent.endswith(b"-03")


@pytest.mark.parametrize(
    "header",
    [
        None,
        b"",
        b"ff" + PARENT[2:],
        PARENT + b"-extra",
        PARENT[:-1],
        PARENT.upper(),
        b" " + PARENT,
        PARENT + b"\r\n",
        b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01",
        b"00-4bf92f3577b34da6a3ce929d0e0e4736-" + b"0" * 16 + b"-01",
        PARENT.replace(b"-", b"_"),
        b"01" + PARENT[2:] + b"junk",
        b"x" * 10_000,
    ],
)
def test_without_a_valid_parent_a_new_sampled_trace_begins_and_foreign_state_is_dropped(header):
    begun = tracer().child(header, b"vendor=1")
    assert FORM.fullmatch(begun.traceparent)
    assert begun.traceparent.endswith(b"-01")
    assert begun.trace_id != "4bf92f3577b34da6a3ce929d0e0e4736"
    assert begun.tracestate is None


@pytest.mark.parametrize("state", [None, b"", b"x" * 513, b"a=1\r\nHost: evil", b"a=\xff", b"a=\x00"])
def test_state_that_cannot_go_into_a_header_or_is_too_long_is_dropped(state):
    assert tracer().child(PARENT, state).tracestate is None


def test_ids_do_not_repeat():
    made = tracer()
    assert len({made.child(None).trace_id for _ in range(1_000)}) == 1_000
    assert len({made.child(PARENT).traceparent for _ in range(1_000)}) == 1_000


class Zeros(Random):
    def getrandbits(self, k: int, /) -> int:
        return 0


def test_the_all_zero_ids_that_the_standard_forbids_are_never_made():
    assert tracer().child(Tracer(Zeros()).child(None).traceparent).trace_id == "0" * 31 + "1"
