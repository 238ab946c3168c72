"""What channels show and take under `/v1`; also the shapes of the data calls, which are served elsewhere."""

from typing import Annotated

import msgspec

from meshway.edges.rest.models import Cursor, Limit, Moment
from meshway.kernel.pages import LIMIT_DEFAULT
from meshway.messaging.incoming import DataRef
from meshway.messaging.names import ChannelKind
from meshway.messaging.receipts import Receipt
from meshway.messaging.settlements import SettlementItem

__all__ = [
    "BlobView",
    "ChannelInfoView",
    "ChannelListQuery",
    "ChannelPage",
    "ChannelView",
    "ConfirmQuery",
    "DeadLetterAttempt",
    "DeadLetterEntry",
    "DeadLetterPage",
    "DeliveriesView",
    "DeliveryView",
    "EventsQuery",
    "LeaseBody",
    "MessagePage",
    "MessageView",
    "OutcomeView",
    "OutcomesView",
    "PageQuery",
    "PurgedView",
    "ReaderAckBody",
    "ReaderAckView",
    "ReaderBody",
    "ReaderPage",
    "ReaderView",
    "ReceiptsView",
    "RedriveBody",
    "RedriveView",
    "RequestAnswer",
    "RequestItemView",
    "RequestsView",
    "SettleBody",
    "StreamPageQuery",
    "StreamPageView",
    "TailQuery",
]

