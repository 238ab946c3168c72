"""`/v1/push/dead-letters`: from the wire to a use case and back."""

from http import HTTPStatus

import msgspec
from starlette.responses import Response

from meshway.edges.rest.channel_models import PageQuery
from meshway.edges.rest.channel_views import attempt_views
from meshway.edges.rest.operations import RestCall, json_response
from meshway.edges.rest.push_models import (
    LostNotificationPage,
    LostNotificationView,
    RedriveNotificationsBody,
    RedriveNotificationsView,
)
from meshway.gateway.inspect_push import LostNotification
from meshway.kernel.clock import rfc3339_ms

__all__ = ["list_lost_notifications", "redrive_notifications"]


async def list_lost_notifications(call: RestCall) -> Response:
    asked = call.query(PageQuery)
    page = await call.services.tasks.push.dead_letters(call.principal, cursor=asked.cursor, limit=asked.limit)
    items = tuple(_lost(each) for each in page.items)
    return json_response(LostNotificationPage(items=items, next_cursor=page.next_cursor))


async def redrive_notifications(call: RestCall) -> Response:
    asked = await call.body_or_default(RedriveNotificationsBody)
    redriven = await call.services.tasks.push.redrive(call.principal, asked.ids)
    return json_response(RedriveNotificationsView(notifications=tuple(redriven)), HTTPStatus.ACCEPTED)


def _lost(lost: LostNotification) -> LostNotificationView:
    notice = lost.notice
    return LostNotificationView(
        id=lost.id,
        agent=notice.agent,
        task_id=notice.task,
        config_id=notice.config,
        event_number=notice.number,
        url=msgspec.UNSET if lost.url is None else lost.url,
        reason=lost.letter.reason,
        dead_at=rfc3339_ms(lost.letter.dead_at_ms),
        attempts=attempt_views(lost.letter.attempts),
    )
