"""What JetStream answers, by its codes, and what that means to callers of the ports."""

from meshway.kernel.errors import EngineUnavailable, MeshwayError, PayloadTooLarge, StorageFull

__all__ = [
    "CONSUMER_NOT_FOUND",
    "FULL_CODES",
    "NO_MESSAGE_CODES",
    "STREAM_NAME_IN_USE",
    "STREAM_NOT_FOUND",
    "UNDECIDED_CODES",
    "WRONG_LAST",
    "ApiError",
    "Unanswered",
    "error_of",
]

# Decided: the expected last sequence is not the last one.
WRONG_LAST = 10071
# The write before (10164), or one with the same message id (10158), is still on its way through the cluster, or too
# many are (10167): the same publish is answered in a moment.
UNDECIDED_CODES = frozenset({10158, 10164, 10167})
STREAM_NOT_FOUND = 10059
STREAM_NAME_IN_USE = 10058
CONSUMER_NOT_FOUND = 10014
# No message found; sequence not found.
NO_MESSAGE_CODES = frozenset({10037, 10043, 10057})
# Maximum messages or bytes of a stream, of the account, of the disk.
FULL_CODES = frozenset({10023, 10028, 10047, 10077})
_TOO_LARGE = 10054
_FULL_RETRY_AFTER_MS = 1_000


class ApiError(Exception):
    """JetStream refused: `code` is its own (`err_code`), `status` the HTTP-like one."""

    def __init__(self, code: int, status: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code
        self.status = status
        self.description = description


class Unanswered(Exception):
    """No answer came: it may have happened or not. `reason` is for people.

    `nothing_happened`: it was not sent, or nobody was there to take it, so it is safe to try again.
    """

    def __init__(self, reason: str, *, nothing_happened: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.nothing_happened = nothing_happened


def error_of(failure: ApiError | Unanswered) -> MeshwayError:
    """What a caller that cannot do anything about it hears."""
    if isinstance(failure, Unanswered):
        return EngineUnavailable(failure.reason)
    if failure.code in FULL_CODES:
        return StorageFull(
            f"NATS has no room: {failure.description}; nothing was written", retry_after_ms=_FULL_RETRY_AFTER_MS
        )
    if failure.code == _TOO_LARGE:
        return PayloadTooLarge(f"NATS takes no messages of this size: {failure.description}")
    return EngineUnavailable(f"NATS refused: {failure}")
