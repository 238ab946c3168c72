"""The hub's signature under push notifications: a JWS with Ed25519 (RFC 7515, RFC 8037), and its public key as JWKS.

The key is derived from the hub's secret key, so all hubs that share that one sign alike, nothing more is stored, and a
new secret key brings a new signing key under another id.
"""

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

import msgspec

from meshway.gateway.push_ports import NotificationClaims

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["PushSigner"]

# Says what the derived key is for: no other use of the secret key may ever come to the same bytes.
_PURPOSE = b"meshway push notification signing key, 1"


class PushSigner:
    """Implements the port NotificationSigner."""

    def __init__(self, secret_key: bytes, *, issuer: str) -> None:
        """`secret_key`: the hub's 32 random bytes. `issuer`: the claim `iss`, the hub's public URL where it has one."""
        # One block of HKDF-Expand (RFC 5869, 2.3) under a key that is uniformly random already.
        self._seed = hmac.digest(secret_key, _PURPOSE + b"\x01", "sha256")
        self._issuer = issuer
        self._made: tuple[Ed25519PrivateKey, dict[str, str], str] | None = None

    def sign(self, claims: NotificationClaims) -> str:
        """A compact JWS whose payload is a JWT; about 0.1 ms."""
        private_key, _, header = self._key()
        payload = {
            "iss": self._issuer,
            "aud": claims.audience,
            "iat": claims.issued_at_s,
            "exp": claims.expires_at_s,
            "jti": claims.token_id,
            "taskId": claims.task_id,
            "eventNumber": claims.event_number,
            "sha256": claims.sha256,
        }
        signed = f"{header}.{_base64url(msgspec.json.encode(payload))}"
        return f"{signed}.{_base64url(private_key.sign(signed.encode()))}"

    def jwks(self) -> bytes:
        """See NotificationSigner."""
        _, public, _ = self._key()
        return msgspec.json.encode({"keys": [public]})

    def _key(self) -> "tuple[Ed25519PrivateKey, dict[str, str], str]":
        """The private key, the public one as a JWK, and the encoded header of every signature."""
        if self._made is None:
            # The library takes 6 MB and 10 ms; a hub without push configs never comes here.
            from cryptography.hazmat.primitives.asymmetric.ed25519 import (  # noqa: PLC0415 - the line above says why
                Ed25519PrivateKey,
            )

            private_key = Ed25519PrivateKey.from_private_bytes(self._seed)
            # The members that a thumbprint is made of, in its order (RFC 7638, 3.2; RFC 8037, 2).
            bare = {"crv": "Ed25519", "kty": "OKP", "x": _base64url(private_key.public_key().public_bytes_raw())}
            key_id = _base64url(hashlib.sha256(msgspec.json.encode(bare)).digest())
            header = {"alg": "EdDSA", "kid": key_id, "typ": "JWT"}
            public = bare | {"kid": key_id, "use": "sig", "alg": "EdDSA"}
            self._made = private_key, public, _base64url(msgspec.json.encode(header))
        return self._made


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")
