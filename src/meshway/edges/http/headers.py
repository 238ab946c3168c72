"""Request headers that mean the same on every path."""

from collections.abc import Mapping

from meshway.kernel.errors import FieldError, InvalidRequest

__all__ = ["timeout_ms_of"]

# A day; what takes longer is nothing a caller waits for.
_TIMEOUT_MAX_MS = 86_400_000


def timeout_ms_of(headers: Mapping[bytes, bytes]) -> int | None:
    """`Meshway-Timeout-Ms`: how long the caller waits. Raises: InvalidRequest."""
    text = headers.get(b"meshway-timeout-ms")
    if text is None:
        return None
    if not text.isdigit() or not 0 < int(text[:12]) <= _TIMEOUT_MAX_MS:
        message = f"give whole milliseconds from 1 to {_TIMEOUT_MAX_MS}"
        raise InvalidRequest(f"Meshway-Timeout-Ms: {message}", fields=[FieldError("Meshway-Timeout-Ms", message)])
    return int(text)
