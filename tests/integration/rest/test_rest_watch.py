"""The change feed on a real socket, and the SDK against the real control plane."""

import asyncio
import json
from contextlib import aclosing, asynccontextmanager

import httpx
import pytest

from meshway.client import BlockingClient, HubError, HubUnreachable, MeshwayClient
from meshway.edges.rest import RestSettings
from meshway.protocols.sse import SseParser
from support.rest_hub import card_document, rest_hub, served


@asynccontextmanager
async def watching(url, **headers):
    """Lines of a feed as they come, after its headers."""
    address = f"{url}/v1/agents/watch"
    async with httpx.AsyncClient(timeout=5) as http, http.stream("GET", address, headers=headers) as response:
        yield response


async def status_of_a_watch(url):
    async with watching(url) as response:
        return response.status_code


async def events_of(response, count):
    parser, found = SseParser(), []
    async with asyncio.timeout(5):
        async for chunk in response.aiter_bytes():
            found += parser.feed(chunk)
            if len(found) >= count:
                return [(event.event.decode(), json.loads(event.data), (event.id or b"").decode()) for event in found]
    raise AssertionError(f"the feed ended after {found}")


async def test_a_watch_begins_with_a_comment_then_the_present_then_changes():
    async with rest_hub() as hub, served(hub.app) as url:
        await hub.register("alpha")
        async with watching(url) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-store"
            await hub.register("beta")
            await hub.http.delete("/v1/agents/alpha")
            events = await events_of(response, 4)
    assert [(kind, data.get("id")) for kind, data, _ in events[:2]] == [("reset", None), ("changed", "alpha")]
    assert [(kind, data["id"]) for kind, data, _ in events[2:]] == [("changed", "beta"), ("removed", "alpha")]
    assert events[1][1]["instances"][0]["url"] == "http://alpha.test"
    assert all(event_id for _, _, event_id in events[1:])


async def test_an_empty_feed_still_says_at_once_that_it_is_there():
    async with rest_hub() as hub, served(hub.app) as url, watching(url) as response:
        async with asyncio.timeout(2):
            assert (await anext(response.aiter_bytes())).startswith(b": connected\n\n")


async def test_a_resumed_watch_gets_the_present_value_of_what_changed_and_nothing_else():
    async with rest_hub() as hub, served(hub.app) as url:
        await hub.register("alpha")
        await hub.register("beta")
        async with watching(url) as response:
            seen = await events_of(response, 3)
        await hub.http.patch("/v1/agents/beta", json={"labels": {"a": "1"}})
        await hub.http.patch("/v1/agents/beta", json={"labels": {"a": "2"}})
        async with watching(url, **{"Last-Event-ID": seen[-1][2]}) as response:
            ((kind, data, _),) = await events_of(response, 1)
    assert (kind, data["id"], data["instances"][0]["labels"]) == ("changed", "beta", {"a": "2"})


async def test_a_watch_resumed_at_a_hub_that_restarted_is_told_to_forget():
    async with rest_hub() as hub, served(hub.app) as url:
        await hub.register("alpha")
        async with watching(url, **{"Last-Event-ID": "otherlife-7"}) as response:
            events = await events_of(response, 2)
    assert [kind for kind, _, _ in events] == ["reset", "changed"]


async def test_a_watch_resumed_at_a_hub_that_restarted_empty_is_told_to_forget_at_once():
    stale = {"Last-Event-ID": "otherlife-7"}
    async with rest_hub() as hub, served(hub.app) as url, watching(url, **stale) as response:
        assert [kind for kind, _, _ in await events_of(response, 1)] == ["reset"]


async def test_silence_is_filled_with_comments():
    settings = RestSettings(watch_keep_alive_ms=100)
    async with (
        rest_hub(settings=settings) as hub,
        served(hub.app) as url,
        watching(url) as response,
        asyncio.timeout(5),
    ):
        received = b""
        async for chunk in response.aiter_bytes():
            received += chunk
            if received.count(b": keep-alive\n\n") >= 2:
                break


async def test_a_reader_that_left_frees_its_place_at_once():
    async with rest_hub(settings=RestSettings(watchers_max=1)) as hub, served(hub.app) as url:
        async with watching(url) as response, httpx.AsyncClient() as other:
            await anext(response.aiter_bytes())
            full = await other.get(f"{url}/v1/agents/watch")
            assert (full.status_code, full.json()["code"]) == (429, "too_many_in_flight")
            assert full.headers["retry-after"] == "1"
        async with asyncio.timeout(3):
            while await status_of_a_watch(url) != 200:
                pass


