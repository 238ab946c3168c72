"""Put messages into a queue: durable before the answer, each handed to one worker at a time."""

from collections.abc import Sequence

import msgspec

from meshway.engine.ports import Enqueued, QueueAppend, QueueFull, QueueOutcome, Undecided
from meshway.gateway.queue_places import QueuePlaces
from meshway.kernel.errors import ChannelFull, EngineUnavailable
from meshway.kernel.principal import Principal
from meshway.messaging.batch import check_batch
from meshway.messaging.channel import QueueChannelSettings
from meshway.messaging.document import Accepted, DocumentWriter, Origin
from meshway.messaging.incoming import IncomingMessage
from meshway.messaging.names import ChannelKind, parse_channel_name
from meshway.messaging.queue_repeats import repeat_undecided
from meshway.messaging.queue_terms import QueueTerms, terms_of
from meshway.messaging.receipts import Receipt

__all__ = ["EnqueueMessages"]

_QUEUES = ChannelKind.QUEUES
# Limits as the engine calls them, by the names people set them under.
_LIMITS = {"messages_max": "max_messages", "bytes_max": "max_bytes"}
# Workers take something from a full queue all the time; one that stays full needs more of them, or a person.
_FULL_RETRY_AFTER_MS = 1_000


class EnqueueMessages:
    """The hot path: one engine call a post, nothing else awaited where the queue is known and the data is small."""

    def __init__(self, places: QueuePlaces) -> None:
        self._places = places

    async def execute(
        self, principal: Principal, queue: str, messages: Sequence[IncomingMessage], *, traceparent: str | None = None
    ) -> Sequence[Receipt]:
        """One receipt a message, in order. The first use makes the queue with the default settings.

        Raises: Forbidden, InvalidRequest naming the member (`messages.3.delay_ms`) with nothing kept, ChannelFull and
        EngineUnavailable with what is known of the others as `receipts`, CapacityReached, StorageFull.
        """
        places = self._places
        places.admission.admit_channel(principal)
        channel = places.channels.find(_QUEUES, queue)
        name = parse_channel_name(queue) if channel is None else channel.name
        check_batch(messages, batch_max=places.settings.batch_max)
        settings = places.settings_of(name) if channel is None else channel.settings
        assert isinstance(settings, QueueChannelSettings)
        now_ms = places.clock.now_ms()
        terms = [
            terms_of(message, ordered=settings.ordered, now_ms=now_ms, field=f"messages.{index}")
            for index, message in enumerate(messages)
        ]
        writer = DocumentWriter(name, Origin(principal.id, now_ms, traceparent))
        drafts = places.payloads.draft(writer, messages)
        # Everything was checked; from here on things are stored.
        if drafts.large:
            keep_ms = max(self._keep_ms(terms[index], settings, now_ms) for index in drafts.large)
            await places.payloads.place(drafts, writer, messages, keep_ms=keep_ms)
        if channel is None:
            await places.channels.use(_QUEUES, name, principal.id)
        accepted = drafts.accepted
        appends = [_append_of(name, *parts) for parts in zip(accepted, messages, terms, strict=True)]
        outcomes = await places.queue.append(appends)
        receipts = _receipts(accepted, outcomes)
        return receipts if receipts is not None else await self._unfinished(name, accepted, appends, outcomes)

    def _keep_ms(self, terms: QueueTerms, settings: QueueChannelSettings, now_ms: int) -> int:
        """How long data by reference must stay: until the message is due, and then as long as it may wait."""
        if terms.expires_at_ms is not None:
            return terms.wait_ms(now_ms) + terms.expires_at_ms - now_ms
        return terms.wait_ms(now_ms) + (settings.retention_ms or self._places.settings.blob_ttl_ms)

    async def _unfinished(
        self, queue: str, accepted: Sequence[Accepted], appends: Sequence[QueueAppend], first: Sequence[QueueOutcome]
    ) -> Sequence[Receipt]:
        """Some are undecided or found no room. Ask again for the undecided, then say what became of each."""
        engine = self._places.queue
        outcomes = await repeat_undecided(engine.append, appends, first, is_undecided=_is_undecided)
        receipts = _receipts(accepted, outcomes)
        if receipts is not None:
            return receipts
        partly = [
            msgspec.to_builtins(Receipt(id=one.id, duplicate=outcome.duplicate))
            if isinstance(outcome, Enqueued)
            else None
            for one, outcome in zip(accepted, outcomes, strict=True)
        ]
        extensions = {"receipts": partly} if any(partly) else {}
        for outcome in outcomes:
            if isinstance(outcome, QueueFull):
                limit = _LIMITS.get(outcome.limit, outcome.limit)
                text = (
                    f"Queue {queue!r} is at its {limit}; {partly.count(None)} of {len(partly)} messages were not kept. "
                    f"Work on it, raise {limit}, or come back later."
                )
                raise ChannelFull(text, retry_after_ms=_FULL_RETRY_AFTER_MS, extensions=extensions)
        text = "The engine did not say whether the messages without a receipt were kept; repeat them with the same ids."
        raise EngineUnavailable(text, extensions=extensions)


def _append_of(queue: str, accepted: Accepted, message: IncomingMessage, terms: QueueTerms) -> QueueAppend:
    return QueueAppend(
        queue=queue,
        message_id=accepted.identity,
        data=accepted.document,
        priority=terms.priority,
        deliver_at_ms=terms.deliver_at_ms,
        expires_at_ms=terms.expires_at_ms,
        dedupe_id=message.dedupe_id,
        ordering_key=message.ordering_key,
        is_repeatable=accepted.is_repeatable,
    )


def _receipts(accepted: Sequence[Accepted], outcomes: Sequence[QueueOutcome]) -> Sequence[Receipt] | None:
    """None unless all were kept."""
    receipts = []
    for one, outcome in zip(accepted, outcomes, strict=True):
        if not isinstance(outcome, Enqueued):
            return None
        receipts.append(Receipt(id=one.id, duplicate=outcome.duplicate))
    return receipts


def _is_undecided(outcome: QueueOutcome) -> bool:
    return isinstance(outcome, Undecided)
