"""The connection to NATS under what happens to connections: cancelled waits, lost questions, lost answers."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
from nats.aio.msg import Msg

from meshway.engine.nats.engine import NatsEngine
from meshway.engine.nats.failures import Unanswered
from meshway.engine.nats.link import Ask, Link
from meshway.engine.nats.measures import Measures
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.ports import Enqueued, QueueAppend, QueueOutcome, Undecided
from meshway.kernel.metrics import NullMetrics
from support.nats_engine import nats_engine
from support.nats_process import running_nats
from support.tcp_proxy import tcp_proxy

_KEPT = Enqueued(duplicate=False)


@asynccontextmanager
async def _link(url: str) -> AsyncIterator[Link]:
    link = await Link.open(NatsSettings(servers=(url,), request_timeout_ms=1_000), Measures(NullMetrics()))
    try:
        yield link
    finally:
        await link.close()


async def _decided(engine: NatsEngine, message: QueueAppend) -> QueueOutcome:
    """Repeated until it is, as every caller does it."""
    async with asyncio.timeout(10):
        while True:
            (outcome,) = await engine.queue.append([message])
            if not isinstance(outcome, Undecided):
                return outcome


async def test_a_flush_that_is_cancelled_leaves_the_connection_as_it_was(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with _link(server.url) as link:
            for _ in range(10):
                flushing = asyncio.ensure_future(link.flush())
                await asyncio.sleep(0)
                flushing.cancel()
                await asyncio.wait([flushing])
                assert flushing.cancelled()
            assert (await link.ask(Ask("$JS.API.INFO"))).data


async def test_a_reading_that_ends_by_a_defect_is_a_broken_connection_that_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_nats(tmp_path) as server:
        async with _link(server.url) as link:
            came_back = asyncio.Event()
            link.listen(lambda is_connected: came_back.set() if is_connected else None)

            async def fail(data: bytes) -> None:
                raise ValueError(len(data))

            with monkeypatch.context() as planted:
                planted.setattr(link._client._ps, "parse", fail)
                with pytest.raises(Unanswered):
                    await link.ask(Ask("$JS.API.INFO"))
            async with asyncio.timeout(5):
                await came_back.wait()
            assert (await link.ask(Ask("$JS.API.INFO"))).data


async def test_a_question_that_was_dropped_is_asked_again_and_others_are_not(tmp_path: Path) -> None:
    asked = 0
    with running_nats(tmp_path, jetstream=None) as server:
        leader = await nats.connect(server.url)

        async def answer_the_second(message: Msg) -> None:
            nonlocal asked
            asked += 1
            if asked > 1:
                await message.respond(b"here")

        await leader.subscribe("question", cb=answer_the_second)
        await leader.flush()
        async with _link(server.url) as link:
            with pytest.raises(Unanswered):
                await link.ask(Ask("question"), timeout_ms=100)
            assert asked == 1
            asked = 0
            assert (await link.ask(Ask("question"), again_ms=50)).data == b"here"
            assert asked == 2
        await leader.close()


async def test_a_queue_message_whose_answer_was_lost_is_kept_once(tmp_path: Path) -> None:
    message = QueueAppend(queue="q", message_id="m", data=b"")
    with running_nats(tmp_path) as server:
        async with tcp_proxy(server.port) as proxy:
            settings = NatsSettings(servers=(proxy.url.replace("http", "nats"),), request_timeout_ms=300)
            async with nats_engine(settings) as engine:
                proxy.freeze()
                (outcome,) = await engine.queue.append([message])
                assert isinstance(outcome, Undecided)
                # It arrives now, and its answer finds nobody who waits.
                proxy.thaw()
                assert isinstance(await _decided(engine, message), Enqueued)
                assert len(await engine.queue.lease("q", count=5, wait_ms=2_000)) == 1
                assert list(await engine.queue.lease("q", count=5)) == []


async def test_a_batch_of_which_a_part_found_room_says_which(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        async with nats_engine(NatsSettings(servers=(server.url,), stream_bytes_max=300_000)) as engine:
            messages = [QueueAppend(queue="q", message_id=f"{n}", data=b"x" * 40_000) for n in range(20)]
            outcomes = list(await engine.queue.append(messages))
            kept = [message for message, outcome in zip(messages, outcomes, strict=True) if outcome == _KEPT]
            assert 0 < len(kept) < 20
            assert all(outcome == _KEPT or isinstance(outcome, Undecided) for outcome in outcomes)
            stored = await engine.queue.peek("q", limit=100)
            assert [message.message_id for message in stored] == [message.message_id for message in kept]


_INFO = b'INFO {"server_id":"x","version":"2.14.0","headers":true,"max_payload":1048576}\r\n'


@asynccontextmanager
async def _server_that_freezes(connection: int) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """It falls silent on that connection once it has taken it; the event has it end the first one."""
    made = 0
    ends = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal made
        made += 1
        number, asked = made, 0
        writer.write(_INFO)
        ending = asyncio.ensure_future(ends.wait())
        if number == 1:
            ending.add_done_callback(lambda _: writer.close())
        while line := await reader.readline():
            asked += line.startswith(b"PING")
            if line.startswith(b"PING") and not (number == connection and asked > 1):
                writer.write(b"PONG\r\n")
        ending.cancel()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}", ends


async def test_a_server_that_freezes_when_it_was_reached_again_does_not_keep_the_hub_away() -> None:
    came_back = asyncio.Event()
    async with _server_that_freezes(2) as (url, ends), _link(url) as link:
        link.listen(lambda is_connected: came_back.set() if is_connected else None)
        ends.set()
        # The library waits ten seconds for the answer to its first question.
        async with asyncio.timeout(20):
            await came_back.wait()
        await link.flush()
