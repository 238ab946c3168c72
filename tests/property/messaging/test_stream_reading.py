"""Streams against a model: whatever is appended, trimmed, restarted or read, readers get each kept message once.

A tail may or may not get a message that was trimmed before it was taken; one that is kept it must get, in order.
"""

import asyncio
import json
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from meshway.engine.embedded import EmbeddedSettings, open_embedded_engine
from meshway.gateway.admission import Admission
from meshway.gateway.append_to_stream import AppendToStream
from meshway.gateway.channel_places import ChannelPlaces
from meshway.gateway.manage_readers import ManageReaders
from meshway.gateway.read_stream import ReadStream
from meshway.kernel.clock import rfc3339_ms
from meshway.kernel.errors import ChannelFull
from meshway.kernel.ids import PrincipalId
from meshway.kernel.metrics import NullMetrics
from meshway.kernel.principal import Principal, Scope
from meshway.messaging.channel import StreamSettings
from meshway.messaging.channels import ChannelBook
from meshway.messaging.incoming import IncomingMessage
from meshway.messaging.names import ChannelKind
from meshway.messaging.payloads import PayloadStore
from meshway.messaging.readers import ReaderStore
from meshway.messaging.retention import StreamRetention
from meshway.messaging.settings import MessagingSettings
from meshway.messaging.subscription_places import SubscriptionPlaces
from meshway.testing.clock import ManualClock

ANN = Principal(PrincipalId("ann"), frozenset({Scope("call")}))
CHANNELS = ["m.a", "m.b", "m.a.c"]
NAMES = st.sampled_from(CHANNELS)
LIMITS = st.sampled_from(
    [
        StreamSettings(),
        StreamSettings(max_messages=3),
        StreamSettings(max_messages=6, retention_ms=1_000),
        StreamSettings(retention_ms=500),
        StreamSettings(max_messages=7, when_full="refuse"),
    ]
)
STARTS = st.sampled_from(["first", "first", "new", "time", "last", "number"])
# Two tokens exactly: `m.a.c` is none of them.
PATTERN = "m.*"


@dataclass
class StreamModel:
    """`entries[n]` is sequence n + 1: its data and time. Those below `first` are trimmed."""

    entries: list[tuple[int, int]] = field(default_factory=list)
    first: int = 1
    settings: StreamSettings = field(default_factory=StreamSettings)

    @property
    def last(self) -> int:
        return len(self.entries)

    def kept(self, begin: int = 1) -> list[tuple[int, int]]:
        return [(number, self.entries[number - 1][0]) for number in range(max(begin, self.first), self.last + 1)]

    def trim(self, now_ms: int) -> None:
        limits = self.settings
        if limits.max_messages is not None and limits.when_full != "refuse":
            self.first = max(self.first, self.last - limits.max_messages + 1)
        if limits.retention_ms is not None:
            while self.first <= self.last and self.entries[self.first - 1][1] < now_ms - limits.retention_ms:
                self.first += 1


@dataclass
class TailModel:
    """An open tail and what it may still get: for each channel the next sequence."""

    channels: list[str]
    next_of: dict[str, int]
    cursor: str | None = None


class StreamMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        self.model = {name: StreamModel() for name in CHANNELS}
        self.positions: dict[str, int] = {}
        self.posted = 0
        self.run(self.start())

    async def start(self) -> None:
        self.stack = AsyncExitStack()
        self.engine = await open_embedded_engine(
            Path(self.folder.name), settings=EmbeddedSettings(), clock=self.clock, metrics=NullMetrics()
        )
        self.stack.push_async_callback(self.engine.close)
        limits = MessagingSettings()
        self.book = ChannelBook(self.engine.key_value, self.engine.queue_admin, settings=limits, clock=self.clock)
        following = asyncio.create_task(self.book.run())
        self.stack.callback(following.cancel)
        await self.book.wait_ready()
        self.retention = StreamRetention(self.engine.log, self.book, settings=limits, clock=self.clock)
        places = ChannelPlaces(
            admission=Admission(calls_in_flight_max=1),
            channels=self.book,
            readers=ReaderStore(self.engine.key_value, self.engine.log, clock=self.clock),
            payloads=PayloadStore(self.engine.blobs, limits, clock=self.clock),
            log=self.engine.log,
            clock=self.clock,
            settings=limits,
        )
        self.append = AppendToStream(places, self.retention)
        self.read = ReadStream(places, SubscriptionPlaces(subscriptions_max=100))
        self.readers = ManageReaders(places)
        self.tails: list[tuple[TailModel, object]] = []

    def run(self, call):
        async def answer():
            async with asyncio.timeout(20):
                return await call

        return self.runner.run(answer())

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()

    @initialize(limits=st.lists(LIMITS, min_size=len(CHANNELS), max_size=len(CHANNELS)))
    def begin(self, limits) -> None:
        for name, each in zip(CHANNELS, limits, strict=True):
            self.configure(name, each)

    @rule(
        posts=st.lists(st.tuples(NAMES, st.integers(1, 6), st.integers(0, 300)), min_size=1, max_size=5),
        again=st.booleans(),
        trims=st.booleans(),
        takes=st.booleans(),
    )
    def post(self, posts, again, trims, takes) -> None:
        for name, count, wait_ms in posts:
            self.clock.advance(wait_ms)
            self._post(name, count, again)
        if trims:
            self._trim()
        if takes:
            self.take_all(count_max=5)

    def _post(self, name, count, again) -> None:
        stream = self.model[name]
        values = list(range(self.posted, self.posted + count))
        self.posted += count
        messages = [IncomingMessage(id=f"id{value}", data=msgspec.Raw(b"%d" % value)) for value in values]
        free = count
        if stream.settings.when_full == "refuse":
            free = max(0, min(count, stream.settings.max_messages - len(stream.kept())))
        now_ms = self.clock.now_ms()
        try:
            receipts = self.run(self.append.execute(ANN, name, messages))
        except ChannelFull as error:
            assert free < count
            receipts = error.extensions.get("receipts", [None] * count)
        else:
            assert free == count
        expected = [stream.last + place + 1 if place < free else None for place in range(count)]
        assert [receipt and receipt.sequence for receipt in receipts] == expected
        stream.entries += [(value, now_ms) for value in values[:free]]
        if again and free:
            (receipt,) = self.run(self.append.execute(ANN, name, messages[:1]))
            assert (receipt.sequence, receipt.duplicate) == (expected[0], True)

    @rule(name=NAMES, limits=LIMITS)
    def configure(self, name, limits) -> None:
        self.run(self.book.put(ChannelKind.STREAMS, name, limits, ANN.id))
        self.model[name].settings = limits

    @rule(wait_ms=st.integers(0, 1_500))
    def trim_later(self, wait_ms) -> None:
        self.clock.advance(wait_ms)
        self._trim()

    def _trim(self) -> None:
        self.run(self.retention.trim_due())
        for stream in self.model.values():
            stream.trim(self.clock.now_ms())

    @precondition(lambda self: self.posted > 10)
    @rule(often=st.integers(0, 2))
    def restart(self, often) -> None:
        if not often:
            self.run(self.stack.aclose())
            self.run(self.start())

    @rule(name=NAMES, start=STARTS, number=st.integers(1, 20))
    def read_pages(self, name, start, number) -> None:
        text, begin = self._start(self.model[name], start, number)
        found = []
        more = True
        while more:
            page = self.run(self.read.page(ANN, name, start=text, limit=1 + number % 4))
            found += [(item.sequence, json.loads(item.document)["data"]) for item in page.items]
            text, more = page.next_start, page.is_cut
        assert found == self.model[name].kept(begin)

    @precondition(lambda self: len(self.tails) < 6)
    @rule(name=NAMES, start=STARTS, number=st.integers(1, 20))
    def open_tail(self, name, start, number) -> None:
        text, begin = self._start(self.model[name], start, number)
        tail = self.run(self.stack.enter_async_context(self.read.tail(ANN, name, start=text)))
        self.tails.append((TailModel([name], {name: begin}), tail))

    @precondition(lambda self: len(self.tails) < 6)
    @rule(start=st.sampled_from(["first", "new"]))
    def open_pattern(self, start) -> None:
        names = ["m.a", "m.b"]
        tail = self.run(self.stack.enter_async_context(self.read.tail(ANN, PATTERN, start=start)))
        begin = {name: 1 if start == "first" else self.model[name].last + 1 for name in names}
        self.tails.append((TailModel(names, begin), tail))

    @precondition(lambda self: self.tails)
    @rule(count_max=st.integers(1, 9), resumes=st.booleans())
    def take_all(self, count_max, resumes=False) -> None:
        for known, tail in self.tails:
            while any(self.model[name].kept(known.next_of[name]) for name in known.channels):
                for item in self.run(tail.take(count_max)):
                    self._taken(known, item)
        if resumes:
            self._resume()

    def _resume(self) -> None:
        """As a client whose connection broke: the same address, and where it stopped."""
        for place, (known, _) in enumerate(self.tails):
            if known.cursor is not None:
                name = known.channels[0] if len(known.channels) == 1 else PATTERN
                opening = self.read.tail(ANN, name, start="first", cursor=known.cursor)
                self.tails[place] = (known, self.run(self.stack.enter_async_context(opening)))

    @rule(name=NAMES, number=st.integers(0, 20))
    def acknowledge(self, name, number) -> None:
        self.run(self.readers.put(ANN, name, "r", start=None))
        position = self.positions.setdefault(name, self.model[name].last)
        if number <= self.model[name].last:
            position = self.positions[name] = max(position, number)
            assert self.run(self.readers.ack(ANN, name, "r", number)) == position
        page = self.run(self.read.page(ANN, name, start=None, reader="r", limit=500))
        assert [item.sequence for item in page.items] == [number for number, _ in self.model[name].kept(position + 1)]

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        for name, stream in self.model.items():
            page = self.run(self.read.page(ANN, name, start="first", limit=500))
            found = [(item.sequence, json.loads(item.document)["data"]) for item in page.items]
            assert found == stream.kept()

    def _start(self, stream, start, number) -> tuple[str, int]:
        """What the caller writes, and the first sequence that it means."""
        match start:
            case "first":
                return "first", 1
            case "new":
                return "new", stream.last + 1
            case "last":
                return f"last:{number}", stream.last - number + 1
            case "time":
                since_ms = self.clock.now_ms() - number * 100
                late = [place for place, (_, at_ms) in enumerate(stream.entries, 1) if at_ms >= since_ms]
                return f"time:{rfc3339_ms(since_ms)}", min(late, default=stream.last + 1)
        return str(number), number

    def _taken(self, known, item) -> None:
        document = json.loads(item.document)
        name, sequence = document["channel"], item.sequence
        stream = self.model[name]
        assert document["sequence"] == sequence
        assert document["data"] == stream.entries[sequence - 1][0]
        assert name in known.channels
        # In order, once, and nothing left out but what was trimmed.
        assert sequence >= known.next_of[name]
        assert all(skipped < stream.first for skipped in range(known.next_of[name], sequence))
        known.next_of[name] = sequence + 1
        known.cursor = item.cursor


StreamMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
test_readers_of_streams_get_each_kept_message_once_and_in_order = StreamMachine.TestCase
