"""Channels through the control plane: settings, figures, lists, deletion, dead letters, readers."""

import msgspec
import pytest

from meshway.kernel.principal import LOCAL_OPERATOR
from meshway.messaging.incoming import IncomingMessage
from meshway.messaging.settings import MessagingSettings
from meshway.messaging.settlements import SettlementItem
from support.rest_hub import rest_hub

KINDS = ("events", "streams", "queues", "commands", "queries")
QUEUE_DEFAULTS = {
    "lease_ms": 30_000,
    "attempts_max": 5,
    "backoff_initial_ms": 1_000,
    "backoff_max_ms": 300_000,
    "dead_letter": True,
    "ordered": False,
    "dedupe_window_ms": 120_000,
    "max_messages": None,
    "max_bytes": None,
    "retention_ms": None,
}


@pytest.fixture
async def hub():
    async with rest_hub() as made:
        yield made


def message(data: object, **more: object) -> IncomingMessage:
    return IncomingMessage(data=msgspec.Raw(msgspec.json.encode(data)), **more)


async def enqueue(hub, queue: str, *data: object) -> None:
    await hub.channels.enqueue_messages.execute(LOCAL_OPERATOR, queue, [message(each) for each in data])


async def bury(hub, queue: str, *data: object, reason: str = "cannot be done") -> None:
    await enqueue(hub, queue, *data)
    held = await hub.channels.lease_messages.execute(LOCAL_OPERATOR, queue, count=len(data), wait_ms=1_000)
    rejected = [SettlementItem(delivery_id=each.delivery_id, action="dead_letter", reason=reason) for each in held]
    await hub.channels.settle_deliveries.execute(LOCAL_OPERATOR, queue, rejected)


async def append(hub, stream: str, *data: object) -> None:
    await hub.channels.append_to_stream.execute(LOCAL_OPERATOR, stream, [message(each) for each in data])


# --- settings ---


async def test_a_queue_made_with_settings_reads_back_as_the_contract_says(hub):
    made = await hub.http.put("/v1/queues/billing.invoices", json={"lease_ms": 5_000, "ordered": True})
    assert made.status_code == 201
    assert made.headers["location"] == "/v1/queues/billing.invoices/info"
    shown = (await hub.http.get("/v1/queues/billing.invoices/info")).json()
    assert shown["kind"] == "queues"
    assert shown["name"] == "billing.invoices"
    assert shown["settings"] == QUEUE_DEFAULTS | {"lease_ms": 5_000, "ordered": True}
    assert shown["owner"] == "local"
    assert shown["created_at"].endswith("Z")
    assert shown["figures"] == {"waiting": 0, "held": 0, "delayed": 0, "dead": 0}


async def test_a_put_replaces_all_settings_and_answers_200(hub):
    await hub.http.put("/v1/queues/work", json={"lease_ms": 5_000, "attempts_max": 2})
    again = await hub.http.put("/v1/queues/work", json={"attempts_max": 3})
    assert again.status_code == 200
    assert again.json()["settings"] == QUEUE_DEFAULTS | {"attempts_max": 3}


@pytest.mark.parametrize("kind", KINDS)
async def test_every_kind_is_put_without_a_body_shown_and_listed(hub, kind):
    assert (await hub.http.put(f"/v1/{kind}/work")).status_code == 201
    assert (await hub.http.get(f"/v1/{kind}/work/info")).json()["kind"] == kind
    listed = (await hub.http.get(f"/v1/{kind}")).json()
    assert [item["name"] for item in listed["items"]] == ["work"]
    assert listed["next_cursor"] is None


