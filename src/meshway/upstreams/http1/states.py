"""The life of one connection: its states and the only moves between them. Drawn in docs/internals/http1.md."""

import enum

__all__ = ["MOVES", "ConnectionState"]


class ConnectionState(enum.Enum):
    """Where a connection is; only `Connection` sets it."""

    NEW = "new"  # being dialled: no transport yet
    READY = "ready"  # open and without a request: idle in the pool, or about to be given one
    WAITING = "waiting"  # a request was written; the head of the answer is not complete
    RECEIVING = "receiving"  # the head was handed to the caller; the body is still coming
    CLOSED = "closed"  # given up; the transport is closed or closing


MOVES: dict[ConnectionState, frozenset[ConnectionState]] = {
    ConnectionState.NEW: frozenset({ConnectionState.READY, ConnectionState.CLOSED}),
    ConnectionState.READY: frozenset({ConnectionState.WAITING, ConnectionState.CLOSED}),
    # An answer that arrives whole goes back to READY without ever being RECEIVING.
    ConnectionState.WAITING: frozenset({ConnectionState.READY, ConnectionState.RECEIVING, ConnectionState.CLOSED}),
    ConnectionState.RECEIVING: frozenset({ConnectionState.READY, ConnectionState.CLOSED}),
    ConnectionState.CLOSED: frozenset(),
}
