"""Delivery ids that say all there is to know of a hand-out, so that any hub can settle it; signed, so that only what
a hub of this mesh handed out is settled.
"""

import base64
import binascii
from collections.abc import Iterator
from hashlib import blake2b
from hmac import compare_digest

import msgspec

__all__ = ["Delivery", "DeliveryIds", "Held", "HeldMessages", "consumer_of"]

_MAC_BYTES = 12
# A longer one is none of ours.
_CHARACTERS_MAX = 512
# How long a lease that ended without a word is still remembered, and how often that is looked at.
_REMEMBERED_MS = 60_000
_FORGET_EVERY = 1_024


class Delivery(msgspec.Struct, frozen=True, array_like=True):
    """One hand-out. `ack_subject` is the server's; `until_ms` the end of the lease as it was handed out."""

    seq: int
    attempt: int
    leased_at_ms: int
    until_ms: int
    ack_subject: str
    lease_ms: int

    @property
    def consumer(self) -> str:
        return consumer_of(self.ack_subject)

    @property
    def delivered(self) -> int:
        """How often the server had handed it out, this one included."""
        return int(self.ack_subject.split(self.consumer + ".", 1)[1].split(".", 1)[0])

    @property
    def queue_hash(self) -> str:
        return self.consumer.split("-")[1]


def consumer_of(ack_subject: str) -> str:
    """`$JS.ACK.[domain.account.]stream.consumer.delivered.stream-seq.consumer-seq.time-ns.pending[.token]`."""
    tokens = ack_subject.split(".")
    return tokens[3] if len(tokens) < 11 else tokens[5]


class DeliveryIds:
    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def encode(self, delivery: Delivery) -> str:
        said = msgspec.msgpack.encode(delivery)
        return base64.urlsafe_b64encode(self._mac(said) + said).decode().rstrip("=")

    def decode(self, text: str) -> Delivery | None:
        """None for what was damaged, or never handed out in this mesh."""
        if len(text) > _CHARACTERS_MAX or not text.isascii():
            return None
        try:
            found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
            mac, said = found[:_MAC_BYTES], found[_MAC_BYTES:]
            if not compare_digest(mac, self._mac(said)):
                return None
            return msgspec.msgpack.decode(said, type=Delivery)
        except (binascii.Error, msgspec.DecodeError):
            return None

    def _mac(self, said: bytes) -> bytes:
        return blake2b(said, digest_size=_MAC_BYTES, key=self._secret).digest()


class Held:
    """What this hub knows of a message it handed out: the attempt, and until when nobody else gets it."""

    __slots__ = ("attempt", "is_settled", "until_ms")

    def __init__(self, attempt: int, until_ms: int) -> None:
        self.attempt = attempt
        self.until_ms = until_ms
        # It was given back, and is due at `until_ms`.
        self.is_settled = False


class HeldMessages:
    """Those of this hub, by hash of the queue and sequence. A server that lost its leases is told by it."""

    def __init__(self) -> None:
        self._queues: dict[str, dict[int, Held]] = {}
        self._added = 0

    def get(self, queue_hash: str, seq: int) -> Held | None:
        held = self._queues.get(queue_hash)
        return None if held is None else held.get(seq)

    def put(self, queue_hash: str, seq: int, held: Held, *, now_ms: int) -> None:
        self._added += 1
        if self._added % _FORGET_EVERY == 0:
            self._forget(now_ms - _REMEMBERED_MS)
        self._queues.setdefault(queue_hash, {})[seq] = held

    def pop(self, queue_hash: str, seq: int) -> None:
        held = self._queues.get(queue_hash)
        if held is not None:
            held.pop(seq, None)

    def drop_queue(self, queue_hash: str) -> None:
        self._queues.pop(queue_hash, None)

    def of_queue(self, queue_hash: str) -> Iterator[Held]:
        return iter(self._queues.get(queue_hash, {}).values())

    def _forget(self, before_ms: int) -> None:
        for queue_hash, held in list(self._queues.items()):
            for seq in [seq for seq, one in held.items() if one.until_ms < before_ms]:
                del held[seq]
            if not held:
                del self._queues[queue_hash]
