"""Meshway: the hub that AI agents, tools and their clients connect to."""

__all__ = ["__version__"]

__version__ = "0.1.0"
