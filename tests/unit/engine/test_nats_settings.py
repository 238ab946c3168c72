"""What `engine` may say of a NATS cluster: where it is, and perhaps who we are there."""

import pytest

from meshway.engine.nats.settings import NatsSettings, is_nats_engine, settings_of_engine
from meshway.kernel.errors import InvalidRequest

HERE = NatsSettings(servers=("nats://here:4222",), prefix="mine")


def refusal(engine, settings=HERE):
    with pytest.raises(InvalidRequest) as refused:
        settings_of_engine(engine, settings)
    (field,) = refused.value.fields
    assert field.field == "engine"
    return refused.value.detail


@pytest.mark.parametrize(
    ("engine", "is_ours"),
    [("nats", True), ("nats://a", True), ("tls://a", True), ("embedded", False), ("http://a", False), ("natsy", False)],
)
def test_it_is_known_by_its_scheme(engine, is_ours):
    assert is_nats_engine(engine) is is_ours


def test_the_bare_name_keeps_the_servers_of_the_section():
    assert settings_of_engine("nats", HERE) is HERE


@pytest.mark.parametrize(
    ("engine", "servers"),
    [
        ("nats://a", ("nats://a",)),
        ("nats://a:4333/", ("nats://a:4333",)),
        ("nats://a,b:4333,nats://c", ("nats://a", "nats://b:4333", "nats://c")),
        ("nats://a, b", ("nats://a", "nats://b")),
        ("tls://a,b", ("tls://a", "tls://b")),
        ("nats://[::1]:4222", ("nats://[::1]:4222",)),
    ],
)
def test_servers_that_are_named_take_the_place_of_others(engine, servers):
    found = settings_of_engine(engine, HERE)
    assert (found.servers, found.prefix) == (servers, "mine")


def test_user_and_password_may_stand_in_it_and_leave_no_trace_in_the_address():
    found = settings_of_engine("nats://hub:s3cret@a,b", HERE)
    assert (found.user, found.password, found.token) == ("hub", "s3cret", None)
    assert found.servers == ("nats://a", "nats://b")


def test_what_an_address_cannot_hold_is_escaped_in_it():
    found = settings_of_engine("nats://hub%40mesh:p%3Ass%2Fw@a", NatsSettings())
    assert (found.user, found.password) == ("hub@mesh", "p:ss/w")


def test_a_token_may_stand_in_it():
    found = settings_of_engine("nats://s3cret@a", HERE)
    assert (found.token, found.user, found.servers) == ("s3cret", None, ("nats://a",))


def test_who_we_are_is_said_once():
    text = refusal("nats://hub:s3cret@a", NatsSettings(token="t"))
    assert "[nats]" in text
    assert "s3cret" not in text


@pytest.mark.parametrize(
    "engine",
    [
        "nats://",
        "nats://a,,b",
        "nats://a:0",
        "nats://a:99999",
        "nats://a:port",
        "nats://a/path",
        "nats://a?x=1",
        "nats://a,http://b",
        "nats://[::1",
    ],
)
def test_what_is_no_list_of_servers_is_refused_with_an_example(engine):
    assert "nats://a:4222,b:4222" in refusal(engine)


def test_a_refusal_shows_no_password():
    assert "s3cret" not in refusal("nats://hub:s3cret@a/path")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"token": "t", "user": "u", "password": "p"}, "set one of them"),
        ({"user": "u"}, "belong together"),
        ({"password": "p"}, "belong together"),
        ({"tls_key_file": "k"}, "tls_certificate_file"),
        ({"servers": ()}, "name at least one"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        NatsSettings(**fields)
