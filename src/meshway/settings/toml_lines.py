"""On which line of a TOML file a key stands: tomllib keeps no positions, and an error has to name one.

Best effort on text that tomllib has accepted: a key written in an unusual way is merely reported without its line.
"""

import re

__all__ = ["key_lines"]

_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*(?P<open>\[\[?)\s*(?P<name>{_DOTTED})\s*\]")
_ASSIGNMENT = re.compile(rf"\s*(?P<name>{_DOTTED})\s*=(?P<value>.*)")
_LONG_QUOTE = re.compile(r'"""|\'\'\'')


def key_lines(text: str) -> dict[str, int]:
    """Dotted key -> line number from 1. Tables in a list carry their index from 0: `keys.0.name`."""
    lines: dict[str, int] = {}
    counts: dict[str, int] = {}
    prefix = ""
    inside: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if inside is None:
            header = _HEADER.match(line)
            assignment = None if header else _ASSIGNMENT.match(line)
            if header:
                name = _indexed(_parts(header["name"]), counts)
                if header["open"] == "[[":
                    index = counts.get(name, -1) + 1
                    counts[name] = index
                    name = f"{name}.{index}"
                lines.setdefault(name, number)
                prefix = f"{name}."
            elif assignment:
                lines.setdefault(prefix + ".".join(_parts(assignment["name"])), number)
        inside = _still_inside(line, inside)
    return lines


def _parts(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_PART, dotted)]


def _indexed(parts: list[str], counts: dict[str, int]) -> str:
    """`agents.settings` below the second `[[agents]]` is `agents.1.settings`."""
    name = ""
    for position, part in enumerate(parts):
        name = f"{name}.{part}" if name else part
        if position < len(parts) - 1 and name in counts:
            name = f"{name}.{counts[name]}"
    return name


def _still_inside(line: str, inside: str | None) -> str | None:
    """The quotes of a multi-line string that is open at the end of the line."""
    for quote in _LONG_QUOTE.findall(line):
        if inside is None:
            inside = quote
        elif inside == quote:
            inside = None
    return inside