async def test_the_same_name_is_another_channel_in_each_kind(hub):
    await hub.http.put("/v1/queues/work", json={"lease_ms": 5_000})
    assert (await hub.http.get("/v1/streams/work/info")).status_code == 404
    assert (await hub.http.put("/v1/streams/work", json={"max_messages": 7})).status_code == 201
    assert (await hub.http.get("/v1/queues/work/info")).json()["settings"]["lease_ms"] == 5_000


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/queues/work", {"lease_ms": 5}, "lease_ms"),
        ("/v1/queues/work", {"lease_ms": "long"}, "lease_ms"),
        ("/v1/queues/work", {"attempts_max": 0}, "attempts_max"),
        ("/v1/queues/work", {"lease": 5_000}, "lease"),
        ("/v1/streams/work", {"lease_ms": 5_000}, "lease_ms"),
        ("/v1/streams/work", {"when_full": "explode"}, "when_full"),
        ("/v1/events/work", {"retention_ms": 1}, "retention_ms"),
        ("/v1/commands/work", {"timeout_ms": -1}, "timeout_ms"),
        ("/v1/queues/_own", {}, "channel"),
        ("/v1/queues/a..b", {}, "channel"),
        ("/v1/queues/a*", {}, "channel"),
        (f"/v1/queues/{'a' * 256}", {}, "channel"),
    ],
)
async def test_wrong_settings_and_names_are_refused_by_field_and_nothing_is_stored(hub, path, body, field):
    refused = await hub.http.put(path, json=body)
    assert refused.status_code == 400, refused.text
    assert [each["field"] for each in refused.json()["errors"]] == [field]
    for kind in KINDS:
        assert (await hub.http.get(f"/v1/{kind}")).json()["items"] == []


async def test_a_field_with_a_typing_error_is_told_the_right_name(hub):
    refused = await hub.http.put("/v1/queues/work", json={"lease_mss": 5_000})
    assert "did you mean lease_ms" in refused.text


async def test_over_the_limit_of_channels_the_setting_is_named():
    async with rest_hub(messaging=MessagingSettings(channels_max=2)) as hub:
        await hub.http.put("/v1/queues/a")
        await hub.http.put("/v1/streams/b")
        refused = await hub.http.put("/v1/queues/c")
        assert refused.status_code == 429
        assert refused.json()["code"] == "capacity_reached"
        assert "channels_max" in refused.json()["detail"]


