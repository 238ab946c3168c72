"""The AsyncAPI 3.0 document of `/v1/ws`, made of the frames' own types, so that it says what is spoken."""

import inspect
from collections.abc import Iterator, Mapping

import msgspec

from meshway.edges.http.problems import ProblemDocument
from meshway.edges.http.websocket import PING_INTERVAL_S, SILENCES_MAX
from meshway.edges.link.limits import BATCH_MAX, CREDIT_MAX, IN_WORK_MAX, REQUESTS_MAX, SUBSCRIPTIONS_MAX
from meshway.edges.rest.channel_models import MessageView
from meshway.messaging.incoming import IncomingMessage
from meshway.protocols.link import frames

__all__ = ["build_asyncapi"]

JsonObject = dict[str, object]
FrameType = type[msgspec.Struct]

_SCHEMA = "#/components/schemas/{name}"
_CHANNEL: JsonObject = {"$ref": "#/channels/link"}

# Every frame of a client, and what the hub may answer to it besides an error.
_CLIENT_FRAMES: Mapping[FrameType, tuple[FrameType, ...]] = {
    frames.Subscribe: (frames.Subscribed,),
    frames.Credit: (),
    frames.Unsubscribe: (frames.Unsubscribed,),
    frames.Publish: (frames.Accepted,),
    frames.Settle: (frames.Settled,),
    frames.Ack: (frames.Acked,),
    frames.Request: (frames.Response,),
    frames.Reply: (frames.Replied,),
    frames.Ping: (frames.Pong,),
    frames.Serve: (frames.Served,),
    frames.Report: (frames.Reported,),
    frames.SettleTasks: (frames.Settled,),
    frames.Bye: (frames.Unsubscribed,),
}
# What the hub sends without having been asked.
_HUB_FRAMES: tuple[FrameType, ...] = (
    frames.Welcome,
    frames.Messages,
    frames.Missed,
    frames.Deliveries,
    frames.Requests,
    frames.Unsubscribed,
    frames.Draining,
    frames.Error,
    frames.Tasks,
    frames.CancelTasks,
)
# What stands in a frame as bytes the hub passes on, and what those bytes are.
_PASSED_ON: Mapping[tuple[str, str], JsonObject] = {
    ("Publish", "messages"): {
        "type": "array",
        "items": {"$ref": _SCHEMA.format(name="IncomingMessage")},
        "minItems": 1,
    },
    ("Messages", "messages"): {"type": "array", "items": {"$ref": _SCHEMA.format(name="MessageView")}, "minItems": 1},
    ("Delivery", "message"): {"$ref": _SCHEMA.format(name="MessageView")},
    ("RequestItem", "message"): {"$ref": _SCHEMA.format(name="MessageView")},
    ("Error", "problem"): {"$ref": _SCHEMA.format(name="ProblemDocument")},
    ("Serve", "card"): {"type": "object", "description": "An agent card of A2A 1.0, without supportedInterfaces."},
    ("ReportItem", "event"): {"type": "object", "description": "A StreamResponse of A2A 1.0."},
    ("TaskDelivery", "message"): {"type": "object", "description": "A Message of A2A 1.0."},
    ("TaskDelivery", "task"): {"type": "object", "description": "A Task of A2A 1.0."},
}


def build_asyncapi(*, version: str) -> JsonObject:
    """The whole document. `version` is the hub's."""
    spoken = list(_spoken())
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Meshway messaging and tasks over WebSocket",
            "version": version,
            "description": _description(),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "hub": {
                "host": "{host}",
                "protocol": "ws",
                "description": "The hub's one port; `wss` behind a proxy that ends TLS.",
                "variables": {"host": {"default": "127.0.0.1:7070", "description": "Host and port of the hub."}},
                "security": [
                    {"$ref": "#/components/securitySchemes/bearer"},
                    {"$ref": "#/components/securitySchemes/apiKey"},
                ],
            }
        },
        "channels": {
            "link": {
                "address": "/v1/ws",
                "summary": "One connection for subscribers, consumers, responders, callers and instances of agents.",
                "servers": [{"$ref": "#/servers/hub"}],
                "messages": {_tag(frame): {"$ref": f"#/components/messages/{_tag(frame)}"} for frame in spoken},
                "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
            }
        },
        "operations": _operations(),
        "components": {
            "messages": {_tag(frame): _message(frame) for frame in spoken},
            "schemas": _schemas(spoken),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "Authorization: Bearer <key>"},
                "apiKey": {"type": "httpApiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _description() -> str:
    return (
        "Every frame is one JSON object in a text message, told apart by `type`; unknown members are ignored. "
        "Subscriptions are named by the client (`id`) and get as many messages as they were granted (`credit`); "
        f"a subscription holds at most {CREDIT_MAX} credit, a connection {SUBSCRIPTIONS_MAX} subscriptions. What asks "
        "for an answer carries a `ref`, which the answer or an `error` repeats; an `error` with neither `id` nor `ref` "
        f"ends the connection. Of one connection {IN_WORK_MAX} frames are worked on at a time, then the hub reads no "
        f"further; {REQUESTS_MAX} commands and queries may wait for replies. Frames of the hub hold at most "
        f"{BATCH_MAX} messages. The hub pings after {PING_INTERVAL_S:.0f} s of silence and gives up after "
        f"{SILENCES_MAX} times that."
    )


def _spoken() -> Iterator[FrameType]:
    answers = [answer for each in _CLIENT_FRAMES.values() for answer in each]
    yield from dict.fromkeys((*_CLIENT_FRAMES, *answers, *_HUB_FRAMES))


def _tag(frame: FrameType) -> str:
    return str(frame.__struct_config__.tag)


def _message(frame: FrameType) -> JsonObject:
    text = inspect.cleandoc(frame.__doc__ or "")
    return {
        "name": _tag(frame),
        "title": frame.__name__,
        "summary": text.partition("\n")[0],
        "contentType": "application/json",
        "payload": {"$ref": _SCHEMA.format(name=frame.__name__)},
    }


def _operations() -> JsonObject:
    """As the hub sees it: it receives what clients send."""
    operations: JsonObject = {}
    for frame, answers in _CLIENT_FRAMES.items():
        replies: tuple[FrameType, ...] = (*answers, frames.Error)
        operations[_tag(frame)] = {
            "action": "receive",
            "channel": _CHANNEL,
            "messages": [_in_channel(frame)],
            "summary": _message(frame)["summary"],
            "reply": {"channel": _CHANNEL, "messages": [_in_channel(reply) for reply in replies]},
        }
    for frame in _HUB_FRAMES:
        operations[f"on{frame.__name__}"] = {
            "action": "send",
            "channel": _CHANNEL,
            "messages": [_in_channel(frame)],
            "summary": _message(frame)["summary"],
        }
    return operations


def _in_channel(frame: FrameType) -> JsonObject:
    return {"$ref": f"#/channels/link/messages/{_tag(frame)}"}


def _schemas(spoken: list[FrameType]) -> JsonObject:
    models: list[FrameType] = [*spoken, IncomingMessage, MessageView, ProblemDocument]
    _, components = msgspec.json.schema_components(models, ref_template=_SCHEMA)
    for component in components.values():
        component["description"] = inspect.cleandoc(str(component.get("description", "")))
    for (name, member), schema in _PASSED_ON.items():
        properties = components[name]["properties"]
        assert isinstance(properties, dict), "a frame is an object"
        properties[member] = schema
    return dict(components)
