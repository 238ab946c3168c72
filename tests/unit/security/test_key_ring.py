"""Who is let in, and when that changes."""

import asyncio
import hashlib
import json
import timeit
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from meshway.engine.ports import KvDelete, KvPut
from meshway.gateway.ports import Credentials
from meshway.kernel.errors import Conflict, EngineUnavailable, InvalidRequest, KeyNotFound, Unauthenticated
from meshway.kernel.ids import AgentId, KeyId
from meshway.kernel.principal import LOCAL_OPERATOR
from meshway.security.key_text import KEY_PATTERN
from meshway.security.keys import KeyRing
from meshway.security.settings import AuthSettings, KeyEntry
from meshway.testing.clock import ManualClock
from meshway.testing.fake_key_value import FakeKeyValue

NOBODY = Credentials(None)
CONFIGURED_TEXT = "a-key-of-the-operators-own-making"


@asynccontextmanager
async def ring(
    store: FakeKeyValue,
    *,
    clock: ManualClock | None = None,
    required: bool = False,
    configured: tuple[KeyEntry, ...] = (),
    open_allowed: bool = True,
) -> AsyncIterator[KeyRing]:
    keys = KeyRing(
        store,
        settings=AuthSettings(required=required, start_timeout_ms=200),
        configured=configured,
        clock=clock or ManualClock(),
        open_allowed=open_allowed,
    )
    await keys.start()
    try:
        yield keys
    finally:
        await keys.aclose()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the ring says nothing when it learns something; requests only ask
            await asyncio.sleep(0.005)


def refused(keys: KeyRing, text: str | None) -> bool:
    try:
        keys.authenticate(Credentials(text))
    except Unauthenticated:
        return True
    return False


async def test_without_any_key_loopback_is_open_to_the_person_at_the_machine():
    async with ring(FakeKeyValue()) as keys:
        assert not keys.demands_key
        assert keys.authenticate(NOBODY) is LOCAL_OPERATOR


async def test_a_wrong_key_is_refused_even_in_open_mode():
    async with ring(FakeKeyValue()) as keys:
        with pytest.raises(Unauthenticated, match="not known"):
            keys.authenticate(Credentials("mw_abcdefghijkl_" + "x" * 43))


async def test_the_first_key_ends_open_mode_and_the_refusal_says_how_to_get_one():
    async with ring(FakeKeyValue()) as keys:
        made = await keys.create("ci", ["call"])
        assert keys.demands_key
        with pytest.raises(Unauthenticated, match=r"meshway keys create"):
            keys.authenticate(NOBODY)
        principal = keys.authenticate(Credentials(made.secret))
        assert principal.id == made.key.id
        assert principal.may_call
        assert not principal.is_admin


async def test_revoking_or_outliving_the_last_key_does_not_open_the_door_again():
    clock = ManualClock()
    store = FakeKeyValue()
    async with ring(store, clock=clock) as keys:
        short = await keys.create("short", ["call"], expires_at_ms=clock.now_ms() + 10)
        other = await keys.create("other", ["call"])
        await keys.revoke(other.key.id)
        clock.advance(10)
        assert refused(keys, short.secret)
        assert refused(keys, other.secret)
        assert refused(keys, None)
    async with ring(store, clock=clock) as restarted:
        assert refused(restarted, None)


async def test_required_demands_a_key_before_the_first_one_exists():
    async with ring(FakeKeyValue(), required=True) as keys:
        assert refused(keys, None)


async def test_off_loopback_nobody_comes_in_without_a_key():
    async with ring(FakeKeyValue(), open_allowed=False) as keys:
        assert keys.demands_key
        assert refused(keys, None)


async def test_keys_have_the_published_form_and_are_stored_only_as_a_hash():
    store = FakeKeyValue()
    async with ring(store) as keys:
        made = await keys.create("ci", ["call", "serve:billing-*", "call"])
    match = KEY_PATTERN.fullmatch(made.secret)
    assert match
    assert match.group(1) == made.key.id
    (written,) = [write for write in store.writes if isinstance(write.key, str)]
    record = json.loads(written.value)
    assert record["sha256"] == hashlib.sha256(made.secret.encode()).hexdigest()
    assert record["scopes"] == ["call", "serve:billing-*"]
    assert match.group(0).rpartition("_")[2] not in written.value.decode()
    assert written.key == f"keys.{made.key.id}"


