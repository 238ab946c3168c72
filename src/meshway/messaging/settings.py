"""Limits of messages and channels that hold for the whole hub; each channel has settings of its own beside them."""

from typing import Annotated

import msgspec

__all__ = ["MessagingSettings"]

Positive = Annotated[int, msgspec.Meta(ge=1)]


class MessagingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What messages may take of the hub."""

    # Channels of all kinds together; each known one costs about 500 bytes of memory.
    channels_max: Positive = 100_000
    # Data above this goes to the blob store and travels by reference: one message must not fill a reader's buffer.
    data_bytes_max: Annotated[int, msgspec.Meta(ge=1_024, le=67_108_864)] = 8_388_608
    # Messages of one post; a batch is answered as a whole.
    batch_max: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 1_000
    # Data by reference is kept this long after its message is due; a stream that keeps for ever keeps it for ever.
    blob_ttl_ms: Positive = 2_592_000_000
    # Events that may wait for one slow subscriber before they are counted as missed.
    event_buffer_max: Positive = 1_000
    # Subscriptions of all connections together.
    subscriptions_max: Positive = 100_000
    # The longest `wait_ms` of a long poll, below the usual 60 s of load balancers.
    long_poll_max_ms: Positive = 55_000
    # Wait for a reply where the caller names none; the same as for calls of agents.
    request_timeout_ms: Positive = 60_000
    # The longest wait for a reply a caller may ask for: what takes longer is work for a queue.
    request_timeout_max_ms: Positive = 3_600_000
    # Requests that may wait at one hub for the responders of one channel.
    requests_waiting_max: Positive = 10_000
    # A responder that polls counts as present for this long after its last poll.
    responder_grace_ms: Positive = 10_000
    # The longest a reply may be served from the cache.
    cache_ttl_max_ms: Positive = 86_400_000
    # Replies above this are not cached.
    cache_bytes_max: Positive = 1_048_576
    # How often streams are trimmed to their settings, in between they may exceed them.
    trim_interval_ms: Annotated[int, msgspec.Meta(ge=100)] = 5_000
