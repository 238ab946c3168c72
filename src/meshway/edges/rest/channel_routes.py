"""The operations of channels: settings and administration, answered here, and the data calls, answered below ASGI."""

from collections.abc import Mapping, Sequence

from meshway.edges.rest import blobs, channels, queues, readers
from meshway.edges.rest import channel_models as models
from meshway.edges.rest.operations import Answers, Operation
from meshway.messaging.channel import defaults_of
from meshway.messaging.incoming import IncomingBatch
from meshway.messaging.names import ChannelKind
from meshway.messaging.requests import ReplyIn, RequestIn

__all__ = ["channel_operations"]

_SSE = "text/event-stream"
_ONE_CHANNEL = ("channel_not_found",)
_LOCATION = {"Location": "Its settings and live figures."}
_CLOUD_EVENTS = {
    "application/cloudevents+json": "One CloudEvent 1.0, structured mode. Binary mode (`ce-` headers) is taken too.",
    "application/cloudevents-batch+json": "A batch of CloudEvents 1.0.",
}
_OWNER = "Needs the key that made the channel, or `admin`."
# How operations and texts call a channel of each kind.
_WORDS: Mapping[ChannelKind, tuple[str, str]] = {
    ChannelKind.EVENTS: ("Events", "an events channel"),
    ChannelKind.STREAMS: ("Stream", "a stream"),
    ChannelKind.QUEUES: ("Queue", "a queue"),
    ChannelKind.COMMANDS: ("Commands", "a commands channel"),
    ChannelKind.QUERIES: ("Queries", "a queries channel"),
}


def channel_operations() -> Sequence[Operation]:
    """All of them, in the order in which paths are tried."""
    administration = [operation for kind in ChannelKind for operation in _administration(kind)]
    requests = [operation for kind in (ChannelKind.COMMANDS, ChannelKind.QUERIES) for operation in _requests(kind)]
    return (*administration, *_EVENTS, *_STREAMS, *_READERS, *_QUEUES, *_DEAD_LETTERS, *requests, *_BLOBS)


def _administration(kind: ChannelKind) -> tuple[Operation, ...]:
    base, (word, one) = f"/v1/{kind.value}", _WORDS[kind]
    listed = word if word.endswith("s") else f"{word}s"
    return (
        Operation(
            method="GET",
            path=base,
            id=f"list{listed}",
            tag="channels",
            summary=f"List channels of the kind {kind.value}",
            description="Ordered by name: those that were configured or used.",
            handler=channels.list_channels(kind),
            query=models.ChannelListQuery,
            answers=Answers({200: models.ChannelPage}),
        ),
        Operation(
            method="PUT",
            path=f"{base}/{{channel}}",
            id=f"put{word}",
            tag="channels",
            summary=f"Make {one}, or change its settings",
            description="Replaces all settings: what is left out takes its default. 201 where it is new. Channels also "
            f"appear by themselves on first use. Changing: {_OWNER[0].lower()}{_OWNER[1:]}",
            handler=channels.put_channel(kind),
            body=type(defaults_of(kind)),
            is_body_required=False,
            answers=Answers({200: models.ChannelView, 201: models.ChannelView}, headers=_LOCATION),
            problems=("capacity_reached", "conflict"),
        ),
        Operation(
            method="DELETE",
            path=f"{base}/{{channel}}",
            id=f"delete{word}",
            tag="channels",
            summary=f"Delete {one} with all it holds",
            description=f"Not to be undone; a repeated call finishes one that a crash interrupted. {_OWNER}",
            handler=channels.delete_channel(kind),
            query=models.ConfirmQuery,
            answers=Answers({204: None}),
            problems=_ONE_CHANNEL,
        ),
        Operation(
            method="GET",
            path=f"{base}/{{channel}}/info",
            id=f"show{word}",
            tag="channels",
            summary=f"Settings and live figures of {one}",
            handler=channels.show_channel(kind),
            answers=Answers({200: models.ChannelInfoView}),
            problems=("invalid_request", *_ONE_CHANNEL),
        ),
    )


