"""The SQLite file: opening, schema, checks, and what its errors mean to a caller.

Connections run with `synchronous=NORMAL`: SQLite syncs at checkpoints, and the writer syncs the write-ahead log itself
after each commit that needs it. That is what `FULL` does, with two gains: lazy commits cost no sync, and a failing
sync is seen as such.
"""

import errno
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from meshway.engine.embedded.queries import read_sql
from meshway.kernel.errors import EngineUnavailable, MeshwayError, SchemaTooNew, StoreCorrupt

__all__ = [
    "SCHEMA_VERSION",
    "connect",
    "is_busy",
    "is_disk_full",
    "is_fatal",
    "open_database",
    "open_to_read",
    "space_is_left",
    "sync_directory",
    "sync_file",
    "translate",
    "wal_path",
]

# Raise it with each new sql/schema_<n>.sql.
SCHEMA_VERSION = 1
# "MESH": tells our files from other SQLite databases.
_APPLICATION_ID = 0x4D455348
# The most a key lookup or an owner record touches is one page, so a small page keeps the write-ahead log short.
_PAGE_BYTES = 4096
# The log shrinks back to this after a burst; it is overwritten in place below that.
_JOURNAL_BYTES_MAX = 64 * 1024 * 1024
_STATEMENTS_CACHED = 512
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FATAL = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_READONLY,
    }
)
_CORRUPT_ADVICE = (
    "stop the hub, keep a copy of the data directory, and restore a backup or start with an empty directory (--data)"
)


def connect(path: Path, *, cache_bytes: int) -> sqlite3.Connection:
    """One connection; used by one thread at a time, not always the one that made it."""
    connection = sqlite3.connect(
        path, isolation_level=None, cached_statements=_STATEMENTS_CACHED, check_same_thread=False, timeout=5.0
    )
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES_MAX}")
    connection.execute(f"PRAGMA cache_size = -{cache_bytes // 1024}")
    connection.execute("PRAGMA temp_store = MEMORY")
    # Deleted payloads need not be overwritten with zeros: whoever reads the file can read what is live as well.
    connection.execute("PRAGMA secure_delete = OFF")
    return connection


def open_database(path: Path, *, cache_bytes: int, check_bytes_max: int) -> sqlite3.Connection:
    """Open or make the database and bring its schema up to date; the caller holds the data directory's lock.

    Raises: SchemaTooNew, StoreCorrupt, EngineUnavailable.
    """
    connection: sqlite3.Connection | None = None
    try:
        connection = connect(path, cache_bytes=cache_bytes)
        _check_version(connection, path)
        connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise EngineUnavailable(
                f"the file system of {path} cannot hold a write-ahead log; choose a local directory"
            )
        if path.stat().st_size <= check_bytes_max:
            _check_integrity(connection, path)
        _migrate(connection)
        # The writer syncs this file itself, so it must exist before the first commit: an empty write makes it.
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT OR REPLACE INTO counters (name, value) VALUES ('opened', 1)")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise translate(error, path) from error
    except MeshwayError:
        if connection is not None:
            connection.close()
        raise
    return connection


def translate(error: sqlite3.Error, path: Path | None = None) -> MeshwayError:
    """A SQLite error as one of ours."""
    primary = _primary_code(error)
    where = f"the database {path}" if path is not None else "the database"
    if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorrupt(f"{where} is damaged ({error}); {_CORRUPT_ADVICE}")
    return EngineUnavailable(f"{where} failed: {error}")


def is_disk_full(error: sqlite3.Error, wal: Path) -> bool:
    """Whether an error means that no space is left (or a quota is reached), and nothing worse."""
    if _primary_code(error) == sqlite3.SQLITE_FULL:
        return True
    # A reached quota or file size limit comes as a plain write error; writing beside the log tells it from a bad disk.
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_WRITE and not space_is_left(wal)


def is_fatal(error: sqlite3.Error) -> bool:
    """Whether the file or its disk is at fault, so that nothing written later could be trusted."""
    return _primary_code(error) in _FATAL


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another program keeps the file locked."""
    return _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def space_is_left(wal: Path) -> bool:
    """Whether a page can be written where the write-ahead log would grow."""
    probe = wal.with_name("space.probe")
    try:
        end = wal.stat().st_size
        file_descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(file_descriptor, b"\0" * _PAGE_BYTES, end)
        finally:
            os.close(file_descriptor)
    except OSError as error:
        return error.errno not in _NO_SPACE
    finally:
        probe.unlink(missing_ok=True)
    return True


def wal_path(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


# macOS has no fdatasync.
sync_file: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


def sync_directory(path: Path) -> None:
    """Make new, renamed and removed names in a directory durable."""
    file_descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file_descriptor)
    finally:
        os.close(file_descriptor)


def _primary_code(error: sqlite3.Error) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return code & 0xFF if isinstance(code, int) else None


def open_to_read(path: Path) -> sqlite3.Connection:
    """A connection that leaves the database and its log as they are. Raises: SchemaTooNew, StoreCorrupt,
    EngineUnavailable."""
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=5.0
        )
    except sqlite3.Error as error:
        raise translate(error, path) from error
    try:
        version = _check_version(connection, path)
        if version < SCHEMA_VERSION:
            raise EngineUnavailable(f"{path} was written by an older Meshway; start a hub on it once, which updates it")
    except sqlite3.Error as error:
        connection.close()
        raise translate(error, path) from error
    except MeshwayError:
        connection.close()
        raise
    return connection


def _check_version(connection: sqlite3.Connection, path: Path) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    application_id = connection.execute("PRAGMA application_id").fetchone()[0]
    if application_id not in (0, _APPLICATION_ID) or (version and application_id != _APPLICATION_ID):
        raise StoreCorrupt(f"{path} is a database of another program; choose another directory with --data")
    if version > SCHEMA_VERSION:
        raise SchemaTooNew(
            f"{path} was written by a newer Meshway (schema {version}, this one knows {SCHEMA_VERSION}); "
            "start that release, or choose another directory with --data"
        )
    return version


def _check_integrity(connection: sqlite3.Connection, path: Path) -> None:
    finding = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if finding != "ok":
        raise StoreCorrupt(f"the database {path} is damaged ({finding}); {_CORRUPT_ADVICE}")


def _migrate(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    for step in range(version + 1, SCHEMA_VERSION + 1):
        # executescript commits what is open before it begins, so the transaction is part of the script.
        connection.executescript(
            f"BEGIN IMMEDIATE;\n{read_sql(f'schema_{step}.sql')}\n"
            f"PRAGMA application_id = {_APPLICATION_ID};\nPRAGMA user_version = {step};\nCOMMIT;"
        )