# --- kinds and methods ---


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/v1/topics/work"),
        ("POST", "/v1/topics/work/messages"),
        ("GET", "/v1/topics/work/info"),
        ("GET", "/v1/topics"),
        ("DELETE", "/v1/queue/work"),
    ],
)
async def test_an_unknown_kind_is_told_the_five_there_are(hub, method, path):
    refused = await hub.http.request(method, path)
    assert refused.status_code == 404
    assert "events, streams, queues, commands, queries" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PATCH", "/v1/queues/work", "DELETE, PUT"),
        ("PATCH", "/v1/streams/work", "DELETE, GET, POST, PUT"),
        ("GET", "/v1/queues/work/lease", "POST"),
        ("DELETE", "/v1/queues/work/messages", "GET, POST"),
        ("POST", "/v1/queues", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_ones_of_the_data_calls_too(hub, method, path, allow):
    refused = await hub.http.request(method, path)
    assert refused.status_code == 405
    assert refused.headers["allow"] == allow


# --- lists ---


async def test_lists_are_by_name_in_pages_with_figures(hub):
    for name in ("c", "a", "b"):
        await enqueue(hub, name, 1)
    first = (await hub.http.get("/v1/queues", params={"limit": 2})).json()
    rest = (await hub.http.get("/v1/queues", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [item["name"] for item in first["items"] + rest["items"]] == ["a", "b", "c"]
    assert rest["next_cursor"] is None
    assert first["items"][0]["figures"]["waiting"] == 1


async def test_a_prefix_narrows_a_list(hub):
    for name in ("orders.eu", "orders.us", "stock"):
        await hub.http.put(f"/v1/queues/{name}")
    found = (await hub.http.get("/v1/queues", params={"prefix": "orders."})).json()
    assert [item["name"] for item in found["items"]] == ["orders.eu", "orders.us"]


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "cursor=%21", "colour=red"])
async def test_a_wrong_query_of_a_list_is_refused_by_name(hub, query):
    refused = await hub.http.get(f"/v1/queues?{query}")
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["field"] == query.partition("=")[0]


# --- deletion ---


@pytest.mark.parametrize("kind", KINDS)
async def test_a_channel_is_deleted_only_when_its_name_is_repeated(hub, kind):
    await hub.http.put(f"/v1/{kind}/work")
    for query in ("", "?confirm=other"):
        refused = await hub.http.delete(f"/v1/{kind}/work{query}")
        assert refused.status_code == 400
        assert refused.json()["errors"][0]["field"] == "confirm"
    deleted = await hub.http.delete(f"/v1/{kind}/work?confirm=work")
    assert (deleted.status_code, deleted.content) == (204, b"")
    assert (await hub.http.get(f"/v1/{kind}/work/info")).status_code == 404
    gone = await hub.http.delete(f"/v1/{kind}/work?confirm=work")
    assert (gone.status_code, gone.json()["code"]) == (404, "channel_not_found")


async def test_a_deleted_queue_comes_back_empty_with_the_defaults(hub):
    await hub.http.put("/v1/queues/work", json={"lease_ms": 5_000})
    await enqueue(hub, "work", 1, 2)
    await hub.http.delete("/v1/queues/work?confirm=work")
    await hub.http.put("/v1/queues/work")
    shown = (await hub.http.get("/v1/queues/work/info")).json()
    assert shown["settings"]["lease_ms"] == 30_000
    assert shown["figures"]["waiting"] == 0


# --- queues ---


async def test_a_purge_needs_the_name_and_says_how_many_are_gone(hub):
    await enqueue(hub, "work", 1, 2, 3)
    refused = await hub.http.post("/v1/queues/work/purge")
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["field"] == "confirm"
    assert (await hub.http.post("/v1/queues/work/purge?confirm=work")).json() == {"purged": 3}
    assert (await hub.http.get("/v1/queues/work/info")).json()["figures"]["waiting"] == 0


async def test_dead_letters_show_reason_history_and_the_message(hub):
    await bury(hub, "work", {"n": 1}, reason="no such customer")
    page = (await hub.http.get("/v1/queues/work/dead-letters")).json()
    (letter,) = page["items"]
    assert letter["reason"] == "no such customer"
    assert letter["message"]["data"] == {"n": 1}
    assert letter["message"]["channel"] == "work"
    (attempt,) = letter["attempts"]
    assert (attempt["attempt"], attempt["outcome"], attempt["reason"]) == (1, "dead_letter", "no such customer")
    assert page["next_cursor"] is None


async def test_dead_letters_have_pages(hub):
    await bury(hub, "work", 1, 2, 3)
    first = (await hub.http.get("/v1/queues/work/dead-letters?limit=2")).json()
    rest = (await hub.http.get(f"/v1/queues/work/dead-letters?limit=2&cursor={first['next_cursor']}")).json()
    assert [item["message"]["data"] for item in first["items"] + rest["items"]] == [1, 2, 3]


async def test_dead_letters_go_back_by_id_or_all(hub):
    await bury(hub, "work", 1, 2, 3)
    letters = (await hub.http.get("/v1/queues/work/dead-letters")).json()["items"]
    one = await hub.http.post("/v1/queues/work/dead-letters/redrive", json={"ids": [letters[0]["id"], "unknown"]})
    assert (one.status_code, one.json()) == (202, {"messages": 1})
    rest = await hub.http.post("/v1/queues/work/dead-letters/redrive")
    assert (rest.status_code, rest.json()) == (202, {"messages": 2})
    figures = (await hub.http.get("/v1/queues/work/info")).json()["figures"]
    assert (figures["waiting"], figures["dead"]) == (3, 0)


async def test_a_redrive_at_a_rate_goes_on_after_its_answer(hub):
    await bury(hub, "work", 1, 2, 3)
    started = await hub.http.post("/v1/queues/work/dead-letters/redrive", json={"rate_per_s": 100})
    assert (started.status_code, started.json()) == (202, {"messages": 3})
    taken: list[object] = []
    while len(taken) < 3:
        held = await hub.channels.lease_messages.execute(LOCAL_OPERATOR, "work", count=3, wait_ms=5_000)
        assert held, "nothing came back within 5 s"
        taken += held


@pytest.mark.parametrize(
    ("body", "field"),
    [({"rate_per_s": 0}, "rate_per_s"), ({"ids": "all"}, "ids"), ({"ids": [1]}, "ids.0"), ({"rate": 5}, "rate")],
)
async def test_a_wrong_redrive_is_refused_by_field(hub, body, field):
    await bury(hub, "work", 1)
    refused = await hub.http.post("/v1/queues/work/dead-letters/redrive", json=body)
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["field"] == field


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/queues/nothing/info"),
        ("GET", "/v1/queues/nothing/dead-letters"),
        ("POST", "/v1/queues/nothing/dead-letters/redrive"),
        ("POST", "/v1/queues/nothing/purge?confirm=nothing"),
        ("DELETE", "/v1/queues/nothing?confirm=nothing"),
    ],
)
async def test_a_queue_that_nobody_used_is_not_found(hub, method, path):
    refused = await hub.http.request(method, path)
    assert (refused.status_code, refused.json()["code"]) == (404, "channel_not_found")