def _requests(kind: ChannelKind) -> tuple[Operation, ...]:
    base, word = f"/v1/{kind.value}/{{channel}}", "Command" if kind is ChannelKind.COMMANDS else "Query"
    return (
        Operation(
            method="POST",
            path=base,
            id=f"send{word}",
            tag="requests",
            summary=f"Send a {word.lower()} to one responder and wait for its reply",
            headers={"Meshway-Timeout-Ms": "How long to wait, where the body does not say."},
            body=RequestIn,
            answers=Answers({200: models.RequestAnswer}),
            problems=("no_responder", "deadline_exceeded", "too_many_in_flight", "capacity_reached"),
        ),
        Operation(
            method="POST",
            path=f"{base}/lease",
            id=f"take{word.replace('y', 'ie')}s",
            tag="requests",
            summary="Take requests to answer (long poll)",
            description="The channel may be a pattern. Whoever polls counts as a responder for some seconds after.",
            variables={"channel": "pattern"},
            body=models.LeaseBody,
            answers=Answers({200: models.RequestsView}),
        ),
        Operation(
            method="POST",
            path=f"{base}/reply",
            id=f"reply{word}",
            tag="requests",
            summary="Answer a request",
            variables={"channel": "pattern"},
            body=ReplyIn,
            answers=Answers({200: models.OutcomeView}),
        ),
    )


_EVENTS = (
    Operation(
        method="POST",
        path="/v1/events/{channel}",
        id="publishEvents",
        tag="events",
        summary="Publish to whoever listens now",
        body=IncomingBatch,
        raw_bodies=_CLOUD_EVENTS,
        answers=Answers({202: models.ReceiptsView}),
    ),
    Operation(
        method="GET",
        path="/v1/events/{channel}",
        id="subscribeEvents",
        tag="events",
        summary="Listen",
        description='Server-sent events, one message each; `event: missed` with `{"missed": n}` where this subscriber '
        "was too slow.",
        variables={"channel": "pattern"},
        query=models.EventsQuery,
        answers=Answers({200: None}, media_type=_SSE),
        problems=("too_many_in_flight",),
        is_stream=True,
    ),
)

_STREAMS = (
    Operation(
        method="POST",
        path="/v1/streams/{channel}",
        id="appendToStream",
        tag="streams",
        summary="Append; durable on 202",
        description="`id` filters repetitions for two minutes: the receipt then has the first one's sequence.",
        body=IncomingBatch,
        raw_bodies=_CLOUD_EVENTS,
        answers=Answers({202: models.ReceiptsView}),
        problems=("channel_full", "capacity_reached"),
    ),
    Operation(
        method="GET",
        path="/v1/streams/{channel}",
        id="tailStream",
        tag="streams",
        summary="Replay, then follow",
        description="Server-sent events, one message each. `id:` is the sequence, or for a pattern an opaque cursor.",
        variables={"channel": "pattern"},
        query=models.TailQuery,
        headers={"Last-Event-ID": "Go on after this event."},
        answers=Answers({200: None}, media_type=_SSE),
        problems=("reader_not_found", "too_many_in_flight"),
        is_stream=True,
    ),
    Operation(
        method="GET",
        path="/v1/streams/{channel}/messages",
        id="readStream",
        tag="streams",
        summary="Read a page",
        description="`next_cursor` is the `from` of the page that follows.",
        query=models.StreamPageQuery,
        answers=Answers({200: models.StreamPageView}),
        problems=("reader_not_found",),
    ),
)

