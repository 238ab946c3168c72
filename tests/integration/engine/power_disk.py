"""A disk that forgets what was not synced, under SQLite itself. Not a test.

SQLite reaches files through a table of functions (its VFS). This one is put before the system's: it hands everything on
and keeps, for the database and its write-ahead log, what a power loss would leave: the content as of the last sync of
that file, by SQLite or by us, and the writes since, in order. No compiler, no FUSE: the functions are Python's, made
callable by ctypes. It takes the whole process, so it is for a program of its own.

What it does not model: directory entries (the engine syncs the directory once, when it has made its files), blobs, and
disks that lie about having synced. The shared memory beside the log is not kept: SQLite builds it anew.
"""

import _sqlite3
import ctypes
import os
import random
import threading
from collections.abc import Callable, Mapping
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path

__all__ = ["PowerDisk"]

_MAIN_DATABASE = 0x00000100
_WAL = 0x00080000
# Disks write sectors whole; SQLite's pages and log frames are larger, so they may be torn.
_SECTOR_BYTES = 512

_Open = CFUNCTYPE(c_int, c_void_p, c_char_p, c_void_p, c_int, POINTER(c_int))
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(ctypes.Structure):
    """`sqlite3_vfs`; what is only handed on is a pointer."""

    _fields_ = (
        ("version", c_int),
        ("file_bytes", c_int),
        ("path_bytes_max", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("app_data", c_void_p),
        ("open", _Open),
        *((name, c_void_p) for name in ("delete", "access", "full_path", "dl_open", "dl_error", "dl_sym", "dl_close")),
        *((name, c_void_p) for name in ("randomness", "sleep", "time", "last_error", "time_int64")),
        *((name, c_void_p) for name in ("set_system_call", "get_system_call", "next_system_call")),
    )


class _Methods(ctypes.Structure):
    """`sqlite3_io_methods`."""

    _fields_ = (
        ("version", c_int),
        ("close", c_void_p),
        ("read", c_void_p),
        ("write", _Write),
        ("truncate", _Truncate),
        ("sync", _Sync),
        *((name, c_void_p) for name in ("size", "lock", "unlock", "check_lock", "control", "sector", "device")),
        *((name, c_void_p) for name in ("shm_map", "shm_lock", "shm_barrier", "shm_unmap", "fetch", "unfetch")),
    )


class _File:
    """What is on the disk for certain, and the changes that may or may not be: (offset, content), None to truncate."""

    def __init__(self, content: bytes) -> None:
        self.durable = bytearray(content)
        self.unsynced: list[tuple[int, bytes | None]] = []
        # How many changes were ever made durable: two threads may sync the same file at a time.
        self.made_durable = 0

    def settle(self, up_to: int) -> None:
        count = max(0, up_to - self.made_durable)
        for offset, content in self.unsynced[:count]:
            _change(self.durable, offset, content)
        del self.unsynced[:count]
        self.made_durable += count

    def after_power_loss(self, chance: random.Random) -> bytes:
        """All of the unsynced changes are gone, or any of them, or they are torn: disks write in any order."""
        content = bytearray(self.durable)
        kept_of_ten = chance.choice([0, 0, 5, 9])
        for offset, change in self.unsynced:
            if chance.randrange(10) >= kept_of_ten:
                continue
            if change is not None and chance.random() < 0.3:
                change = change[: _SECTOR_BYTES * chance.randrange(1 + len(change) // _SECTOR_BYTES)]
            _change(content, offset, change)
        return bytes(content)


class PowerDisk:
    """Under every database that this process opens after `install`.

    `cut_after` operations after `arm` the power fails: what is left is written to `survived` and the process ends.
    """

    def __init__(self, survived: Path, *, seed: int, forgets_database_syncs: bool = False) -> None:
        self._survived = survived
        self._chance = random.Random(seed)
        self._forgets_database_syncs = forgets_database_syncs
        self._files: dict[str, _File] = {}
        self._paths: dict[int, str] = {}
        self._operations_left: int | None = None
        self._lock = threading.Lock()
        self._methods: dict[int, _Methods] = {}
        # What SQLite points to has to live as long as the process.
        self._kept_alive: list[object] = []

    def install(self) -> None:
        """Become the default VFS."""
        library = ctypes.CDLL(_sqlite3.__file__)
        library.sqlite3_vfs_find.restype = POINTER(_Vfs)
        library.sqlite3_vfs_find.argtypes = [c_char_p]
        library.sqlite3_vfs_register.argtypes = [POINTER(_Vfs), c_int]
        system = library.sqlite3_vfs_find(None).contents
        own = _Vfs.from_buffer_copy(system)
        own.next = None
        own.name = b"power"
        own.open = _Open(self._opener(system.open))
        self._kept_alive += [system, own]
        if library.sqlite3_vfs_register(ctypes.byref(own), 1) != 0:
            raise RuntimeError("SQLite did not take the VFS")

    def arm(self, cut_after: int) -> None:
        self._operations_left = cut_after

    def sync(self, path: Path) -> None:
        """A sync of ours, which SQLite knows nothing of."""
        self._synced(str(path))

    def _opener(self, system_open: Callable[..., int]) -> Callable[..., int]:
        def open_file(vfs: int, name: bytes | None, file: int, flags: int, flags_out: object) -> int:
            path = name.decode() if name is not None else ""
            before = Path(path).read_bytes() if path and Path(path).exists() else b""
            result = system_open(vfs, name, file, flags, flags_out)
            if result == 0 and flags & (_MAIN_DATABASE | _WAL):
                with self._lock:
                    self._files.setdefault(path, _File(before))
                    self._paths[file] = path
                self._watch(file)
            return result

        return open_file

    def _watch(self, file: int) -> None:
        """Put our functions before those of an open file: the first word of a file points to its table."""
        pointer = c_void_p.from_address(file)
        address = pointer.value or 0
        methods = self._methods.get(address)
        if methods is None:
            system = _Methods.from_address(address)
            methods = _Methods.from_buffer_copy(system)
            write, truncate = system.write, system.truncate

            def write_file(file: int, data: int, count: int, offset: int) -> int:
                self._changed(self._paths[file], offset, ctypes.string_at(data, count))
                return int(write(file, data, count, offset))

            def truncate_file(file: int, size: int) -> int:
                self._changed(self._paths[file], size, None)
                return int(truncate(file, size))

            def sync_file(file: int, _flags: int) -> int:
                path = self._paths[file]
                if not (self._forgets_database_syncs and path.endswith(".db")):
                    self._synced(path)
                return 0

            methods.write = _Write(write_file)
            methods.truncate = _Truncate(truncate_file)
            methods.sync = _Sync(sync_file)
            self._methods[address] = methods
        pointer.value = ctypes.addressof(methods)

    def _changed(self, path: str, offset: int, content: bytes | None) -> None:
        with self._lock:
            self._files[path].unsynced.append((offset, content))
            self._count()

    def _synced(self, path: str) -> None:
        with self._lock:
            file = self._files[path]
            up_to = file.made_durable + len(file.unsynced)
            # The power may fail during a sync: then nothing is promised yet.
            self._count()
        with self._lock:
            file.settle(up_to)

    def _count(self) -> None:
        if self._operations_left is None:
            return
        self._operations_left -= 1
        if self._operations_left <= 0:
            # The lock is never given back: nobody syncs, so nobody is answered, after this moment.
            self._fail({path: file.after_power_loss(self._chance) for path, file in self._files.items()})

    def _fail(self, contents: Mapping[str, bytes]) -> None:
        for path, content in contents.items():
            (self._survived / Path(path).name).write_bytes(content)
        os._exit(0)


def _change(content: bytearray, offset: int, change: bytes | None) -> None:
    if change is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(b"\0" * (offset - len(content)))
    content[offset : offset + len(change)] = change
