"""House rules about shape: how large, how deep, what a module exports. Each is a function Source -> findings."""

import ast
from collections.abc import Iterator

from house_source import Finding, Source, walk_with_ancestors

__all__ = [
    "exports_are_true_and_sorted",
    "files_are_short",
    "functions_are_short",
    "functions_take_few_parameters",
    "init_files_only_export",
    "modules_begin_with_a_docstring",
    "names_say_what_a_thing_is",
    "nesting_is_shallow",
]

_FILE_LINES_MAX = 600
_FUNCTION_LINES_MAX = 60
_PARAMETERS_MAX = 6
_CONSTRUCTOR_PARAMETERS_MAX = 8
_NESTING_MAX = 4
_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
_EMPTY_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "data", "info", "misc"}


def files_are_short(source: Source) -> Iterator[Finding]:
    if (count := len(source.lines)) > _FILE_LINES_MAX:
        yield source.finding(1, f"{count} lines; past {_FILE_LINES_MAX} it is two modules")


def functions_are_short(source: Source) -> Iterator[Finding]:
    for function in source.functions:
        body = function.body[1:] if ast.get_docstring(function, clean=False) is not None else function.body
        if body and (count := (function.end_lineno or 0) - body[0].lineno + 1) > _FUNCTION_LINES_MAX:
            yield source.finding(function, f"{function.name} has {count} lines; past {_FUNCTION_LINES_MAX} it is two")


def functions_take_few_parameters(source: Source) -> Iterator[Finding]:
    if not source.is_package_code:
        return
    for function in source.functions:
        arguments = function.args
        # Options with a default cost a caller nothing; ruff bounds them (PLR0913).
        demanded = [
            each for each, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if not default
        ]
        names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *demanded)]
        count = len([name for name in names if name not in {"self", "cls"}])
        most = _CONSTRUCTOR_PARAMETERS_MAX if function.name == "__init__" else _PARAMETERS_MAX
        if count > most and not _is_command(function):
            yield source.finding(function, f"{function.name} takes {count} parameters; {most} is the most")


def _is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A click command's parameters are its options, declared one by one above it."""
    return any("option" in ast.dump(decorator) for decorator in function.decorator_list)


def nesting_is_shallow(source: Source) -> Iterator[Finding]:
    for function in source.functions:
        deepest = max((_depth(child) for child in function.body), default=0)
        if deepest > _NESTING_MAX:
            yield source.finding(function, f"{function.name} nests {deepest} deep; {_NESTING_MAX} is the most")


def _depth(node: ast.AST, *, is_elif: bool = False) -> int:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
        return 0
    own = int(isinstance(node, _BLOCKS) and not is_elif)
    deepest = 0
    for child in ast.iter_child_nodes(node):
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, _depth(child, is_elif=chained))
    return own + deepest


def init_files_only_export(source: Source) -> Iterator[Finding]:
    if not source.path.endswith("__init__.py"):
        return
    for statement in source.tree.body:
        is_docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
        is_dunder = isinstance(statement, ast.Assign) and all(
            isinstance(target, ast.Name) and target.id in {"__all__", "__version__"} for target in statement.targets
        )
        # An export that is loaded when it is asked for (PEP 562) is one too.
        is_lazy = isinstance(statement, ast.FunctionDef) and statement.name == "__getattr__"
        is_typing = isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"
        is_import = isinstance(statement, ast.Import | ast.ImportFrom)
        if not (is_docstring or is_dunder or is_import or is_lazy or is_typing):
            yield source.finding(statement, "an __init__.py only exports; move this into a module with a name")


def modules_begin_with_a_docstring(source: Source) -> Iterator[Finding]:
    if source.tree.body and ast.get_docstring(source.tree) is None:
        yield source.finding(1, "no module docstring: say what it is and what it is not")


def exports_are_true_and_sorted(source: Source) -> Iterator[Finding]:
    if not source.is_package_code or source.path.endswith("__main__.py"):
        return
    declared = _declared_exports(source.tree)
    if declared is None:
        if [node for node in source.tree.body if not _is_docstring(node)]:
            yield source.finding(1, "no __all__")
        return
    if declared != sorted(declared, key=_export_order):
        yield source.finding(1, "__all__ is not sorted (constants, classes, functions)")
    top_level = _top_level_names(source.tree)
    for name in declared:
        if name not in top_level:
            yield source.finding(1, f"__all__ names {name}, which the module does not have")
    for node in source.tree.body:
        name = node.name if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else "_"
        if not name.startswith("_") and name not in declared:
            yield source.finding(node, f"{name} looks public but is not in __all__")


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _declared_exports(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__" and getattr(node, "value", None) is not None:
            return list(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    return None


def _export_order(name: str) -> tuple[int, str]:
    group = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return group, name


def _top_level_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def names_say_what_a_thing_is(source: Source) -> Iterator[Finding]:
    if not source.is_package_code:
        return
    stem = source.path.rsplit("/", 1)[-1].removesuffix(".py")
    if stem.strip("_") in _EMPTY_NAMES:
        yield source.finding(1, f"{stem} is no name: what is in it?")
    for function, ancestors in walk_with_ancestors(source.tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef) or _may_override(ancestors):
            continue
        if function.name.lstrip("_").startswith(("handle_", "process_")):
            yield source.finding(function, f"{function.name}: name what it does, not that it does something")


def _may_override(ancestors: tuple[ast.AST, ...]) -> bool:
    """A method of a class with a base may have its name from there."""
    return bool(ancestors) and isinstance(ancestors[-1], ast.ClassDef) and bool(ancestors[-1].bases)
