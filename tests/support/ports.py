"""Ports for programs of tests: nobody listens on them, and no outgoing connection is given one by the kernel."""

import random
import socket

__all__ = ["free_port"]

# Below what Linux, macOS and Windows give to outgoing connections: one of those would take the port of a server that is
# to start in a moment, or again, and a client that tries a port of that range for long enough connects to itself.
_LOWEST, _HIGHEST = 12_000, 32_000
_random = random.SystemRandom()


def free_port() -> int:
    """A port of loopback that is free at this moment; chance keeps tests that run side by side apart."""
    while True:
        port = _random.randrange(_LOWEST, _HIGHEST)
        with socket.socket() as probe:
            # As servers do: what ended a moment ago does not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