# By the names the components of the document have; a channel shows the settings of its kind.
_SETTINGS_SCHEMA: dict[str, object] = {
    "anyOf": [
        {"$ref": f"#/components/schemas/{name}"}
        for name in ("EventSettings", "StreamSettings", "QueueChannelSettings", "RequestSettings")
    ]
}
SettingsDocument = Annotated[
    msgspec.Raw, msgspec.Meta(description="All settings, defaults too.", extra_json_schema=_SETTINGS_SCHEMA)
]
MessageDocument = Annotated[
    msgspec.Raw,
    msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/MessageView"}),
]
AnyJson = Annotated[msgspec.Raw, msgspec.Meta(description="Any JSON.", extra_json_schema={})]
Sequence = Annotated[int, msgspec.Meta(ge=1, description="Number in the stream, from 1.")]
Start = Annotated[
    str,
    msgspec.Meta(
        description="`first`, `new`, a sequence (inclusive), `last:N` or `time:<RFC 3339>`.", examples=["last:10"]
    ),
]
WaitMs = Annotated[
    int, msgspec.Meta(ge=0, description="Wait so long for the first one; at most `[messaging] long_poll_max_ms`.")
]
Reason = Annotated[str, msgspec.Meta(description="For people.")]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request: fields that are not named are refused."""


class _View(msgspec.Struct, frozen=True, kw_only=True):
    """An answer."""


# --- channels -------------------------------------------------------------------------------------------------------


class PageQuery(_Body, frozen=True, kw_only=True):
    """Which part of a list."""

    limit: Limit = LIMIT_DEFAULT
    cursor: Cursor | None = None


class ChannelListQuery(_Body, frozen=True, kw_only=True):
    """Which channels."""

    prefix: Annotated[str, msgspec.Meta(description="Only names that begin so.", examples=["orders."])] | None = None
    limit: Limit = LIMIT_DEFAULT
    cursor: Cursor | None = None


class ConfirmQuery(_Body, frozen=True, kw_only=True):
    """Against slips of the hand."""

    confirm: Annotated[str, msgspec.Meta(description="The channel's name once more.")] | None = None


class ChannelView(_View, frozen=True, kw_only=True):
    """A channel. `owner` is the key that made it; null where it was only used and nothing was stored."""

    kind: ChannelKind
    name: str
    settings: SettingsDocument
    owner: str | None
    created_at: Moment | None


class ChannelInfoView(ChannelView, frozen=True, kw_only=True):
    """`figures`: of queues `waiting held delayed dead`, of streams `first last count`, else what this hub has seen."""

    figures: dict[str, int]
    readers: Annotated[
        "tuple[ReaderView, ...]", msgspec.Meta(description="Streams only: the durable readers with their lag.")
    ] = ()


class ChannelPage(_View, frozen=True, kw_only=True):
    """Channels of one kind, by name."""

    items: tuple[ChannelInfoView, ...]
    next_cursor: str | None


# --- messages -------------------------------------------------------------------------------------------------------


class MessageView(_View, frozen=True, kw_only=True):
    """A message as its readers get it: exactly one of `data`, `data_base64` and `data_ref` (see `GET /v1/blobs`)."""

    id: str
    channel: str
    content_type: str
    attributes: dict[str, str]
    timestamp: Moment
    principal: Annotated[str, msgspec.Meta(description="The key that sent it.")]
    sequence: Sequence | msgspec.UnsetType = msgspec.UNSET
    data: AnyJson | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | msgspec.UnsetType = msgspec.UNSET
    data_ref: DataRef | msgspec.UnsetType = msgspec.UNSET
    traceparent: str | msgspec.UnsetType = msgspec.UNSET


class MessagePage(_View, frozen=True, kw_only=True):
    """Messages in order."""

    items: tuple[MessageView, ...]
    next_cursor: str | None


class ReceiptsView(_View, frozen=True, kw_only=True):
    """One receipt for each message, in order; streams give its `sequence`."""

    receipts: tuple[Receipt, ...]


class StreamPageView(MessagePage, frozen=True, kw_only=True):
    """Messages of a stream in order; `next_cursor` is null at its present end, `next_from` is where to go on later."""

    next_from: str


class BlobView(_View, frozen=True, kw_only=True):
    """Stored; name it in a message as `data_ref`."""

    sha256: str
    size: int


# --- events, streams ------------------------------------------------------------------------------------------------


class EventsQuery(_Body, frozen=True, kw_only=True):
    """How to listen."""

    group: Annotated[str, msgspec.Meta(description="Subscribers of one group share: each event to one.")] | None = None


class TailQuery(_Body, frozen=True, kw_only=True):
    """Where to begin: at `new` where nothing is said."""

    start: Start | None = msgspec.field(name="from", default=None)
    reader: Annotated[str, msgspec.Meta(description="Begin after this reader's position.")] | None = None


class StreamPageQuery(_Body, frozen=True, kw_only=True):
    """Which part of a stream; `cursor` goes on behind the page it came with, and counts more than `from`."""

    start: Start | None = msgspec.field(name="from", default=None)
    reader: Annotated[str, msgspec.Meta(description="Begin after this reader's position.")] | None = None
    limit: Limit = LIMIT_DEFAULT
    cursor: Cursor | None = None
    wait_ms: WaitMs = 0


class ReaderBody(_Body, frozen=True, kw_only=True):
    """Where a reader stands; one that exists moves there. Without `from` a new one begins at the end, another stays."""

    start: Start | None = msgspec.field(name="from", default=None)


class ReaderAckBody(_Body, frozen=True, kw_only=True):
    """Everything up to `sequence` is done."""

    sequence: Annotated[int, msgspec.Meta(ge=0)]


class ReaderAckView(_View, frozen=True, kw_only=True):
    """The position now; never behind what was acknowledged before."""

    sequence: int


class ReaderView(_View, frozen=True, kw_only=True):
    """`position` is the last sequence it has done, 0 before the first; `lag` how many wait behind it."""

    name: str
    position: int
    lag: int
    created_at: Moment
    updated_at: Moment


class ReaderPage(_View, frozen=True, kw_only=True):
    """All readers of one stream, by name."""

    items: tuple[ReaderView, ...]
    next_cursor: str | None


# --- queues ---------------------------------------------------------------------------------------------------------


class LeaseBody(_Body, frozen=True, kw_only=True):
    """How much work to take."""

    count: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 1
    wait_ms: WaitMs = 0


class DeliveryView(_View, frozen=True, kw_only=True):
    """One hand-out; settle it by its `delivery_id` before `lease_until`, or extend it."""

    delivery_id: str
    attempt: Annotated[int, msgspec.Meta(ge=1)]
    lease_until: Moment
    message: MessageDocument


class DeliveriesView(_View, frozen=True, kw_only=True):
    """Highest priority first, then oldest; empty when nothing came in time."""

    deliveries: tuple[DeliveryView, ...]


class SettleBody(_Body, frozen=True, kw_only=True):
    """What became of deliveries."""

    settlements: Annotated[list[SettlementItem], msgspec.Meta(min_length=1, max_length=1_000)]


class OutcomesView(_View, frozen=True, kw_only=True):
    """`done` or `stale` for each settlement, in order; stale: its lease was over, somebody else may have it."""

    outcomes: tuple[str, ...]


class PurgedView(_View, frozen=True, kw_only=True):
    """How many messages are gone."""

    purged: int


class DeadLetterAttempt(_View, frozen=True, kw_only=True):
    """One hand-out in the history. `outcome`: retry, expired (its lease ran out) or dead_letter."""

    attempt: int
    leased_at: Moment
    ended_at: Moment
    outcome: str
    reason: Reason


class DeadLetterEntry(_View, frozen=True, kw_only=True):
    """A message that used up its attempts or was rejected; `attempts` has the last 16."""

    id: str
    reason: Reason
    dead_at: Moment
    attempts: tuple[DeadLetterAttempt, ...]
    message: MessageDocument


class DeadLetterPage(_View, frozen=True, kw_only=True):
    """Oldest first."""

    items: tuple[DeadLetterEntry, ...]
    next_cursor: str | None


class RedriveBody(_Body, frozen=True, kw_only=True):
    """Which dead letters go back to the queue, all without `ids`; how fast, at once without `rate_per_s`."""

    ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=10_000)] | None = None
    rate_per_s: Annotated[float, msgspec.Meta(gt=0, le=10_000)] | None = None


class RedriveView(_View, frozen=True, kw_only=True):
    """How many go back; with a rate they do so from now on."""

    messages: int


# --- commands, queries ----------------------------------------------------------------------------------------------


class RequestAnswer(_View, frozen=True, kw_only=True):
    """`executed` false: not done, and `error` says why. `cache`: hit, miss, or off where no key was given."""

    executed: bool
    cache: str
    data: AnyJson | msgspec.UnsetType = msgspec.UNSET
    error: str | msgspec.UnsetType = msgspec.UNSET


class RequestItemView(_View, frozen=True, kw_only=True):
    """One request; answer it by its `request_id` before `deadline`."""

    request_id: str
    deadline: Moment
    timeout_ms: int
    message: MessageDocument


class RequestsView(_View, frozen=True, kw_only=True):
    """Empty when nothing came in time."""

    requests: tuple[RequestItemView, ...]


class OutcomeView(_View, frozen=True, kw_only=True):
    """`done`, or `stale`: nobody waits for this answer any more."""

    outcome: str
