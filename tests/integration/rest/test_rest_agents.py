"""Every route under /v1/agents, through the application with real use cases below it."""

import re

import pytest

from meshway.edges.rest.models import AgentSettingsBody, AgentSettingsPatch, AgentSettingsView
from meshway.gateway.patches import SettingsPatch
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import AgentSettings
from support.rest_hub import card_document, rest_hub

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
async def hub():
    async with rest_hub() as hub:
        yield hub


def problem(answer, status, code):
    """The problem document, after checking what all of them have in common."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert set(document) == {"type", "title", "status", "detail", "code", "errors"}
    assert (document["status"], document["code"]) == (status, code)
    return document


def fields(document):
    return [each["field"] for each in document["errors"]]


async def test_an_agent_registered_by_url_reads_back_as_the_contract_says(hub):
    hub.network.cards["http://w.test"] = card_document(url="http://w.test/rpc")
    body = {"id": "weather", "url": "http://w.test", "labels": {"zone": "eu"}, "capacity": 4}
    created = await hub.http.post("/v1/agents", json=body)
    assert created.status_code == 201
    assert created.headers["location"] == "/v1/agents/weather"
    agent = (await hub.http.get("/v1/agents/weather")).json()
    assert agent == created.json()
    assert agent["name"] == "Weather"
    assert agent["state"] == "online"
    assert agent["skills"] == [
        {"id": "forecast", "name": "Forecast", "description": "Looks ahead", "tags": ["sky", "rain"]}
    ]
    assert agent["card"]["supportedInterfaces"][0]["url"] == "http://w.test/rpc"
    (instance,) = agent["instances"]
    assert instance["url"] == "http://w.test"
    assert (instance["labels"], instance["capacity"], instance["in_flight"]) == ({"zone": "eu"}, 4, 0)
    assert instance["state"] == "online"
    assert instance["lease_until"] is None
    for moment in (agent["registered_at"], agent["last_seen"], instance["last_seen"], instance["state_since"]):
        assert MOMENT.fullmatch(moment)


async def test_registering_again_replaces_with_200_and_keeps_the_first_time(hub):
    first = await hub.register("weather")
    again = await hub.http.post(
        "/v1/agents", json={"id": "weather", "url": "http://weather.test", "labels": {"a": "b"}}
    )
    assert again.status_code == 200
    assert again.json()["registered_at"] == first["registered_at"]
    assert again.json()["instances"][0]["labels"] == {"a": "b"}


async def test_a_card_is_never_probed_and_suspect_until_first_contact(hub):
    answer = await hub.http.post("/v1/agents", json={"id": "posted", "card": card_document()})
    assert answer.status_code == 201
    assert answer.json()["state"] == "suspect"
    assert answer.json()["last_seen"] is None
    assert hub.network.fetched == []


async def test_an_agent_that_does_not_answer_is_refused_naming_the_url(hub):
    answer = await hub.http.post("/v1/agents", json={"id": "gone", "url": "http://gone.test"})
    assert fields(problem(answer, 502, "upstream_unreachable")) == ["url"]
    problem(await hub.http.get("/v1/agents/gone"), 404, "agent_not_found")


async def test_several_instances_can_be_registered_at_once(hub):
    hub.network.cards["http://a.test"] = hub.network.cards["http://b.test"] = card_document()
    body = {"id": "two", "instances": [{"url": "http://a.test", "id": "a"}, {"url": "http://b.test", "weight": 3}]}
    agent = (await hub.http.post("/v1/agents", json=body)).json()
    assert agent["instances"][0]["id"] == "a"
    assert agent["instances"][1]["weight"] == 3


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, ["id"]),
        ({"id": "Not Good", "url": "http://a.test"}, ["id"]),
        ({"id": "watch", "url": "http://a.test"}, ["id"]),
        ({"id": "a"}, ["url"]),
        ({"id": "a", "url": "http://a.test", "card": {}}, ["card"]),
        ({"id": "a", "url": "ftp://a.test"}, ["url"]),
        ({"id": "a", "url": 7}, ["url"]),
        ({"id": "a", "url": "http://a.test", "labels": {"k": 1}}, ["labels"]),
        ({"id": "a", "url": "http://a.test", "labels": {"k k": "v"}}, ["labels.k k"]),
        ({"id": "a", "url": "http://a.test", "capacity": 0}, ["capacity"]),
        ({"id": "a", "url": "http://a.test", "settings": {"card": "2.0"}}, ["settings.card"]),
        ({"id": "a", "url": "http://a.test", "settings": {"nope": 1}}, ["settings.nope"]),
        ({"id": "a", "url": "http://a.test", "instances": [{}, {"url": 1}]}, ["instances.0.url"]),
        ({"id": "a", "url": "http://a.test", "lables": {}}, ["lables"]),
        ({"id": 1, "url": 2, "capacity": "x", "nope": True}, ["id", "url", "capacity", "nope"]),
        ({"id": "a", "card": []}, ["card"]),
        ([], [""]),
        ("text", [""]),
    ],
)
async def test_a_wrong_registration_names_every_wrong_field(hub, body, wrong):
    document = problem(await hub.http.post("/v1/agents", json=body), 400, "invalid_request")
    assert sorted(fields(document)) == sorted(wrong)
    assert all(each["message"] for each in document["errors"])


async def test_a_wrong_card_names_its_fields_by_path(hub):
    card = card_document()
    card["skills"] = [{"id": "x", "name": 1}]
    del card["version"]
    document = problem(await hub.http.post("/v1/agents", json={"id": "a", "card": card}), 400, "invalid_request")
    assert {"version", "skills.0.name"} <= {field.removeprefix("card.") for field in fields(document)}


async def test_a_mistyped_field_is_answered_with_the_one_that_was_meant(hub):
    answer = await hub.http.post("/v1/agents", json={"id": "a", "url": "http://a.test", "lables": {}})
    assert "did you mean labels?" in answer.text


async def test_an_address_the_hub_may_not_go_to_is_refused(hub):
    answer = await hub.http.post("/v1/agents", json={"id": "a", "url": "http://169.254.169.254/latest"})
    assert fields(problem(answer, 400, "egress_denied")) == ["url"]


async def test_the_list_is_filtered_ranked_and_paged(hub):
    for name, zone in (("alpha", "eu"), ("beta", "us"), ("gamma", "eu")):
        await hub.register(name, labels={"zone": zone, "gpu": "1"})

    async def ids(**query):
        answer = await hub.http.get("/v1/agents", params=query)
        assert answer.status_code == 200, answer.text
        return [item["id"] for item in answer.json()["items"]]

    assert await ids() == ["alpha", "beta", "gamma"]
    assert await ids(label="zone=eu") == ["alpha", "gamma"]
    assert await ids(label=["zone=us", "gpu"]) == ["beta"]
    assert await ids(q="beta") == ["beta"]
    assert await ids(tag="rain", skill="forecast", state="online") == ["alpha", "beta", "gamma"]
    assert await ids(state="offline") == []
    first = (await hub.http.get("/v1/agents", params={"limit": 2})).json()
    rest = (await hub.http.get("/v1/agents", params={"limit": 2, "cursor": first["next_cursor"]})).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == ["alpha", "beta", "gamma"]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("limit=0", "limit"),
        ("limit=501", "limit"),
        ("limit=x", "limit"),
        ("state=asleep", "state"),
        ("cursor=%%%", "cursor"),
        ("lable=a", "lable"),
        ("tag=a&tag=b", "tag"),
        (f"q={'x' * 600}", "q"),
    ],
)
async def test_a_wrong_query_names_the_parameter(hub, query, wrong):
    document = problem(await hub.http.get(f"/v1/agents?{query}"), 400, "invalid_request")
    assert fields(document) == [wrong]


DEFAULTS = {
    "timeout_ms": None,
    "card": "1.0",
    "probe": True,
    "task_timeout_ms": None,
    "attempts_max": None,
    "delivery": "direct",
    "record": "all",
    "dedupe_messages": False,
    "depth_max": None,
    "calls_max": None,
    "allow_cycles": None,
}


async def test_patch_changes_only_what_it_names(hub):
    await hub.register("weather", labels={"zone": "eu", "gpu": "1"}, capacity=4, settings={"timeout_ms": 500})
    patch = {"labels": {"zone": None, "tier": "gold"}, "capacity": None, "settings": {"card": "union"}}
    agent = (await hub.http.patch("/v1/agents/weather", json=patch)).json()
    assert agent["instances"][0]["labels"] == {"gpu": "1", "tier": "gold"}
    assert agent["instances"][0]["capacity"] is None
    assert agent["settings"] == DEFAULTS | {"timeout_ms": 500, "card": "union"}
    agent = (await hub.http.patch("/v1/agents/weather", json={"settings": None, "labels": None})).json()
    assert agent["settings"] == DEFAULTS
    assert agent["instances"][0]["labels"] == {}


async def test_every_setting_of_an_agent_is_taken_shown_changed_and_put_back(hub):
    asked = {
        "timeout_ms": 1_000,
        "card": "union",
        "probe": False,
        "task_timeout_ms": 5_000,
        "attempts_max": 2,
        "delivery": "durable",
        "record": "streams",
        "dedupe_messages": True,
        "depth_max": 3,
        "calls_max": 10,
        "allow_cycles": True,
    }
    agent = await hub.register("weather", settings=asked)
    assert agent["settings"] == asked
    for name, value in asked.items():
        patch = {"settings": {name: None}}
        assert (await hub.http.patch("/v1/agents/weather", json=patch)).json()["settings"][name] == DEFAULTS[name]
        await hub.http.patch("/v1/agents/weather", json={"settings": {name: value}})
    assert (await hub.http.get("/v1/agents/weather")).json()["settings"] == asked


def test_the_settings_of_agents_are_the_same_wherever_they_are_written():
    fields = set(AgentSettings.__struct_fields__)
    for model in (AgentSettingsBody, AgentSettingsPatch, AgentSettingsView, SettingsPatch):
        assert set(model.__struct_fields__) == fields


async def test_a_credential_is_used_kept_secret_and_dropped_with_the_origin(hub):
    hub.network.cards["http://other.test"] = card_document()
    agent = await hub.register("weather", credential="Bearer s3cret")
    assert hub.network.fetched[-1] == ("http://weather.test", "Bearer s3cret")
    assert agent["has_credential"] is True
    assert "s3cret" not in str(agent)
    moved = (await hub.http.patch("/v1/agents/weather", json={"url": "http://other.test"})).json()
    assert moved["has_credential"] is False


async def test_a_posted_card_can_be_replaced_by_patch(hub):
    await hub.http.post("/v1/agents", json={"id": "posted", "card": card_document("Old")})
    agent = (await hub.http.patch("/v1/agents/posted", json={"card": card_document("New")})).json()
    assert agent["name"] == "New"


async def test_delete_forgets_the_agent(hub):
    await hub.register("weather")
    gone = await hub.http.delete("/v1/agents/weather")
    assert (gone.status_code, gone.content) == (204, b"")
    problem(await hub.http.delete("/v1/agents/weather"), 404, "agent_not_found")


async def test_drain_and_its_undoing_show_in_the_state(hub):
    await hub.register("weather")
    assert (await hub.http.post("/v1/agents/weather/drain")).json()["state"] == "draining"
    assert (await hub.http.delete("/v1/agents/weather/drain")).json()["state"] == "online"


async def test_the_first_heartbeat_gives_a_lease_and_reports_load(hub):
    await hub.register("weather")
    answer = await hub.http.post("/v1/agents/weather/heartbeat", json={"in_flight": 3, "ttl_ms": 60_000})
    assert answer.status_code == 200
    assert MOMENT.fullmatch(answer.json()["lease_until"])
    assert answer.json()["in_flight"] == 3
    assert (await hub.http.post("/v1/agents/weather/heartbeat")).status_code == 200
    wrong = await hub.http.post("/v1/agents/weather/heartbeat", json={"ttl_ms": 1})
    assert fields(problem(wrong, 400, "invalid_request")) == ["ttl_ms"]
    unknown = await hub.http.post("/v1/agents/weather/heartbeat", json={"instance": "nobody"})
    problem(unknown, 404, "agent_not_found")


async def test_instances_are_added_changed_drained_and_removed(hub):
    agent = await hub.register("weather")
    first = agent["instances"][0]["id"]
    hub.network.cards["http://second.test"] = card_document()
    base = "/v1/agents/weather/instances"
    added = await hub.http.post(base, json={"id": "second", "url": "http://second.test", "capacity": 2})
    assert added.status_code == 201
    assert added.headers["location"] == f"{base}/second"
    assert [item["id"] for item in (await hub.http.get(base)).json()["items"]] == [first, "second"]
    changed = (await hub.http.patch(f"{base}/second", json={"capacity": 9, "labels": {"a": "b"}})).json()
    assert (changed["capacity"], changed["labels"]) == (9, {"a": "b"})
    drained = (await hub.http.post(f"{base}/second/drain")).json()
    assert [each["state"] for each in drained["instances"]] == ["online", "draining"]
    assert (await hub.http.get(f"{base}/second")).json()["state"] == "draining"
    resumed = (await hub.http.delete(f"{base}/second/drain")).json()
    assert [each["state"] for each in resumed["instances"]] == ["online", "online"]
    assert (await hub.http.delete(f"{base}/second")).status_code == 204
    problem(await hub.http.get(f"{base}/second"), 404, "agent_not_found")
    problem(await hub.http.delete(f"{base}/{first}"), 409, "conflict")
    unreachable = await hub.http.post(base, json={"url": "http://nobody.test"})
    assert fields(problem(unreachable, 502, "upstream_unreachable")) == ["url"]


async def test_a_full_registry_says_so():
    async with rest_hub(registry=RegistrySettings(agents_max=1)) as hub:
        await hub.register("one")
        hub.network.cards["http://two.test"] = card_document()
        answer = await hub.http.post("/v1/agents", json={"id": "two", "url": "http://two.test"})
        problem(answer, 429, "capacity_reached")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/agents/nobody"),
        ("PATCH", "/v1/agents/nobody"),
        ("DELETE", "/v1/agents/nobody"),
        ("POST", "/v1/agents/nobody/heartbeat"),
        ("POST", "/v1/agents/nobody/drain"),
        ("DELETE", "/v1/agents/nobody/drain"),
        ("GET", "/v1/agents/nobody/instances"),
        ("POST", "/v1/agents/nobody/instances"),
        ("GET", "/v1/agents/nobody/instances/x"),
        ("PATCH", "/v1/agents/nobody/instances/x"),
        ("DELETE", "/v1/agents/nobody/instances/x"),
        ("POST", "/v1/agents/nobody/instances/x/drain"),
        ("GET", "/v1/agents/Not%20an%20id%2F"),
    ],
)
async def test_an_unknown_agent_is_not_found_everywhere(hub, method, path):
    body = {"url": "http://a.test"} if method == "POST" and path.endswith("instances") else {}
    answer = await hub.http.request(method, path, json=body if method in {"POST", "PATCH"} else None)
    assert answer.status_code == 404
    assert answer.json()["code"] in {"agent_not_found", "not_found"}
