"""The OpenAPI document: complete, valid, and kept by the application (schemathesis calls every operation)."""

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from starlette.types import Receive, Scope, Send

from meshway.edges.rest.openapi import for_swagger_ui
from meshway.edges.rest.routes import route_table
from meshway.messaging.names import ChannelKind
from support.polling_instance import PollingInstance
from support.rest_hub import RestHub, card_document, rest_hub


@pytest.fixture
async def document():
    async with rest_hub() as hub:
        return (await hub.http.get("/v1/openapi.json")).json()


def operations(document):
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


async def test_every_route_of_the_contract_is_described(document):
    described = {(method.upper(), path) for path, method, _ in operations(document)}
    agent, instance = "/v1/agents/{agent}", "/v1/agents/{agent}/instances/{instance}"
    assert described >= {
        ("POST", "/v1/agents"), ("GET", "/v1/agents"), ("GET", "/v1/agents/watch"),
        ("GET", agent), ("PATCH", agent), ("DELETE", agent),
        ("POST", f"{agent}/heartbeat"), ("POST", f"{agent}/drain"), ("DELETE", f"{agent}/drain"),
        ("GET", f"{agent}/instances"), ("POST", f"{agent}/instances"),
        ("GET", instance), ("PATCH", instance), ("DELETE", instance), ("POST", f"{instance}/drain"),
        ("POST", "/v1/keys"), ("GET", "/v1/keys"), ("DELETE", "/v1/keys/{key}"),
        ("GET", "/v1/queues"), ("PUT", "/v1/queues/{channel}"), ("DELETE", "/v1/queues/{channel}"),
        ("GET", "/v1/commands/{channel}/info"), ("POST", "/v1/queues/{channel}/purge"),
        ("GET", "/v1/queues/{channel}/dead-letters"), ("POST", "/v1/queues/{channel}/dead-letters/redrive"),
        ("GET", "/v1/streams/{channel}/readers"), ("PUT", "/v1/streams/{channel}/readers/{reader}"),
        ("POST", "/v1/streams/{channel}/readers/{reader}/ack"),
        ("POST", "/v1/events/{channel}"), ("GET", "/v1/events/{channel}"), ("POST", "/v1/streams/{channel}"),
        ("GET", "/v1/streams/{channel}"), ("GET", "/v1/streams/{channel}/messages"),
        ("POST", "/v1/queues/{channel}/messages"), ("GET", "/v1/queues/{channel}/messages"),
        ("POST", "/v1/queues/{channel}/lease"), ("POST", "/v1/queues/{channel}/settle"),
        ("POST", "/v1/commands/{channel}"), ("POST", "/v1/queries/{channel}/lease"),
        ("POST", "/v1/queries/{channel}/reply"), ("POST", "/v1/blobs"), ("GET", "/v1/blobs/{sha256}"),
        ("POST", "/v1/tasks"), ("GET", "/v1/tasks"), ("GET", "/v1/tasks/{task}"), ("GET", "/v1/tasks/{task}/events"),
        ("GET", "/v1/tasks/{task}/receipts"), ("GET", "/v1/tasks/{task}/tree"), ("POST", "/v1/tasks/{task}/cancel"),
        ("POST", f"{agent}/lease"), ("POST", f"{agent}/events"), ("POST", f"{agent}/settle"), ("POST", f"{agent}/bye"),
        ("GET", f"{agent}/inbox"), ("GET", f"{agent}/dead-letters"), ("POST", f"{agent}/dead-letters/redrive"),
        ("POST", f"{agent}/stop"), ("POST", f"{agent}/resume"), ("POST", "/v1/stop"), ("POST", "/v1/resume"),
        ("GET", "/v1/audit"), ("GET", "/v1/push/jwks.json"),
        ("GET", "/v1/push/dead-letters"), ("POST", "/v1/push/dead-letters/redrive"),
        ("GET", "/v1/openapi.json"), ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/metrics"),
    }  # fmt: skip


