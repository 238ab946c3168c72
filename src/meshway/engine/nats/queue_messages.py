"""Queued messages and their companions as they are stored: encodings. Pure.

What JetStream must not read stands in one header of ours, as JSON in ASCII: header values are stripped and may hold no
line breaks.
"""

import json
from collections.abc import Mapping, Sequence

import msgspec

from meshway.engine.nats.jetstream import Stored
from meshway.engine.ports import AttemptRecord, DeadLetter, Priority, QueueAppend, QueuedMessage
from meshway.kernel.retry import LEASE_RAN_OUT

__all__ = [
    "HEADER",
    "DeadRecord",
    "Head",
    "History",
    "decode_dead",
    "decode_head",
    "decode_history",
    "encode_head",
    "encode_record",
    "was_handed_out",
    "whole_seconds",
]

HEADER = "Mw-H"
_ATTEMPTS_KEPT = 16


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a message carries besides its data."""

    id: str = ""
    enqueued_at_ms: int = 0
    priority: int = int(Priority.NORMAL)
    key: str | None = None
    expires_at_ms: int | None = None
    headers: Mapping[str, str] = {}
    # Those that were over when the message was copied here from another engine.
    attempts: tuple[AttemptRecord, ...] = ()

    def history(self) -> "History":
        """Of hand-outs before its first one here: the server does not count those."""
        return History(-self.attempts[-1].attempt if self.attempts else 0, self.attempts)

    def message(self, queue: str, data: bytes, position: str = "") -> QueuedMessage:
        return QueuedMessage(
            queue=queue,
            message_id=self.id,
            data=data,
            headers=self.headers,
            priority=Priority(self.priority),
            enqueued_at_ms=self.enqueued_at_ms,
            ordering_key=self.key,
            position=position,
        )


class History(msgspec.Struct, frozen=True, array_like=True):
    """Of one message that was given back: `uncounted` hand-outs reached nobody, the others ended as recorded.

    Negative: so many were made by the engine that it was copied from, and the server does not count them.
    """

    uncounted: int = 0
    attempts: tuple[AttemptRecord, ...] = ()

    def attempt_of(self, delivered: int) -> int:
        """The number of a hand-out, by how often the server says the message was delivered."""
        last = self.attempts[-1].attempt if self.attempts else 0
        return max(1, last + 1, delivered - self.uncounted)

    def tells_all(self, delivered: int) -> bool:
        """Whether every hand-out before this one is over, and has its end recorded here."""
        last = self.attempts[-1].attempt if self.attempts else 0
        return delivered - self.uncounted == last + 1

    def with_attempt(self, record: AttemptRecord, *, lease_ms: int) -> "History":
        """With this one as the last; what is missing before it are leases that ran out."""
        attempts = [known for known in self.attempts if known.attempt < record.attempt]
        first = attempts[-1].attempt + 1 if attempts else 1
        missing: list[AttemptRecord] = []
        ended_at_ms = record.leased_at_ms
        for number in range(record.attempt - 1, max(first, record.attempt - _ATTEMPTS_KEPT) - 1, -1):
            leased_at_ms = max(ended_at_ms - lease_ms, attempts[-1].ended_at_ms if attempts else 0)
            leased_at_ms = min(leased_at_ms, ended_at_ms)
            missing.append(
                AttemptRecord(
                    attempt=number,
                    leased_at_ms=leased_at_ms,
                    ended_at_ms=ended_at_ms,
                    outcome="expired",
                    reason=LEASE_RAN_OUT,
                )
            )
            ended_at_ms = leased_at_ms
        kept = [*attempts, *reversed(missing), record][-_ATTEMPTS_KEPT:]
        return History(self.uncounted, tuple(kept))


class DeadRecord(msgspec.Struct, frozen=True, array_like=True):
    """A dead letter: the message, why it died, and its attempts."""

    head: str
    reason: str
    attempts: tuple[AttemptRecord, ...]
    dead_at_ms: int
    # The attempt that was the last, and which settlement wrote this.
    attempt: int
    data: bytes

    def letter(self, queue: str, position: str) -> DeadLetter:
        return DeadLetter(
            position=position,
            message=_decode_head(self.head).message(queue, self.data),
            reason=self.reason,
            attempts=self.attempts,
            dead_at_ms=self.dead_at_ms,
        )


_decode_head = msgspec.json.Decoder(Head).decode
_decode_history = msgspec.msgpack.Decoder(History).decode
_decode_dead = msgspec.msgpack.Decoder(DeadRecord).decode
_encode = msgspec.msgpack.Encoder().encode


def encode_head(
    message: QueueAppend | QueuedMessage,
    now_ms: int,
    expires_at_ms: int | None,
    *,
    attempts: Sequence[AttemptRecord] = (),
) -> str:
    """The value of HEADER."""
    fields: dict[str, object] = {"id": message.message_id, "enqueued_at_ms": now_ms, "priority": int(message.priority)}
    if message.ordering_key is not None:
        fields["key"] = message.ordering_key
    if expires_at_ms is not None:
        fields["expires_at_ms"] = expires_at_ms
    if message.headers:
        fields["headers"] = dict(message.headers)
    if attempts:
        fields["attempts"] = msgspec.to_builtins(attempts)
    return json.dumps(fields)


def decode_head(headers: Mapping[str, str] | None) -> Head | None:
    """None where it is none of ours."""
    try:
        return _decode_head((headers or {})[HEADER])
    except (KeyError, msgspec.DecodeError):
        return None


def was_handed_out(headers: Mapping[str, str] | None) -> bool:
    """Whether it has attempts of before it was copied here; without decoding the rest."""
    return '"attempts": [' in (headers or {}).get(HEADER, "")


def decode_history(stored: Stored | None) -> History:
    return History() if stored is None or not stored.data else _decode_history(stored.data)


def decode_dead(stored: Stored) -> DeadRecord | None:
    """None for what was redriven a moment ago."""
    return _decode_dead(stored.data) if stored.data else None


def encode_record(record: History | DeadRecord) -> bytes:
    return _encode(record)


def whole_seconds(duration_ms: int) -> str:
    """A time to live as the server takes it: rounded up, at least one second."""
    return f"{max(1, -(-duration_ms // 1000))}s"
