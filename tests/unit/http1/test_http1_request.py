"""The bytes of a request, and what is refused."""

import pytest

from meshway.kernel.errors import InvalidRequest
from meshway.upstreams.http1 import encode_request


def test_a_request_has_host_first_and_its_length_last() -> None:
    wire = encode_request(b"POST", b"/rpc?x=1", b"a:1", [(b"Content-Type", b"text/plain"), (b"x", b"")], b"hello")
    assert wire == (
        b"POST /rpc?x=1 HTTP/1.1\r\nhost: a:1\r\nContent-Type: text/plain\r\nx: \r\ncontent-length: 5\r\n\r\nhello"
    )


@pytest.mark.parametrize(
    ("method", "has_length"), [(b"GET", False), (b"DELETE", False), (b"POST", True), (b"PUT", True)]
)
def test_an_empty_body_has_a_length_only_where_a_body_is_usual(method: bytes, has_length: bool) -> None:
    assert (b"content-length: 0" in encode_request(method, b"/", b"a", [], b"")) is has_length


def test_values_may_hold_tabs_and_bytes_above_ascii() -> None:
    assert b"x: a\tb \xe4\r\n" in encode_request(b"GET", b"/", b"a", [(b"x", b"a\tb \xe4")], b"")


@pytest.mark.parametrize(
    "header",
    [
        (b"x", b"a\r\nhost: evil"),
        (b"x", b"a\nb"),
        (b"x", b"a\rb"),
        (b"x", b"a\x00b"),
        (b"x", b"\x7f"),
        (b"", b"a"),
        (b"x y", b"a"),
        (b"x:", b"a"),
        (b"x\r\n", b"a"),
        (b"\xe4", b"a"),
    ],
)
def test_a_header_that_could_become_another_is_refused_without_its_value(header: tuple[bytes, bytes]) -> None:
    with pytest.raises(InvalidRequest, match="plain HTTP header") as caught:
        encode_request(b"POST", b"/", b"a", [(b"ok", b"ok"), header], b"")
    assert "evil" not in caught.value.detail


@pytest.mark.parametrize("name", [b"Host", b"content-length", b"Transfer-Encoding"])
def test_the_headers_that_frame_a_request_cannot_be_given(name: bytes) -> None:
    with pytest.raises(InvalidRequest, match="are set by the hub"):
        encode_request(b"POST", b"/", b"a", [(name, b"1")], b"")


@pytest.mark.parametrize(
    ("method", "target", "host"),
    [
        (b"PO ST", b"/", b"a"),
        (b"", b"/", b"a"),
        (b"GET", b"/a b", b"a"),
        (b"GET", b"/\r\n", b"a"),
        (b"GET", b"", b"a"),
        (b"GET", b"/\xe4", b"a"),
        (b"GET", b"/", b""),
        (b"GET", b"/", b"a\r\nx: y"),
    ],
)
def test_a_request_line_with_foreign_characters_is_refused(method: bytes, target: bytes, host: bytes) -> None:
    with pytest.raises(InvalidRequest, match="request line"):
        encode_request(method, target, host, [], b"")
