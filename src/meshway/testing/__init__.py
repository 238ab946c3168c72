"""Public helpers for tests: what Meshway tests itself with. `local_hub()` is a whole hub inside a program."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshway.testing.hub import LocalHub as LocalHub
    from meshway.testing.hub import local_hub as local_hub

__all__ = ["LocalHub", "local_hub"]


def __getattr__(name: str) -> object:
    # Only who asks for a hub loads one: the demo agents live in this package too, and are up in a fifth of the time.
    if name in __all__:
        return getattr(importlib.import_module("meshway.testing.hub"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
