"""Imports structlog without rich. `cli/up.py` imports this before anything that logs.

structlog prefers rich for tracebacks and imports it whenever it is installed. That is three quarters of its import
(45 of 60 ms of CPU, and 4 MB, where it was measured), for a format that log collectors cannot read. A name that is None
in `sys.modules` cannot be imported (https://docs.python.org/3/reference/import.html#the-module-cache); structlog then
takes plain tracebacks.
"""

import sys
from types import ModuleType
from typing import cast

__all__ = ["structlog"]

_modules = cast("dict[str, ModuleType | None]", sys.modules)  # None as a value is documented, but not typed
_hidden = "rich" not in _modules and "structlog" not in _modules
if _hidden:
    _modules["rich"] = None
try:
    import structlog
finally:
    if _hidden:
        del _modules["rich"]
