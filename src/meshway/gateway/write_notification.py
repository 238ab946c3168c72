"""What is POSTed to a receiver for one event: the body in the version it understands, headers, the hub's signature."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from meshway.engine.ports import FromSequence, Log
from meshway.gateway.push_ports import LowerTask, Notification, NotificationClaims, NotificationSigner
from meshway.gateway.push_secrets import PushSecrets
from meshway.gateway.queue_notifications import Notice
from meshway.kernel.clock import Clock
from meshway.kernel.ids import new_id
from meshway.tasks.event_writer import event_of_entry
from meshway.tasks.picture import TaskPicture
from meshway.tasks.push_configs import PushConfig
from meshway.tasks.tokens import events_subject

__all__ = ["EventGone", "NothingToTell", "NotificationWriter", "WrittenNotification"]

# Long enough for clocks that differ, short enough that a stolen notification cannot be shown again tomorrow.
_SIGNATURE_VALID_S = 300
_EVENTS_PER_READ = 1_000
# Ids of tasks are the agent's own and may be anything; what a header may carry stays as it is.
_HEADER_SAFE = "!#$&'()*+,/:;=?@[]|"
_VERSION_0_3 = "0.3"


@dataclass(frozen=True, slots=True)
class WrittenNotification:
    """`ends_task`: no event comes after this one."""

    notification: Notification
    ends_task: bool


@dataclass(frozen=True, slots=True)
class NothingToTell:
    """A later notification says it all."""


@dataclass(frozen=True, slots=True)
class EventGone:
    """The event is no longer kept."""


class _Kind(msgspec.Struct):
    """Which of a StreamResponse's kinds it is, as far as that decides anything here."""

    artifactUpdate: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET  # noqa: N815 - the wire's own name


_decode_kind = msgspec.json.Decoder(_Kind).decode


class NotificationWriter:
    """Reads the event when it is to be sent, so the queue holds numbers and no bodies."""

    def __init__(
        self, log: Log, *, secrets: PushSecrets, signer: NotificationSigner, lower_task: LowerTask, clock: Clock
    ) -> None:
        self._log = log
        self._secrets = secrets
        self._signer = signer
        self._lower_task = lower_task
        self._clock = clock

    async def write(
        self, config: PushConfig, notice: Notice, *, attempt: int
    ) -> WrittenNotification | NothingToTell | EventGone:
        """Signed anew for each attempt. Raises: StoreCorrupt, EngineUnavailable."""
        subject = events_subject(config.agent_id, config.task_id)
        # One more than is sent: whether a later one exists decides about receivers of 0.3.
        entries = await self._log.read(subject, FromSequence(notice.number), limit=2)
        if not entries or entries[0].sequence != notice.number:
            return EventGone()
        event = event_of_entry(entries[0])
        if config.version != _VERSION_0_3:
            body, content_type = event.body, b"application/a2a+json"
        elif len(entries) > 1 and _decode_kind(event.body).artifactUpdate is not msgspec.UNSET:
            # The next notification shows the whole task, this piece of an artifact included. Sending a growing task
            # once for each piece would cost the square of its length.
            return NothingToTell()
        else:
            body, content_type = await self._task_after(subject, notice.number), b"application/json"
        headers = [(b"content-type", content_type), *self._headers(config, notice, attempt, body)]
        return WrittenNotification(Notification(config.url, headers, body), ends_task=event.state.is_terminal)

    async def _task_after(self, subject: str, number: int) -> bytes:
        picture = TaskPicture()
        begin = 1
        while begin <= number:
            limit = min(_EVENTS_PER_READ, number - begin + 1)
            entries = await self._log.read(subject, FromSequence(begin), limit=limit)
            for entry in entries:
                if entry.sequence <= number:
                    picture.fold(entry.data)
            if not entries:
                break
            begin = entries[-1].sequence + 1
        return self._lower_task(picture.encode())

    def _headers(self, config: PushConfig, notice: Notice, attempt: int, body: bytes) -> Sequence[tuple[bytes, bytes]]:
        issued_at_s = self._clock.now_ms() // 1000
        claims = NotificationClaims(
            audience=config.url,
            issued_at_s=issued_at_s,
            expires_at_s=issued_at_s + _SIGNATURE_VALID_S,
            # Of this attempt: a receiver that remembers the ids it saw must not refuse a repeat whose first answer was
            # lost on the way. Repeats have the same task and number.
            token_id=new_id(),
            task_id=config.task_id,
            event_number=notice.number,
            sha256=hashlib.sha256(body).hexdigest(),
        )
        headers = [
            (b"meshway-task", quote(config.task_id, safe=_HEADER_SAFE).encode("ascii")),
            (b"meshway-event-number", b"%d" % notice.number),
            (b"meshway-attempt", b"%d" % attempt),
            (b"meshway-signature", self._signer.sign(claims).encode("ascii")),
        ]
        secrets = self._secrets.open(config)
        if secrets.credentials:
            headers.append((b"authorization", f"{config.scheme} {secrets.credentials}".encode("ascii")))
        if secrets.token:
            headers.append((b"x-a2a-notification-token", secrets.token.encode("ascii")))
        return headers
