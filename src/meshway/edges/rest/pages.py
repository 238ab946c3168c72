"""`/`, `/metrics` and the AsyncAPI document: what people, scrapers and generators of clients look at first."""

import html
from functools import lru_cache

from starlette.requests import Request
from starlette.responses import Response

from meshway.edges.rest.asyncapi import build_asyncapi
from meshway.edges.rest.operations import RestCall, json_response
from meshway.kernel.errors import CallerError
from meshway.kernel.principal import Principal
from meshway.registry.presence import agent_state
from meshway.registry.search import AgentQuery
from meshway.registry.values import Agent

__all__ = ["serve_asyncapi", "serve_metrics", "serve_start_page"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Meshway</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 60rem; margin: 3rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ text-align: left; padding: .4rem .8rem .4rem 0; border-bottom: 1px solid #8884; vertical-align: top; }}
code {{ font-size: .9em; }}
</style>
</head>
<body>
<h1>Meshway {version}</h1>
<p><a href="/docs">API documentation</a> &middot; <a href="/v1/agents">agents as JSON</a> &middot;
<a href="/readyz">readiness</a> &middot; <a href="/metrics">metrics</a></p>
{agents}
</body>
</html>
"""
# A screenful; the list itself has pages.
_AGENTS_SHOWN = 100


async def serve_start_page(call: RestCall) -> Response:
    content = _PAGE.format(version=html.escape(call.services.status.version), agents=await _agents(call))
    headers = {
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
    return Response(content, headers=headers, media_type="text/html")


async def serve_asyncapi(call: RestCall) -> Response:
    """What is spoken at `/v1/ws`."""
    return json_response(_asyncapi(call.services.status.version))


@lru_cache(maxsize=1)
def _asyncapi(version: str) -> dict[str, object]:
    """Made when first asked for: the hub would stand still for milliseconds each time."""
    return build_asyncapi(version=version)


async def serve_metrics(call: RestCall) -> Response:
    """Any valid key may scrape, so that a scraper needs no key that could do harm."""
    content, media_type = await call.services.render_metrics()
    return Response(content, headers={"Cache-Control": "no-store", "Content-Type": media_type})


async def _agents(call: RestCall) -> str:
    try:
        principal = _principal(call, call.request)
        page = await call.services.agents.find.execute(principal, AgentQuery(limit=_AGENTS_SHOWN))
    except CallerError:
        return "<p>This hub asks for a key; agents are shown to who has one, at <code>/v1/agents</code>.</p>"
    if not page.items:
        return "<p>No agent is registered yet: <code>meshway agents add NAME URL</code>.</p>"
    rows = "\n".join(_row(agent) for agent in page.items)
    more = "<p>There are more: see the list as JSON.</p>" if page.next_cursor else ""
    head = "<tr><th>Agent</th><th>State</th><th>Instances</th><th>What it does</th></tr>"
    return f"<table>\n{head}\n{rows}\n</table>\n{more}"


def _principal(call: RestCall, request: Request) -> Principal:
    return call.services.principal_of(request.headers.raw)


def _row(agent: Agent) -> str:
    cells = (
        f'<a href="/v1/agents/{html.escape(agent.id)}">{html.escape(agent.id)}</a>',
        html.escape(agent_state(agent).value),
        str(len(agent.instances)),
        html.escape(agent.card.description),
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
