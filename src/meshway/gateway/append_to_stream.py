"""Append messages to a stream: durable and numbered before the answer."""

from collections.abc import Mapping, Sequence

from meshway.engine.ports import Appended, LogAppend, LogOutcome
from meshway.gateway.channel_places import ChannelPlaces
from meshway.kernel.errors import ChannelFull, EngineUnavailable
from meshway.kernel.principal import Principal
from meshway.messaging.batch import check_batch, refuse_queue_members
from meshway.messaging.channel import StreamSettings
from meshway.messaging.document import Accepted, DocumentWriter, Origin
from meshway.messaging.incoming import IncomingMessage
from meshway.messaging.names import ChannelKind, ChannelName, parse_channel_name, subject_of
from meshway.messaging.receipts import Receipt
from meshway.messaging.retention import StreamRetention
from meshway.messaging.stream_room import StreamRoom

__all__ = ["AppendToStream"]

# A full stream has room again when it is trimmed or somebody raises the limit; both take seconds.
_FULL_RETRY_AFTER_MS = 5_000


class AppendToStream:
    """One post, one append to the log."""

    def __init__(self, places: ChannelPlaces, retention: StreamRetention) -> None:
        self._places = places
        self._retention = retention
        self._room = StreamRoom(places.log)

    async def execute(
        self, principal: Principal, channel: str, messages: Sequence[IncomingMessage], *, traceparent: str | None = None
    ) -> Sequence[Receipt]:
        """Receipts in the order of `messages`; one that was appended before has `duplicate` and its first number.

        Raises: Forbidden, InvalidRequest naming the member (`messages.3.id`), with nothing stored; ChannelFull, with
        the receipts of those that were appended; CapacityReached, StorageFull, EngineUnavailable.
        """
        places = self._places
        places.admission.admit_channel(principal)
        name = parse_channel_name(channel)
        check_batch(messages, batch_max=places.settings.batch_max)
        refuse_queue_members(messages)
        writer = DocumentWriter(name, Origin(principal.id, places.clock.now_ms(), traceparent))
        drafts = places.payloads.draft(writer, messages)
        known = places.channels.find(ChannelKind.STREAMS, name)
        if known is None:
            known = await places.channels.use(ChannelKind.STREAMS, name, principal.id)
        settings = known.settings
        assert isinstance(settings, StreamSettings)
        if drafts.large:
            await places.payloads.place(drafts, writer, messages, keep_ms=settings.retention_ms)
        # The log goes on where a deleted stream of this name stopped, and knows its ids: they are not ours.
        for each in drafts.accepted:
            each.identity = f"{known.created_at_ms:x} {each.identity}"
        if settings.max_messages is not None and settings.when_full == "refuse":
            return await self._append_within(name, drafts.accepted, settings.max_messages)
        outcomes = await self._append(name, drafts.accepted)
        return _all_decided(name, list(map(_receipt, drafts.accepted, outcomes)))

    async def _append(self, name: ChannelName, accepted: Sequence[Accepted]) -> Sequence[LogOutcome]:
        subject = subject_of(ChannelKind.STREAMS, name)
        outcomes = await self._places.log.append(
            [
                LogAppend(
                    subject=subject, message_id=each.identity, data=each.document, is_repeatable=each.is_repeatable
                )
                for each in accepted
            ]
        )
        self._retention.note_append(name, sum([len(each.document) for each in accepted]))
        return outcomes

    async def _append_within(self, name: ChannelName, accepted: Sequence[Accepted], most: int) -> Sequence[Receipt]:
        """Append what there is room for, from the first on; a repetition of what the stream holds needs none."""
        places = await self._room.hold(name, len(accepted), most=most)
        last: int | None = None
        try:
            known = {} if places.count == len(accepted) else await self._room.recent(name, places)
            receipts = [_repeated(each, known) for each in accepted]
            new = [number for number, receipt in enumerate(receipts) if receipt is None]
            fitting = new[: places.count]
            outcomes = await self._append(name, [accepted[number] for number in fitting]) if fitting else []
            last = max([outcome.sequence for outcome in outcomes if isinstance(outcome, Appended)], default=0)
        finally:
            places.give_back(last=last)
        for number, outcome in zip(fitting, outcomes, strict=True):
            receipts[number] = _receipt(accepted[number], outcome)
        if len(fitting) < len(new):
            text = f"Stream {name!r} holds max_messages={most} and refuses more (when_full=refuse)."
            raise ChannelFull(text, retry_after_ms=_FULL_RETRY_AFTER_MS, extensions=_beside(receipts))
        return _all_decided(name, receipts)


def _receipt(accepted: Accepted, outcome: LogOutcome) -> Receipt | None:
    """None where the outcome is not known."""
    if not isinstance(outcome, Appended):
        return None
    return Receipt(id=accepted.id, sequence=outcome.sequence, duplicate=outcome.duplicate)


def _repeated(accepted: Accepted, known: Mapping[str, int]) -> Receipt | None:
    sequence = known.get(accepted.identity)
    return None if sequence is None else Receipt(id=accepted.id, sequence=sequence, duplicate=True)


def _all_decided(name: ChannelName, receipts: Sequence[Receipt | None]) -> Sequence[Receipt]:
    decided = [receipt for receipt in receipts if receipt is not None]
    if len(decided) < len(receipts):
        text = f"The store does not say whether all messages are in stream {name!r}; repeat them with the same ids."
        raise EngineUnavailable(text, extensions=_beside(receipts))
    return decided


def _beside(receipts: Sequence[Receipt | None]) -> Mapping[str, object]:
    """Members of the error that say what became of the rest of the post; none where nothing was appended."""
    return {"receipts": list(receipts)} if any(receipts) else {}
