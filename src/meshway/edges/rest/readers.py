"""`/v1/streams/{channel}/readers`: durable positions in streams."""

from http import HTTPStatus

from starlette.responses import Response

from meshway.edges.rest.channel_models import ReaderAckBody, ReaderAckView, ReaderBody, ReaderPage
from meshway.edges.rest.channel_views import reader_view
from meshway.edges.rest.operations import RestCall, json_response, no_content

__all__ = ["ack_reader", "list_readers", "put_reader", "remove_reader", "show_reader"]


async def list_readers(call: RestCall) -> Response:
    found = await call.services.channels.manage_readers.list(call.principal, call.path("channel"))
    return json_response(ReaderPage(items=tuple(reader_view(each) for each in found), next_cursor=None))


async def put_reader(call: RestCall) -> Response:
    body = await call.body_or_default(ReaderBody)
    channel, name = call.path("channel"), call.path("reader")
    reader, created = await call.services.channels.manage_readers.put(call.principal, channel, name, start=body.start)
    status = HTTPStatus.CREATED if created else HTTPStatus.OK
    return json_response(reader_view(reader), status, {"Location": f"/v1/streams/{channel}/readers/{name}"})


async def show_reader(call: RestCall) -> Response:
    readers = call.services.channels.manage_readers
    return json_response(reader_view(await readers.show(call.principal, call.path("channel"), call.path("reader"))))


async def remove_reader(call: RestCall) -> Response:
    readers = call.services.channels.manage_readers
    await readers.remove(call.principal, call.path("channel"), call.path("reader"))
    return no_content()


async def ack_reader(call: RestCall) -> Response:
    body = await call.body(ReaderAckBody)
    sequence = await call.services.channels.manage_readers.ack(
        call.principal, call.path("channel"), call.path("reader"), body.sequence
    )
    return json_response(ReaderAckView(sequence=sequence))
