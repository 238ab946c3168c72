"""Futures of the running loop, made in one place."""

import asyncio

__all__ = ["new_finished"]


def new_finished() -> "asyncio.Future[None]":
    """A future that the writer's answer completes."""
    return asyncio.get_running_loop().create_future()
