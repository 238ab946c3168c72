"""What a caller gets back for messages it sent."""

import msgspec

__all__ = ["Receipt"]


class Receipt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One accepted message. `duplicate`: it had been accepted before, nothing was added. `sequence`: streams only."""

    id: str
    duplicate: bool | msgspec.UnsetType = msgspec.UNSET
    sequence: int | msgspec.UnsetType = msgspec.UNSET
