"""Names of things. Ids are NewTypes over str: the type says what they name, the wire sees plain text."""

import os
import re
from collections.abc import Iterator
from typing import NewType

from meshway.kernel.errors import wrong_field

__all__ = [
    "AgentId",
    "ContextId",
    "InstanceId",
    "KeyId",
    "PrincipalId",
    "TaskId",
    "new_id",
    "parse_agent_id",
    "parse_instance_id",
]

AgentId = NewType("AgentId", str)
InstanceId = NewType("InstanceId", str)
TaskId = NewType("TaskId", str)
ContextId = NewType("ContextId", str)
KeyId = NewType("KeyId", str)
PrincipalId = NewType("PrincipalId", str)

# A DNS label: it fits a path segment, a host name and a NATS subject token without escaping.
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# The bits of a UUID that are random in version 4, and those that say so.
_UUID_RANDOM = 0xFFFFFFFF_FFFF_0FFF_3FFF_FFFFFFFFFFFF
_UUID_4 = 0x00000000_0000_4000_8000_000000000000
# A page of memory, renewed every few milliseconds of a busy hub.
_FETCHED_IDS = 256
# `GET /v1/agents/watch` is the change feed, so no agent may be called that.
_RESERVED_AGENT_IDS = frozenset({"watch"})


class _Entropy:
    """The system's random bytes, fetched in bulk.

    Each fetch lets go of the interpreter lock, and a loop that does so for every message waits for the store's thread
    every time: a tenth of what a message costs.
    """

    def __init__(self) -> None:
        self._ids: Iterator[int] = iter(())
        # A child process must not give out the ids of its parent.
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        self._ids = iter(())

    def take(self) -> int:
        """128 bits that nobody had before. Safe in threads: each step of the iterator is one."""
        for number in self._ids:
            return number
        fresh = os.urandom(16 * _FETCHED_IDS)
        self._ids = iter([int.from_bytes(fresh[at : at + 16], "big") for at in range(0, len(fresh), 16)])
        return self.take()


_entropy = _Entropy()


def new_id() -> str:
    """A fresh random id, 36 characters (UUID 4): as long as the A2A SDK's database columns allow."""
    # As uuid.uuid4 does it (RFC 9562, 5.4), at a fraction of the cost: every message takes one.
    digits = f"{_entropy.take() & _UUID_RANDOM | _UUID_4:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def parse_agent_id(text: str, *, field: str = "id") -> AgentId:
    """Check an agent id. Raises: InvalidRequest naming `field`."""
    if text in _RESERVED_AGENT_IDS:
        raise wrong_field(field, f"{text!r} is reserved; choose another id")
    return AgentId(_label(text, field))


def parse_instance_id(text: str, *, field: str = "instance") -> InstanceId:
    """Check an instance id; same alphabet as agent ids. Raises: InvalidRequest naming `field`."""
    return InstanceId(_label(text, field))


def _label(text: str, field: str) -> str:
    if not _LABEL.fullmatch(text):
        raise wrong_field(field, "use 1 to 63 characters a-z, 0-9 and '-', beginning and ending with a letter or digit")
    return text
