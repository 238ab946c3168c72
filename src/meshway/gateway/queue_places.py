"""The rooms that the verbs of queues pass through, and what they share."""

from dataclasses import dataclass

from meshway.engine.ports import Queue, QueueAdmin
from meshway.gateway.admission import Admission
from meshway.kernel.clock import Clock
from meshway.kernel.errors import ChannelNotFound, FieldError, InvalidRequest
from meshway.kernel.principal import Principal
from meshway.messaging.channel import Channel, QueueChannelSettings
from meshway.messaging.channels import ChannelBook
from meshway.messaging.names import ChannelKind, ChannelName, parse_channel_name
from meshway.messaging.payloads import PayloadStore
from meshway.messaging.settings import MessagingSettings

__all__ = ["QueuePlaces", "check_between"]

_DEFAULTS = QueueChannelSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuePlaces:
    """Given to each verb."""

    queue: Queue
    queue_admin: QueueAdmin
    channels: ChannelBook
    payloads: PayloadStore
    admission: Admission
    settings: MessagingSettings
    clock: Clock

    def settings_of(self, name: str) -> QueueChannelSettings:
        """In force, the defaults for a queue nobody used yet."""
        settings = self.channels.settings_of(ChannelKind.QUEUES, ChannelName(name))
        return settings if isinstance(settings, QueueChannelSettings) else _DEFAULTS

    def known(self, principal: Principal, queue: str) -> Channel:
        """A queue that is there, for reading. Raises: Forbidden, InvalidRequest, ChannelNotFound."""
        self.admission.admit_channel(principal)
        return self._found(queue)

    def owned(self, principal: Principal, queue: str) -> Channel:
        """A queue of the caller's, or any for an admin. Raises: Forbidden, InvalidRequest, ChannelNotFound."""
        self.admission.admit_channel(principal)
        channel = self._found(queue)
        self.admission.admit_channel_owner(principal, channel)
        return channel

    def _found(self, queue: str) -> Channel:
        name = parse_channel_name(queue)
        channel = self.channels.find(ChannelKind.QUEUES, name)
        if channel is None:
            raise ChannelNotFound(f"There is no queue {name!r}: nobody has configured it or put a message into it.")
        return channel


def check_between(field: str, value: int, low: int, high: int) -> None:
    """Raises: InvalidRequest naming `field` and the bounds."""
    if not low <= value <= high:
        message = f"choose {low:,} to {high:,}"
        raise InvalidRequest(f"{field}: {message}", fields=[FieldError(field, message)])
