"""Responders of the SDK against a scripted hub: replies, refusals, failures, and callers that have gone."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from meshway.client import HubError, Refused
from meshway.protocols.link import frames
from support.fake_link_hub import document, fake_link_hub, problem


def request(n, *, timeout_ms=30_000, data=None):
    return frames.RequestItem(
        request_id=f"r-{n}",
        deadline="2020-01-01T00:00:00.000Z",
        timeout_ms=timeout_ms,
        message=document(f"m-{n}", data, channel="prices"),
    )


@asynccontextmanager
async def responding(handler, **options):
    async with fake_link_hub() as (hub, client), client.responder("prices.>", handler, **options) as responder:
        await responder.ready()
        subscribe = hub.of(frames.Subscribe)[0]

        async def ask(*requests):
            await hub.send(frames.Requests(id=subscribe.id, requests=list(requests)))

        yield hub, responder, ask


async def test_what_the_handler_returns_is_the_reply():
    async def handle(asked):
        return {"of": asked.data, "id": asked.request_id}

    async with responding(handle, kind="commands", concurrency=4) as (hub, responder, ask):
        await ask(request(1, data="tea"))
        reply = await hub.next_of(frames.Reply)
        credit = await hub.next_of(frames.Credit)
    assert (hub.of(frames.Subscribe)[0].kind, hub.of(frames.Subscribe)[0].credit) == ("commands", 4)
    assert (reply.request_id, reply.executed, bytes(reply.data)) == ("r-1", True, b'{"of":"tea","id":"r-1"}')
    assert (credit.messages, responder.figures.answered) == (1, 1)


async def test_what_the_handler_raises_says_why_it_was_not_done():
    def handle(asked):
        if asked.data == "door":
            raise Refused("the door is locked")
        if asked.data == "object":
            return object()
        raise ZeroDivisionError("by zero")

    async with responding(handle) as (hub, responder, ask):
        await ask(request(1, data="door"), request(2, data="x"), request(3, data="object"))
        await hub.next_of(frames.Reply, 3)
    replies = {reply.request_id: reply for reply in hub.of(frames.Reply)}
    assert not any(reply.executed for reply in replies.values())
    assert replies["r-1"].error == "the door is locked"
    assert replies["r-2"].error == "ZeroDivisionError: by zero"
    assert replies["r-3"].error.startswith("TypeError: data of type object")
    assert (responder.figures.refused, responder.figures.failed) == (1, 2)


async def test_a_handler_that_takes_longer_than_the_caller_waits_is_cancelled():
    cancelled = asyncio.Event()

    async def handle(asked):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with responding(handle) as (hub, responder, ask):
        await ask(request(1, timeout_ms=30))
        async with asyncio.timeout(5):
            await cancelled.wait()
        await hub.next_of(frames.Credit)
    assert responder.figures.late == 1
    assert not hub.of(frames.Reply)


async def test_a_reply_goes_over_the_next_connection():
    gate, running = asyncio.Event(), asyncio.Event()

    async def handle(asked):
        running.set()
        await gate.wait()
        return 1

    async with responding(handle) as (hub, _, ask):
        await ask(request(1))
        await running.wait()
        hub.drop()
        await hub.next_of(frames.Subscribe, 2)
        gate.set()
        reply = await hub.next_of(frames.Reply)
    assert reply.request_id == "r-1"


async def test_stopping_answers_what_was_begun():
    gate, running = asyncio.Event(), asyncio.Event()

    async def handle(asked):
        running.set()
        await gate.wait()
        return "done"

    async with responding(handle) as (hub, responder, ask):
        await ask(request(1))
        await running.wait()
        responder.stop()
        await hub.next_of(frames.Unsubscribe)
        gate.set()
    assert [bytes(reply.data) for reply in hub.of(frames.Reply)] == [b'"done"']


async def test_what_does_not_finish_in_time_is_answered_as_not_done():
    running = asyncio.Event()

    async def handle(asked):
        running.set()
        await asyncio.Event().wait()

    async with responding(handle, drain_timeout_s=0.05) as (hub, _, ask):
        await ask(request(1))
        await running.wait()
    assert [(reply.executed, reply.error) for reply in hub.of(frames.Reply)] == [(False, "the responder stopped")]


async def test_a_refused_responder_ends_with_the_reason():
    async with fake_link_hub() as (hub, client):

        async def refuse(connection, frame):
            await hub.send(frames.Error(id=frame.id, problem=problem("forbidden", 403)))

        hub.answer = refuse
        with pytest.raises(HubError) as caught:
            await client.responder("prices", lambda asked: None).run()
    assert caught.value.code == "forbidden"
