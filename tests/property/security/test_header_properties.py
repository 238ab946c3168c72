"""For every header text: the door answers with one of its own errors, and never lets a stranger's name in."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from meshway.kernel.errors import Forbidden, Unauthenticated
from meshway.security.credentials import read_credentials
from meshway.security.hosts import HostRules
from meshway.security.settings import HostSettings

NAMES = st.sampled_from([b"authorization", b"Authorization", b"x-api-key", b"X-API-KEY", b"host", b"origin"])
RULES = HostRules(HostSettings(), loopback=True, public_url=None, demands_key=lambda: False)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=40)), max_size=4))
def test_any_headers_give_a_printable_key_none_or_a_refusal(headers):
    with contextlib.suppress(Unauthenticated):
        key = read_credentials(headers).key
        assert key is None or (key.isascii() and key.isprintable() and " " not in key and key)


@given(st.binary(max_size=60), st.none() | st.binary(max_size=60))
def test_any_host_and_origin_are_accepted_or_refused(host, origin):
    with contextlib.suppress(Forbidden):
        RULES.check(host, origin)
        assert host.lower().startswith((b"localhost", b"127.", b"[::", b"[0"))


@given(st.text(alphabet="abcxyz019.-", min_size=1, max_size=30))
def test_no_name_below_a_foreign_domain_passes_for_this_machine(prefix):
    accepted = True
    try:
        RULES.check(f"{prefix}.example".encode(), None)
    except Forbidden:
        accepted = False
    assert not accepted
