"""Commands and queries on the Bus: how a request says its time, and what an answer looks like. Between hubs only."""

import enum

import msgspec

from meshway.engine.ports import BusMessage

__all__ = ["RESPONDERS_GROUP", "Answer", "Turned", "decode_answer", "encode_answer", "timeout_of", "wire_headers"]

# All responders of a kind are one group, whatever their patterns: each request goes to one of them. Users' groups
# begin with `g-`.
RESPONDERS_GROUP = "responders"

# Relative, because the clocks of two hubs are never quite the same.
_TIMEOUT_HEADER = "timeout-ms"


class Turned(enum.Enum):
    """Why a hub answered in place of a responder. The request was handed to nobody."""

    # As many wait for the responders of the channel as may.
    BUSY = "busy"
    # The responders of this hub left while the request waited: ask again, there may be others.
    GONE = "gone"


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A responder's reply, or a hub's word that there is none (`turned`)."""

    executed: bool = False
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: str | None = None
    turned: Turned | None = None


encode_answer = msgspec.json.Encoder().encode
decode_answer = msgspec.json.Decoder(Answer).decode


def wire_headers(timeout_ms: int) -> dict[str, str]:
    """What travels beside the document of a request."""
    return {_TIMEOUT_HEADER: str(timeout_ms)}


def timeout_of(message: BusMessage) -> int | None:
    """How long the caller waits, from the moment the request was sent; None where it is no request of ours."""
    text = message.headers.get(_TIMEOUT_HEADER, "")
    if message.reply_to is None or not (text.isascii() and text.isdigit()):
        return None
    return int(text)
