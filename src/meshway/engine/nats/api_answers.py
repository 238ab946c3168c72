"""What JetStream's API answers, as far as it is read here: one shape for all calls, each of which fills its part."""

from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec

__all__ = ["ApiAnswer", "ClusterInfo", "Delivered", "RawMessage", "Refusal", "Replica", "StreamState", "decode_answer"]


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """`code`: like HTTP's; `err_code`: JetStream's own."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class RawMessage(msgspec.Struct, frozen=True, kw_only=True):
    """Of a STREAM.MSG.GET. `hdrs`: a `NATS/1.0` header block; `time`: RFC 3339 with nanoseconds."""

    subject: str = ""
    seq: int = 0
    time: str = ""
    hdrs: bytes = b""
    data: bytes = b""


class StreamState(msgspec.Struct, frozen=True, kw_only=True):
    """`subjects`: how many messages each has, a page of those that were asked for."""

    messages: int = 0
    last_seq: int = 0
    subjects: Mapping[str, int] = {}


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """The last message that a consumer handed out."""

    stream_seq: int = 0


class Replica(msgspec.Struct, frozen=True, kw_only=True):
    """A server that follows; `lag`: operations it is behind."""

    name: str = ""
    current: bool = False
    offline: bool = False
    lag: int = 0


class ClusterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Of a stream; without a leader while one is elected."""

    leader: str = ""
    replicas: Sequence[Replica] = ()


class ApiAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer does not have is as if it were nothing."""

    error: Refusal | None = None
    # Of a publish
    seq: int = 0
    duplicate: bool = False
    # Of a stream
    config: Mapping[str, object] = {}
    state: StreamState = StreamState()
    cluster: ClusterInfo = ClusterInfo()
    # The clock of the server.
    ts: str = ""
    # Of the subjects, of which `state` has a page.
    total: int = 0
    message: RawMessage = RawMessage()
    purged: int = 0
    # Of a consumer
    name: str = ""
    created: datetime | None = None
    delivered: Delivered = Delivered()
    num_pending: int = 0
    num_ack_pending: int = 0


decode_answer = msgspec.json.Decoder(ApiAnswer).decode
