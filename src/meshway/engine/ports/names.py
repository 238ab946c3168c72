"""Names on every engine: any text as one token."""

import re

__all__ = ["subject_token"]

_PLAIN_TOKEN = re.compile(r"[A-Za-z0-9_/-]+")


def subject_token(text: str) -> str:
    """Any text as one token of a name, reversible and equal on every engine: other characters become `=XX` per byte."""
    if _PLAIN_TOKEN.fullmatch(text):
        return text
    encoded = "".join(
        chr(byte) if _PLAIN_TOKEN.fullmatch(chr(byte)) and byte < 128 else f"={byte:02X}" for byte in text.encode()
    )
    return encoded or "="
