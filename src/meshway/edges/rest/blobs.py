"""Storing blobs: the one call that streams what comes in, so that its size is bounded by the disk, not by memory."""

from http import HTTPStatus

from starlette.responses import Response

from meshway.edges.rest.channel_models import BlobView
from meshway.edges.rest.operations import RestCall, json_response

__all__ = ["store_blob"]


async def store_blob(call: RestCall) -> Response:
    """The body's bytes, whatever their media type, become a blob that messages may name."""
    ref = await call.services.channels.store_blob.execute(call.principal, call.request.stream())
    view = BlobView(sha256=ref.sha256, size=ref.size)
    return json_response(view, HTTPStatus.CREATED, {"Location": f"/v1/blobs/{ref.sha256}"})
