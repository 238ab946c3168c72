"""Send events to whoever listens now. Nothing is kept, so nothing is durable: a receipt says that they went out."""

from collections.abc import Sequence

from meshway.engine.ports import Bus, BusMessage
from meshway.gateway.admission import Admission
from meshway.kernel.clock import Clock
from meshway.kernel.principal import Principal
from meshway.messaging.activity import Activity
from meshway.messaging.batch import check_batch, refuse_queue_members
from meshway.messaging.document import DocumentWriter, Origin
from meshway.messaging.incoming import IncomingMessage
from meshway.messaging.names import ChannelKind, parse_channel_name, subject_of
from meshway.messaging.payloads import PayloadStore
from meshway.messaging.receipts import Receipt
from meshway.messaging.settings import MessagingSettings

__all__ = ["PublishEvents"]

# Data too large for an event is kept this long for those who fetch it; who is slower than that has missed the event.
_DATA_KEPT_MS = 3_600_000


class PublishEvents:
    """At most once, in the order of posting for each publisher."""

    def __init__(
        self,
        bus: Bus,
        payloads: PayloadStore,
        activity: Activity,
        *,
        admission: Admission,
        settings: MessagingSettings,
        clock: Clock,
    ) -> None:
        self._bus = bus
        self._payloads = payloads
        self._activity = activity
        self._admission = admission
        self._settings = settings
        self._clock = clock

    async def execute(
        self,
        principal: Principal,
        channel: str,
        messages: Sequence[IncomingMessage],
        *,
        traceparent: str | None = None,
    ) -> Sequence[Receipt]:
        """Hand out all messages or, where one is wrong, none. Never waits for a subscriber.

        Raises: Forbidden, InvalidRequest naming the member (`messages.3.id`), StorageFull (large data), Engine errors.
        """
        self._admission.admit_channel(principal)
        name = parse_channel_name(channel)
        check_batch(messages, batch_max=self._settings.batch_max)
        subject = subject_of(ChannelKind.EVENTS, name)
        writer = DocumentWriter(name, Origin(principal.id, self._clock.now_ms(), traceparent))
        refuse_queue_members(messages)
        drafts = self._payloads.draft(writer, messages)
        if drafts.large:
            await self._payloads.place(drafts, writer, messages, keep_ms=_DATA_KEPT_MS)
        await self._bus.publish([BusMessage(subject=subject, data=each.document) for each in drafts.accepted])
        self._activity.published(name, len(messages))
        return [Receipt(id=each.id, duplicate=False) for each in drafts.accepted]
