"""What holds for every route: problems, limits, keys, methods; and the operations endpoints."""

import asyncio

import httpx
import pytest

from meshway.edges.rest import RestSettings
from meshway.engine.ports import EngineHealth
from meshway.kernel.errors import EngineUnavailable, StorageFull
from support.rest_hub import card_document, rest_hub


@pytest.fixture
async def hub():
    async with rest_hub() as hub:
        yield hub


@pytest.fixture
async def closed_hub():
    """A hub that asks for keys, with one of each kind: admin, call, serve:mine-*."""
    async with rest_hub() as hub:
        hub.made = {}
        made = await hub.http.post("/v1/keys", json={"name": "root", "scopes": ["admin"]})
        hub.made["admin"] = made.json()["key"]
        for name, scope in (("caller", "call"), ("server", "serve:mine-*")):
            answer = await hub.http.post(
                "/v1/keys", json={"name": name, "scopes": [scope]}, headers=bearer(hub.made["admin"])
            )
            hub.made[name] = answer.json()["key"]
        yield hub


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def problem(answer, status, code):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    return answer.json()


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/nope", "/v1/agents/", "/v1/agents/a/nope", "/nope", "/docs/secret.js", "//"]
)
async def test_an_unknown_path_is_a_problem(hub, path):
    problem(await hub.http.get(f"http://hub{path}"), 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/agents", "GET, HEAD, POST"),
        ("POST", "/v1/agents/a", "DELETE, GET, HEAD, PATCH"),
        ("POST", "/v1/agents/watch", "GET"),
        ("GET", "/v1/agents/a/drain", "DELETE, POST"),
        ("OPTIONS", "/v1/keys", "GET, HEAD, POST"),
        ("TRACE", "/healthz", "GET, HEAD"),
        ("DELETE", "/docs", "GET, HEAD"),
    ],
)
async def test_a_method_that_is_none_of_the_path_is_405_with_allow(hub, method, path, allow):
    answer = await hub.http.request(method, path)
    problem(answer, 405, "method_unknown")
    assert sorted(answer.headers["allow"].split(", ")) == allow.split(", ")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonp"])
async def test_a_body_of_another_media_type_is_415(hub, content_type):
    answer = await hub.http.post("/v1/agents", content=b"{}", headers={"Content-Type": content_type})
    problem(answer, 415, "content_type_unsupported")


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "application/merge-patch+json", "Application/JSON"]
)
async def test_json_under_its_other_names_is_taken(hub, content_type):
    await hub.register("weather")
    answer = await hub.http.patch("/v1/agents/weather", content=b"{}", headers={"Content-Type": content_type})
    assert answer.status_code == 200


async def test_a_body_that_is_no_json_is_400(hub):
    answer = await hub.http.post("/v1/agents", content=b"{", headers={"Content-Type": "application/json"})
    problem(answer, 400, "malformed_body")


@pytest.mark.parametrize("declares", [True, False])
async def test_a_body_beyond_the_limit_is_413_before_it_is_all_read(declares):
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b"x" * 1024

    async with rest_hub(settings=RestSettings(body_bytes_max=2048)) as hub:
        headers = {"Content-Type": "application/json"} | ({"Content-Length": "102400"} if declares else {})
        problem(await hub.http.post("/v1/agents", content=chunks(), headers=headers), 413, "payload_too_large")
    assert sent < 100 or declares is False


async def test_a_failing_store_is_503_and_a_full_disk_507(hub):
    await hub.register("weather")
    hub.store.fail_with = EngineUnavailable("The disk failed.")
    problem(await hub.http.post("/v1/agents/weather/drain"), 503, "engine_unavailable")
    hub.store.fail_with = StorageFull("No space.", retry_after_ms=1500)
    answer = await hub.http.post("/v1/agents/weather/drain")
    problem(answer, 507, "storage_full")
    assert answer.headers["retry-after"] == "2"
    hub.store.fail_with = None


