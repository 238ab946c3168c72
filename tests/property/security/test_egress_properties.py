"""For every address and every spelling of a URL: nothing that must not be reached is let through."""

import ipaddress
import re
from urllib.parse import urlsplit

from hypothesis import assume, given
from hypothesis import strategies as st

from meshway.kernel.clock import SystemClock
from meshway.kernel.errors import EgressDenied, InvalidRequest
from meshway.security.addresses import AddressKind, address_kind
from meshway.security.egress import CheckedEgress
from meshway.security.settings import EgressSettings

STRICT = CheckedEgress(EgressSettings(), loopback=False, clock=SystemClock())
OPEN = CheckedEgress(
    EgressSettings(allow_private=True, allow=("0.0.0.0/0", "::/0")), loopback=True, clock=SystemClock()
)

v4 = st.ip_addresses(v=4)
v6 = st.ip_addresses(v=6)


def refuses(rules: CheckedEgress, url: str) -> bool:
    try:
        rules.check_url(url)
    except (EgressDenied, InvalidRequest):
        return True
    return False


def url_of(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return f"http://[{address}]/" if address.version == 6 else f"http://{address}/"


@given(v4 | v6)
def test_what_the_standard_library_calls_private_or_special_is_never_public(address):
    """The library's tables are written by others from the same registries: a second opinion."""
    special = address.is_link_local or address.is_multicast or address.is_loopback or address.is_unspecified
    documentation = any(
        address in ipaddress.ip_network(text)
        for text in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20")
        if ipaddress.ip_network(text).version == address.version
    )
    assume(not documentation)
    if special or (address.version == 4 and address.is_private):
        assert address_kind(address) is not AddressKind.PUBLIC
        assert refuses(STRICT, url_of(address))


@given(v4, st.sampled_from(["::ffff:0:0", "::ffff:0:0:0", "64:ff9b::"]))
def test_an_address_inside_an_ipv6_address_is_judged_like_itself(inner, prefix):
    outer = ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | int(inner))
    assert address_kind(outer) is address_kind(inner)


@given(v4, st.integers(min_value=0, max_value=(1 << 80) - 1))
def test_abandoned_transition_addresses_are_refused_whatever_they_carry(inner, rest):
    six_to_four = ipaddress.IPv6Address((0x2002 << 112) | (int(inner) << 80) | rest)
    assert address_kind(six_to_four) is AddressKind.FORBIDDEN
    assert refuses(OPEN, url_of(six_to_four))


@given(v4, st.sampled_from(["{}", "0x{:x}", "0{:o}"]))
def test_one_number_for_an_ipv4_address_is_refused_in_every_base(address, form):
    assert refuses(OPEN, f"http://{form.format(int(address))}/")


@given(v4, st.lists(st.sampled_from(["0x{:x}", "0{:03o}", "00{}"]), min_size=4, max_size=4))
def test_hexadecimal_and_octal_parts_are_refused(address, forms):
    parts = [form.format(part) for form, part in zip(forms, address.packed, strict=True)]
    assert refuses(OPEN, f"http://{'.'.join(parts)}/")


@given(st.text(max_size=60) | st.from_regex(re.compile(r"https?://[^\s]{0,40}", re.ASCII), fullmatch=True))
def test_any_text_is_accepted_or_refused_and_what_is_accepted_reads_the_same_elsewhere(text):
    if refuses(STRICT, text):
        return
    parts = urlsplit(text)
    assert parts.scheme in {"http", "https"}
    assert parts.username is None
    assert parts.hostname
    assert parts.hostname.isascii()
    assert parts.port != 0
    assert not parts.fragment
