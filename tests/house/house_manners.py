"""House rules about manners: owned tasks, honest errors, typed values, tests that neither sleep nor pretend."""

import ast
import re
from collections.abc import Iterator, Mapping

from house_source import Finding, Source, walk_with_ancestors

__all__ = [
    "FREE_TASKS_ALLOWED",
    "LATE_IMPORTS_ALLOWED",
    "broad_excepts_give_their_reason",
    "imports_stand_at_the_top",
    "nothing_is_left_undone",
    "settings_explain_themselves",
    "tasks_have_an_owner",
    "tests_run_for_real",
    "tests_wait_for_conditions",
    "types_are_known",
]

# File -> why it may start tasks without a TaskGroup. Such a file owns them itself: it cancels and awaits them.
FREE_TASKS_ALLOWED: Mapping[str, str] = {
    "src/meshway/client/owned_tasks.py": "a client is closed by any task of its loop; aclose cancels and awaits them",
    "src/meshway/edges/http/protocol.py": "one task per exchange, owned by its connection",
    "src/meshway/engine/embedded/duties.py": "start and close are calls, not a block; close cancels and awaits it",
    "src/meshway/engine/nats/owned_tasks.py": "start and close are calls, not a block; close cancels and awaits them",
    "src/meshway/security/keys.py": "start and aclose are calls, not a block; aclose cancels and awaits the follower",
}
# File -> why it may import a module of ours where it needs it.
LATE_IMPORTS_ALLOWED: Mapping[str, str] = {
    "src/meshway/assembly/engines.py": "a hub with a store of its own need not carry the client of another",
}
_FREE_TASK_CALLS = {"create_task", "ensure_future", "gather"}
_GROUP_NAMES = re.compile(r"(^|_)(group|tasks|duties)$")
# Split so that this file does not break the rule it states.
_LEFT_UNDONE = re.compile(r"\b(" + "TO" + "DO|FIX" + "ME|X" + "XX|HA" + r"CK)\b")
_REASON_WORDS_MIN = 3
_PRETENDING = {"skip", "skipif", "xfail", "importorskip"}


def tasks_have_an_owner(source: Source) -> Iterator[Finding]:
    if not source.is_package_code or source.path in FREE_TASKS_ALLOWED:
        return
    for node in source.nodes:
        if not isinstance(node, ast.Call):
            continue
        called, receiver = _called(node.func)
        if called in _FREE_TASK_CALLS and not (called == "create_task" and _GROUP_NAMES.search(receiver)):
            yield source.finding(node, f"{called} without an owner; use a TaskGroup, or give the file a reason here")


def _called(node: ast.expr) -> tuple[str, str]:
    """The name that is called and what it is called on: `self._group.create_task` -> (create_task, _group)."""
    if isinstance(node, ast.Name):
        return node.id, ""
    if not isinstance(node, ast.Attribute):
        return "", ""
    base = node.value
    return node.attr, base.attr if isinstance(base, ast.Attribute) else base.id if isinstance(base, ast.Name) else ""


def broad_excepts_give_their_reason(source: Source) -> Iterator[Finding]:
    if source.is_test:
        return
    for node in source.nodes:
        if not isinstance(node, ast.ExceptHandler) or not _is_broad(node.type):
            continue
        comment = re.sub(r"noqa: [A-Z0-9, ]+", "", source.comments.get(node.lineno, ""))
        if len(re.findall(r"[A-Za-z]{2,}", comment)) < _REASON_WORDS_MIN and not _ends_in_bare_raise(node):
            yield source.finding(node, "a broad except only at a boundary, with its reason on the line")


def _is_broad(kind: ast.expr | None) -> bool:
    if kind is None:
        return True
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(isinstance(each, ast.Name) and each.id in {"Exception", "BaseException"} for each in kinds)


def _ends_in_bare_raise(handler: ast.ExceptHandler) -> bool:
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def imports_stand_at_the_top(source: Source) -> Iterator[Finding]:
    if not source.is_package_code or source.path in LATE_IMPORTS_ALLOWED:
        return
    for node, ancestors in walk_with_ancestors(source.tree):
        if not any(isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) for each in ancestors):
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or "meshway"] if isinstance(node, ast.ImportFrom) else []
        if any(name.split(".")[0] == "meshway" for name in names):
            yield source.finding(node, "an import of our own package inside a function hides a cycle")


def nothing_is_left_undone(source: Source) -> Iterator[Finding]:
    for line, comment in source.comments.items():
        if _LEFT_UNDONE.search(comment):
            yield source.finding(line, "finish it, or open an issue and take the note out")
    if not source.is_package_code:
        return
    for node in source.nodes:
        if isinstance(node, ast.Name) and node.id == "NotImplementedError":
            yield source.finding(node, "a port is a Protocol; what is not there yet is not there")


def types_are_known(source: Source) -> Iterator[Finding]:
    if not source.is_package_code or source.room == "protocols":
        return
    for node in source.nodes:
        is_any = isinstance(node, ast.Name) and node.id == "Any"
        if is_any or (isinstance(node, ast.Attribute) and node.attr == "Any"):
            yield source.finding(node, "Any only in protocols/; elsewhere say what it is, or object")


def settings_explain_themselves(source: Source) -> Iterator[Finding]:
    """Each field has a comment with its reason; each but the names in lists of tables (`[[keys]]`) has a default."""
    if not source.is_package_code or not source.path.endswith("settings.py"):
        return
    for model in (node for node in source.nodes if isinstance(node, ast.ClassDef)):
        for entry in model.body:
            if not isinstance(entry, ast.AnnAssign) or "ClassVar" in ast.dump(entry.annotation):
                continue
            name = ast.unparse(entry.target)
            if entry.value is None and model.name.endswith("Settings"):
                yield source.finding(entry, f"{name} has no default")
            if entry.lineno not in source.comments and entry.lineno - 1 not in source.comments:
                yield source.finding(entry, f"{name} has no comment that says who sets it, or why this default")


def tests_run_for_real(source: Source) -> Iterator[Finding]:
    if not source.is_test:
        return
    for node in source.nodes:
        if not isinstance(node, ast.Attribute):
            continue
        base = ast.unparse(node.value)
        if node.attr in _PRETENDING and base in {"pytest", "pytest.mark"}:
            yield source.finding(node, "a test that does not run proves nothing")
        if node.attr == "patch" and base.split(".")[-1] in {"mock", "mocker"}:
            yield source.finding(node, "no mock.patch of our own code; put a fake at a port")


def tests_wait_for_conditions(source: Source) -> Iterator[Finding]:
    """`time.sleep` may pace a polling loop and nothing else."""
    if not source.is_test:
        return
    for node, ancestors in walk_with_ancestors(source.tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) != "time.sleep":
            continue
        if not any(isinstance(each, ast.While | ast.For) for each in ancestors):
            yield source.finding(node, "poll a condition with a bound instead of sleeping and hoping")