async def test_a_bug_is_a_problem_too_and_shows_nothing_of_its_inside(hub):
    hub.network.fail_with = RuntimeError("secret detail")
    answer = await hub.http.post("/v1/agents", json={"id": "a", "url": "http://a.test"})
    problem(answer, 500, "internal")
    assert "secret detail" not in answer.text


async def test_head_answers_like_get_on_every_plain_route(hub):
    for path in ("/v1/agents", "/healthz", "/readyz", "/docs", "/v1/openapi.json"):
        assert (await hub.http.head(path)).status_code == 200


# --- keys ---


@pytest.mark.parametrize(
    "path", ["/v1/agents", "/v1/agents/a", "/v1/agents/watch", "/v1/keys", "/metrics", "/v1/agents/a/instances"]
)
async def test_where_keys_are_asked_for_none_is_401(closed_hub, path):
    answer = await closed_hub.http.get(path)
    problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    problem(await closed_hub.http.get(path, headers=bearer("mw_wrong_key")), 401, "unauthenticated")


async def test_who_may_not_ask_does_not_get_to_send(closed_hub):
    async def never_read():
        raise AssertionError("the body was read")
        yield b""

    headers = {"Content-Type": "application/json"}
    problem(await closed_hub.http.post("/v1/agents", content=never_read(), headers=headers), 401, "unauthenticated")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/docs", "/v1/openapi.json", "/"])
async def test_what_is_open_stays_open(closed_hub, path):
    answer = await closed_hub.http.get(path)
    assert answer.status_code == 200


@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
async def test_a_key_is_taken_in_both_headers(closed_hub, header):
    key = closed_hub.made["caller"]
    value = f"Bearer {key}" if header == "Authorization" else key
    assert (await closed_hub.http.get("/v1/agents", headers={header: value})).status_code == 200


async def test_scopes_decide_who_may_register_change_and_administer(closed_hub):
    http, made = closed_hub.http, closed_hub.made
    card = card_document()
    as_server, as_caller, as_admin = bearer(made["server"]), bearer(made["caller"]), bearer(made["admin"])
    own = await http.post("/v1/agents", json={"id": "mine-1", "card": card}, headers=as_server)
    assert own.status_code == 201
    problem(await http.post("/v1/agents", json={"id": "x", "card": card}, headers=as_server), 403, "forbidden")
    problem(await http.post("/v1/agents", json={"id": "mine-2", "card": card}, headers=as_caller), 403, "forbidden")
    problem(await http.delete("/v1/agents/mine-1", headers=as_caller), 403, "forbidden")
    problem(await http.get("/v1/keys", headers=as_server), 403, "forbidden")
    assert (await http.get("/metrics", headers=as_caller)).status_code == 200
    assert (await http.post("/v1/agents/mine-1/drain", headers=as_admin)).status_code == 200
    assert (await http.delete("/v1/agents/mine-1", headers=as_server)).status_code == 204


