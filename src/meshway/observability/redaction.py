"""Takes secrets out of log entries: the last thing before an entry is written. Pure."""

import re
from collections.abc import Mapping, MutableMapping

__all__ = ["MASK", "redact", "redact_text"]

MASK = "***"

# Also keys that were cut off or mistyped: what is left may still be most of one.
_API_KEY = re.compile(r"\bmw_([A-Za-z0-9]{1,64})_[A-Za-z0-9_-]+")
_CREDENTIAL = re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{6,}")
_USER_INFO = re.compile(r"(?<=://)[^/\s@'\"]+@")
_SECRET_NAMES = frozenset(
    {
        "api_key",
        "apikey",
        "authorization",
        "cookie",
        "credential",
        "password",
        "proxy_authorization",
        "secret",
        "secret_key",
        "set_cookie",
        "x_api_key",
    }
)
# Deeper things are not log fields.
_DEPTH_MAX = 6


def redact(logger: object, method: str, entry: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """A structlog processor: masks secret fields by name, and keys and credentials inside any text."""
    for name, value in entry.items():
        entry[name] = _redacted(name, value, _DEPTH_MAX)
    return entry


def redact_text(text: str) -> str:
    """The text without API keys (their id stays), `Bearer`/`Basic` credentials, and passwords in URLs."""
    if "mw_" in text:
        text = _API_KEY.sub(rf"mw_\1_{MASK}", text)
    lower = text.lower()
    if "bearer" in lower or "basic" in lower:
        text = _CREDENTIAL.sub(rf"\1\2{MASK}", text)
    return _USER_INFO.sub(f"{MASK}@", text) if "@" in text else text


def _redacted(name: str, value: object, depth: int) -> object:
    if name.lower().replace("-", "_") in _SECRET_NAMES and value is not None:
        return MASK
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, int | float | None):
        return value
    if isinstance(value, bytes):
        return redact_text(value.decode("utf-8", "replace"))
    if depth == 0:
        return redact_text(repr(value))
    if isinstance(value, Mapping):
        return {str(key): _redacted(str(key), each, depth - 1) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redacted_item(each, depth - 1) for each in value]
    return redact_text(str(value) if isinstance(value, BaseException) else repr(value))


def _redacted_item(value: object, depth: int) -> object:
    """One item of a list. A pair whose first half is a secret's name is a header: its value goes as well."""
    if isinstance(value, list | tuple) and len(value) == 2:
        first = value[0].decode("latin-1") if isinstance(value[0], bytes) else str(value[0])
        return [redact_text(first), _redacted(first, value[1], depth)]
    return _redacted("", value, depth)
