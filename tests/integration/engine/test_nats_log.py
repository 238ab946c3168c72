"""The log on NATS where more than one hub writes it, and where servers and connections die under it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from meshway.engine.nats.engine import NatsEngine, open_nats_engine
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.ports import (
    Appended,
    FromNew,
    FromPosition,
    FromSequence,
    LogAppend,
    LogEntry,
    LogTail,
    LogTrim,
    SubscriptionLost,
    Undecided,
    WrongLast,
)
from meshway.kernel.clock import SystemClock
from meshway.kernel.errors import EngineUnavailable, PayloadTooLarge, StorageFull
from meshway.kernel.metrics import NullMetrics
from support.nats_process import running_nats
from support.tcp_proxy import TcpProxy, tcp_proxy


@asynccontextmanager
async def _engine(
    url: str, *, request_timeout_ms: int = 5_000, stream_bytes_max: int | None = None
) -> AsyncIterator[NatsEngine]:
    settings = NatsSettings(servers=(url,), request_timeout_ms=request_timeout_ms, stream_bytes_max=stream_bytes_max)
    engine = await open_nats_engine(settings, clock=SystemClock(), metrics=NullMetrics())
    try:
        yield engine
    finally:
        await engine.close()


async def _append(engine: NatsEngine, entry: LogAppend) -> Appended:
    """Repeated until it is decided, as every caller does it."""
    async with asyncio.timeout(20):
        while True:
            try:
                (outcome,) = await engine.log.append([entry])
            except EngineUnavailable:
                await asyncio.sleep(0.02)
                continue
            if not isinstance(outcome, Undecided):
                assert isinstance(outcome, Appended)
                return outcome


async def _take(tail: LogTail, count: int) -> Sequence[LogEntry]:
    taken: list[LogEntry] = []
    async with asyncio.timeout(20):
        while len(taken) < count:
            taken += await tail.take(count)
    return taken


async def test_two_hubs_number_one_subject_together_and_both_see_all_of_it(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with (
            _engine(server.url) as one,
            _engine(server.url) as other,
            one.log.tail("s.a", FromNew()) as tail,
            other.log.tail("s.>", FromPosition(0)) as wide,
        ):

            async def write(engine: NatsEngine, name: str) -> list[Appended]:
                return [
                    await _append(engine, LogAppend(subject="s.a", message_id=f"{name}{number}", data=b""))
                    for number in range(40)
                ]

            async with asyncio.TaskGroup() as group:
                writing = [
                    group.create_task(write(engine, name))
                    for engine, name in ((one, "a"), (other, "b"), (one, "c"), (other, "d"))
                ]
            kept = [outcome.sequence for task in writing for outcome in task.result()]
            assert sorted(kept) == list(range(1, 161))
            for each in (tail, wide):
                assert [entry.sequence for entry in await _take(each, 160)] == list(range(1, 161))


async def test_the_same_message_at_two_hubs_is_one_entry(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _engine(server.url) as one, _engine(server.url) as other:
            first = await _append(one, LogAppend(subject="s.a", message_id="x", data=b""))
            await _append(one, LogAppend(subject="s.a", message_id="y", data=b""))
            again = await _append(other, LogAppend(subject="s.a", message_id="x", data=b""))
            assert again == Appended(sequence=1, position=first.position, duplicate=True)


async def test_a_writer_that_was_overtaken_by_another_hub_is_told_the_true_last(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _engine(server.url) as one, _engine(server.url) as other:
            await _append(one, LogAppend(subject="s.a", message_id="1", data=b"", expected_last=0))
            await _append(other, LogAppend(subject="s.a", message_id="2", data=b"", expected_last=1))
            frozen = LogAppend(subject="s.a", message_id="late", data=b"", expected_last=1)
            follower = LogAppend(subject="s.a", message_id="later", data=b"", expected_last=2)
            assert await one.log.append([frozen]) == [WrongLast(last=2, last_message_id="2")]
            refused, kept = await one.log.append([frozen, follower])
            assert refused == WrongLast(last=2, last_message_id="2")
            assert isinstance(kept, Appended)
            assert kept.sequence == 3


async def test_numbers_go_on_after_a_trim_of_everything_at_another_hub_and_after_a_restart(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _engine(server.url) as one, _engine(server.url) as other:
            for number in range(3):
                await _append(one, LogAppend(subject="s.a", message_id=f"{number}", data=b""))
            assert await other.log.trim([LogTrim(subject="s.a", keep_count=0)]) == [3]
            server.kill()
            server.start()
            kept = await _append(one, LogAppend(subject="s.a", message_id="3", data=b"", expected_last=3))
            assert kept.sequence == 4
            assert [entry.sequence for entry in await other.log.read("s.a", FromSequence(1))] == [4]


async def test_a_repetition_of_a_trimmed_entry_is_answered_with_its_number(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _engine(server.url) as one, _engine(server.url) as other:
            entries = [LogAppend(subject="s.a", message_id=f"{number}", data=b"") for number in range(6)]
            first = await one.log.append(entries)
            await one.log.trim([LogTrim(subject="s.a", keep_count=1)])
            for engine in (one, other):
                again = await _append(engine, entries[2])
                assert isinstance(first[2], Appended)
                assert again == Appended(sequence=3, position=first[2].position, duplicate=True)


async def test_entries_written_while_the_server_dies_are_kept_once_and_tailed_once(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _engine(server.url) as one, _engine(server.url) as other:
            ended = asyncio.Event()

            async def write(engine: NatsEngine, subject: str, *, is_numbered: bool) -> int:
                count = 0
                while not ended.is_set():
                    expected_last = count if is_numbered else None
                    entry = LogAppend(
                        subject=subject,
                        message_id=f"{count}",
                        data=b"",
                        expected_last=expected_last,
                        is_repeatable=not is_numbered and subject != "s.once",
                    )
                    kept = await _append(engine, entry)
                    count += 1
                    assert kept.sequence == count
                return count

            async with one.log.tail("s.*", FromNew()) as tail, asyncio.TaskGroup() as group:
                writing = {
                    "s.id": group.create_task(write(one, "s.id", is_numbered=False)),
                    "s.once": group.create_task(write(other, "s.once", is_numbered=False)),
                    "s.numbered": group.create_task(write(other, "s.numbered", is_numbered=True)),
                }
                for _ in range(3):
                    await _take(tail, 30)
                    server.kill()
                    await asyncio.to_thread(server.start)
                ended.set()
                counts = {subject: await task for subject, task in writing.items()}
            async with other.log.tail("s.*", FromPosition(0)) as replay:
                seen = await _take(replay, sum(counts.values()))
            for subject, count in counts.items():
                numbers = [entry.sequence for entry in seen if entry.subject == subject]
                assert numbers == list(range(1, count + 1))


@pytest.mark.parametrize("is_repeatable", [True, False])
async def test_an_append_whose_answer_was_lost_is_found_on_its_repetition(tmp_path: Path, is_repeatable: bool) -> None:
    with running_nats(tmp_path) as server:
        async with tcp_proxy(server.port) as proxy, _engine(_nats_url(proxy), request_timeout_ms=300) as engine:
            await _append(engine, LogAppend(subject="s.a", message_id="1", data=b""))
            entry = LogAppend(subject="s.a", message_id="2", data=b"", is_repeatable=is_repeatable)
            proxy.freeze()
            (outcome,) = await engine.log.append([entry])
            assert isinstance(outcome, Undecided)
            # It arrives now, and its answer finds nobody who waits.
            proxy.thaw()
            async with _engine(server.url) as other:
                await _append(other, LogAppend(subject="s.a", message_id="3", data=b""))
                kept = await _append(engine, entry)
                assert [e.message_id for e in await other.log.read("s.a", FromSequence(1))].count("2") == 1
                (found,) = await other.log.read("s.a", FromSequence(kept.sequence), limit=1)
                assert (found.message_id, found.position) == ("2", kept.position)


async def test_a_full_stream_and_an_entry_too_large_are_told_and_change_nothing(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _engine(server.url, stream_bytes_max=1_000_000) as engine:
            with pytest.raises(PayloadTooLarge):
                await engine.log.append([LogAppend(subject="s.a", message_id="x", data=b"x" * 9_000_000)])

            async def fill() -> None:
                for number in range(100):
                    entries = [
                        LogAppend(subject="s.a", message_id=f"{number}-{each}", data=b"x" * 40_000) for each in range(5)
                    ]
                    assert not isinstance((await engine.log.append(entries))[0], Undecided)

            with pytest.raises(StorageFull):
                await fill()
            held = len(await engine.log.read("s.a", FromSequence(1)))
            assert held
            assert await engine.log.trim([LogTrim(subject="s.a", keep_count=0)]) == [held]
            kept = await _append(engine, LogAppend(subject="s.a", message_id="fits", data=b"x" * 40_000))
            assert kept.sequence == held + 1


async def test_closing_ends_tails(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _engine(server.url) as engine:
            async with engine.log.tail("s.a", FromNew()) as tail, asyncio.TaskGroup() as group:

                async def read() -> bool:
                    try:
                        await tail.take(1)
                    except SubscriptionLost:
                        return True
                    return False

                reading = group.create_task(read())
                await asyncio.sleep(0)
                await engine.log.close()
                async with asyncio.timeout(5):
                    assert await reading
            with pytest.raises(EngineUnavailable):
                await engine.log.append([LogAppend(subject="s.a", message_id="1", data=b"")])


def _nats_url(proxy: TcpProxy) -> str:
    return proxy.url.replace("http", "nats")
