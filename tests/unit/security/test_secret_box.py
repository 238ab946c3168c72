"""Credentials at rest, and the key file that opens them."""

import base64
import stat
import threading

import pytest

from meshway.kernel.errors import EngineUnavailable, InvalidRequest, StoreCorrupt
from meshway.security.secret_box import AesGcmBox, load_secret_key, open_secret_box

KEY = bytes(range(32))


def test_what_was_sealed_opens_again_and_looks_different_each_time():
    box = AesGcmBox(KEY)
    first, second = (box.seal("Bearer s3cret-ü", context="agent:echo") for _ in range(2))
    assert first != second
    assert "s3cret" not in first
    assert box.open(first, context="agent:echo") == box.open(second, context="agent:echo") == "Bearer s3cret-ü"


def test_sealed_text_moved_to_another_agent_does_not_open():
    box = AesGcmBox(KEY)
    with pytest.raises(StoreCorrupt, match="belongs to something else"):
        box.open(box.seal("x", context="agent:a"), context="agent:b")


def test_every_changed_character_is_noticed():
    box = AesGcmBox(KEY)
    sealed = box.seal("secret", context="c")
    for position in range(len(sealed)):
        for sign in ("A", ".", "~"):
            changed = sealed[:position] + sign + sealed[position + 1 :]
            if _bytes(changed) == _bytes(sealed):
                continue
            with pytest.raises(StoreCorrupt):
                box.open(changed, context="c")


def _bytes(sealed: str) -> object:
    """The last base64 sign holds bits that mean nothing; two spellings of the same bytes are the same text."""
    head, _, data = sealed.rpartition(".")
    try:
        return head, base64.b64decode(data + "=" * (-len(data) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return sealed


@pytest.mark.parametrize("text", ["", "plain", "mws1..", "mws1.x", "mws2.aaaaaaaa.AAAA", "a.b.c.d", "mws1.ü.ü"])
def test_text_that_was_never_sealed_is_refused(text):
    with pytest.raises(StoreCorrupt):
        AesGcmBox(KEY).open(text, context="c")


def test_another_hubs_key_is_named_so_that_the_right_one_can_be_brought_back():
    sealed = AesGcmBox(KEY).seal("x", context="c")
    key_id = sealed.split(".")[1]
    with pytest.raises(StoreCorrupt, match=rf"sealed under secret key {key_id}.*secret\.key"):
        AesGcmBox(bytes(32)).open(sealed, context="c")


def test_the_key_file_is_made_once_for_its_owner_alone(tmp_path):
    first = open_secret_box(tmp_path, secret_key=None)
    second = open_secret_box(tmp_path, secret_key=None)
    assert second.open(first.seal("x", context="c"), context="c") == "x"
    assert stat.S_IMODE((tmp_path / "secret.key").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]


def test_hubs_that_start_together_end_up_with_one_key(tmp_path):
    keys: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: keys.append(load_secret_key(tmp_path, secret_key=None))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=5)
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["secret.key"]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_key_file_that_others_may_read_is_refused_with_the_command_that_helps(tmp_path, mode):
    load_secret_key(tmp_path, secret_key=None)
    (tmp_path / "secret.key").chmod(mode)
    with pytest.raises(EngineUnavailable, match="chmod 600"):
        load_secret_key(tmp_path, secret_key=None)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 32, base64.b64encode(bytes(31)), b"=" * 44])
def test_a_key_file_without_a_key_is_never_replaced_silently(tmp_path, content):
    path = tmp_path / "secret.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StoreCorrupt, match="backup"):
        load_secret_key(tmp_path, secret_key=None)
    assert path.read_bytes() == content


def test_a_missing_directory_is_a_clear_error(tmp_path):
    with pytest.raises(EngineUnavailable, match=r"secret\.key cannot be read or made"):
        load_secret_key(tmp_path / "nowhere", secret_key=None)


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_the_setting_takes_both_kinds_of_base64_and_no_file_is_made(tmp_path, encode):
    key = bytes(range(224, 256))
    assert load_secret_key(tmp_path, secret_key=encode(key).decode()) == key
    assert load_secret_key(tmp_path, secret_key=encode(key).decode().rstrip("=") + "\n") == key
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", "password", "x" * 44, base64.b64encode(bytes(33)).decode()])
def test_a_setting_that_is_no_key_is_refused_without_being_repeated(tmp_path, text):
    with pytest.raises(InvalidRequest, match="openssl rand -base64 32") as refusal:
        load_secret_key(tmp_path, secret_key=text)
    assert not text or text not in refusal.value.detail
