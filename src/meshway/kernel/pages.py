"""Lists in pages: `{"items": [...], "next_cursor": null}` everywhere, with opaque cursors."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from meshway.kernel.errors import FieldError, InvalidRequest

__all__ = ["LIMIT_DEFAULT", "LIMIT_MAX", "Page", "decode_cursor", "encode_cursor"]

# A screenful for a person, and few enough to render quickly; a program asks for more.
LIMIT_DEFAULT = 50
# One page of large cards stays within a few MB.
LIMIT_MAX = 500

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Part of a list. `next_cursor` is None on the last page."""

    items: Sequence[Item]
    next_cursor: str | None = None


def encode_cursor(position: str) -> str:
    """Hide a position so that callers do not build on its form."""
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """The position behind a cursor. Raises: InvalidRequest when it is none of ours."""
    try:
        return base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        message = "use the next_cursor of the page before, unchanged"
        raise InvalidRequest(f"cursor: {message}", fields=[FieldError("cursor", message)]) from None
