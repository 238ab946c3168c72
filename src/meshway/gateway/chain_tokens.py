"""Chains of delegation as text: given to an agent with its work, sent back by it with each call that it makes.

`<sealed key>~<what it says, base64>~<mark>`, see `marking_keys`; the mark is BLAKE2b with a key (RFC 7693, 2.9), over
the text itself, so that no letter of it can be changed. Every hub with the same secret key reads it, after a restart
too; nobody else can write or change one. The text is no secret to the agent that holds it, and who else holds it may
use it: it says in whose course a call is made, not who makes it.
"""

import binascii
import hmac
from hashlib import blake2b

import msgspec

from meshway.gateway.marking_keys import MarkingKeys
from meshway.gateway.ports import SecretBox
from meshway.kernel.delegation import HOPS_MAX, Chain
from meshway.kernel.errors import InvalidRequest, wrong_field

__all__ = ["CHAIN_HEADER", "ChainTokens"]

CHAIN_HEADER = "Meshway-Chain"
_CONTEXT = "chain"
# A guess is right with 2**-128.
_MARK_BYTES = 16
# As much as common servers take in one header line; ours have some 200 characters, and 1,500 with sixteen usual hops.
_TOKEN_CHARACTERS_MAX = 8_192

_encode = msgspec.msgpack.Encoder().encode
_decode_chain = msgspec.msgpack.Decoder(Chain).decode


class ChainTokens:
    """One per hub. Every call that the hub passes on carries a token, so writing one costs a few microseconds."""

    def __init__(self, secret_box: SecretBox) -> None:
        self._keys = MarkingKeys(secret_box, context=_CONTEXT)

    def write(self, chain: Chain) -> str:
        """The chain as text for a header."""
        assert 0 < chain.depth <= HOPS_MAX, chain.depth
        sealed_key, key = self._keys.own()
        text = f"{sealed_key}~{binascii.b2a_base64(_encode(chain), newline=False).decode()}"
        return f"{text}~{_mark(key, text)}"

    def read(self, token: str) -> Chain:
        """Raises: InvalidRequest naming the header when no hub of this mesh wrote it so."""
        text, _, mark = token.rpartition("~")
        sealed_key, separator, said = text.partition("~")
        if not separator or len(token) > _TOKEN_CHARACTERS_MAX or not token.isascii():
            raise _unknown()
        key = self._keys.open(sealed_key)
        if key is None or not hmac.compare_digest(mark, _mark(key, text)):
            raise _unknown()
        return _chain_of(said)


def _mark(key: bytes, text: str) -> str:
    return blake2b(text.encode(), key=key, digest_size=_MARK_BYTES).hexdigest()


def _chain_of(said: str) -> Chain:
    try:
        chain = _decode_chain(binascii.a2b_base64(said))
    except (binascii.Error, msgspec.DecodeError):
        # A hub of another version wrote it.
        raise _unknown() from None
    if not 0 < chain.depth <= HOPS_MAX:
        raise _unknown()
    return chain


def _unknown() -> InvalidRequest:
    return wrong_field(CHAIN_HEADER, "is no chain of delegation of this mesh; send it back exactly as the hub gave it")
