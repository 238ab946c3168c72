"""Texts of others on a terminal: what an agent says of itself must not steer the screen it is shown on."""

__all__ = ["printable"]

_CONTROL = (code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n")
_DIRECTION = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_STEERING = dict.fromkeys((*_CONTROL, *_DIRECTION), "\N{REPLACEMENT CHARACTER}")


def printable(text: str) -> str:
    """`text` with a mark for each control character (but tab and line feed) and each change of direction."""
    return text.translate(_STEERING)
