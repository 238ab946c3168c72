"""Who may use a data directory: one process at a time, by a lock that the system drops when the process dies."""

import fcntl
import os
import socket
from pathlib import Path
from types import TracebackType

import msgspec

from meshway.kernel.clock import Clock, SystemClock
from meshway.kernel.errors import DataDirLocked, EngineUnavailable

__all__ = ["DataDirLock", "LockHolder", "hold_data_dir"]

_LOCK_FILE = "hub.lock"


class LockHolder(msgspec.Struct, frozen=True, kw_only=True):
    """What the lock file says about its holder; for people, the lock itself is the system's."""

    pid: int
    host: str
    started_at_ms: int


class DataDirLock:
    """The right to use a data directory. Ends with `release`, with the `with` block, or with the process."""

    def __init__(self, path: Path, file_descriptor: int) -> None:
        self.path = path
        self._file_descriptor: int | None = file_descriptor

    def release(self) -> None:
        """Let go; idempotent. The file stays: removing it would race with the next holder."""
        if self._file_descriptor is not None:
            os.close(self._file_descriptor)
            self._file_descriptor = None

    def __enter__(self) -> "DataDirLock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def hold_data_dir(path: Path, *, clock: Clock | None = None) -> DataDirLock:
    """Lock the data directory, making it (mode 0700) where it is missing.

    Raises: DataDirLocked naming the holder's pid and the path; EngineUnavailable when the directory cannot be used.
    """
    lock_path = path / _LOCK_FILE
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        file_descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise EngineUnavailable(
            f"the data directory {path} cannot be used: {error.strerror}; choose another with --data"
        ) from error
    try:
        fcntl.flock(file_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        detail = _describe_holder(path, file_descriptor)
        os.close(file_descriptor)
        raise DataDirLocked(detail) from error
    _write_holder(file_descriptor, clock or SystemClock())
    return DataDirLock(path, file_descriptor)


def _describe_holder(path: Path, file_descriptor: int) -> str:
    advice = "stop it, or give this hub a directory of its own with --data"
    try:
        holder = msgspec.json.decode(os.pread(file_descriptor, 4096, 0), type=LockHolder)
    except msgspec.MsgspecError:
        return f"the data directory {path} is in use by another hub; {advice}"
    return f"the data directory {path} is in use by another hub (pid {holder.pid} on {holder.host}); {advice}"


def _write_holder(file_descriptor: int, clock: Clock) -> None:
    holder = LockHolder(pid=os.getpid(), host=socket.gethostname(), started_at_ms=clock.now_ms())
    content = msgspec.json.encode(holder)
    try:
        os.ftruncate(file_descriptor, 0)
        os.pwrite(file_descriptor, content, 0)
    except OSError:
        # On a full disk the lock still holds; only its description is missing.
        return
