"""Settings, figures and lists of channels of every kind: from the wire to a use case and back."""

from http import HTTPStatus

from starlette.responses import Response

from meshway.edges.rest.channel_models import ChannelListQuery, ChannelPage, ConfirmQuery
from meshway.edges.rest.channel_views import channel_info_view, channel_view
from meshway.edges.rest.operations import OperationHandler, RestCall, json_response, no_content
from meshway.messaging.channel import defaults_of
from meshway.messaging.names import ChannelKind

__all__ = ["delete_channel", "list_channels", "put_channel", "show_channel"]


def list_channels(kind: ChannelKind) -> OperationHandler:
    async def answer(call: RestCall) -> Response:
        asked = call.query(ChannelListQuery)
        page = await call.services.channels.manage_channels.list(
            call.principal, kind, cursor=asked.cursor, limit=asked.limit, prefix=asked.prefix
        )
        items = tuple(channel_info_view(each) for each in page.items)
        return json_response(ChannelPage(items=items, next_cursor=page.next_cursor))

    return answer


def put_channel(kind: ChannelKind) -> OperationHandler:
    model = type(defaults_of(kind))

    async def answer(call: RestCall) -> Response:
        wanted = await call.body_or_default(model)
        channel, created = await call.services.channels.manage_channels.put(
            call.principal, kind, call.path("channel"), wanted
        )
        status = HTTPStatus.CREATED if created else HTTPStatus.OK
        return json_response(channel_view(channel), status, {"Location": f"/v1/{kind.value}/{channel.name}/info"})

    return answer


def show_channel(kind: ChannelKind) -> OperationHandler:
    async def answer(call: RestCall) -> Response:
        found = await call.services.channels.manage_channels.info(call.principal, kind, call.path("channel"))
        return json_response(channel_info_view(found))

    return answer


def delete_channel(kind: ChannelKind) -> OperationHandler:
    async def answer(call: RestCall) -> Response:
        confirm = call.query(ConfirmQuery).confirm
        await call.services.channels.manage_channels.remove(call.principal, kind, call.path("channel"), confirm=confirm)
        return no_content()

    return answer
