"""Who outlives its parent, told by real processes."""

import signal
import subprocess
import sys

# Process 1 is the parent where a container has meshway as its entry point.
CHILD = """
import os, sys
from meshway.assembly.child_processes import dies_with_parent

parent_pid, asked_pid = map(int, sys.argv[1:])
os.getppid = lambda: asked_pid
dies_with_parent(parent_pid)
"""


def ends_with(parent_pid, asked_pid):
    command = [sys.executable, "-c", CHILD, str(parent_pid), str(asked_pid)]
    return subprocess.run(command, check=False, timeout=10).returncode


def test_a_child_of_process_1_lives():
    assert ends_with(1, 1) == 0


def test_a_child_whose_parent_died_before_it_could_say_so_dies_too_whoever_has_it_now():
    assert ends_with(500, 1) == -signal.SIGKILL
    assert ends_with(500, 70) == -signal.SIGKILL
