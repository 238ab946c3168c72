"""Names of channels, and where each kind lives on the engine."""

import enum
import re
from typing import NewType

from meshway.kernel.errors import wrong_field

__all__ = [
    "ChannelKind",
    "ChannelName",
    "ChannelPattern",
    "channel_of_subject",
    "is_pattern",
    "parse_channel_name",
    "parse_channel_pattern",
    "pattern_covers",
    "subject_of",
]

# A name that was checked. Patterns are names too.
ChannelPattern = NewType("ChannelPattern", str)
ChannelName = NewType("ChannelName", str)

_NAME = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_PATTERN = re.compile(r"(?:(?:[A-Za-z0-9_-]+|\*)\.)*(?:[A-Za-z0-9_-]+|\*|>)")
# Fits a path segment, a file name and a NATS subject with our prefix before it.
_CHARACTERS_MAX = 255


class ChannelKind(enum.Enum):
    """The five kinds; the value is the word in paths, frames and settings. A name may exist once in each."""

    EVENTS = "events"
    STREAMS = "streams"
    QUEUES = "queues"
    COMMANDS = "commands"
    QUERIES = "queries"

    # Members are single, so identity will do. Enum hashes names by a Python call, which every message would pay twice.
    __hash__ = object.__hash__


# First tokens of subjects: on the Log for streams, on the Bus for the rest. Queues bear the channel's name as it is.
_PREFIXES = {
    ChannelKind.EVENTS: "ev.",
    ChannelKind.STREAMS: "st.",
    ChannelKind.QUEUES: "",
    ChannelKind.COMMANDS: "cmd.",
    ChannelKind.QUERIES: "qry.",
}


def parse_channel_name(text: str, *, field: str = "channel") -> ChannelName:
    """Check the name of one channel. Raises: InvalidRequest naming `field`."""
    if not _NAME.fullmatch(text) or len(text) > _CHARACTERS_MAX:
        raise wrong_field(field, "use dot-separated tokens of A-Z a-z 0-9 _ -, at most 255 characters")
    return ChannelName(_not_reserved(text, field))


def parse_channel_pattern(text: str, *, field: str = "channel") -> ChannelPattern:
    """Check a name or a pattern: `*` stands for one token, a last `>` for one or more. Raises: InvalidRequest.

    A pattern never matches the hub's own channels.
    """
    if not _PATTERN.fullmatch(text) or len(text) > _CHARACTERS_MAX:
        raise wrong_field(
            field, "use dot-separated tokens of A-Z a-z 0-9 _ -, * for one token or a last > for the rest, at most 255"
        )
    return ChannelPattern(_not_reserved(text, field))


def is_pattern(text: str) -> bool:
    """Whether a checked name stands for several channels."""
    return "*" in text or ">" in text


def pattern_covers(pattern: str, name: str) -> bool:
    """Whether a checked pattern stands for the channel, among others or alone."""
    tokens = name.split(".")
    wanted = pattern.split(".")
    for number, part in enumerate(wanted):
        if part == ">":
            return len(tokens) > number
        if number >= len(tokens) or part not in ("*", tokens[number]):
            return False
    return len(wanted) == len(tokens)


def subject_of(kind: ChannelKind, name: str) -> str:
    """Subject, pattern or queue name on the engine."""
    return _PREFIXES[kind] + name


def channel_of_subject(subject: str) -> ChannelName:
    """The channel behind a subject of a kind with a prefix."""
    return ChannelName(subject.partition(".")[2])


def _not_reserved(text: str, field: str) -> str:
    if text.startswith("_"):
        raise wrong_field(field, "names that begin with _ are the hub's own; choose another")
    return text
