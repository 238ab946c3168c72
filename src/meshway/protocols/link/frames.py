"""Frames of `/v1/ws`: one JSON object a text message, told apart by `type`. Described for people in docs/reference.

A connection carries many subscriptions. The client names each by an `id` of its own and grants credit: the hub sends
at most as many messages as it was granted, and one that is not granted any gets none. Requests of the client that have
an answer carry a `ref` of its own, which the answer repeats. An `Error` names the `id` or `ref` it belongs to; one with
neither ends the connection. Times are RFC 3339 UTC; unknown members are ignored, unknown types are an error.

Documents of messages are `msgspec.Raw` here: the hub passes them on as they are stored.
"""

from typing import Annotated, Literal

import msgspec

from meshway.messaging.incoming import DataRef
from meshway.messaging.receipts import Receipt
from meshway.messaging.settlements import SettlementItem

__all__ = [
    "CLIENT_FRAME_TYPES",
    "PROTOCOL_VERSION",
    "Accepted",
    "Ack",
    "Acked",
    "Bye",
    "CancelTasks",
    "ClientFrame",
    "Credit",
    "Deliveries",
    "Delivery",
    "Draining",
    "Error",
    "Hold",
    "HoldState",
    "HubFrame",
    "Messages",
    "Missed",
    "Name",
    "Ping",
    "Pong",
    "Publish",
    "Replied",
    "Reply",
    "Report",
    "ReportItem",
    "ReportOutcome",
    "Reported",
    "Request",
    "RequestItem",
    "Requests",
    "Response",
    "Serve",
    "Served",
    "Settle",
    "SettleTasks",
    "Settled",
    "Subscribe",
    "Subscribed",
    "TaskDelivery",
    "TaskSettlement",
    "Tasks",
    "Unsubscribe",
    "Unsubscribed",
    "Welcome",
]

# Sent in Welcome; raised when a client of before could misread the hub.
PROTOCOL_VERSION = 1

Kind = Literal["events", "streams", "queues", "commands", "queries"]
# The client's own name for a subscription or a request, repeated in each answer.
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]


# --- client to hub ---


class Subscribe(msgspec.Struct, kw_only=True, tag="subscribe", tag_field="type"):
    """Begin a subscription. `channel` may be a pattern for events, streams, commands and queries.

    events: `group` shares. streams: `start` as `from=` of REST, or `cursor` to go on where a subscription stopped, or
    `reader` for the position the hub keeps. queues: each delivery takes one credit, whatever becomes of it. commands,
    queries: this connection answers.
    """

    id: Name
    kind: Kind
    channel: str
    credit: int = 0
    group: str | None = None
    start: str | None = msgspec.field(default=None, name="from")
    cursor: str | None = None
    reader: str | None = None


class Credit(msgspec.Struct, kw_only=True, tag="credit", tag_field="type"):
    """Grant so many more messages to a subscription."""

    id: Name
    messages: int


class Unsubscribe(msgspec.Struct, kw_only=True, tag="unsubscribe", tag_field="type"):
    """End a subscription. Deliveries and requests it handed out may still be settled and answered."""

    id: Name


class Settle(msgspec.Struct, kw_only=True, tag="settle", tag_field="type"):
    """Say what became of deliveries of one queue, also of those that came over another connection."""

    ref: Name
    queue: str
    settlements: list[SettlementItem]


class Ack(msgspec.Struct, kw_only=True, tag="ack", tag_field="type"):
    """A reader of a stream has everything up to `sequence`."""

    ref: Name
    channel: str
    reader: str
    sequence: int


class Reply(msgspec.Struct, kw_only=True, tag="reply", tag_field="type"):
    """The answer to a request. `executed` False with `error`: not done, and why."""

    ref: Name
    request_id: str
    executed: bool = True
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: str | None = None


class Publish(msgspec.Struct, kw_only=True, tag="publish", tag_field="type"):
    """Send to events, append to streams or put into queues; `messages` as in the body of a post."""

    ref: Name
    kind: Kind
    channel: str
    messages: msgspec.Raw


class Request(msgspec.Struct, kw_only=True, tag="request", tag_field="type"):
    """Send a command or query and wait for the reply."""

    ref: Name
    kind: Kind
    channel: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None
    data_ref: DataRef | None = None
    content_type: str | None = None
    attributes: dict[str, str] | None = None
    timeout_ms: int | None = None
    cache_key: str | None = None
    cache_ttl_ms: int | None = None


class Ping(msgspec.Struct, kw_only=True, tag="ping", tag_field="type"):
    """For clients that cannot send WebSocket pings (browsers)."""

    ref: str = ""