async def test_every_operation_has_what_a_reader_and_a_generator_need(document):
    seen = set()
    for path, _, operation in operations(document):
        assert operation["operationId"] not in seen
        seen.add(operation["operationId"])
        assert operation["summary"]
        assert operation["tags"][0] in {tag["name"] for tag in document["tags"]}
        variables = re.findall(r"\{(\w+)\}", path)
        assert variables == [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert "default" in operation["responses"]
        assert any(status.startswith("2") for status in operation["responses"])


async def test_every_refusal_is_described_as_a_problem_document(document):
    for path, _, operation in operations(document):
        for status, response in operation["responses"].items():
            if status.startswith("2") or path == "/readyz":
                continue
            schema = response["content"]["application/problem+json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/ProblemDocument"}


async def test_the_settings_of_a_kind_are_typed_by_their_own_model(document):
    bodies = {
        kind: document["paths"][f"/v1/{kind}/{{channel}}"]["put"]["requestBody"]["content"]["application/json"][
            "schema"
        ]
        for kind in ("events", "streams", "queues", "commands", "queries")
    }
    names = {kind: schema["$ref"].rpartition("/")[2] for kind, schema in bodies.items()}
    assert names == {
        "events": "EventSettings",
        "streams": "StreamSettings",
        "queues": "QueueChannelSettings",
        "commands": "RequestSettings",
        "queries": "RequestSettings",
    }
    assert document["components"]["schemas"]["QueueChannelSettings"]["properties"]["lease_ms"]["minimum"] == 100


async def test_no_two_paths_are_the_same_template(document):
    shapes = [re.sub(r"{\w+}", "{}", path) for path in document["paths"]]
    assert len(shapes) == len(set(shapes))


async def test_all_references_lead_somewhere(document):
    references = set(re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)))
    assert references <= set(document["components"]["schemas"])


async def test_operations_under_v1_need_a_key_and_open_ones_say_so(document):
    open_paths = {path for path, _, operation in operations(document) if operation["security"] == []}
    assert open_paths == {
        "/healthz",
        "/readyz",
        "/v1/asyncapi.json",
        "/v1/openapi.json",
        "/v1/push/jwks.json",
        "/",
    }
    assert set(document["components"]["securitySchemes"]) == {"bearer", "apiKey"}


async def test_the_viewers_form_of_the_document_has_nothing_that_openapi_3_0_lacks(document):
    older = for_swagger_ui(document)
    assert older["openapi"] == "3.0.3"
    text = json.dumps(older)
    assert '"null"' not in text
    assert "propertyNames" not in text
    capacity = older["components"]["schemas"]["AgentRegistration"]["properties"]["capacity"]
    assert (capacity["type"], capacity["nullable"], capacity["maximum"]) == ("integer", True, 1_000_000)


# --- schemathesis ---


class LoopBound:
    """An ASGI application that always runs on the loop it was made on, whichever loop calls it."""

    def __init__(self, hub: RestHub, loop: asyncio.AbstractEventLoop) -> None:
        self._hub = hub
        self._app = hub.app
        self._loop = loop
        self.task_id = ""

    def restore(self) -> None:
        """Put back what calls are aimed at: agents of both kinds, a channel `work` of each kind, a reader, a task."""
        asyncio.run_coroutine_threadsafe(self._restore(), self._loop).result(10)

    async def _restore(self) -> None:
        instances = [{"id": name, "url": f"http://{name}.test"} for name in ("first", "second")]
        answers = [await self._hub.http.post("/v1/agents", json={"id": "weather", "instances": instances})]
        answers += [await self._hub.http.put(f"/v1/{kind.value}/work") for kind in ChannelKind]
        answers.append(await self._hub.http.put("/v1/streams/work/readers/audit", json={"from": "first"}))
        answers.append(await self._hub.http.post("/v1/resume"))
        answers.append(await self._hub.http.post("/v1/agents/weather/resume"))
        answers.append(await PollingInstance(self._hub.http, "courier").ask("lease", card=card_document()))
        answers.append(await self._hub.http.post("/v1/agents/courier/resume"))
        answers.append(await self._hub.http.post("/v1/tasks", json={"agent": "courier", "text": "Bring tea."}))
        self.task_id = answers[-1].json()["id"]
        for answer in answers:
            assert answer.is_success, answer.text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        sent: list[dict[str, object]] = []
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._collect(scope, bytes(body), sent), self._loop))
        for each in sent:
            await send(each)

    async def _collect(self, scope, body, sent):
        requests = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            # Behind the request comes nothing: the client stays.
            return requests.pop() if requests else await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        await self._app(scope, receive, send)


