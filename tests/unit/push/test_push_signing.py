"""The hub's signature: a receiver that knows the published key can check it, with any JWT library's rules."""

import base64
import json

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from meshway.gateway.push_ports import NotificationClaims
from meshway.security.push_signing import PushSigner

CLAIMS = NotificationClaims(
    audience="https://receiver.example/hook",
    issued_at_s=1_800_000_000,
    expires_at_s=1_800_000_300,
    token_id="j-1",
    task_id="t-1",
    event_number=7,
    sha256="00ff",
)


def unpacked(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verified(token, jwks):
    """What RFC 7515 (5.2) says, step by step. Raises: InvalidSignature."""
    header, payload, signature = token.split(".")
    named = json.loads(unpacked(header))
    (key,) = [key for key in json.loads(jwks)["keys"] if key["kid"] == named["kid"]]
    assert (named["alg"], key["kty"], key["crv"]) == ("EdDSA", "OKP", "Ed25519")
    Ed25519PublicKey.from_public_bytes(unpacked(key["x"])).verify(unpacked(signature), f"{header}.{payload}".encode())
    return json.loads(unpacked(payload))


def test_a_signature_is_good_under_the_published_key_and_says_what_was_sent():
    signer = PushSigner(b"k" * 32, issuer="https://hub.example")
    assert verified(signer.sign(CLAIMS), signer.jwks()) == {
        "iss": "https://hub.example",
        "aud": "https://receiver.example/hook",
        "iat": 1_800_000_000,
        "exp": 1_800_000_300,
        "jti": "j-1",
        "taskId": "t-1",
        "eventNumber": 7,
        "sha256": "00ff",
    }


def test_a_changed_signature_is_refused():
    signer = PushSigner(b"k" * 32, issuer="hub")
    header, payload, signature = signer.sign(CLAIMS).split(".")
    forged = base64.urlsafe_b64encode(unpacked(payload).replace(b"t-1", b"t-2")).decode().rstrip("=")
    with pytest.raises(InvalidSignature):
        verified(f"{header}.{forged}.{signature}", signer.jwks())


def test_hubs_with_the_same_secret_key_share_the_signing_key_and_others_do_not():
    first, second, other = (PushSigner(key * 32, issuer="hub") for key in (b"k", b"k", b"x"))
    assert first.jwks() == second.jwks()
    assert verified(first.sign(CLAIMS), second.jwks())
    assert json.loads(first.jwks())["keys"][0]["kid"] != json.loads(other.jwks())["keys"][0]["kid"]


def test_the_published_set_holds_no_private_part():
    (key,) = json.loads(PushSigner(b"k" * 32, issuer="hub").jwks())["keys"]
    assert set(key) == {"kty", "crv", "x", "kid", "use", "alg"}
