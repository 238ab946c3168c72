"""Reading the body of a request to the control plane, within its limit."""

from starlette.requests import Request

from meshway.edges.http.decoding import check_json_type, decode_body, decode_query
from meshway.kernel.errors import PayloadTooLarge

__all__ = ["decode_body", "decode_query", "read_body"]

# A body up to this many times its limit is read to the end before it is refused: a few megabytes, quickly gone.
_DISCARDED_FACTOR = 8


async def read_body(request: Request, *, bytes_max: int) -> bytes:
    """The whole body. Raises: ContentTypeUnsupported, PayloadTooLarge.

    What exceeds the limit somewhat is read and thrown away first: a server that closes on unread bytes resets the
    connection, and the client never learns why (RFC 9112, 9.6).
    """
    check_json_type(request.headers.get("content-type", ""))
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > _DISCARDED_FACTOR * bytes_max:
        raise _too_large(bytes_max)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size <= bytes_max:
            parts.append(part)
        elif size > _DISCARDED_FACTOR * bytes_max:
            break
    if size > bytes_max:
        raise _too_large(bytes_max)
    return b"".join(parts)


def _too_large(bytes_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than the {bytes_max} bytes the control plane takes.")