class EverybodyAnswers(dict):
    """A network on which every URL is an agent."""

    def __contains__(self, url: object) -> bool:
        return True

    def __missing__(self, url: str) -> dict[str, object]:
        return card_document()


@pytest.fixture(scope="module")
def open_app() -> Iterator[LoopBound]:
    """The application of an open hub whose network answers, on a loop of its own."""
    loop = asyncio.new_event_loop()
    stop, ready, hubs = asyncio.Event(), threading.Event(), []

    async def live() -> None:
        async with rest_hub() as hub:
            hub.network.cards = EverybodyAnswers()
            hubs.append(hub)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(live(),))
    thread.start()
    assert ready.wait(10)
    yield LoopBound(hubs[0], loop)
    loop.call_soon_threadsafe(stop.set)
    thread.join(10)
    loop.close()


@pytest.fixture(scope="module")
def schema(open_app: LoopBound):
    return schemathesis.openapi.from_asgi("/v1/openapi.json", open_app)


# A change feed never ends, nor does that of an open task, and the first created key would close the hub to the
# requests after it.
NOT_CALLED = {"watchAgents", "followTask", "createKey"}
# The kinds are administered by the same code: these stand for the rest.
NOT_CALLED |= {f"{verb}{kind}" for verb in ("put", "show", "list", "delete") for kind in ("Events", "Queries")}
NOT_CALLED |= {f"{verb}Commands" for verb in ("show", "list", "delete")}
# What has no handler is served below this application, which only describes it.
CALLED = [
    operation.id
    for operation in route_table(serve_openapi=lambda call: call)
    if operation.handler is not None and operation.id not in NOT_CALLED
]
# Everything but "valid input is accepted": that two fields exclude each other is more than a schema of fields says.
load_all_checks()
EXCLUDED = [CHECKS.get_one(name) for name in ("positive_data_acceptance", "ignored_auth")]


# Of agents that connect out.
OF_COURIERS = {"leaseTasks", "reportTasks", "settleTasks", "leaveAgent", "showInbox", "listLostTasks", "redriveTasks"}


def aim_at_what_is_there(case, task_id):
    """Generated ids name nothing, and half of all generated registrations have neither URL nor card."""
    operation_id = case.operation.definition.raw["operationId"]
    for name, value in (("agent", "weather"), ("instance", "first"), ("channel", "work"), ("reader", "audit")):
        if name in case.path_parameters:
            case.path_parameters[name] = value
    if operation_id in OF_COURIERS:
        case.path_parameters["agent"] = "courier"
    if "task" in case.path_parameters:
        case.path_parameters["task"] = task_id
    if operation_id == "submitTask" and isinstance(case.body, dict):
        case.body = {**case.body, "agent": "courier", "text": "Bring tea."}
        case.body.pop("skill", None)
        case.body.pop("message", None)
    if operation_id == "leaseTasks" and isinstance(case.body, dict):
        case.body = {**case.body, "wait_ms": 0}
        case.body.pop("card", None)
    if operation_id == "registerAgent" and isinstance(case.body, dict):
        case.body = {**case.body, "url": "http://weather.test", "instances": [], "labels": {"zone": "eu"}}
        case.body.pop("card", None)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("operation_id", CALLED)
def test_the_application_keeps_its_own_description(open_app, schema, operation_id, mode):
    operation = schema.find_operation_by_id(operation_id)

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(case=operation.as_strategy(generation_mode=mode))
    def call(case):
        if mode is GenerationMode.POSITIVE:
            open_app.restore()
            aim_at_what_is_there(case, open_app.task_id)
        case.call_and_validate(excluded_checks=EXCLUDED)

    # Where nothing can be generated wrongly (no parameters, no body) there is nothing to refuse.
    with contextlib.suppress(Unsatisfiable):
        call()
