"""What a sender may ask for one queued message beyond its data.

When it is due, until when it counts, before which others it goes, and which other message it repeats or follows.

An expiry counts from the moment of posting and must lie after the first delivery time. An ordering key is refused where
the queue is not ordered: silently ignored, it would promise an order that nobody keeps. In an ordered queue priorities
are ignored, and messages without a key go in order of posting but do not wait for each other.
"""

from dataclasses import dataclass

from meshway.engine.ports import Priority
from meshway.kernel.clock import parse_rfc3339_ms
from meshway.kernel.errors import wrong_field
from meshway.messaging.incoming import PRIORITIES, IncomingMessage
from meshway.messaging.settlements import DELAY_MAX_MS

__all__ = ["PLAIN", "QueueTerms", "terms_of"]

# Far beyond any use, near enough that no engine's arithmetic on milliseconds comes to its end.
_EXPIRY_MAX_MS = 10 * DELAY_MAX_MS
# As ids: kept in memory and in indexes.
_WORD_CHARACTERS_MAX = 255


@dataclass(frozen=True, slots=True)
class QueueTerms:
    """Checked. Times are epoch ms; `deliver_at_ms` None is now, `expires_at_ms` None never."""

    priority: Priority = Priority.NORMAL
    deliver_at_ms: int | None = None
    expires_at_ms: int | None = None

    def wait_ms(self, now_ms: int) -> int:
        """Until the first delivery."""
        return 0 if self.deliver_at_ms is None else self.deliver_at_ms - now_ms


# Of a message that asks for nothing.
PLAIN = QueueTerms()


def terms_of(message: IncomingMessage, *, ordered: bool, now_ms: int, field: str) -> QueueTerms:
    """What the message asks for. Raises: InvalidRequest naming the member below `field` (`messages.3`)."""
    if message.dedupe_id is not None:
        _check_word(f"{field}.dedupe_id", message.dedupe_id)
    if message.ordering_key is not None:
        _check_word(f"{field}.ordering_key", message.ordering_key)
        if not ordered:
            text = 'this queue is not ordered; PUT its settings with "ordered": true first, or leave the key out'
            raise wrong_field(f"{field}.ordering_key", text)
    if (
        message.delay_ms is None
        and message.deliver_at is None
        and message.expires_in_ms is None
        and message.priority is None
    ):
        return PLAIN
    deliver_at_ms = _delivery_time(message, now_ms, field)
    return QueueTerms(
        Priority.NORMAL if message.priority is None else _priority(message.priority, field),
        deliver_at_ms,
        None if message.expires_in_ms is None else _expiry(message.expires_in_ms, deliver_at_ms, now_ms, field),
    )


def _delivery_time(message: IncomingMessage, now_ms: int, field: str) -> int | None:
    delay_ms = message.delay_ms
    if message.deliver_at is not None:
        if delay_ms is not None:
            raise wrong_field(f"{field}.deliver_at", "give delay_ms or deliver_at, not both")
        delay_ms = _until(message.deliver_at, now_ms, f"{field}.deliver_at")
    elif delay_ms is not None and not 0 <= delay_ms <= DELAY_MAX_MS:
        raise wrong_field(f"{field}.delay_ms", f"choose 0 to {DELAY_MAX_MS:,} (365 days)")
    return now_ms + delay_ms if delay_ms else None


def _until(text: str, now_ms: int, field: str) -> int:
    """Milliseconds from now; 0 for a time that is over."""
    try:
        at_ms = parse_rfc3339_ms(text)
    except (ValueError, OverflowError):
        raise wrong_field(field, "use an RFC 3339 time with a zone, such as 2030-01-31T08:00:00Z") from None
    if at_ms - now_ms > DELAY_MAX_MS:
        raise wrong_field(field, "lies more than 365 days ahead, the longest a message may wait")
    return max(at_ms - now_ms, 0)


def _expiry(expires_in_ms: int, deliver_at_ms: int | None, now_ms: int, field: str) -> int:
    if not 1 <= expires_in_ms <= _EXPIRY_MAX_MS:
        raise wrong_field(
            f"{field}.expires_in_ms", f"choose 1 to {_EXPIRY_MAX_MS:,}, or leave it out to keep the message"
        )
    expires_at_ms = now_ms + expires_in_ms
    if deliver_at_ms is not None and expires_at_ms <= deliver_at_ms:
        text = "counts from now and would end before the message is first due; choose more than its delay"
        raise wrong_field(f"{field}.expires_in_ms", text)
    return expires_at_ms


def _priority(word: str, field: str) -> Priority:
    priority = PRIORITIES.get(word)
    if priority is None:
        raise wrong_field(f"{field}.priority", f"choose {', '.join(PRIORITIES)}")
    return priority


def _check_word(field: str, word: str) -> None:
    if not 0 < len(word) <= _WORD_CHARACTERS_MAX or not word.isprintable():
        raise wrong_field(field, f"must have 1 to {_WORD_CHARACTERS_MAX} printable characters")
