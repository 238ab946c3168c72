"""Seals stored credentials with AES-256-GCM, under a key that is kept beside the data or given by the environment.

Sealed text is `mws1.<key id>.<nonce and ciphertext, base64url>`. The key id says which key is missing when somebody
restores data without it. The context (whose credential this is) is authenticated, so sealed text that is moved to
another agent's record does not open.
"""

import base64
import binascii
import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from meshway.kernel.errors import EngineUnavailable, FieldError, InvalidRequest, StoreCorrupt

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["KEY_FILE_NAME", "AesGcmBox", "decode_secret_key", "load_secret_key", "open_secret_box"]

KEY_FILE_NAME = "secret.key"
_KEY_BYTES = 32
# The size GCM is made for. Random nonces are safe up to 2**32 seals under one key (NIST SP 800-38D, 8.3).
_NONCE_BYTES = 12
_FORMAT = "mws1"


class AesGcmBox:
    """Implements the port SecretBox."""

    def __init__(self, key: bytes) -> None:
        """`key`: 32 random bytes."""
        self._key = key
        self._key_id = hashlib.sha256(b"meshway secret key id" + key).hexdigest()[:8]
        self._cipher_made: AESGCM | None = None

    @property
    def key_id(self) -> str:
        """Names the key, and says nothing about it: 8 hexadecimal digits."""
        return self._key_id

    def seal(self, plaintext: str, *, context: str) -> str:
        """Text that only `open` with the same key and context reads; different each time."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + self._cipher().encrypt(nonce, plaintext.encode(), self._associated(context))
        return f"{_FORMAT}.{self._key_id}.{base64.urlsafe_b64encode(sealed).decode().rstrip('=')}"

    def open(self, sealed: str, *, context: str) -> str:
        """Raises: StoreCorrupt when it was sealed by another key, for another context, or changed."""
        parts = sealed.split(".")
        if len(parts) != 3 or parts[0] != _FORMAT:
            raise StoreCorrupt("A stored credential is not sealed text of this version; set the credential again.")
        if parts[1] != self._key_id:
            raise StoreCorrupt(
                f"A stored credential was sealed under secret key {parts[1]}, this hub has {self._key_id}. Bring back "
                f"that {KEY_FILE_NAME} (or MESHWAY_SECRET_KEY), or set the credential again."
            )
        try:
            data = base64.b64decode(parts[2] + "=" * (-len(parts[2]) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise StoreCorrupt("A stored credential is damaged; set the credential again.") from None
        return self._decrypt(data, context)

    def _decrypt(self, data: bytes, context: str) -> str:
        # Imported with the cipher, see _cipher.
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - see _cipher

        try:
            return self._cipher().decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], self._associated(context)).decode()
        except (InvalidTag, ValueError):
            raise StoreCorrupt(
                "A stored credential is damaged or belongs to something else; set the credential again."
            ) from None

    def _cipher(self) -> "AESGCM":
        if self._cipher_made is None:
            # The library takes 6 MB and 10 ms; most hubs keep no credential and never come here.
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - the line above says why

            self._cipher_made = AESGCM(self._key)
        return self._cipher_made

    def _associated(self, context: str) -> bytes:
        return f"{_FORMAT}.{self._key_id}.{context}".encode()


def open_secret_box(data_dir: Path, *, secret_key: str | None) -> AesGcmBox:
    """The box of this hub. `secret_key`: the setting (MESHWAY_SECRET_KEY), None to use the file in the data directory.

    Raises: as `load_secret_key`.
    """
    return AesGcmBox(load_secret_key(data_dir, secret_key=secret_key))


def load_secret_key(data_dir: Path, *, secret_key: str | None) -> bytes:
    """The 32 bytes given, else those of `secret.key`, which is made when missing. Blocks on the disk; run at start.

    Raises: InvalidRequest when the setting is no key, EngineUnavailable when the file cannot be read or others may
    read it, StoreCorrupt when it holds no key.
    """
    given = decode_secret_key(secret_key)
    if given is not None:
        return given
    path = data_dir / KEY_FILE_NAME
    try:
        if not path.exists():
            _create_key_file(path)
        return _read_key_file(path)
    except OSError as error:
        raise EngineUnavailable(f"{path} cannot be read or made: {error.strerror or error}.") from None


def decode_secret_key(secret_key: str | None) -> bytes | None:
    """The 32 bytes of the setting; None for None. Raises: InvalidRequest naming `secret_key`."""
    key = None if secret_key is None else _decode_key(secret_key)
    if key is None and secret_key is not None:
        message = "must be 32 random bytes in base64; make one with `openssl rand -base64 32`"
        raise InvalidRequest(f"secret_key: {message}", fields=[FieldError("secret_key", message)])
    return key


def _create_key_file(path: Path) -> None:
    """Write a fresh key so that nobody ever sees half of it or an open file; the first of two hubs wins."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(_KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link, unlike a rename, fails where the name is taken.
            path.hardlink_to(temporary)
        except FileExistsError:
            return
    finally:
        temporary.unlink()
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _read_key_file(path: Path) -> bytes:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise EngineUnavailable(
                f"{path} may be read by others (mode {stat.S_IMODE(status.st_mode):04o}). It opens every stored "
                f"credential: run `chmod 600 {path}`, and make new credentials if somebody else had access."
            )
        text = file.read(1_024).decode("ascii", "replace")
    key = _decode_key(text)
    if key is None:
        raise StoreCorrupt(
            f"{path} holds no key (32 bytes in base64). Restore it from a backup; or remove it, start the hub, and set "
            "the credentials of agents again."
        )
    return key


def _decode_key(text: str) -> bytes | None:
    compact = text.strip().replace("-", "+").replace("_", "/")
    try:
        key = base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None
    return key if len(key) == _KEY_BYTES else None
