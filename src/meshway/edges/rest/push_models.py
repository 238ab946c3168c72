"""What push notifications that could not be delivered show and take under `/v1/push`."""

from typing import Annotated

import msgspec

from meshway.edges.rest.channel_models import DeadLetterAttempt
from meshway.edges.rest.models import AgentIdText, Moment
from meshway.edges.rest.task_models import TaskIdText

__all__ = [
    "LostNotificationPage",
    "LostNotificationView",
    "RedriveNotificationsBody",
    "RedriveNotificationsView",
]


class LostNotificationView(msgspec.Struct, frozen=True, kw_only=True):
    """A notification that used up its attempts, or was given up; `attempts` has the last 16. `id` is what redriving
    takes. `url` is the receiver's, without its query; it is left out where the config is gone."""

    id: str
    agent: AgentIdText
    task_id: TaskIdText
    config_id: str
    event_number: Annotated[int, msgspec.Meta(description="The event of the task that it tells of.")]
    url: str | msgspec.UnsetType = msgspec.UNSET
    reason: str
    dead_at: Moment
    attempts: tuple[DeadLetterAttempt, ...]


class LostNotificationPage(msgspec.Struct, frozen=True, kw_only=True):
    """Oldest first."""

    items: tuple[LostNotificationView, ...]
    next_cursor: str | None


class RedriveNotificationsBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which dead letters are sent again; all (at most 500) without `ids`."""

    ids: Annotated[tuple[str, ...], msgspec.Meta(max_length=500)] | None = None


class RedriveNotificationsView(msgspec.Struct, frozen=True, kw_only=True):
    """The ids of those that are sent again, oldest first."""

    notifications: tuple[str, ...]
