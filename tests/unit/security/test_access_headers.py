"""What request headers decide: the key that is shown, Host, Origin, proxies."""

import timeit

import pytest

from meshway.gateway.ports import Credentials
from meshway.kernel.errors import Forbidden, InvalidRequest, Unauthenticated
from meshway.security.credentials import read_credentials
from meshway.security.hosts import HostRules
from meshway.security.listen import check_listen_address
from meshway.security.settings import HostSettings


def rules(
    *allow: str, loopback: bool = True, demands_key: bool = False, public_url: str | None = None, origins=()
) -> HostRules:
    settings = HostSettings(allow=allow, origins=tuple(origins))
    return HostRules(settings, loopback=loopback, public_url=public_url, demands_key=lambda: demands_key)


def accepts(checked: HostRules, host: str | None, origin: str | None = None, *, forwarded: bool = False) -> bool:
    try:
        checked.check(
            None if host is None else host.encode("latin-1"),
            None if origin is None else origin.encode("latin-1"),
            forwarded=forwarded,
        )
    except Forbidden:
        return False
    return True


# --- credentials ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer abc")],
        [(b"Authorization", b"bearer   abc ")],
        [(b"AUTHORIZATION", b"BEARER\tabc")],
        [(b"x-api-key", b"abc")],
        [(b"X-API-Key", b" abc ")],
        [(b"authorization", b"Bearer abc"), (b"x-api-key", b"abc")],
        [(b"authorization", b"Basic dXNlcjpwYXNz"), (b"x-api-key", b"abc")],
        [(b"accept", b"*/*"), (b"content-type", b"x"), (b"x-api-key", b"abc"), (b"xxauthorizati", b"no")],
    ],
)
def test_the_key_is_found_in_either_header(headers):
    assert read_credentials(headers) == Credentials("abc")


def test_no_header_is_no_key():
    assert read_credentials([(b"host", b"x"), (b"user-agent", b"curl")]) == Credentials(None)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Basic dXNlcjpwYXNz")],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearerabc")],
        [(b"authorization", b"abc")],
        [(b"authorization", b"Bearer a b")],
        [(b"authorization", b"Bearer \xc3\xa9")],
        [(b"authorization", b"Bearer a\x00b")],
        [(b"authorization", b"Bearer " + b"x" * 513)],
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"  ")],
        [(b"authorization", b"Bearer abc"), (b"x-api-key", b"abd")],
        [(b"authorization", b"Bearer abc"), (b"x-api-key", b"")],
        [(b"authorization", b"Bearer abc"), (b"Authorization", b"Bearer abc")],
        [(b"x-api-key", b"abc"), (b"x-api-key", b"abc")],
    ],
)
def test_credentials_that_two_readers_could_read_differently_are_refused(headers):
    with pytest.raises(Unauthenticated):
        read_credentials(headers)


def test_a_refused_scheme_is_named_but_its_credential_is_not_repeated():
    with pytest.raises(Unauthenticated) as refusal:
        read_credentials([(b"authorization", b"Basic dXNlcjpwYXNz")])
    assert "'Basic'" in refusal.value.detail
    assert "dXNlcjpwYXNz" not in refusal.value.detail
    assert "Bearer <key>" in refusal.value.detail


# --- Host -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:7070", "LocalHost:1", "localhost.", "127.0.0.1:7070", "127.0.0.2", "[::1]:7070", "[::1]"],
)
def test_on_loopback_the_machines_own_names_are_answered(host):
    assert accepts(rules(), host)


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:7070",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1.nip.io:7070",
        "192.168.1.5:7070",
        "0.0.0.0:7070",
        "localhost:99999",
        "localhost:0",
        "localhost:abc",
        "localhost@evil.example",
        "localhost/",
        "localhost, evil.example",
        "localhost evil.example",
        "[::1",
        "[::1].evil.example",
        "::1",
        "[fe80::1%25eth0]",
        "lo\xffcalhost",
        "x" * 600,
    ],
)
def test_on_loopback_every_other_name_is_refused_as_dns_rebinding(host):
    assert not accepts(rules(), host)


def test_the_refusal_says_which_setting_admits_the_name():
    with pytest.raises(Forbidden, match=r"'hub\.lan'.*hosts\.allow"):
        rules().check(b"hub.lan:7070", None)


@pytest.mark.parametrize(
    ("entry", "host", "accepted"),
    [
        ("hub.lan", "hub.lan:7070", True),
        ("hub.lan", "HUB.LAN.", True),
        ("hub.lan:443", "hub.lan:443", True),
        ("hub.lan:443", "hub.lan:444", False),
        ("*.lan", "a.b.lan", True),
        ("*.lan", "lan", False),
        ("*.lan", "evillan", False),
        ("10.0.0.0/8", "10.1.2.3:7070", True),
        ("10.0.0.0/8", "11.1.2.3:7070", False),
        ("10.0.0.0/8", "10.1.2.3.evil.example", False),
        ("fd00::/8", "[fd00::1]:7070", True),
        ("192.168.1.5", "192.168.1.5:7070", True),
        ("*", "anything.example", True),
    ],
)
def test_allowed_hosts_are_names_suffixes_and_networks(entry, host, accepted):
    assert accepts(rules(entry), host) is accepted
    assert accepts(rules(entry, loopback=False, demands_key=True), host) is accepted


def test_the_public_url_admits_its_own_host():
    assert accepts(rules(public_url="https://hub.example/base"), "hub.example")
    assert not accepts(rules(public_url="https://hub.example"), "other.example")


