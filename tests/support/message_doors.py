"""The same calls through each door of a hub: REST, the SDK and the command line, with answers in the form of REST."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import httpx
import msgspec

from meshway.client import HubError, MeshwayClient, Missed, NewMessage
from support.command import meshway_async

__all__ = ["DOORS", "Door", "Feed", "Refusal", "RestDoor", "open_door", "wait_until"]

DOORS = ("rest", "sdk", "cli")
_PATIENCE_S = 15.0
Kind = Literal["events", "streams", "queues"]


class Refusal(Exception):
    """The hub said no. `fields` is empty where a door does not show them."""

    def __init__(self, code: str, detail: str, fields: Sequence[str] = ()) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.fields = list(fields)


class Feed(Protocol):
    """What arrives at one listener; `{"missed": n}` where events are gone."""

    async def next(self) -> dict: ...


class Door(Protocol):
    """Messages in are objects with `data` and more. Raises: Refusal."""

    async def send(self, kind: Kind, channel: str, *messages: Mapping) -> list[dict]: ...
    def feed(
        self, kind: Literal["events", "streams"], pattern: str, **options: str
    ) -> AbstractAsyncContextManager[Feed]: ...
    async def read(self, channel: str, start: str) -> list[dict]: ...
    async def receive(self, queue: str, count: int) -> list[dict]: ...
    async def peek(self, queue: str) -> list[dict]: ...
    async def dead_letters(self, queue: str) -> list[dict]: ...
    async def redrive(self, queue: str, *ids: str, rate: float | None = None) -> int: ...
    async def purge(self, queue: str) -> int: ...
    async def ask(
        self, kind: Literal["commands", "queries"], channel: str, data: object, **options: object
    ) -> dict: ...
    async def configure(self, kind: str, channel: str, **settings: object) -> dict: ...
    async def info(self, kind: str, channel: str) -> dict: ...
    async def delete(self, kind: str, channel: str) -> None: ...


class RestDoor:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def call(self, method: str, path: str, body: object = None, **params: object) -> dict:
        return _accepted(await self.http.request(method, path, json=body, params=params or None))

    async def send(self, kind: Kind, channel: str, *messages: Mapping) -> list[dict]:
        path = f"/v1/{kind}/{channel}" + ("/messages" if kind == "queues" else "")
        return (await self.call("POST", path, {"messages": messages}))["receipts"]

    @asynccontextmanager
    async def feed(self, kind: str, pattern: str, **options: str) -> AsyncIterator["SseFeed"]:
        cursor = options.pop("cursor", None)
        headers = {} if cursor is None else {"last-event-id": cursor}
        async with self.http.stream("GET", f"/v1/{kind}/{pattern}", params=options, headers=headers) as answer:
            if answer.status_code != 200:
                await answer.aread()
                _accepted(answer)
            yield SseFeed(answer)

    async def read(self, channel: str, start: str) -> list[dict]:
        return (await self.call("GET", f"/v1/streams/{channel}/messages", **{"from": start}))["items"]

    async def lease(self, queue: str, count: int = 1, *, wait_ms: int = 0) -> list[dict]:
        return (await self.call("POST", f"/v1/queues/{queue}/lease", {"count": count, "wait_ms": wait_ms}))[
            "deliveries"
        ]

    async def settle(self, queue: str, *deliveries: Mapping, action: str = "ack", **members: object) -> list[str]:
        items = [{"delivery_id": each["delivery_id"], "action": action, **members} for each in deliveries]
        return (await self.call("POST", f"/v1/queues/{queue}/settle", {"settlements": items}))["outcomes"]

    async def receive(self, queue: str, count: int) -> list[dict]:
        deliveries = await self.lease(queue, count)
        if deliveries:
            assert set(await self.settle(queue, *deliveries)) == {"done"}
        return [each["message"] for each in deliveries]

    async def peek(self, queue: str) -> list[dict]:
        return (await self.call("GET", f"/v1/queues/{queue}/messages"))["items"]

    async def dead_letters(self, queue: str) -> list[dict]:
        return (await self.call("GET", f"/v1/queues/{queue}/dead-letters"))["items"]

    async def redrive(self, queue: str, *ids: str, rate: float | None = None) -> int:
        body: dict = ({"ids": ids} if ids else {}) | ({} if rate is None else {"rate_per_s": rate})
        return (await self.call("POST", f"/v1/queues/{queue}/dead-letters/redrive", body))["messages"]

    async def purge(self, queue: str) -> int:
        return (await self.call("POST", f"/v1/queues/{queue}/purge", confirm=queue))["purged"]

    async def ask(self, kind: str, channel: str, data: object, **options: object) -> dict:
        return await self.call("POST", f"/v1/{kind}/{channel}", {"data": data, **options})

    async def ask_for_refusal(self, kind: str, channel: str, data: object, **options: object) -> Refusal:
        try:
            answer = await self.ask(kind, channel, data, **options)
        except Refusal as refusal:
            return refusal
        raise AssertionError(f"was not refused: {answer}")

    async def configure(self, kind: str, channel: str, **settings: object) -> dict:
        return await self.call("PUT", f"/v1/{kind}/{channel}", settings)

    async def info(self, kind: str, channel: str) -> dict:
        return await self.call("GET", f"/v1/{kind}/{channel}/info")

    async def delete(self, kind: str, channel: str) -> None:
        await self.call("DELETE", f"/v1/{kind}/{channel}", confirm=channel)


class SseFeed:
    """`last_id` is what a browser would send as Last-Event-ID."""

    def __init__(self, answer: httpx.Response) -> None:
        self._lines = answer.aiter_lines()
        self.last_id: str | None = None

    async def next(self) -> dict:
        data = ""
        async with asyncio.timeout(_PATIENCE_S):
            async for line in self._lines:
                if line.startswith("id:"):
                    self.last_id = line[3:].strip()
                elif line.startswith("data:"):
                    data += line[5:].strip()
                elif not line and data:
                    return json.loads(data)
        raise AssertionError("the feed ended")


class SdkDoor:
    def __init__(self, client: MeshwayClient) -> None:
        self.client = client

    async def send(self, kind: Kind, channel: str, *messages: Mapping) -> list[dict]:
        send = {"events": self._publish, "streams": self._append, "queues": self.client.enqueue_many}[kind]
        with _refusals():
            return _plain(await send(channel, [NewMessage(**each) for each in messages]))

    async def _publish(self, channel: str, messages: Sequence[NewMessage]) -> Sequence[object]:
        return await self.client.publish(channel, *messages)

    async def _append(self, channel: str, messages: Sequence[NewMessage]) -> Sequence[object]:
        return await self.client.append(channel, *messages)

    @asynccontextmanager
    async def feed(self, kind: str, pattern: str, **options: str) -> AsyncIterator["SdkFeed"]:
        if "from" in options:
            options["from_"] = options.pop("from")
        open_feed = self.client.subscribe if kind == "events" else self.client.tail
        with _refusals():
            async with open_feed(pattern, **options) as feed:
                yield SdkFeed(feed)

    async def read(self, channel: str, start: str) -> list[dict]:
        page = await self.client.read(channel, from_=start)
        return [json.loads(each.document) for each in page.items]

    async def receive(self, queue: str, count: int) -> list[dict]:
        deliveries = await self.client.lease(queue, count=count)
        if deliveries:
            assert set(await self.client.ack(queue, *deliveries)) == {"done"}
        return [json.loads(each.document) for each in deliveries]

    async def peek(self, queue: str) -> list[dict]:
        return [json.loads(each.document) for each in (await self.client.peek(queue)).items]

    async def dead_letters(self, queue: str) -> list[dict]:
        return _plain((await self.client.dead_letters(queue)).items)

    async def redrive(self, queue: str, *ids: str, rate: float | None = None) -> int:
        return (await self.client.redrive(queue, ids=ids or None, rate_per_s=rate)).messages

    async def purge(self, queue: str) -> int:
        return await self.client.purge(queue)

    async def ask(self, kind: str, channel: str, data: object, **options: object) -> dict:
        ask = self.client.command if kind == "commands" else self.client.query
        with _refusals():
            return _plain(await ask(channel, data, **options))

    async def configure(self, kind: str, channel: str, **settings: object) -> dict:
        with _refusals():
            return _plain(await self.client.put_channel(kind, channel, **settings))

    async def info(self, kind: str, channel: str) -> dict:
        with _refusals():
            return _plain(await self.client.channel_info(kind, channel))

    async def delete(self, kind: str, channel: str) -> None:
        with _refusals():
            await self.client.delete_channel(kind, channel)


class SdkFeed:
    def __init__(self, feed: object) -> None:
        self._feed = feed
        self._items = aiter(feed)

    async def next(self) -> dict:
        async with asyncio.timeout(_PATIENCE_S):
            item = await anext(self._items)
        return {"missed": item.missed} if isinstance(item, Missed) else json.loads(item.document)


class CliDoor:
    """One process a call."""

    _SEND: ClassVar = {"events": ("events", "pub"), "streams": ("streams", "append"), "queues": ("queues", "send")}

    def __init__(self, url: str, key: str | None) -> None:
        self._env = {"MESHWAY_URL": url} | ({} if key is None else {"MESHWAY_API_KEY": key})

    async def _run(self, *arguments: str) -> str:
        ran = await meshway_async(*arguments, "--json", env=self._env)
        # A refused command is an answer too.
        if ran.status and not ran.out:
            error = json.loads(ran.err.splitlines()[-1])["error"]
            raise Refusal(error["code"], error["detail"])
        return ran.out

    async def _lines(self, *arguments: str) -> list[dict]:
        return [json.loads(line) for line in (await self._run(*arguments)).splitlines()]

    async def send(self, kind: Kind, channel: str, *messages: Mapping) -> list[dict]:
        return await self._lines(*self._SEND[kind], channel, "--envelope", *map(json.dumps, messages))

    @asynccontextmanager
    async def feed(self, kind: str, pattern: str, **options: str) -> AsyncIterator["CliFeed"]:
        command = ("events", "sub") if kind == "events" else ("streams", "tail")
        flags = [f"--{name}={value}" for name, value in options.items()]
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "meshway"),
            *command,
            pattern,
            *flags,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **self._env},
        )
        try:
            yield CliFeed(process)
        finally:
            process.terminate()
            async with asyncio.timeout(_PATIENCE_S):
                await process.wait()

    async def read(self, channel: str, start: str) -> list[dict]:
        return await self._lines("streams", "read", channel, "--from", start)

    async def receive(self, queue: str, count: int) -> list[dict]:
        return await self._lines("queues", "receive", queue, "--count", str(count), "--wait-ms", "0")

    async def peek(self, queue: str) -> list[dict]:
        return await self._lines("queues", "peek", queue)

    async def dead_letters(self, queue: str) -> list[dict]:
        return json.loads(await self._run("queues", "dead-letters", queue))["items"]

    async def redrive(self, queue: str, *ids: str, rate: float | None = None) -> int:
        flags = [] if rate is None else ["--rate", str(rate)]
        return json.loads(await self._run("queues", "redrive", queue, *ids, *flags))["messages"]

    async def purge(self, queue: str) -> int:
        return json.loads(await self._run("queues", "purge", queue, "--yes"))["purged"]

    async def ask(self, kind: str, channel: str, data: object, **options: object) -> dict:
        flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        verb = {"commands": "command", "queries": "query"}[kind]
        return json.loads(await self._run(verb, channel, json.dumps(data), *flags))

    async def configure(self, kind: str, channel: str, **settings: object) -> dict:
        pairs = [f"{name}={json.dumps(value)}" for name, value in settings.items()]
        return json.loads(await self._run("channels", "set", kind, channel, *pairs))

    async def info(self, kind: str, channel: str) -> dict:
        return json.loads(await self._run("channels", "show", kind, channel))

    async def delete(self, kind: str, channel: str) -> None:
        await self._run("channels", "delete", kind, channel, "--yes")


class CliFeed:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def next(self) -> dict:
        assert self._process.stdout is not None
        async with asyncio.timeout(_PATIENCE_S):
            return json.loads(await self._process.stdout.readline())


@asynccontextmanager
async def open_door(door: str, url: str, *, key: str | None = None) -> AsyncIterator[Door]:
    """One of DOORS."""
    if door == "rest":
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as http:
            yield RestDoor(http)
    elif door == "sdk":
        async with MeshwayClient(url, key) as client:
            yield SdkDoor(client)
    else:
        yield CliDoor(url, key)


async def wait_until(is_so: object, within_s: float = _PATIENCE_S) -> None:
    """Ask an async question until the answer is yes."""
    async with asyncio.timeout(within_s):
        while not await is_so():  # noqa: ASYNC110  it is a question to another process
            await asyncio.sleep(0.02)


class _refusals:  # noqa: N801  reads as a word of its blocks
    """Errors of the SDK as refusals."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, HubError):
            raise Refusal(error.code, error.detail, [each.field for each in error.fields]) from error


def _accepted(answer: httpx.Response) -> dict:
    body = answer.json() if answer.content else {}
    if answer.status_code >= 400:
        assert body["status"] == answer.status_code
        raise Refusal(body["code"], body["detail"], [each["field"] for each in body.get("errors") or ()])
    return body


def _plain(value: object) -> object:
    return json.loads(msgspec.json.encode(value))
