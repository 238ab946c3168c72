"""The chain of delegation in a program: on whose behalf it calls the hub now.

An agent's handler runs inside `delegated(...)`, and so do the threads and tasks it starts. Every HTTP request made
there carries what the hub gave along, unread: the hub alone can make and check it. Other programs send nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["Delegation", "current_delegation", "delegated", "delegation_headers"]

_NOTHING: Mapping[str, str] = {}


@dataclass(slots=True)
class Delegation:
    """Of one run of a handler. Not frozen: a handler that waits for its client goes on under the chain of the answer,
    and so do the threads that inherited this."""

    chain: str = ""
    traceparent: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        headers = {}
        if self.chain:
            headers["Meshway-Chain"] = self.chain
        if self.traceparent:
            headers["traceparent"] = self.traceparent
        return headers


current_delegation: ContextVar[Delegation | None] = ContextVar("meshway_delegation", default=None)


@contextmanager
def delegated(delegation: Delegation) -> Iterator[None]:
    """Whatever calls the hub inside the block does it in the course of this task."""
    token = current_delegation.set(delegation)
    try:
        yield
    finally:
        current_delegation.reset(token)


def delegation_headers() -> Mapping[str, str]:
    """What every request carries now."""
    delegation = current_delegation.get()
    return _NOTHING if delegation is None else delegation.headers