_READERS = (
    Operation(
        method="GET",
        path="/v1/streams/{channel}/readers",
        id="listReaders",
        tag="streams",
        summary="List a stream's durable readers",
        handler=readers.list_readers,
        answers=Answers({200: models.ReaderPage}),
        problems=("invalid_request", *_ONE_CHANNEL),
    ),
    Operation(
        method="PUT",
        path="/v1/streams/{channel}/readers/{reader}",
        id="putReader",
        tag="streams",
        summary="Make a durable reader, or move it",
        description="201 where it is new.",
        handler=readers.put_reader,
        body=models.ReaderBody,
        is_body_required=False,
        answers=Answers({200: models.ReaderView, 201: models.ReaderView}),
    ),
    Operation(
        method="GET",
        path="/v1/streams/{channel}/readers/{reader}",
        id="showReader",
        tag="streams",
        summary="Show a reader's position and lag",
        handler=readers.show_reader,
        answers=Answers({200: models.ReaderView}),
        problems=("invalid_request", "reader_not_found"),
    ),
    Operation(
        method="DELETE",
        path="/v1/streams/{channel}/readers/{reader}",
        id="removeReader",
        tag="streams",
        summary="Forget a reader",
        handler=readers.remove_reader,
        answers=Answers({204: None}),
        problems=("invalid_request", "reader_not_found"),
    ),
    Operation(
        method="POST",
        path="/v1/streams/{channel}/readers/{reader}/ack",
        id="ackReader",
        tag="streams",
        summary="Everything up to a sequence is done",
        description="Durable on 200. Never moves back: PUT does.",
        handler=readers.ack_reader,
        body=models.ReaderAckBody,
        answers=Answers({200: models.ReaderAckView}),
        problems=("reader_not_found",),
    ),
)

_QUEUES = (
    Operation(
        method="POST",
        path="/v1/queues/{channel}/messages",
        id="enqueueMessages",
        tag="queues",
        summary="Put work into a queue; durable on 202",
        body=IncomingBatch,
        raw_bodies=_CLOUD_EVENTS,
        answers=Answers({202: models.ReceiptsView}),
        problems=("channel_full", "capacity_reached"),
    ),
    Operation(
        method="GET",
        path="/v1/queues/{channel}/messages",
        id="peekQueue",
        tag="queues",
        summary="Look at what waits, without taking it",
        description="In hand-out order, messages that are held now included.",
        query=models.PageQuery,
        answers=Answers({200: models.MessagePage}),
    ),
    Operation(
        method="POST",
        path="/v1/queues/{channel}/lease",
        id="leaseMessages",
        tag="queues",
        summary="Take work (long poll)",
        description="Returns as soon as one message is due, with all that are due up to `count`.",
        body=models.LeaseBody,
        answers=Answers({200: models.DeliveriesView}),
    ),
    Operation(
        method="POST",
        path="/v1/queues/{channel}/settle",
        id="settleDeliveries",
        tag="queues",
        summary="Say what became of work",
        body=models.SettleBody,
        answers=Answers({200: models.OutcomesView}),
    ),
    Operation(
        method="POST",
        path="/v1/queues/{channel}/purge",
        id="purgeQueue",
        tag="queues",
        summary="Drop all messages of a queue, held and delayed ones too",
        description=f"Dead letters stay. {_OWNER}",
        handler=queues.purge_queue,
        query=models.ConfirmQuery,
        answers=Answers({200: models.PurgedView}),
        problems=_ONE_CHANNEL,
    ),
)

_DEAD_LETTERS = (
    Operation(
        method="GET",
        path="/v1/queues/{channel}/dead-letters",
        id="listDeadLetters",
        tag="queues",
        summary="List dead letters with reason and history",
        handler=queues.list_dead_letters,
        query=models.PageQuery,
        answers=Answers({200: models.DeadLetterPage}),
        problems=_ONE_CHANNEL,
    ),
    Operation(
        method="POST",
        path="/v1/queues/{channel}/dead-letters/redrive",
        id="redriveDeadLetters",
        tag="queues",
        summary="Put dead letters back into their queue",
        description=f"Attempts start again at 1; each goes back once. {_OWNER}",
        handler=queues.redrive_dead_letters,
        body=models.RedriveBody,
        is_body_required=False,
        answers=Answers({202: models.RedriveView}),
        problems=(*_ONE_CHANNEL, "capacity_reached"),
    ),
)

_BLOBS = (
    Operation(
        method="POST",
        path="/v1/blobs",
        id="storeBlob",
        tag="blobs",
        summary="Store data too large for a message",
        handler=blobs.store_blob,
        raw_bodies={"application/octet-stream": "The content, of any size the hub takes."},
        answers=Answers({201: models.BlobView}),
    ),
    Operation(
        method="GET",
        path="/v1/blobs/{sha256}",
        id="fetchBlob",
        tag="blobs",
        summary="Fetch data a message refers to",
        answers=Answers({200: None}, media_type="application/octet-stream"),
        problems=("blob_not_found",),
    ),
)
