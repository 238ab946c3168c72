"""The verbs of messaging in one value, for the edges that offer them all."""

from dataclasses import dataclass

from meshway.gateway.answer_requests import AnswerRequests
from meshway.gateway.append_to_stream import AppendToStream
from meshway.gateway.enqueue_messages import EnqueueMessages
from meshway.gateway.fetch_blob import FetchBlob
from meshway.gateway.inspect_queue import InspectQueue
from meshway.gateway.lease_messages import LeaseMessages
from meshway.gateway.manage_channels import ManageChannels
from meshway.gateway.manage_readers import ManageReaders
from meshway.gateway.publish_events import PublishEvents
from meshway.gateway.purge_queue import PurgeQueue
from meshway.gateway.read_stream import ReadStream
from meshway.gateway.redrive_dead_letters import RedriveDeadLetters
from meshway.gateway.send_request import SendRequest
from meshway.gateway.settle_deliveries import SettleDeliveries
from meshway.gateway.store_blob import StoreBlob
from meshway.gateway.subscribe_events import SubscribeEvents

__all__ = ["ChannelUseCases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelUseCases:
    """One field a verb."""

    publish_events: PublishEvents
    subscribe_events: SubscribeEvents
    append_to_stream: AppendToStream
    read_stream: ReadStream
    manage_readers: ManageReaders
    enqueue_messages: EnqueueMessages
    lease_messages: LeaseMessages
    settle_deliveries: SettleDeliveries
    inspect_queue: InspectQueue
    redrive_dead_letters: RedriveDeadLetters
    purge_queue: PurgeQueue
    send_request: SendRequest
    answer_requests: AnswerRequests
    manage_channels: ManageChannels
    store_blob: StoreBlob
    fetch_blob: FetchBlob
