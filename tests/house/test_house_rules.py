"""STYLE's worst cases, over every file of the project; and each rule on a planted breach, to prove that it bites."""

from collections.abc import Callable, Iterable

import house_manners as manners
import house_shape as shape
import pytest
from house_source import ROOT, Finding, Source, project_sources

Rule = Callable[[Source], Iterable[Finding]]

SRC = "src/meshway/room/planted.py"
INIT = "src/meshway/room/__init__.py"
SETTINGS = "src/meshway/room/settings.py"
TEST = "tests/unit/room/test_planted.py"
DEEP = "def f(a):\n if a:\n  for b in a:\n   while b:\n    with b:\n     try:\n      pass\n     finally:\n      pass\n"

# Rule -> planted files it must refuse.
BREACHES: dict[Rule, list[tuple[str, str]]] = {
    shape.files_are_short: [(SRC, "x = 1\n" * 601)],
    shape.functions_are_short: [(SRC, "def f():\n" + "    x = 1\n" * 61)],
    shape.functions_take_few_parameters: [
        (SRC, "def f(a, b, c, d, *, e, g, h): ...\n"),
        (SRC, "class C:\n    def __init__(self, a, b, c, d, e, f, g, h, i): ...\n"),
    ],
    shape.nesting_is_shallow: [(SRC, DEEP)],
    shape.init_files_only_export: [(INIT, '"""Doc."""\nx = 1\n'), (INIT, "def f(): ...\n")],
    shape.modules_begin_with_a_docstring: [(SRC, "x = 1\n")],
    shape.exports_are_true_and_sorted: [
        (SRC, '"""Doc."""\nx = 1\n'),
        (SRC, '__all__ = ["b", "a"]\na = b = 1\n'),
        (SRC, '__all__ = ["gone"]\n'),
        (SRC, "__all__ = []\ndef public(): ...\n"),
        (SRC, '__all__ = ["A_CONSTANT", "function", "Class"]\nA_CONSTANT = 1\ndef function(): ...\nclass Class: ...\n'),
    ],
    shape.names_say_what_a_thing_is: [
        ("src/meshway/room/utils.py", ""),
        (SRC, "def _handle_message(): ...\n"),
    ],
    manners.tasks_have_an_owner: [
        (SRC, "import asyncio\nasyncio.create_task(f())\n"),
        (SRC, "loop.create_task(f())\n"),
        (SRC, "from asyncio import gather\ngather(f())\n"),
        (SRC, "asyncio.ensure_future(f())\n"),
    ],
    manners.broad_excepts_give_their_reason: [
        (SRC, "try:\n    pass\nexcept Exception:\n    pass\n"),
        (SRC, "try:\n    pass\nexcept:\n    pass\n"),
        (SRC, "try:\n    pass\nexcept (ValueError, BaseException):  # noqa: BLE001\n    pass\n"),
    ],
    manners.imports_stand_at_the_top: [
        (SRC, "def f():\n    from meshway.kernel import clock\n"),
        (SRC, "def f():\n    import meshway.kernel\n"),
    ],
    manners.nothing_is_left_undone: [
        (SRC, "x = 1  # " + "TO" + "DO later\n"),
        (SRC, "def f():\n    raise NotImplementedError\n"),
    ],
    manners.types_are_known: [
        (SRC, "from typing import Any\nx: Any = 1\n"),
        (SRC, "import typing\nx: typing.Any = 1\n"),
    ],
    manners.settings_explain_themselves: [
        (SETTINGS, "class RoomSettings:\n    limit: int = 1\n"),
        (SETTINGS, "class RoomSettings:\n    # Why.\n    limit: int\n"),
    ],
    manners.tests_run_for_real: [
        (TEST, "import pytest\n@pytest.mark.skip\ndef test_x(): ...\n"),
        (TEST, "import pytest\ndef test_x():\n    pytest.xfail('later')\n"),
        (TEST, "from unittest import mock\ndef test_x():\n    with mock.patch('meshway.x'): ...\n"),
    ],
    manners.tests_wait_for_conditions: [(TEST, "import time\ndef test_x():\n    time.sleep(1)\n")],
}

# What the rules must let through: the neighbours of the breaches above.
FINE: dict[Rule, list[tuple[str, str]]] = {
    shape.functions_are_short: [(SRC, 'def f():\n    """' + "Long.\n" * 70 + '    """\n    return 1\n')],
    shape.nesting_is_shallow: [
        (SRC, "def f(a):\n if a: pass\n elif a: pass\n elif a: pass\n elif a: pass\n elif a: pass\n")
    ],
    shape.exports_are_true_and_sorted: [
        (SRC, '__all__ = ["A_B", "Class", "a"]\nA_B = 1\nclass Class: ...\ndef a(): ...\n_x = 1\n'),
        (INIT, ""),
    ],
    manners.tasks_have_an_owner: [(SRC, "group.create_task(f())\nself._group.create_task(f())\n")],
    manners.broad_excepts_give_their_reason: [
        (SRC, "try:\n    pass\nexcept Exception:  # noqa: BLE001 one broken duty must not stop the others\n    pass\n"),
        (SRC, "try:\n    pass\nexcept BaseException:\n    undo()\n    raise\n"),
    ],
    manners.types_are_known: [("src/meshway/protocols/x.py", "from typing import Any\nx: Any = 1\n")],
    manners.settings_explain_themselves: [(SETTINGS, "class RoomSettings:\n    # Why.\n    limit: int = 1\n")],
    manners.tests_wait_for_conditions: [(TEST, "import time\nwhile not ready():\n    time.sleep(0.01)\n")],
}


@pytest.mark.parametrize("rule", BREACHES, ids=lambda rule: rule.__name__)
def test_the_project_keeps(rule):
    findings = [finding for source in project_sources() for finding in rule(source)]
    assert not findings, "\n" + "\n".join(map(str, findings))


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        pytest.param(rule, *plant, id=f"{rule.__name__}-{n}")
        for rule in BREACHES
        for n, plant in enumerate(BREACHES[rule])
    ],
)
def test_a_planted_breach_is_found(rule, path, text):
    assert list(rule(Source(path, text)))


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [pytest.param(rule, *plant, id=f"{rule.__name__}-{n}") for rule in FINE for n, plant in enumerate(FINE[rule])],
)
def test_its_innocent_neighbour_is_not(rule, path, text):
    assert not list(rule(Source(path, text)))


def test_every_rule_has_a_planted_breach():
    rules = {name for module in (shape, manners) for name in module.__all__ if name[0].islower()}
    assert rules == {rule.__name__ for rule in BREACHES}


def test_every_file_that_may_start_free_tasks_still_does_so_for_a_stated_reason():
    for path, reason in manners.FREE_TASKS_ALLOWED.items():
        assert "create_task" in (ROOT / path).read_text(), f"{path} needs no exception any more: take it off the list"
        assert len(reason.split()) > 3
