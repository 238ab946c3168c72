"""Errors of the hub's own code, raised in this process, as failures of a command."""

from collections.abc import Iterator
from contextlib import contextmanager

from meshway.cli.failure import EXIT_FAILED, EXIT_NOT_FOUND, Failure
from meshway.kernel.errors import EngineError, InvalidRequest, MeshwayError, NotFound

__all__ = ["kernel_failures"]

_HINTS = {
    "data_dir_locked": "One data directory belongs to one hub at a time.",
    "schema_too_new": "Use the version of Meshway that wrote it, or a newer one.",
    "store_corrupt": "Restore the data directory from a backup, or start with an empty one (--data).",
    "storage_full": "Free some disk space and try again; nothing was lost.",
}


@contextmanager
def kernel_failures() -> Iterator[None]:
    """Raises: Failure for every MeshwayError of the block."""
    try:
        yield
    except MeshwayError as error:
        raise Failure(
            error.detail, hint=_HINTS.get(error.code, ""), exit_code=_exit_code(error), code=error.code
        ) from error


def _exit_code(error: MeshwayError) -> int:
    match error:
        case InvalidRequest():
            return 2
        case NotFound():
            return EXIT_NOT_FOUND
        case EngineError():
            return EXIT_FAILED
    return EXIT_FAILED
