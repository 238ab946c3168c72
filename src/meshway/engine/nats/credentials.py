"""Files that show who a hub is to NATS: a .creds file (a JWT and the seed of its key), or the seed of an nkey alone.

An nkey is an Ed25519 key: https://docs.nats.io/running-a-nats-service/configuration/securing_nats/auth_intro/nkey_auth
A seed is base32 of a byte for "seed" and one for its kind, both mixed over 16 bits, 32 bytes of key and a checksum.
"""

import base64
import binascii
import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

__all__ = ["CredentialsError", "UserKey", "read_credentials", "read_nkey_seed"]

_SEED = 18 << 3
_USER = 20 << 3
_SEED_BYTES = 36
_BLOCK = re.compile(r"-{3,}BEGIN ([A-Z ]+)-{3,}\s+(\S+)\s+-{3,}END")
_JWT, _NKEY = "NATS USER JWT", "USER NKEY SEED"
# A credentials file is about a kilobyte.
_FILE_BYTES_MAX = 64 * 1024


class CredentialsError(Exception):
    """A file that cannot be used; the text says which, and what it should be."""


class UserKey:
    """The key of a NATS user. `public`: as servers list it, beginning with U."""

    def __init__(self, seed: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(seed)
        raw = bytes([_USER]) + self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public = base64.b32encode(raw + _checksum(raw)).decode().rstrip("=")

    def sign(self, challenge: bytes) -> bytes:
        return self._key.sign(challenge)


def read_credentials(file: Path) -> tuple[str, UserKey]:
    """The JWT and the key of a .creds file. Raises: CredentialsError."""
    blocks = dict(_BLOCK.findall(_text(file)))
    if _JWT not in blocks or _NKEY not in blocks:
        text = (
            f"{file} is no credentials file: it needs the blocks {_JWT} and {_NKEY}, as `nsc generate creds` makes it"
        )
        raise CredentialsError(text)
    return blocks[_JWT], _user_key(blocks[_NKEY], file)


def read_nkey_seed(file: Path) -> UserKey:
    """The key of a file with a seed. Raises: CredentialsError."""
    return _user_key(_text(file).strip(), file)


def _text(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_FILE_BYTES_MAX).decode("utf-8", "replace")
    except OSError as error:
        raise CredentialsError(f"{file} cannot be read: {error.strerror}") from error


def _user_key(text: str, file: Path) -> UserKey:
    wrong = CredentialsError(f"{file} has no seed of a user's nkey: one line that begins with SU")
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except binascii.Error:
        raise wrong from None
    if len(raw) != _SEED_BYTES or _checksum(raw[:-2]) != raw[-2:]:
        raise wrong
    kind = (raw[0] & 7) << 5 | raw[1] >> 3
    if raw[0] & 0xF8 != _SEED or kind != _USER:
        raise wrong
    return UserKey(raw[2:-2])


def _checksum(raw: bytes) -> bytes:
    """CRC-16/XMODEM, low byte first."""
    return binascii.crc_hqx(raw, 0).to_bytes(2, "little")
