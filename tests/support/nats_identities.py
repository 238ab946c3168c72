"""Who may use a test's NATS server: nkeys, and the JWTs of an operator, an account and a user, as `nsc` makes them."""

import base64
import binascii
import json
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

__all__ = ["Identity", "JwtServer"]

_SEED = 18 << 3
_KINDS = {"operator": 14 << 3, "account": 0, "user": 20 << 3}
_UNLIMITED = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
_JETSTREAM = dict.fromkeys(("mem_storage", "disk_storage", "streams", "consumer"), -1)


class Identity:
    """An nkey. `public` is what servers list, `seed` what its owner keeps."""

    def __init__(self, kind: str = "user") -> None:
        self.kind = kind
        self._key = Ed25519PrivateKey.generate()
        public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        private = self._key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        prefix = _KINDS[kind]
        self.public = _encode(bytes([prefix]) + public)
        self.seed = _encode(bytes([_SEED | prefix >> 5, (prefix & 31) << 3]) + private)

    def sign_jwt(self, subject: "Identity", claims: dict[str, object], *, expires_s: int | None = None) -> str:
        now_s = int(time.time())
        body: dict[str, object] = {
            "jti": "test",
            "iat": now_s,
            "iss": self.public,
            "sub": subject.public,
            "name": subject.kind,
            "nats": {"type": subject.kind, "version": 2, **claims},
        }
        if expires_s is not None:
            body["exp"] = now_s + expires_s
        signed = f"{_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{_part(body)}"
        return f"{signed}.{_base64(self._key.sign(signed.encode()))}"


class JwtServer:
    """What a server with an operator is told, and the credentials of its users."""

    def __init__(self, *, with_jetstream: bool = True) -> None:
        operator, self._account, system = Identity("operator"), Identity("account"), Identity("account")
        limits = _UNLIMITED | {"wildcards": True} | (_JETSTREAM if with_jetstream else {})
        account = operator.sign_jwt(self._account, {"limits": limits})
        self.options = (
            f"operator: {operator.sign_jwt(operator, {})}\nresolver: MEMORY\n"
            f"system_account: {system.public}\nresolver_preload: {{ {self._account.public}: {account}, "
            f"{system.public}: {operator.sign_jwt(system, {'limits': _UNLIMITED})} }}"
        )

    def write_credentials(self, file: Path, *, expires_s: int | None = None) -> str:
        """Of a new user; the path of the file."""
        user = Identity()
        jwt = self._account.sign_jwt(user, _UNLIMITED | {"sub": {}, "pub": {}, "subs": -1}, expires_s=expires_s)
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
        return str(file)


def _encode(raw: bytes) -> str:
    checksum = binascii.crc_hqx(raw, 0).to_bytes(2, "little")
    return base64.b32encode(raw + checksum).decode().rstrip("=")


def _part(value: object) -> str:
    return _base64(json.dumps(value).encode())


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
