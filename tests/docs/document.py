"""Markdown documents as the tests of the docs see them: their code blocks, headings and links."""

import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ROOT", "Block", "blocks_of", "documents", "headings_of", "links_of"]

ROOT = Path(__file__).parents[2]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `expected` is the text block right after it, if there is one."""

    language: str
    code: str
    line: int
    expected: str | None


def documents() -> list[Path]:
    """Everything we publish as prose."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "changes").glob("*.md")])


def blocks_of(document: Path) -> list[Block]:
    text = document.read_text()
    found = list(_FENCE.finditer(text))
    blocks = []
    for index, match in enumerate(found):
        following = found[index + 1] if index + 1 < len(found) else None
        is_output = (
            following is not None and following[1] == "text" and not text[match.end() : following.start()].strip()
        )
        expected = following[2] if is_output and following is not None else None
        blocks.append(Block(match[1], match[2], text.count("\n", 0, match.start()) + 1, expected))
    return blocks


def links_of(document: Path) -> list[str]:
    """Targets of links in prose; code is no prose."""
    return _LINK.findall(_INLINE_CODE.sub("", _FENCE.sub("", document.read_text())))


def headings_of(document: Path) -> set[str]:
    """Anchors as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", _FENCE.sub("", document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}
