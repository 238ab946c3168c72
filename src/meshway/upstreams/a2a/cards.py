"""Agent cards, fetched from below the registered base path or posted."""

import asyncio

from meshway.gateway.ports import EgressRules
from meshway.kernel.errors import UpstreamError, UpstreamInvalid
from meshway.protocols.a2a.card import read_card
from meshway.registry.values import CardFacts
from meshway.upstreams.a2a.credentials import credential_header
from meshway.upstreams.a2a.settings import A2AUpstreamSettings
from meshway.upstreams.http1 import Http1Client, Origin, encode_request

__all__ = ["A2ACards"]

# A2A 1.0 and 0.3, then 0.2 and older (specification section 8.2).
_CARD_PATHS = ("/.well-known/agent-card.json", "/.well-known/agent.json")


class A2ACards:
    """CardReader over our own HTTP client. Only ever GETs: asking for a card must not make an agent act."""

    def __init__(self, client: Http1Client, *, egress: EgressRules, settings: A2AUpstreamSettings) -> None:
        self._client = client
        self._egress = egress
        self._settings = settings

    async def fetch(self, url: str, *, credential: str | None = None) -> CardFacts:
        """See CardReader. A URL that names a card (`.json`) is fetched as it is."""
        self._egress.check_url(url)
        origin, base = Origin.parse(url)
        path = base.partition("?")[0].rstrip("/")
        candidates = (path,) if path.endswith(".json") else tuple(path + each for each in _CARD_PATHS)
        refusal: UpstreamError | None = None
        for candidate in candidates:
            try:
                return self.read(await self._get(origin, candidate, credential))
            except UpstreamInvalid as error:
                refusal = refusal or error
        assert refusal is not None
        raise refusal

    def read(self, document: bytes) -> CardFacts:
        """See CardReader."""
        return read_card(document)

    async def _get(self, origin: Origin, path: str, credential: str | None) -> bytes:
        # 0.3 servers ignore the version header, 1.0 servers that serve both then send the 1.0 card.
        headers = [(b"accept", b"application/json"), (b"a2a-version", b"1.0")]
        if credential is not None:
            headers.append(credential_header(credential))
        wire = encode_request(b"GET", path.encode("ascii"), origin.host_header, headers, b"")
        deadline = asyncio.get_running_loop().time() + self._settings.card_timeout_ms / 1000
        response = await self._client.exchange(origin, wire, deadline=deadline, method=b"GET")
        try:
            if response.status != 200:
                where = f"{origin.scheme}://{origin.host}:{origin.port}{path}"
                raise UpstreamInvalid(f"{where} answered {response.status} where an agent card was expected.")
            return await response.read()
        finally:
            response.close()
