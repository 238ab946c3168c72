"""What all adapters refuse of queues: settings that cannot work, and positions that are none."""

from meshway.engine.ports.checks import refused
from meshway.engine.ports.queue import QueueSettings
from meshway.kernel.errors import FieldError, InvalidRequest

__all__ = ["check_settings", "dead_letter_number"]

# A lease shorter than this ends before its answer has arrived.
_LEASE_MS_MIN = 100
_POSITION_DIGITS_MAX = 18


def check_settings(settings: QueueSettings) -> None:
    """Raises: InvalidRequest naming each field."""
    wrong: list[FieldError] = []
    if settings.lease_ms < _LEASE_MS_MIN:
        wrong.append(FieldError("lease_ms", f"choose at least {_LEASE_MS_MIN}"))
    if settings.dedupe_window_ms < 1:
        wrong.append(FieldError("dedupe_window_ms", "choose at least 1"))
    for field in ("messages_max", "bytes_max", "retention_ms"):
        value = getattr(settings, field)
        if value is not None and value < 1:
            wrong.append(FieldError(field, "choose at least 1, or leave it out for no limit"))
    if wrong:
        raise InvalidRequest("; ".join(f"{error.field}: {error.message}" for error in wrong), fields=wrong)


def dead_letter_number(position: str) -> int:
    """The number that the position of a dead letter is. Raises: InvalidRequest."""
    if not (position.isascii() and position.isdecimal()) or len(position) > _POSITION_DIGITS_MAX:
        raise refused("after", "this is no position of a dead letter; begin again with the first page")
    return int(position)
