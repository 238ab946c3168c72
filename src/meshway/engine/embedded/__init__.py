"""The embedded engine: one process, one SQLite database, nothing to install."""

from meshway.engine.embedded.data_dir import DataDirLock, LockHolder, hold_data_dir
from meshway.engine.embedded.engine import EmbeddedEngine, open_embedded_engine
from meshway.engine.embedded.settings import EmbeddedSettings

__all__ = [
    "DataDirLock",
    "EmbeddedEngine",
    "EmbeddedSettings",
    "LockHolder",
    "hold_data_dir",
    "open_embedded_engine",
]
