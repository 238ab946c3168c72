"""What a hub holds in the end, as those who judge a crash test read it."""

from collections.abc import Iterator, Mapping

from support.crash_judge import Letter, StreamItem
from support.hub_process import HubProcess

__all__ = ["figures", "left_in", "letters_of", "pages", "read", "reader_position", "stream_items"]


def read(hub: HubProcess, path: str) -> Mapping:
    status, _, answer = hub.request("GET", path)
    assert status == 200, answer
    assert isinstance(answer, dict)
    return answer


def pages(hub: HubProcess, path: str, parameter: str, member: str, first: str | None = None) -> Iterator[Mapping]:
    """Every item of a list; `path` has a query already."""
    at = first
    while True:
        page = read(hub, path if at is None else f"{path}&{parameter}={at}")
        yield from page["items"]
        if page[member] is None or not page["items"]:
            return
        at = page[member]


def figures(hub: HubProcess, kind: str, channel: str) -> Mapping[str, int]:
    return read(hub, f"/v1/{kind}/{channel}/info")["figures"]


def left_in(hub: HubProcess, queue: str) -> int:
    """Messages that are neither done nor dead."""
    found = figures(hub, "queues", queue)
    return found["waiting"] + found["held"] + found["delayed"]


def letters_of(hub: HubProcess, queue: str) -> list[Letter]:
    """All dead letters, oldest first."""
    return [
        Letter(
            each["message"]["data"]["number"],
            each["message"]["id"],
            each["reason"],
            [(attempt["attempt"], attempt["outcome"], attempt["reason"]) for attempt in each["attempts"]],
        )
        for each in pages(hub, f"/v1/queues/{queue}/dead-letters?limit=500", "cursor", "next_cursor")
    ]


def stream_items(hub: HubProcess, stream: str) -> list[StreamItem]:
    found = pages(hub, f"/v1/streams/{stream}/messages?limit=500", "from", "next_from", first="first")
    return [StreamItem(each["data"]["number"], each["id"], each["sequence"]) for each in found]


def reader_position(hub: HubProcess, stream: str, reader: str) -> int:
    return read(hub, f"/v1/streams/{stream}/readers/{reader}")["position"]
