"""What one WebSocket connection may take of the hub. Constants: clients are written against them."""

__all__ = [
    "BATCH_BYTES_TARGET",
    "BATCH_MAX",
    "CREDIT_MAX",
    "IN_WORK_MAX",
    "KEY_CHECK_INTERVAL_S",
    "REQUESTS_MAX",
    "SUBSCRIPTIONS_MAX",
]

# Each is a task and a place in the engine, some 10 KB together.
SUBSCRIPTIONS_MAX = 1_000
# Publishes, settlements, acknowledgements and replies begun and not answered; then reading waits. More than one group
# commit takes of one connection gains nothing.
IN_WORK_MAX = 64
# Commands and queries of this connection that wait for their reply. They do not hold reading up: the reply to one may
# come over the same connection.
REQUESTS_MAX = 1_000
# Messages of one frame: what they share is then paid once in 256 times.
BATCH_MAX = 256
# Messages of one frame together, unless one alone is larger: a client decodes a frame as a whole.
BATCH_BYTES_TARGET = 1_048_576
# Credit of one subscription: a counter that a mistake of the client must not turn into no flow control at all.
CREDIT_MAX = 1_000_000
# How soon a connection whose key was revoked is closed, at the latest.
KEY_CHECK_INTERVAL_S = 5.0