async def test_a_key_is_shown_once_listed_without_secret_and_revoked_at_once(closed_hub):
    http, as_admin = closed_hub.http, bearer(closed_hub.made["admin"])
    body = {"name": "temp", "scopes": ["call"], "expires_at": "2999-01-01T00:00:00Z"}
    made = (await http.post("/v1/keys", json=body, headers=as_admin)).json()
    assert made["expires_at"] == "2999-01-01T00:00:00.000Z"
    listed = await http.get("/v1/keys", headers=as_admin)
    assert made["key"] not in listed.text
    # Oldest first, but keys made within one millisecond have no order among them.
    assert {key["name"] for key in listed.json()["items"]} == {"root", "caller", "server", "temp"}
    assert (await http.get("/v1/agents", headers=bearer(made["key"]))).status_code == 200
    revoked = await http.delete(f"/v1/keys/{made['id']}", headers=as_admin)
    assert revoked.json()["revoked_at"] is not None
    problem(await http.get("/v1/agents", headers=bearer(made["key"])), 401, "unauthenticated")
    problem(await http.delete("/v1/keys/nokey", headers=as_admin), 404, "key_not_found")


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"name": "a"}, "scopes"),
        ({"name": "a", "scopes": []}, "scopes"),
        ({"name": "a", "scopes": ["fly"]}, "scopes"),
        ({"name": "", "scopes": ["call"]}, "name"),
        ({"name": "a", "scopes": ["call"], "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "a", "scopes": ["call"], "expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ({"name": "a", "scopes": ["call"], "expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
    ],
)
async def test_a_wrong_key_request_names_its_field(hub, body, wrong):
    document = problem(await hub.http.post("/v1/keys", json=body), 400, "invalid_request")
    assert document["errors"][0]["field"].split(".")[0] == wrong


# --- health, metrics, pages ---


async def test_health_and_readiness_say_how_the_hub_is(hub):
    await hub.register("weather")
    assert (await hub.http.get("/healthz")).json() == {"status": "ok", "version": "1.2.3"}
    ready = await hub.http.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True,
        "reason": None,
        "version": "1.2.3",
        "engine": "embedded",
        "durability": "on disk before yes",
        "writable": True,
        "draining": False,
        "agents": 1,
    }


async def test_readiness_is_503_with_the_reason_when_the_store_refuses_writes(hub):
    hub.engine.answer = EngineHealth(writable=False, reason="the disk is full")
    answer = await hub.http.get("/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "the disk is full")
    hub.engine.fail_with = EngineUnavailable("The store is closed.")
    answer = await hub.http.get("/readyz")
    assert (answer.status_code, answer.json()["reason"]) == (503, "The store is closed.")


async def test_readiness_does_not_wait_for_a_store_that_hangs(hub):
    hub.engine.is_stuck = True
    async with asyncio.timeout(3):
        answer = await hub.http.get("/readyz")
    assert (answer.status_code, answer.json()["writable"]) == (503, False)


async def test_readiness_is_503_while_starting_and_while_draining_and_health_stays_200(hub):
    hub.status.shutdown.set()
    answer = await hub.http.get("/readyz")
    assert (answer.status_code, answer.json()["draining"]) == (503, True)
    assert (await hub.http.get("/healthz")).status_code == 200
    async with rest_hub(is_started=lambda: False) as starting:
        assert (await starting.http.get("/readyz")).status_code == 503


async def test_metrics_are_passed_through_with_their_content_type(hub):
    answer = await hub.http.get("/metrics")
    assert answer.text == "meshway_up 1\n"
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"


async def test_the_start_page_lists_agents_escaped_and_loads_nothing(hub):
    url = "http://evil.test"
    hub.network.cards[url] = card_document(url=url, description="<script>alert(1)</script>")
    await hub.register("evil", url=url)
    page = await hub.http.get("/")
    assert "<script>" not in page.text
    assert "&lt;script&gt;" in page.text
    assert "script-src" not in page.headers["content-security-policy"]
    assert "default-src 'none'" in page.headers["content-security-policy"]


async def test_the_start_page_of_a_closed_hub_shows_no_agent(closed_hub):
    card = {"id": "hidden", "card": card_document()}
    assert (await closed_hub.http.post("/v1/agents", json=card, headers=bearer(closed_hub.made["admin"]))).is_success
    assert "hidden" not in (await closed_hub.http.get("/")).text
    assert "hidden" in (await closed_hub.http.get("/", headers=bearer(closed_hub.made["caller"]))).text


async def test_the_documentation_is_served_whole_from_here(hub):
    page = await hub.http.get("/docs")
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for name in ("swagger-ui-bundle.js", "swagger-ui.css", "start.js", "favicon-32x32.png", "openapi-3.0.json"):
        asset = await hub.http.get(f"/docs/{name}")
        assert asset.status_code == 200
        again = await hub.http.get(f"/docs/{name}", headers={"If-None-Match": asset.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "index.html", "swagger-ui-bundle.js.map", "__init__.py"])
async def test_the_documentation_serves_no_other_file(hub, name):
    problem(await hub.http.get(httpx.URL(f"http://hub/docs/{name}")), 404, "not_found")
