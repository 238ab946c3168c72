"""Refusing arguments that cannot work, by the name of the field."""

from meshway.kernel.errors import FieldError, InvalidRequest

__all__ = ["check_between", "refused"]


def check_between(field: str, value: int, low: int, high: int) -> None:
    """Raises: InvalidRequest naming `field` and the bounds."""
    if not low <= value <= high:
        raise refused(field, f"choose {low:,} to {high:,}")


def refused(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"{field}: {message}", fields=[FieldError(field, message)])
