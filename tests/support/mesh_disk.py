"""A small disk that can be filled up: a tmpfs in a mount namespace of its own, which goes with its keeper process.

Root or not, wherever the kernel lets a process have namespaces; `small_disk` gives None where it does not.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["SmallDisk", "small_disk"]

_BLOCK = b"\0" * 65_536


class SmallDisk:
    """`path` is the disk for whoever runs `within` it."""

    def __init__(self, path: Path, keeper: "subprocess.Popen[str]") -> None:
        self.path = path
        self._keeper = keeper
        # The keeper's view of it, for processes outside.
        self._outside = Path(f"/proc/{keeper.pid}/root{path}")

    @property
    def within(self) -> Sequence[str]:
        """A command line that runs another one where the disk is mounted."""
        target = ["nsenter", "--mount", "--target", str(self._keeper.pid)]
        return target if os.geteuid() == 0 else [*target, "--user", "--preserve-credentials"]

    def fill(self) -> None:
        """To the last byte."""
        with (self._outside / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
            while True:
                ballast.write(_BLOCK)

    def free(self) -> None:
        (self._outside / "ballast").unlink(missing_ok=True)


@contextmanager
def small_disk(folder: Path, *, megabytes: int) -> Iterator[SmallDisk | None]:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "disk"
    path.mkdir()
    mount = f"mount -t tmpfs -o size={megabytes}m tmpfs {path} && echo READY && exec sleep infinity"
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--user", "--map-root-user"]
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        yield None
        return
    with subprocess.Popen(
        [*unshare, "sh", "-c", mount], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as keeper:
        try:
            assert keeper.stdout is not None
            yield SmallDisk(path, keeper) if keeper.stdout.readline() == "READY\n" else None
        finally:
            keeper.kill()
