"""The bytes of a request. Pure. Refuses whatever could make the other side see another request than was meant."""

from collections.abc import Sequence

from meshway.kernel.errors import InvalidRequest

__all__ = ["encode_request"]

# What may stand in each place. Deleting it and looking at the rest is the fastest check Python has: this is a hot path.
_TOKEN_BYTES = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"  # RFC 9110 5.6.2
_VALUE_BYTES = b"\t" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))  # RFC 9110 5.5: no control characters
_LINE_BYTES = bytes(range(0x21, 0x7F))  # nothing that could end a part of the request line, or the Host header
# They decide where the request ends and whom it is for, so they are written here and nowhere else.
_OURS = frozenset((b"host", b"content-length", b"transfer-encoding"))
_METHODS_WITHOUT_BODY = frozenset((b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE"))


def encode_request(
    method: bytes, target: bytes, host: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes
) -> bytes:
    """One whole request, ready for `Http1Client.exchange`; `host` is `Origin.host_header`.

    `headers` are kept in order; Host and Content-Length are added (no length for an empty body of GET and the like).
    Raises: InvalidRequest for a header, method, target or host that is not plain HTTP (CR, LF, NUL, ...), or a header
    that is written here.
    """
    names = [name.lower() for name, _ in headers]
    values = [value for _, value in headers]
    if b"".join(names).translate(None, _TOKEN_BYTES) or b"".join(values).translate(None, _VALUE_BYTES) or b"" in names:
        raise InvalidRequest(f"The header {_first_bad(headers)!r} cannot be sent: it is not a plain HTTP header.")
    if not _OURS.isdisjoint(names):
        raise InvalidRequest("The headers Host, Content-Length and Transfer-Encoding are set by the hub.")
    if not (method and target and host) or (method + target + host).translate(None, _LINE_BYTES):
        raise InvalidRequest("The method, path or host has characters that cannot stand in an HTTP request line.")
    pieces = [method, b" ", target, b" HTTP/1.1\r\nhost: ", host]
    for name, value in headers:
        pieces += (b"\r\n", name, b": ", value)
    if body or method not in _METHODS_WITHOUT_BODY:
        pieces += (b"\r\ncontent-length: ", b"%d" % len(body))
    pieces += (b"\r\n\r\n", body)
    return b"".join(pieces)


def _first_bad(headers: Sequence[tuple[bytes, bytes]]) -> str:
    """The name only: values may be secrets."""
    for name, value in headers:
        if not name or name.translate(None, _TOKEN_BYTES) or value.translate(None, _VALUE_BYTES):
            return name.decode("latin-1")
    return ""
