"""What an API key looks like: `mw_<id>_<secret>`. Pure but for the randomness of a new one.

The id names the key in logs and lists and is no secret. The secret is 32 random bytes as URL-safe base64. Scanners for
leaked credentials can find keys by `mw_[a-z0-9]{12}_[A-Za-z0-9_-]{43}`.
"""

import hashlib
import re
import secrets
import string

from meshway.kernel.ids import KeyId

__all__ = ["KEY_PATTERN", "key_digest", "key_id_of", "new_key_text"]

# Twelve of 36 signs are 62 bits: ids do not meet by chance, and need not be unguessable.
_ID_LENGTH = 12
_ID_SIGNS = string.ascii_lowercase + string.digits
_SECRET_BYTES = 32

KEY_PATTERN = re.compile(r"mw_([a-z0-9]{12})_([A-Za-z0-9_-]{43})")


def new_key_text() -> tuple[KeyId, str]:
    """A fresh id and the whole key that carries it."""
    key_id = KeyId("".join(secrets.choice(_ID_SIGNS) for _ in range(_ID_LENGTH)))
    return key_id, f"mw_{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def key_id_of(text: str) -> KeyId | None:
    """The id inside a key of our form, None for any other text."""
    match = KEY_PATTERN.fullmatch(text)
    return KeyId(match.group(1)) if match else None


def key_digest(text: str) -> bytes:
    """SHA-256 of the whole key: what is stored and compared.

    A plain hash is right here, where for passwords it would be wrong: the secret has 256 random bits, so there is
    nothing to guess that a slow hash would have to slow down, and every request is checked.
    """
    # Text from a wire may hold lone surrogates; it must be hashed (and refused), not raise.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
