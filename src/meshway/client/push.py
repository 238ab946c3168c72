"""Push notifications that could not be delivered, through the SDK: `client.push`. Needs an `admin` key."""

from collections.abc import Sequence

import msgspec

from meshway.client.channel_messages import FailedAttempt
from meshway.client.connection import HubConnection
from meshway.client.values import Page

__all__ = ["LostNotification", "PushApi"]

_PATH = "/v1/push/dead-letters"


class LostNotification(msgspec.Struct, frozen=True, kw_only=True):
    """A notification that used up its attempts or was given up. `id` redrives it; `attempts`: oldest first.

    `url` is the receiver's, without its query; None: the config is gone, and redriving drops the notification.
    """

    id: str
    agent: str = ""
    task_id: str = ""
    config_id: str = ""
    event_number: int = 0
    url: str | None = None
    reason: str = ""
    dead_at: str = ""
    attempts: tuple[FailedAttempt, ...] = ()


class _WireRedriven(msgspec.Struct):
    notifications: tuple[str, ...] = ()


class PushApi:
    """Every method raises the errors of `meshway.client.errors`; HubError `forbidden` without the scope `admin`."""

    def __init__(self, connection: HubConnection) -> None:
        self._connection = connection

    async def dead_letters(self, *, limit: int | None = None, cursor: str | None = None) -> Page[LostNotification]:
        """What could not be delivered, of all tasks, oldest first."""
        wishes = {"limit": limit, "cursor": cursor}
        params = {name: str(value) for name, value in wishes.items() if value is not None}
        return await self._connection.request("GET", _PATH, Page[LostNotification], params=params)

    async def redrive(self, *, ids: Sequence[str] | None = None) -> list[str]:
        """Send dead letters again, the oldest 500 without `ids`; those that are sent again, oldest first.

        Raises: HubError `not_found` for an id that is no dead letter; then nothing is sent again.
        """
        body: dict[str, object] = {} if ids is None else {"ids": list(ids)}
        return [*(await self._connection.request("POST", f"{_PATH}/redrive", _WireRedriven, body=body)).notifications]
