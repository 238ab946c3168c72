"""Processes that must not outlive the one that started them, however that ends."""

import ctypes
import os
import signal
import sys

__all__ = ["dies_with_parent"]

# Linux, sys/prctl.h.
_PR_SET_PDEATHSIG = 1


def dies_with_parent(parent_pid: int) -> None:
    """For a process that was just forked by `parent_pid`: the kernel ends it when its parent is gone.

    Does nothing but on Linux.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Not "is it 1": in a container the parent is, and elsewhere orphans may go to another process than 1.
    if os.getppid() != parent_pid:
        # The parent died in between.
        os.kill(os.getpid(), signal.SIGKILL)
