"""The project's files as the house rules see them: text, syntax tree and comments, each read once."""

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

__all__ = ["ROOT", "Finding", "Source", "project_sources", "walk_with_ancestors"]

ROOT = Path(__file__).parents[2]
_CODE_FOLDERS = ("src", "tests", "examples", "benchmarks")


@dataclass(frozen=True, slots=True)
class Finding:
    """One breach, as an editor can jump to it."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Source:
    """One Python file. `path` is relative to the project, with forward slashes."""

    path: str
    text: str

    @property
    def room(self) -> str:
        """`src/meshway/engine/embedded/x.py` -> `engine`; empty for what is not the package."""
        parts = self.path.split("/")
        return parts[2] if parts[:2] == ["src", "meshway"] and len(parts) > 3 else ""

    @property
    def is_package_code(self) -> bool:
        return self.path.startswith("src/")

    @property
    def is_test(self) -> bool:
        return self.path.startswith("tests/")

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.path)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @cached_property
    def comments(self) -> dict[int, str]:
        """Line number -> comment text, without the hash."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}

    @property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return [node for node in self.nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    def finding(self, node: ast.AST | int, message: str) -> Finding:
        return Finding(self.path, node if isinstance(node, int) else getattr(node, "lineno", 1), message)


@lru_cache(maxsize=1)
def project_sources() -> tuple[Source, ...]:
    """Every Python file of ours."""
    files = sorted(path for folder in _CODE_FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return tuple(Source(path.relative_to(ROOT).as_posix(), path.read_text()) for path in files)


def walk_with_ancestors(tree: ast.AST) -> Iterator[tuple[ast.AST, tuple[ast.AST, ...]]]:
    """Every node with the nodes it stands in, outermost first."""
    stack: list[tuple[ast.AST, tuple[ast.AST, ...]]] = [(tree, ())]
    while stack:
        node, ancestors = stack.pop()
        yield node, ancestors
        stack.extend((child, (*ancestors, node)) for child in ast.iter_child_nodes(node))
