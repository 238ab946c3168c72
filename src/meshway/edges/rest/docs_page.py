"""`/docs`: the OpenAPI document in a viewer that is served from here, so that it works without the internet."""

import asyncio
import hashlib
from collections.abc import Callable
from http import HTTPStatus

import msgspec
import swagger_ui_bundle
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from meshway.edges.rest.openapi import for_swagger_ui
from meshway.kernel.errors import NotFound

__all__ = ["docs_routes"]

# The viewer makes data: images, and style attributes while it draws; it needs no other origin and no inline script.
_CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_PAGE = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Meshway API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
</head>
<body>
<noscript>This page needs JavaScript; the document is at <a href="/v1/openapi.json">/v1/openapi.json</a>.</noscript>
<div id="docs"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

_START = b"""window.addEventListener("load", () => {
  SwaggerUIBundle({
    url: "/docs/openapi-3.0.json",
    dom_id: "#docs",
    deepLinking: true,
    displayRequestDuration: true,
    presets: [SwaggerUIBundle.presets.apis],
    validatorUrl: null,
  });
});
"""

# From the package swagger-ui-bundle; nothing else of it is served.
_BUNDLED = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}


class _Asset:
    """One file in memory with its ETag."""

    __slots__ = ("content", "etag", "media_type")

    def __init__(self, content: bytes, media_type: str) -> None:
        self.content = content
        self.media_type = media_type
        self.etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    def answer(self, request: Request) -> Response:
        headers = {
            "ETag": self.etag,
            # Kept by browsers, asked for again at every visit: a hub may be replaced under its address.
            "Cache-Control": "no-cache",
            "Content-Security-Policy": _CONTENT_POLICY,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
        }
        if request.headers.get("if-none-match") == self.etag:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
        return Response(self.content, headers=headers, media_type=self.media_type)


def docs_routes(document: Callable[[], dict[str, object]]) -> list[BaseRoute]:
    """Routes for the page, its files and the document in the version the viewer reads; made when first asked for."""
    page = _Asset(_PAGE, "text/html")
    assets = {"start.js": _Asset(_START, "text/javascript")}

    async def load(name: str) -> _Asset:
        if name == "openapi-3.0.json":
            return _Asset(msgspec.json.encode(for_swagger_ui(document())), "application/json")
        if name not in _BUNDLED:
            raise NotFound(f"The documentation page has no file {name!r}.")
        content = await asyncio.to_thread((swagger_ui_bundle.swagger_ui_path / name).read_bytes)
        return _Asset(content, _BUNDLED[name])

    async def serve_page(request: Request) -> Response:
        return page.answer(request)

    async def serve_file(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in assets:
            assets[name] = await load(name)
        return assets[name].answer(request)

    return [
        Route("/docs", serve_page, methods=["GET"]),
        Route("/docs/", serve_page, methods=["GET"]),
        Route("/docs/{name}", serve_file, methods=["GET"]),
    ]