def test_off_loopback_with_keys_any_name_will_do_until_names_are_listed():
    assert accepts(rules(loopback=False, demands_key=True), "whatever.example")
    listed = rules("hub.example", loopback=False, demands_key=True)
    assert not accepts(listed, "whatever.example")
    assert accepts(listed, "localhost:7070")


@pytest.mark.parametrize(
    ("host", "accepted"),
    [
        ("10.0.0.5:7070", True),
        ("meshway:7070", True),
        ("meshway.default.svc.cluster.local", True),
        ("host.docker.internal:7070", True),
        ("evil.example", False),
        ("10.0.0.5.nip.io", False),
    ],
)
def test_an_insecure_hub_answers_only_names_that_no_strangers_page_can_have(host, accepted):
    assert accepts(rules(loopback=False, demands_key=False), host) is accepted


@pytest.mark.parametrize("entry", ["", "a b", "http://hub.lan", "hub.lan/x", "10.0.0.1/8", "user@hub"])
def test_a_wrong_allow_entry_is_refused_at_start(entry):
    with pytest.raises(InvalidRequest) as refusal:
        rules(entry)
    assert refusal.value.fields[0].field == "hosts.allow"


@pytest.mark.parametrize("url", ["hub.example", "ftp://hub.example", "https://", "https://a@b", "https://h?x=1"])
def test_a_wrong_public_url_is_refused_at_start(url):
    with pytest.raises(InvalidRequest) as refusal:
        rules(public_url=url)
    assert refusal.value.fields[0].field == "public_url"


# --- Origin ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "accepted"),
    [
        (None, True),
        ("http://localhost:7070", True),
        ("http://127.0.0.1:3000", True),
        ("https://localhost", True),
        ("http://[::1]:6274", True),
        ("null", False),
        ("", False),
        ("http://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://localhost@evil.example", False),
        ("file://", False),
        ("chrome-extension://localhost", False),
        ("http://localhost:7070/path", False),
        ("http://localhost, http://evil.example", False),
    ],
)
def test_on_loopback_only_pages_of_this_machine_may_call(origin, accepted):
    assert accepts(rules(), "localhost:7070", origin) is accepted


@pytest.mark.parametrize(
    ("host", "origin", "accepted"),
    [
        ("hub.example", "https://hub.example", True),
        ("hub.example:443", "https://hub.example", True),
        ("hub.example:8443", "https://hub.example", False),
        ("hub.example", "https://app.example", True),
        ("hub.example", "https://APP.example:443", True),
        ("hub.example", "http://app.example", False),
        ("hub.example", "https://evil.example", False),
        ("hub.example", "http://localhost:3000", False),
        ("hub.example", "null", False),
    ],
)
def test_off_loopback_the_hubs_own_and_the_listed_origins_may_call(host, origin, accepted):
    checked = rules(loopback=False, demands_key=True, origins=["https://app.example/"])
    assert accepts(checked, host, origin) is accepted


def test_the_public_url_is_an_origin_of_the_hubs_own_behind_a_proxy():
    checked = rules(loopback=False, demands_key=True, public_url="https://hub.example")
    assert accepts(checked, "hub.example", "https://hub.example")
    assert accepts(checked, "localhost:7070", "https://hub.example")


def test_every_origin_can_be_allowed_but_null_never():
    checked = rules(origins=["*"])
    assert accepts(checked, "localhost", "https://anything.example")
    assert not accepts(checked, "localhost", "null")


@pytest.mark.parametrize("entry", ["app.example", "https://app.example/path", "null", "https://"])
def test_a_wrong_origin_entry_is_refused_at_start(entry):
    with pytest.raises(InvalidRequest) as refusal:
        rules(origins=[entry])
    assert refusal.value.fields[0].field == "hosts.origins"


# --- the cache, proxies -----------------------------------------------------------------------------


def test_what_was_accepted_without_a_key_is_looked_at_again_once_one_is_demanded():
    demanded = [True]
    checked = HostRules(HostSettings(), loopback=False, public_url=None, demands_key=lambda: demanded[0])
    assert accepts(checked, "any.example")
    demanded[0] = False
    assert not accepts(checked, "any.example")


def test_many_distinct_hosts_do_not_grow_the_memory_without_bound():
    checked = rules(loopback=False, demands_key=True)
    for number in range(5_000):
        assert accepts(checked, f"h{number}.example")
    assert len(checked._accepted) <= 1_024


def test_an_open_hub_refuses_what_a_proxy_forwards_and_a_locked_one_takes_it():
    assert not accepts(rules(), "localhost", forwarded=True)
    assert accepts(rules(demands_key=True), "localhost", forwarded=True)


def test_a_pair_seen_before_costs_a_dictionary_look_up():
    checked = rules()
    # About 0.3 us here; the bound leaves room for a busy machine and still catches parsing.
    once = min(timeit.repeat(lambda: checked.check(b"localhost:7070", None), number=5_000, repeat=5)) / 5_000
    assert once < 2e-6


# --- listening ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]", "::ffff:127.0.0.1"])
def test_loopback_needs_no_authentication(host):
    check_listen_address(host, authenticated=False, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "hub.example", "127.0.0.1.nip.io", "127.1"])
def test_anything_else_is_refused_without_authentication_and_says_the_ways_out(host):
    with pytest.raises(InvalidRequest) as refusal:
        check_listen_address(host, authenticated=False, insecure=False)
    assert refusal.value.fields[0].field == "host"
    assert "meshway keys create" in refusal.value.detail
    assert "--insecure" in refusal.value.detail
    check_listen_address(host, authenticated=True, insecure=False)
    check_listen_address(host, authenticated=False, insecure=True)
