"""URLs into origins and request targets."""

import pytest

from meshway.kernel.errors import InvalidRequest
from meshway.upstreams.http1 import Origin


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "target", "host_header"),
    [
        ("http://agent.example", "http", "agent.example", 80, "/", b"agent.example"),
        ("HTTPS://Agent.Example:443/a2a", "https", "agent.example", 443, "/a2a", b"agent.example"),
        ("http://agent.example:443/", "http", "agent.example", 443, "/", b"agent.example:443"),
        ("http://127.0.0.1:9001/x?tenant=a%20b&y", "http", "127.0.0.1", 9001, "/x?tenant=a%20b&y", b"127.0.0.1:9001"),
        ("http://[::1]:8080/x", "http", "::1", 8080, "/x", b"[::1]:8080"),
        ("https://[2001:DB8:0:0::1]", "https", "2001:db8::1", 443, "/", b"[2001:db8::1]"),
        ("http://my_agent:80/", "http", "my_agent", 80, "/", b"my_agent"),
        (
            "http://bücher.example/ä?ö#frag",
            "http",
            "xn--bcher-kva.example",
            80,
            "/%C3%A4?%C3%B6",
            b"xn--bcher-kva.example",
        ),
        ("http://agent.example./x/", "http", "agent.example.", 80, "/x/", b"agent.example."),
        ("http://agent.example?x=1", "http", "agent.example", 80, "/?x=1", b"agent.example"),
    ],
)
def test_a_url_names_its_origin_and_target(
    url: str, scheme: str, host: str, port: int, target: str, host_header: bytes
) -> None:
    origin, found = Origin.parse(url)
    assert (origin.scheme, origin.host, origin.port, found) == (scheme, host, port, target)
    assert origin.host_header == host_header


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://agent.example/", "must begin with http"),
        ("agent.example", "must begin with http"),
        ("http:///x", "has no host"),
        ("http://user:pw@agent.example/", "user name or password"),
        ("http://@agent.example/", "user name or password"),
        ("http://agent.example:0/", "port 0"),
        ("http://agent.example:65536/", "is not a URL"),
        ("http://agent.example:x/", "is not a URL"),
        ("http://agent.example/a b", "spaces or control"),
        ("http://agent.example/a\r\nX: y", "spaces or control"),
        ("http://agent\\evil.example/", "bad host name"),
        ("http://-agent.example/", "bad host name"),
        ("http://agent..example/", "bad host name"),
        ("http://" + "a" * 64 + ".example/", "bad host name"),
        ("http://a%2eb/", "bad host name"),
        ("http://[::1/", "is not a URL"),
        ("http://[fe80::1%25eth0]/", "zone"),
        ("http://\u2100.example/", "is not a URL"),
    ],
)
def test_a_url_the_hub_cannot_call_is_refused_with_the_reason(url: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told) as caught:
        Origin.parse(url)
    assert caught.value.fields[0].field == "url"


def test_equal_origins_share_a_pool() -> None:
    first, _ = Origin.parse("http://agent.example/a")
    second, _ = Origin.parse("http://AGENT.example:80/b")
    assert {first: 1}[second] == 1
    assert str(first) == "http://agent.example"
    assert first != Origin.parse("https://agent.example:80/")[0]
