"""The relay's HTTP/1.1 client: keep-alive pool, limits, timeouts, streaming, TLS; no redirects."""

from meshway.upstreams.http1.client import Http1Client
from meshway.upstreams.http1.origin import Origin
from meshway.upstreams.http1.request import encode_request
from meshway.upstreams.http1.response import Http1Response
from meshway.upstreams.http1.settings import Http1Settings

__all__ = ["Http1Client", "Http1Response", "Http1Settings", "Origin", "encode_request"]
