"""Feeds end with a word about why, and write no more at once than a slow client may hold."""

import asyncio

from meshway.edges.channels.feed import relay_feed
from meshway.edges.http.drain import DrainSignal
from meshway.edges.http.exchange import Exchange, RequestHead
from meshway.edges.http.flow import WriteFlow
from meshway.kernel.errors import EngineUnavailable, Unauthenticated


class Wire(asyncio.Transport):
    """A transport that keeps what is written, piece by piece."""

    def __init__(self):
        super().__init__()
        self.pieces = []

    def write(self, data):
        self.pieces.append(bytes(data))

    def close(self):
        pass


class Owner:
    def __init__(self):
        self.drain_signal = DrainSignal()

    def default_header_lines(self):
        return b""

    def exchange_finished(self, exchange):
        pass


class Scene:
    """A feed whose items come from a queue: a list to send, or an error."""

    def __init__(self):
        async def handler(exchange):
            pass

        self.owner, self.wire, self.batches = Owner(), Wire(), asyncio.Queue()
        self.is_revoked = False
        head = RequestHead(b"GET", b"/v1/events/e", b"", {}, handler)
        self.exchange = Exchange(self.owner, self.wire, WriteFlow(asyncio.get_running_loop()), head)

    async def take(self, count_max):
        batch = await self.batches.get()
        if isinstance(batch, Exception):
            raise batch
        assert len(batch) <= count_max
        return batch

    def still_welcome(self):
        if self.is_revoked:
            raise Unauthenticated("This key was revoked.")

    async def run(self):
        async with asyncio.timeout(5):
            await relay_feed(self.exchange, self.take, lambda item: item, still_welcome=self.still_welcome)

    @property
    def chunks(self):
        """What was sent, without the head and the chunk framing."""
        return [piece.split(b"\r\n", 1)[1][:-2] for piece in self.wire.pieces[1:]]


async def test_a_feed_whose_source_fails_says_so_and_ends():
    scene = Scene()
    scene.batches.put_nowait([b"data: 1\n\n", b"data: 2\n\n"])
    scene.batches.put_nowait(EngineUnavailable("The store is gone."))
    await scene.run()
    assert scene.chunks[:2] == [b": subscribed\n\n", b"data: 1\n\ndata: 2\n\n"]
    assert scene.chunks[2].startswith(b"event: error\ndata: {")
    assert b"engine_unavailable" in scene.chunks[2]
    assert scene.wire.pieces[-1] == b"0\r\n\r\n"


async def test_a_feed_says_farewell_when_the_hub_drains():
    scene = Scene()
    async with asyncio.TaskGroup() as group:
        group.create_task(scene.run())
        async with asyncio.timeout(5):
            while not scene.owner.drain_signal.waits:  # noqa: ASYNC110  nobody else waits for it
                await asyncio.sleep(0)
        scene.owner.drain_signal.end_waits()
    assert scene.chunks[-2] == b": the hub is shutting down\n\n"
    assert scene.wire.pieces[-1] == b"0\r\n\r\n"


async def test_a_feed_begun_while_the_hub_drains_ends_at_once():
    scene = Scene()
    scene.owner.drain_signal.give()
    await scene.run()
    assert scene.wire.pieces[-1] == b"0\r\n\r\n"


async def test_large_items_are_written_in_pieces_and_never_cut():
    scene = Scene()
    items = [bytes([65 + n]) * 100_000 for n in range(9)]
    scene.batches.put_nowait([*items, b"z" * 1_000_000])
    scene.batches.put_nowait(EngineUnavailable("The end."))
    await scene.run()
    sent = scene.chunks[1:-2]
    assert b"".join(sent) == b"".join([*items, b"z" * 1_000_000])
    assert [len(piece) for piece in sent] == [200_000] * 4 + [100_000, 1_000_000]


async def test_what_comes_after_the_key_was_revoked_is_not_shown():
    scene = Scene()
    scene.is_revoked = True
    scene.batches.put_nowait([b"data: secret\n\n"])
    await scene.run()
    assert not any(b"secret" in chunk for chunk in scene.chunks)
    assert any(b"event: error" in chunk and b"unauthenticated" in chunk for chunk in scene.chunks)