async def test_an_expired_key_is_refused_from_its_very_millisecond_on():
    clock = ManualClock()
    async with ring(FakeKeyValue(), clock=clock) as keys:
        made = await keys.create("ci", ["call"], expires_at_ms=clock.now_ms() + 1_000)
        clock.advance(999)
        assert keys.authenticate(Credentials(made.secret)).id == made.key.id
        clock.advance(1)
        with pytest.raises(Unauthenticated, match="expired"):
            keys.authenticate(Credentials(made.secret))


async def test_a_revoked_key_is_refused_at_once_here_and_soon_on_every_hub():
    store = FakeKeyValue()
    async with ring(store) as one, ring(store) as other:
        made = await one.create("ci", ["admin"])
        await eventually(lambda: not refused(other, made.secret))
        shown = await one.revoke(made.key.id)
        assert shown.revoked_at_ms is not None
        with pytest.raises(Unauthenticated, match="revoked"):
            one.authenticate(Credentials(made.secret))
        await eventually(lambda: refused(other, made.secret))


async def test_revoking_twice_keeps_the_first_time_and_unknown_keys_are_not_found():
    clock = ManualClock()
    async with ring(FakeKeyValue(), clock=clock) as keys:
        made = await keys.create("ci", ["call"])
        first = await keys.revoke(made.key.id)
        clock.advance(5_000)
        assert (await keys.revoke(made.key.id)).revoked_at_ms == first.revoked_at_ms
        for unknown in ("nosuchkey123", "a.b", "", "config-x", "ü"):
            with pytest.raises(KeyNotFound):
                await keys.revoke(KeyId(unknown))


async def test_a_watch_that_lags_behind_does_not_undo_our_own_revocation():
    store = FakeKeyValue()
    async with ring(store) as keys:
        made = await keys.create("ci", ["call"])
        # The watch's copies of both writes are still queued when revoke returns.
        await keys.revoke(made.key.id)
        for _ in range(20):
            await asyncio.sleep(0)
            assert refused(keys, made.secret)


async def test_keys_survive_a_restart():
    store = FakeKeyValue()
    async with ring(store) as keys:
        made = await keys.create("ci", ["call"])
    async with ring(store) as keys:
        assert keys.authenticate(Credentials(made.secret)).id == made.key.id
        assert [key.name for key in await keys.list_keys()] == ["ci"]


async def test_undecided_writes_are_repeated_until_they_are_known():
    store = FakeKeyValue()
    async with ring(store) as keys:
        store.undecided = 2
        made = await keys.create("ci", ["call"])
        assert keys.authenticate(Credentials(made.secret)).id == made.key.id
        assert len(await keys.list_keys()) == 1
        store.undecided = 2
        assert (await keys.revoke(made.key.id)).revoked_at_ms is not None


async def test_a_lost_watch_is_followed_again_and_misses_nothing():
    store = FakeKeyValue()
    async with ring(store) as keys, ring(store) as other:
        kept = await other.create("kept", ["call"])
        gone = await other.create("gone", ["call"])
        await eventually(lambda: not refused(keys, gone.secret))
        store.lose_watches()
        await other.revoke(gone.key.id)
        new = await other.create("new", ["call"])
        assert not refused(keys, kept.secret)
        await eventually(lambda: refused(keys, gone.secret) and not refused(keys, new.secret))


async def test_records_that_vanish_do_not_open_the_door():
    store = FakeKeyValue()
    async with ring(store) as keys:
        made = await keys.create("ci", ["call"])
        await store.write([KvDelete(key=f"keys.{made.key.id}")])
        await eventually(lambda: refused(keys, made.secret))
        assert refused(keys, None)


@pytest.mark.parametrize(
    "value",
    [
        b"{}",
        b"not json",
        b'{"v":2,"id":"a","name":"a","scopes":["call"],"sha256":"' + b"0" * 64 + b'","created_at_ms":1}',
        b'{"v":1,"id":"a","name":"a","scopes":["root"],"sha256":"' + b"0" * 64 + b'","created_at_ms":1}',
    ],
)
async def test_a_record_that_cannot_be_read_still_counts_as_a_key(value):
    store = FakeKeyValue()
    await store.write([KvPut(key="keys.abcdefghijkl", value=value)])
    async with ring(store) as keys:
        assert refused(keys, None)
        with pytest.raises(EngineUnavailable, match="newer"):
            await keys.revoke(KeyId("abcdefghijkl"))


async def test_a_hub_that_cannot_read_its_keys_does_not_start():
    store = FakeKeyValue()
    store.fail_with = EngineUnavailable("down")
    with pytest.raises(EngineUnavailable, match=r"auth\.start_timeout_ms"):
        async with ring(store):
            pass