# --- client to hub: instances of agents that connect out ---


class Hold(msgspec.Struct, kw_only=True):
    """A task this instance still works on; `source` is the number of its last report that the hub confirmed, or 0."""

    delivery_id: str
    source: int = 0


class Serve(msgspec.Struct, kw_only=True, tag="serve", tag_field="type"):
    """This connection is an instance of an agent and takes its tasks, each for one credit. Registers both.

    `card` is the agent's card, 1.0, its `supportedInterfaces` left out; without one the agent must be known. `instance`
    names the process: the same again after a lost connection. `holds` are tasks it goes on with.
    """

    id: Name
    agent: str
    instance: str
    card: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    labels: dict[str, str] = {}
    capacity: int | None = None
    credit: int = 0
    holds: list[Hold] = []


class ReportItem(msgspec.Struct, kw_only=True):
    """One event of a task: an A2A 1.0 StreamResponse with the task's own ids.

    `source` numbers the reports of one delivery from 1 without gaps; a number the hub has already is confirmed again
    and changes nothing. A status that is terminal or interrupted ends the delivery.
    """

    delivery_id: str
    source: int
    event: msgspec.Raw


class Report(msgspec.Struct, kw_only=True, tag="report", tag_field="type"):
    """What happened in tasks, in order per delivery. Answered by `reported` once it is kept."""

    ref: Name
    id: Name
    reports: list[ReportItem]


class TaskSettlement(msgspec.Struct, kw_only=True):
    """What is to become of a delivery without an event.

    extend: one full lease from now. retry: another attempt, after `delay_ms` or the back-off, or the dead letters after
    the last one. fail: no further attempt helps; to the dead letters. release: give it back, as if never taken.
    """

    delivery_id: str
    action: Literal["extend", "retry", "fail", "release"]
    delay_ms: int | None = None
    reason: str | None = None


class SettleTasks(msgspec.Struct, kw_only=True, tag="settle_tasks", tag_field="type"):
    """Answered by `settled`."""

    ref: Name
    id: Name
    settlements: list[TaskSettlement]


class Bye(msgspec.Struct, kw_only=True, tag="bye", tag_field="type"):
    """This instance leaves for good: what it holds is due again at once. Answered by `unsubscribed`."""

    id: Name


ClientFrame = (
    Subscribe
    | Credit
    | Unsubscribe
    | Settle
    | Ack
    | Reply
    | Publish
    | Request
    | Ping
    | Serve
    | Report
    | SettleTasks
    | Bye
)
CLIENT_FRAME_TYPES = (
    "ack",
    "bye",
    "credit",
    "ping",
    "publish",
    "reply",
    "report",
    "request",
    "serve",
    "settle",
    "settle_tasks",
    "subscribe",
    "unsubscribe",
)


# --- hub to client ---


class Welcome(msgspec.Struct, kw_only=True, tag="welcome", tag_field="type"):
    """The first frame. The hub pings after `ping_interval_ms` of silence and gives up after three times that."""

    protocol: int
    hub: str
    ping_interval_ms: int
    frame_bytes_max: int
    subscriptions_max: int


class Subscribed(msgspec.Struct, kw_only=True, omit_defaults=True, tag="subscribed", tag_field="type"):
    """Active: what is sent from here on arrives. `cursor` (streams, where it is known) goes on from this place."""

    id: str
    cursor: str | None = None


class Messages(msgspec.Struct, kw_only=True, omit_defaults=True, tag="messages", tag_field="type"):
    """Events or stream messages. `cursor` (streams) goes on after the last one of them."""

    id: str
    messages: list[msgspec.Raw]
    cursor: str | None = None


class Missed(msgspec.Struct, kw_only=True, tag="missed", tag_field="type"):
    """This subscriber was too slow: so many events are gone at this place; None when the number is not known."""

    id: str
    missed: int | None


class Delivery(msgspec.Struct, kw_only=True):
    """One hand-out; `attempt` counts from 1.

    `lease_ms` is what is left until `lease_until`, for workers whose clocks differ from the hub's.
    """

    delivery_id: str
    attempt: int
    lease_until: str
    message: msgspec.Raw
    lease_ms: int = 0


class Deliveries(msgspec.Struct, kw_only=True, tag="deliveries", tag_field="type"):
    """Messages of a queue, this client's alone until `lease_until`: settle each, or extend it, before."""

    id: str
    deliveries: list[Delivery]


class RequestItem(msgspec.Struct, kw_only=True):
    """One request to answer before `deadline`; `message` is its document."""

    request_id: str
    deadline: str
    timeout_ms: int
    message: msgspec.Raw


