"""What an operator may set about logs."""

from typing import Literal

import msgspec

__all__ = ["LogSettings"]


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Section `[log]`."""

    # `debug` says what each duty does; a hub at `warning` is silent while all is well.
    level: Literal["debug", "info", "warning", "error"] = "info"
    # `auto`: for people on a terminal, JSON lines for whatever collects them otherwise.
    format: Literal["auto", "json", "pretty"] = "auto"