async def test_before_the_keys_are_read_callers_are_told_to_come_back():
    keys = KeyRing(FakeKeyValue(), settings=AuthSettings(), configured=(), clock=ManualClock(), open_allowed=True)
    for text in (None, "anything-at-all"):
        with pytest.raises(EngineUnavailable) as refusal:
            keys.authenticate(Credentials(text))
        assert refusal.value.retry_after_ms
    assert keys.demands_key


async def test_keys_can_be_made_and_listed_without_following_the_store():
    store = FakeKeyValue()
    keys = KeyRing(store, settings=AuthSettings(), configured=(), clock=ManualClock(), open_allowed=True)
    made = await keys.create("from the command line", ["admin"])
    assert [key.id for key in await keys.list_keys()] == [made.key.id]
    await keys.aclose()


@pytest.mark.parametrize(
    "entry",
    [
        KeyEntry(name="ops", key=CONFIGURED_TEXT, scopes=("admin",)),
        KeyEntry(
            name="ops", key_sha256=hashlib.sha256(CONFIGURED_TEXT.encode()).hexdigest().upper(), scopes=("admin",)
        ),
    ],
)
async def test_a_configured_key_works_and_never_reaches_the_store(entry):
    store = FakeKeyValue()
    async with ring(store, configured=(entry,)) as keys:
        assert keys.demands_key
        principal = keys.authenticate(Credentials(CONFIGURED_TEXT))
        assert principal.id == "config-ops"
        assert principal.may_serve(AgentId("anything"))
        assert [key.id for key in await keys.list_keys()] == ["config-ops"]
        with pytest.raises(Conflict, match=r"\[\[keys\]\]"):
            await keys.revoke(KeyId("config-ops"))
    assert store.writes == []


@pytest.mark.parametrize(
    ("entries", "field"),
    [
        ((KeyEntry(name="a"),), "keys.0"),
        ((KeyEntry(name="a", key="k" * 24, key_sha256="0" * 64),), "keys.0"),
        ((KeyEntry(name="a", key="k" * 24), KeyEntry(name="a", key="l" * 24)), "keys.1.name"),
        ((KeyEntry(name="a", key="k" * 24), KeyEntry(name="b", key="k" * 24)), "keys.1"),
        ((KeyEntry(name="a", key="k" * 24, scopes=("root",)),), "keys.0.scopes"),
        ((KeyEntry(name="a", key="k" * 24, scopes=()),), "keys.0.scopes"),
    ],
)
async def test_wrong_configured_keys_are_refused_by_field(entries, field):
    with pytest.raises(InvalidRequest) as refusal:
        KeyRing(FakeKeyValue(), settings=AuthSettings(), configured=entries, clock=ManualClock(), open_allowed=True)
    assert refusal.value.fields[0].field == field


@pytest.mark.parametrize(
    ("name", "scopes", "expires_in_ms", "field"),
    [
        ("", ["call"], None, "name"),
        ("x" * 65, ["call"], None, "name"),
        (" x", ["call"], None, "name"),
        ("x\n", ["call"], None, "name"),
        ("x", [], None, "scopes"),
        ("x", ["call", "root"], None, "scopes"),
        ("x", ["serve:"], None, "scopes"),
        ("x", ["call"], 0, "expires_at"),
    ],
)
async def test_a_new_key_is_checked_field_by_field(name, scopes, expires_in_ms, field):
    clock = ManualClock()
    store = FakeKeyValue()
    async with ring(store, clock=clock) as keys:
        expires_at_ms = None if expires_in_ms is None else clock.now_ms() + expires_in_ms
        with pytest.raises(InvalidRequest) as refusal:
            await keys.create(name, scopes, expires_at_ms=expires_at_ms)
        assert refusal.value.fields[0].field == field
        assert not keys.demands_key
    assert store.writes == []


@pytest.mark.parametrize("text", ["", "mw_", "\ud800", "mw_abcdefghijkl_\udc80" + "x" * 42, "ключ", "x" * 100_000])
async def test_any_text_shown_as_a_key_is_refused_not_an_accident(text):
    async with ring(FakeKeyValue()) as keys:
        assert refused(keys, text)


async def test_a_key_is_checked_within_a_few_microseconds():
    async with ring(FakeKeyValue()) as keys:
        shown = Credentials((await keys.create("ci", ["call"])).secret)
        # About 1.3 us here; the bound leaves room for a busy machine and still catches a slow hash or a scan.
        assert min(timeit.repeat(lambda: keys.authenticate(shown), number=2_000, repeat=5)) / 2_000 < 20e-6
