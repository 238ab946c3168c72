"""Processes that must not outlive the one that started them, however that ends."""

import ctypes
import os
import signal
import sys

__all__ = ["dies_with_parent"]

# Linux, sys/prctl.h.
_PR_SET_PDEATHSIG = 1


def dies_with_parent() -> None:
    """For a process that was just forked: the kernel ends it when its parent is gone. Does nothing but on Linux."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        # The parent died in between.
        os.kill(os.getpid(), signal.SIGKILL)
