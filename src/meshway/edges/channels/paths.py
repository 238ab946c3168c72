"""Which paths below `/v1` are data calls. Pure; all other paths belong to the control plane."""

from typing import NamedTuple
from urllib.parse import unquote

__all__ = ["DataCall", "find_data_call"]


class DataCall(NamedTuple):
    """`operation` names the handler, `kind` the word of the path, `name` the decoded segment behind it, unchecked."""

    operation: str
    kind: str
    name: str


_OPERATIONS = {
    (b"POST", b"events", b""): "publish_events",
    (b"GET", b"events", b""): "subscribe_events",
    (b"POST", b"streams", b""): "append_to_stream",
    (b"GET", b"streams", b""): "tail_stream",
    (b"GET", b"streams", b"messages"): "read_stream",
    (b"POST", b"queues", b"messages"): "enqueue_messages",
    (b"GET", b"queues", b"messages"): "peek_queue",
    (b"POST", b"queues", b"lease"): "lease_messages",
    (b"POST", b"queues", b"settle"): "settle_deliveries",
    (b"POST", b"commands", b""): "send_request",
    (b"POST", b"commands", b"lease"): "lease_requests",
    (b"POST", b"commands", b"reply"): "reply_to_request",
    (b"POST", b"queries", b""): "send_request",
    (b"POST", b"queries", b"lease"): "lease_requests",
    (b"POST", b"queries", b"reply"): "reply_to_request",
    (b"GET", b"blobs", b""): "fetch_blob",
}


def find_data_call(method: bytes, path: bytes) -> DataCall | None:
    """The data call of a method and a path as it came, percent-encoded; None for everything else."""
    segments = path.split(b"/")
    if not 4 <= len(segments) <= 5 or segments[1] != b"v1" or not segments[3]:
        return None
    kind, tail = segments[2], segments[4] if len(segments) == 5 else b""
    if len(segments) == 5 and not tail:
        return None
    operation = _OPERATIONS.get((method, kind, tail))
    if operation is None:
        return None
    # What is not UTF-8 becomes a character that no name has, and is refused as any other.
    return DataCall(operation, kind.decode(), unquote(segments[3].decode("latin-1"), errors="replace"))
