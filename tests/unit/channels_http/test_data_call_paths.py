"""Which requests are data calls: all others go on to the control plane."""

import pytest

from meshway.edges.channels.paths import find_data_call


@pytest.mark.parametrize(
    ("method", "path", "operation", "name"),
    [
        (b"POST", b"/v1/events/a.b", "publish_events", "a.b"),
        (b"GET", b"/v1/events/a.%3E", "subscribe_events", "a.>"),
        (b"GET", b"/v1/events/a.*.c", "subscribe_events", "a.*.c"),
        (b"POST", b"/v1/streams/a", "append_to_stream", "a"),
        (b"GET", b"/v1/streams/%2a", "tail_stream", "*"),
        (b"GET", b"/v1/streams/a/messages", "read_stream", "a"),
        (b"POST", b"/v1/queues/a/messages", "enqueue_messages", "a"),
        (b"GET", b"/v1/queues/a/messages", "peek_queue", "a"),
        (b"POST", b"/v1/queues/a/lease", "lease_messages", "a"),
        (b"POST", b"/v1/queues/a/settle", "settle_deliveries", "a"),
        (b"POST", b"/v1/commands/a", "send_request", "a"),
        (b"POST", b"/v1/queries/a/lease", "lease_requests", "a"),
        (b"POST", b"/v1/queries/a/reply", "reply_to_request", "a"),
        (b"GET", b"/v1/blobs/00ff", "fetch_blob", "00ff"),
        (b"POST", b"/v1/queues/a%2Fb%FF/lease", "lease_messages", "a/b\ufffd"),
    ],
)
def test_data_calls_are_found(method, path, operation, name):
    found = find_data_call(method, path)
    assert found is not None
    assert (found.operation, found.name) == (operation, name)
    assert found.kind == path.decode().split("/")[2]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (b"PUT", b"/v1/queues/a"),
        (b"HEAD", b"/v1/events/a"),
        (b"OPTIONS", b"/v1/streams/a"),
        (b"DELETE", b"/v1/streams/a"),
        (b"GET", b"/v1/events"),
        (b"GET", b"/v1/events/"),
        (b"GET", b"/v1/events/a/"),
        (b"GET", b"/v1/events/a/info"),
        (b"GET", b"/v1/streams/a/readers"),
        (b"POST", b"/v1/streams/a/readers/r/ack"),
        (b"GET", b"/v1/queues/a"),
        (b"POST", b"/v1/queues/a"),
        (b"GET", b"/v1/queues/a/dead-letters"),
        (b"POST", b"/v1/queues/a/purge"),
        (b"GET", b"/v1/commands/a"),
        (b"POST", b"/v1/blobs"),
        (b"GET", b"/v1/agents/watch"),
        (b"POST", b"/v2/events/a"),
        (b"GET", b"/"),
        (b"GET", b"*"),
    ],
)
def test_everything_else_is_left_to_the_control_plane(method, path):
    assert find_data_call(method, path) is None
