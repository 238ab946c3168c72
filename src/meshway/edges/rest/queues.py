"""`/v1/queues/{channel}/purge` and `/dead-letters`; the data calls of queues are served below ASGI."""

from http import HTTPStatus

from starlette.responses import Response

from meshway.edges.rest.channel_models import ConfirmQuery, PageQuery, PurgedView, RedriveBody, RedriveView
from meshway.edges.rest.operations import RestCall, json_response

__all__ = ["list_dead_letters", "purge_queue", "redrive_dead_letters"]


async def list_dead_letters(call: RestCall) -> Response:
    asked = call.query(PageQuery)
    page = await call.services.channels.inspect_queue.dead_letters(
        call.principal, call.path("channel"), cursor=asked.cursor, limit=asked.limit
    )
    return json_response({"items": page.items, "next_cursor": page.next_cursor})


async def redrive_dead_letters(call: RestCall) -> Response:
    asked = await call.body_or_default(RedriveBody)
    started = await call.services.channels.redrive_dead_letters.execute(
        call.principal, call.path("channel"), ids=asked.ids, rate_per_s=asked.rate_per_s
    )
    return json_response(RedriveView(messages=started.messages), HTTPStatus.ACCEPTED)


async def purge_queue(call: RestCall) -> Response:
    purged = await call.services.channels.purge_queue.execute(
        call.principal, call.path("channel"), confirm=call.query(ConfirmQuery).confirm
    )
    return json_response(PurgedView(purged=purged))