async def test_a_hub_that_shuts_down_ends_its_feeds():
    async with rest_hub() as hub, served(hub.app) as url, watching(url) as response:
        received = response.aiter_bytes()
        await anext(received)
        hub.status.shutdown.set()
        async with asyncio.timeout(3):
            rest = b"".join([chunk async for chunk in received])
    assert rest.endswith(b": the hub is shutting down\n\n")


# --- the SDK against the real thing ---


async def test_the_sdk_registers_finds_changes_and_removes_agents():
    async with rest_hub() as hub, served(hub.app) as url, MeshwayClient(url) as client:
        hub.network.cards["http://w.test"] = hub.network.cards["http://w2.test"] = card_document()
        agent = await client.agents.register("weather", url="http://w.test", labels={"zone": "eu"}, capacity=2)
        assert (agent.id, agent.state, agent.skills[0].id) == ("weather", "online", "forecast")
        await client.agents.register("posted", card=card_document("Posted"))
        page = await client.agents.list(label="zone=eu", state="online")
        assert [each.id for each in page.items] == ["weather"]
        first = await client.agents.list(limit=1)
        rest = await client.agents.list(limit=1, cursor=first.next_cursor)
        assert [each.id for each in first.items + rest.items] == ["posted", "weather"]
        changed = await client.agents.update("weather", {"capacity": None, "settings": {"timeout_ms": 5}})
        assert (changed.instances[0].capacity, changed.settings["timeout_ms"]) == (None, 5)
        added = await client.agents.add_instance("weather", "http://w2.test", instance="two")
        assert added.id == "two"
        assert (await client.agents.drain("weather", instance="two")).instances[1].state == "draining"
        assert (await client.agents.resume("weather")).state == "online"
        assert (await client.agents.heartbeat("weather", instance="two", in_flight=1)).lease_until is not None
        await client.agents.remove_instance("weather", "two")
        assert len((await client.agents.get("weather")).instances) == 1
        await client.agents.remove("weather")
        with pytest.raises(HubError) as caught:
            await client.agents.get("weather")
        assert (caught.value.code, caught.value.status) == ("agent_not_found", 404)


async def test_the_sdk_shows_which_field_the_hub_refused():
    async with rest_hub() as hub, served(hub.app) as url, MeshwayClient(url) as client:
        with pytest.raises(HubError) as caught:
            await client.agents.register("Bad Id", url="http://w.test")
    assert [each.field for each in caught.value.fields] == ["id"]


async def test_the_sdk_makes_lists_and_revokes_keys():
    async with rest_hub() as hub, served(hub.app) as url:
        async with MeshwayClient(url) as opener:
            root = await opener.keys.create("root", ["admin"])
        async with MeshwayClient(url, root.key) as client:
            made = await client.keys.create("temp", ["call"], expires_at="2999-01-01T00:00:00Z")
            assert {key.name for key in (await client.keys.list()).items} == {"root", "temp"}
            assert (await client.keys.revoke(made.id)).revoked_at is not None
        async with MeshwayClient(url) as stranger:
            with pytest.raises(HubError, match="unauthenticated"):
                await stranger.agents.list()


async def test_the_sdks_watch_goes_on_over_a_lost_connection():
    async with rest_hub() as hub:
        await hub.register("alpha")
        seen = []
        async with served(hub.app) as url:
            port = int(url.rpartition(":")[2])
            client = MeshwayClient(url)
            watch = client.agents.watch()
            async with asyncio.timeout(5):
                seen.append(await anext(watch))
        await hub.register("beta")
        async with served(hub.app, port=port), asyncio.timeout(10), aclosing(watch):
            seen.append(await anext(watch))
        await client.aclose()
    assert [(change.kind, change.agent_id) for change in seen] == [("changed", "alpha"), ("changed", "beta")]


async def test_the_sdks_watch_raises_when_no_hub_was_ever_there():
    async with rest_hub() as hub:
        async with served(hub.app) as url:
            pass
        async with MeshwayClient(url) as client:
            with pytest.raises(HubUnreachable):
                await anext(client.agents.watch())


async def test_the_blocking_client_operates_the_registry():
    def program(url):
        with BlockingClient(url) as client:
            client.agents.register("weather", card=card_document())
            watched = next(iter(client.agents.watch()))
            return [agent.id for agent in client.agents.list().items], watched.agent_id

    async with rest_hub() as hub, served(hub.app) as url:
        assert await asyncio.to_thread(program, url) == (["weather"], "weather")
