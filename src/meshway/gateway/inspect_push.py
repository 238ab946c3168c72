"""Push notifications that could not be delivered, and another try at them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from meshway.engine.ports import DeadLetter, QueueAdmin, QueuedMessage
from meshway.gateway.admission import Admission
from meshway.gateway.named_letters import named_letters
from meshway.gateway.queue_notifications import PUSH_QUEUE, Notice
from meshway.kernel.pages import Page, decode_cursor, encode_cursor
from meshway.kernel.principal import Principal
from meshway.tasks.push_configs import PushConfig, PushConfigStore

__all__ = ["InspectPush", "LostNotification"]

_log = logging.getLogger(__name__)

_REDRIVE_MAX = 500

_decode = msgspec.json.Decoder(Notice).decode


@dataclass(frozen=True, slots=True)
class LostNotification:
    """A notification in the dead letters. `id` is what redriving takes.

    `url` is the receiver's, without a query, where tokens may be; None: the config is gone, there is nobody to tell.
    """

    id: str
    notice: Notice
    url: str | None
    letter: DeadLetter


class InspectPush:
    """For admins: the notifications of all tasks are in one queue."""

    def __init__(self, configs: PushConfigStore, admission: Admission, queue_admin: QueueAdmin) -> None:
        self._configs = configs
        self._admission = admission
        self._queue_admin = queue_admin

    async def dead_letters(self, principal: Principal, *, cursor: str | None, limit: int) -> Page[LostNotification]:
        """Oldest first; what cannot be read is left out, and logged.

        Raises: Forbidden, InvalidRequest (cursor), EngineUnavailable.
        """
        self._admission.admit_admin(principal)
        after = None if cursor is None else decode_cursor(cursor)
        letters = await self._queue_admin.dead_letters(PUSH_QUEUE, after=after, limit=limit)
        read = [(letter, notice) for letter in letters if (notice := _read_notice(letter.message)) is not None]
        # A receiver that was away has many of them.
        configs = {key: await self._configs.read(key) for key in dict.fromkeys(notice.key for _, notice in read)}
        lost = [
            LostNotification(letter.message.message_id, notice, _url(configs[notice.key], notice), letter)
            for letter, notice in read
        ]
        return Page(lost, encode_cursor(letters[-1].position) if len(letters) == limit else None)

    async def redrive(self, principal: Principal, message_ids: Sequence[str] | None) -> Sequence[str]:
        """Back into the queue, behind what waits there, with all attempts before them; None: the oldest 500.

        Returns those that went back. That is oldest first, however they are named: a receiver is told in the order of
        events, and its config ends with the task's last one. One whose config is gone is dropped when its turn comes.
        Raises: Forbidden, NotFound for an id that is no dead letter (then nothing was redriven), StorageFull,
        EngineUnavailable.
        """
        self._admission.admit_admin(principal)
        if message_ids is None:
            letters = await self._queue_admin.dead_letters(PUSH_QUEUE, limit=_REDRIVE_MAX)
            wanted: Sequence[str] = [letter.message.message_id for letter in letters]
        else:
            wanted = list(await named_letters(message_ids, self._page, of="push notifications"))
        outcomes = await self._queue_admin.redrive(PUSH_QUEUE, wanted)
        redriven = [each for each, outcome in zip(wanted, outcomes, strict=True) if outcome]
        _log.info("notifications_redriven", extra={"principal": principal.id, "notifications": len(redriven)})
        return redriven

    async def _page(self, after: str | None) -> Sequence[DeadLetter]:
        return await self._queue_admin.dead_letters(PUSH_QUEUE, after=after, limit=_REDRIVE_MAX)


def _url(config: PushConfig | None, notice: Notice) -> str | None:
    if config is None or config.created_at_ms != notice.made:
        return None
    return config.url.partition("?")[0]


def _read_notice(message: QueuedMessage) -> Notice | None:
    try:
        return _decode(message.data)
    except msgspec.DecodeError as error:
        # A newer Meshway wrote it, or it is damaged.
        _log.error("notification_unreadable", extra={"notification": message.message_id, "reason": str(error)})
        return None
