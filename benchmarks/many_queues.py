"""Many queues with a worker each, over a few WebSockets: the load side, as raw frames of `/v1/ws`.

Run as `python -m benchmarks.many_queues '{"url": ..., "key": ..., "queues": 10000}'`; prints one JSON line.
"""

import asyncio
import json
import sys
import time

import uvloop
from websockets.asyncio.client import ClientConnection, connect

__all__ = ["SUBSCRIPTIONS_A_SOCKET"]

SUBSCRIPTIONS_A_SOCKET = 1_000
_TIMEOUT_S = 120.0


async def _subscribe(socket: ClientConnection, queues: range) -> None:
    for number in queues:
        frame = {"type": "subscribe", "id": str(number), "kind": "queues", "channel": f"many.{number}", "credit": 1}
        await socket.send(json.dumps(frame))
    waiting = len(queues)
    while waiting:
        frame = json.loads(await socket.recv())
        if frame["type"] == "error":
            raise RuntimeError(str(frame))
        waiting -= frame["type"] == "subscribed"


async def _receive(socket: ClientConnection, queues: range) -> None:
    for number in queues:
        frame = {"type": "publish", "ref": str(number), "kind": "queues", "channel": f"many.{number}"}
        await socket.send(json.dumps(frame | {"messages": [{"data": number}]}))
    waiting = len(queues)
    while waiting:
        frame = json.loads(await socket.recv())
        if frame["type"] == "error":
            raise RuntimeError(str(frame))
        waiting -= len(frame["deliveries"]) if frame["type"] == "deliveries" else 0


async def _run(url: str, key: str, queues: int) -> dict[str, float]:
    ranges = [
        range(start, min(start + SUBSCRIPTIONS_A_SOCKET, queues)) for start in range(0, queues, SUBSCRIPTIONS_A_SOCKET)
    ]
    address = url.replace("http", "ws", 1) + "/v1/ws"
    async with asyncio.timeout(_TIMEOUT_S):
        sockets = [
            await connect(address, additional_headers={"Authorization": f"Bearer {key}"}, max_size=None) for _ in ranges
        ]
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for socket, part in zip(sockets, ranges, strict=True):
                group.create_task(_subscribe(socket, part))
        subscribed = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for socket, part in zip(sockets, ranges, strict=True):
                group.create_task(_receive(socket, part))
        delivered = time.perf_counter()
        for socket in sockets:
            await socket.close()
    return {"subscribe_s": subscribed - began, "deliver_s": delivered - subscribed}


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(_run(order["url"], order["key"], order["queues"]))))
