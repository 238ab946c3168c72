"""Which card for whom, and its caching."""

import hashlib
from collections.abc import Mapping
from typing import Literal

from meshway.edges.http.exchange import Exchange

__all__ = ["CardRoute", "answer_card", "card_route"]

# What the caller asked for; `default` leaves it to the agent's setting.
CardRoute = Literal["default", "0.3"]

# A card changes when somebody registers the agent again; clients may keep it for a minute, then ask with the ETag.
_CACHE_CONTROL = b"public, max-age=60"


def card_route(rest: str, headers: Mapping[bytes, bytes], query: bytes) -> CardRoute | None:
    """The well-known paths (A2A 1.0, 8.2; `agent.json` up to 0.2). None: `rest` is no card path."""
    if rest == ".well-known/agent.json":
        return "0.3"
    if rest != ".well-known/agent-card.json":
        return None
    version = headers.get(b"a2a-version")
    if version is None:
        pairs = (pair.partition(b"=") for pair in query.split(b"&"))
        version = next((value for name, _, value in pairs if name.lower() == b"a2a-version"), b"")
    return "0.3" if version.strip().startswith(b"0.3") else "default"


def answer_card(exchange: Exchange, card: bytes) -> None:
    """200 with ETag and Cache-Control, or 304 where the caller has it already."""
    etag = b'"%b"' % hashlib.sha256(card).hexdigest()[:32].encode("ascii")
    headers = ((b"etag", etag), (b"cache-control", _CACHE_CONTROL), (b"vary", b"A2A-Version, Host"))
    known = exchange.head.headers.get(b"if-none-match", b"")
    if known == b"*" or etag in (each.strip().removeprefix(b"W/") for each in known.split(b",")):
        exchange.respond(304, b"", b"", headers)
        return
    exchange.respond(200, b"application/json", card, headers)
