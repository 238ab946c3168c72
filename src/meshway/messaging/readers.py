"""Durable readers of streams: named positions that the hub keeps, one record each under `reader.<stream>.<name>`.

A position is the last sequence that is done. It only rises by acknowledging; putting a reader moves it anywhere.
"""


import msgspec

from meshway.engine.ports import KeyValue
from meshway.kernel.clock import Clock
from meshway.messaging.names import ChannelName

__all__ = ["ReaderStore", "StreamReader"]


class StreamReader(msgspec.Struct, frozen=True, kw_only=True):
    """A reader. `position`: the last sequence it has done, 0 for none; `lag`: how many messages come after it."""

    channel: ChannelName
    name: str
    position: int
    lag: int
    created_at_ms: int
    updated_at_ms: int


class ReaderStore:
    """Typed store of readers over KeyValue. Positions are durable before a call returns."""

    def __init__(self, key_value: KeyValue, *, clock: Clock) -> None:
        self._key_value = key_value
        self._clock = clock
