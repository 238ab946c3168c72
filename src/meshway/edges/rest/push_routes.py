"""The operations of operators on push notifications that could not be delivered."""

from collections.abc import Sequence

from meshway.edges.rest import push
from meshway.edges.rest import push_models as models
from meshway.edges.rest.channel_models import PageQuery
from meshway.edges.rest.operations import Answers, Operation

__all__ = ["push_operations"]


def push_operations() -> Sequence[Operation]:
    """All of them, in the order in which paths are tried."""
    return _DEAD_LETTERS


_DEAD_LETTERS = (
    Operation(
        method="GET",
        path="/v1/push/dead-letters",
        id="listLostNotifications",
        tag="push",
        summary="List push notifications that could not be delivered, with reason and history",
        description="Needs `admin`.",
        handler=push.list_lost_notifications,
        query=PageQuery,
        answers=Answers({200: models.LostNotificationPage}),
    ),
    Operation(
        method="POST",
        path="/v1/push/dead-letters/redrive",
        id="redriveNotifications",
        tag="push",
        summary="Send push notifications of the dead letters again",
        description="Oldest first, behind what waits for the same receiver; attempts start again at 1. One without "
        "`url` has nobody to go to and is dropped: its config was deleted, has run out, or ended when the task's last "
        "event was delivered. Needs `admin`.",
        handler=push.redrive_notifications,
        body=models.RedriveNotificationsBody,
        is_body_required=False,
        answers=Answers({202: models.RedriveNotificationsView}),
        problems=("not_found",),
    ),
)