# --- readers ---


async def test_a_reader_is_made_moved_acknowledged_and_forgotten(hub):
    await append(hub, "news", *range(5))
    path = "/v1/streams/news/readers/audit"
    made = await hub.http.put(path, json={"from": "first"})
    assert made.status_code == 201
    assert made.headers["location"] == path
    assert (made.json()["name"], made.json()["position"], made.json()["lag"]) == ("audit", 0, 5)
    assert (await hub.http.post(f"{path}/ack", json={"sequence": 3})).json() == {"sequence": 3}
    assert (await hub.http.post(f"{path}/ack", json={"sequence": 2})).json() == {"sequence": 3}
    shown = (await hub.http.get(path)).json()
    assert (shown["position"], shown["lag"]) == (3, 2)
    moved = await hub.http.put(path, json={"from": "2"})
    assert (moved.status_code, moved.json()["position"]) == (200, 1)
    listed = (await hub.http.get("/v1/streams/news/readers")).json()
    assert [item["name"] for item in listed["items"]] == ["audit"]
    assert [each["name"] for each in (await hub.http.get("/v1/streams/news/info")).json()["readers"]] == ["audit"]
    assert (await hub.http.delete(path)).status_code == 204
    gone = await hub.http.get(path)
    assert (gone.status_code, gone.json()["code"]) == (404, "reader_not_found")


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PUT", "audit", {"from": "yesterday"}, "from"),
        ("PUT", "audit", {"start": "first"}, "start"),
        ("PUT", "a.b", {}, "reader"),
        ("POST", "audit/ack", {"sequence": -1}, "sequence"),
        ("POST", "audit/ack", {"sequence": 99}, "sequence"),
        ("POST", "audit/ack", {}, "sequence"),
    ],
)
async def test_a_wrong_reader_is_refused_by_field(hub, method, path, body, field):
    await append(hub, "news", 1)
    await hub.http.put("/v1/streams/news/readers/audit")
    refused = await hub.http.request(method, f"/v1/streams/news/readers/{path}", json=body)
    assert refused.status_code == 400, refused.text
    assert refused.json()["errors"][0]["field"] == field


async def test_a_deleted_stream_takes_its_readers_along(hub):
    await append(hub, "news", 1)
    await hub.http.put("/v1/streams/news/readers/audit")
    assert (await hub.http.delete("/v1/streams/news?confirm=news")).status_code == 204
    assert (await hub.http.get("/v1/streams/news/readers/audit")).status_code == 404


# --- rights ---


async def test_who_made_a_channel_or_an_admin_changes_it_and_others_only_use_it(hub):
    keys = {}
    for name, scope in (("root", "admin"), ("maker", "call"), ("other", "call")):
        headers = {"authorization": f"Bearer {keys['root']}"} if keys else {}
        created = await hub.http.post("/v1/keys", json={"name": name, "scopes": [scope]}, headers=headers)
        keys[name] = created.json()["key"]

    def as_(name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {keys[name]}"}

    assert (await hub.http.put("/v1/queues/work", headers=as_("maker"))).status_code == 201
    assert (await hub.http.get("/v1/queues/work/info", headers=as_("other"))).status_code == 200
    for method, path in (
        ("PUT", "/v1/queues/work"),
        ("DELETE", "/v1/queues/work?confirm=work"),
        ("POST", "/v1/queues/work/purge?confirm=work"),
        ("POST", "/v1/queues/work/dead-letters/redrive"),
    ):
        refused = await hub.http.request(method, path, headers=as_("other"))
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden"), path
        assert (await hub.http.request(method, path)).status_code == 401
    assert (await hub.http.put("/v1/queues/work", headers=as_("root"))).status_code == 200
    assert (await hub.http.delete("/v1/queues/work?confirm=work", headers=as_("maker"))).status_code == 204
