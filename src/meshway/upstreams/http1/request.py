"""The bytes of a request. Pure. Refuses whatever could make the other side see another request than was meant."""

import re
from collections.abc import Sequence

from meshway.kernel.errors import InvalidRequest

__all__ = ["encode_request"]

# RFC 9110 5.6.2 (token) and 5.5 (field value: no control characters but the tab).
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_METHOD = re.compile(_TOKEN)
_TARGET = re.compile(rb"[\x21-\x7e]+")
_HOST = re.compile(rb"[A-Za-z0-9._\-:\[\]]+")
_HEADER_BLOCK = re.compile(rb"(?:" + _TOKEN + rb": [^\x00-\x08\x0a-\x1f\x7f]*\r\n)*")
# They decide where the request ends and whom it is for, so they are written here and nowhere else.
_OURS = re.compile(rb"^(host|content-length|transfer-encoding):", re.IGNORECASE | re.MULTILINE)
_METHODS_WITHOUT_BODY = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE"))


def encode_request(
    method: bytes, target: bytes, host: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> bytes:
    """One whole request, ready for `Http1Client.exchange`; `host` is `Origin.host_header`.

    `headers` are kept in order; Host and Content-Length are added (no length for an empty body of GET and the like).
    Raises: InvalidRequest for a header, method, target or host that is not plain HTTP (CR, LF, NUL, ...), or a header
    that is written here.
    """
    block = b"".join([b"%b: %b\r\n" % header for header in headers])
    # The count catches a value with a whole line of its own inside, which the pattern alone would take for two headers.
    if not _HEADER_BLOCK.fullmatch(block) or block.count(b"\n") != len(headers):
        raise InvalidRequest(f"The header {_first_bad_header(headers)!r} cannot be sent: not a plain HTTP header.")
    if headers and (ours := _OURS.search(block)):
        raise InvalidRequest(f"The header {ours[1].decode('ascii')!r} is set by the hub and cannot be given.")
    if not _METHOD.fullmatch(method) or not _TARGET.fullmatch(target) or not _HOST.fullmatch(host):
        raise InvalidRequest("The method, path or host has characters that cannot stand in an HTTP request line.")
    if body or method not in _METHODS_WITHOUT_BODY:
        return b"%b %b HTTP/1.1\r\nhost: %b\r\n%bcontent-length: %d\r\n\r\n%b" % (
            method, target, host, block, len(body), body,
        )  # fmt: skip
    return b"%b %b HTTP/1.1\r\nhost: %b\r\n%b\r\n" % (method, target, host, block)


def _first_bad_header(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The name only: values may be secrets."""
    for name, value in headers:
        line = b"%b: %b\r\n" % (name, value)
        if not _HEADER_BLOCK.fullmatch(line) or line.count(b"\n") != 1:
            return name.decode("latin-1")
    return ""