class Requests(msgspec.Struct, kw_only=True, tag="requests", tag_field="type"):
    """Commands or queries for this responder: reply to each before its deadline."""

    id: str
    requests: list[RequestItem]


class Settled(msgspec.Struct, kw_only=True, tag="settled", tag_field="type"):
    """`done` or `stale` for each settlement, in order."""

    ref: str
    outcomes: list[str]


class Acked(msgspec.Struct, kw_only=True, tag="acked", tag_field="type"):
    """The reader's position now; never behind what was acknowledged before."""

    ref: str
    sequence: int


class Replied(msgspec.Struct, kw_only=True, tag="replied", tag_field="type"):
    """`done`, or `stale`: nobody waits for this answer any more."""

    ref: str
    outcome: str


class Accepted(msgspec.Struct, kw_only=True, tag="accepted", tag_field="type"):
    """The messages of a publish are in: durably, for streams and queues. One receipt each, in order."""

    ref: str
    receipts: list[Receipt]


class Response(msgspec.Struct, kw_only=True, omit_defaults=True, tag="response", tag_field="type"):
    """The reply to a request; `cache` is hit, miss or off."""

    ref: str
    executed: bool
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: str | None = None
    cache: str


class HoldState(msgspec.Struct, kw_only=True):
    """Whether the task is still this instance's; if so, `source` is the last report the hub has: send what follows."""

    delivery_id: str
    held: bool
    source: int = 0


class Served(msgspec.Struct, kw_only=True, tag="served", tag_field="type"):
    """The instance is known and online. `lease_ms` is the length of a lease: extend what is held well before.

    `grace_ms`: a lost connection frees nothing before this long.
    """

    id: str
    instance: str
    lease_ms: int
    grace_ms: int
    holds: list[HoldState] = []


class TaskDelivery(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One attempt at one turn of a task, this instance's until the lease ends.

    `message` is the user's message of this turn (A2A 1.0); `task` the task before it, from the second turn on. `chain`
    goes into the header `Meshway-Chain` of every call made for this task. `deadline` (RFC 3339) bounds the work.
    """

    delivery_id: str
    task_id: str
    context_id: str
    attempt: int
    turn: int = 1
    lease_ms: int
    deadline: str | None = None
    chain: str = ""
    traceparent: str | None = None
    message: msgspec.Raw
    task: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Tasks(msgspec.Struct, kw_only=True, tag="tasks", tag_field="type"):
    """Tasks for this instance of an agent."""

    id: str
    tasks: list[TaskDelivery]


class ReportOutcome(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Of one delivery in a report, once for all its items.

    `done`: everything up to `source` is kept. `stale`: the task is not this instance's any more; stop, nothing it says
    counts. `refused`: the event after `source` is not one the task may have, `detail` says why; it was not kept.
    """

    delivery_id: str
    outcome: Literal["done", "stale", "refused"]
    source: int = 0
    detail: str | None = None


class Reported(msgspec.Struct, kw_only=True, tag="reported", tag_field="type"):
    """The answer to a report: one outcome for each delivery in it, in order of first mention."""

    ref: str
    outcomes: list[ReportOutcome]


class CancelTasks(msgspec.Struct, kw_only=True, tag="cancel_tasks", tag_field="type"):
    """These have ended (cancelled, expired, taken away): stop working on them. Their reports are stale already."""

    id: str
    delivery_ids: list[str]
    reason: str = ""


class Unsubscribed(msgspec.Struct, kw_only=True, tag="unsubscribed", tag_field="type"):
    """Nothing more comes under this id; it may be used again."""

    id: str


class Pong(msgspec.Struct, kw_only=True, tag="pong", tag_field="type"):
    """The answer to a ping, at once: requests before it may still be under way."""

    ref: str = ""


class Draining(msgspec.Struct, kw_only=True, tag="draining", tag_field="type"):
    """The hub shuts down within `within_ms`: settle what you hold, then connect again, elsewhere if you can."""

    within_ms: int


class Error(msgspec.Struct, kw_only=True, omit_defaults=True, tag="error", tag_field="type"):
    """`problem` is the same RFC 9457 document as over HTTP."""

    problem: msgspec.Raw
    id: str | None = None
    ref: str | None = None


HubFrame = (
    Welcome
    | Subscribed
    | Messages
    | Missed
    | Deliveries
    | Requests
    | Settled
    | Acked
    | Replied
    | Accepted
    | Response
    | Unsubscribed
    | Pong
    | Draining
    | Error
    | Served
    | Tasks
    | Reported
    | CancelTasks
)
