"""An agent's stored credential as the header the agent wants to see."""

import re

from meshway.kernel.errors import FieldError, InvalidRequest

__all__ = ["credential_header"]

# `X-API-Key: secret`: a header's name, a colon, then its value. A bare token never has a colon before a space.
_WHOLE_HEADER = re.compile(r"(?P<name>[A-Za-z0-9!#$%&'*+.^_`|~-]+):\s+(?P<value>\S.*)")
# What the hub says itself on every request, and what would change how the request is read.
_NOT_FOR_CREDENTIALS = frozenset(
    {"accept", "connection", "content-length", "content-type", "expect", "host", "te", "trailer", "transfer-encoding",
     "upgrade", "a2a-version", "traceparent", "tracestate"}
)  # fmt: skip


def credential_header(credential: str) -> tuple[bytes, bytes]:
    """Name in lower case, and value.

    `X-API-Key: abc` is a whole header, `Basic abc` the value of Authorization, a bare token is sent as a Bearer token
    (RFC 6750). Raises: InvalidRequest (field `credential`) for what no header may carry.
    """
    text = credential.strip()
    if not text or not text.isprintable() or not text.isascii():
        raise _invalid("has characters that no header may carry")
    if (whole := _WHOLE_HEADER.fullmatch(text)) is not None:
        name = whole["name"].lower()
        if name in _NOT_FOR_CREDENTIALS or name.startswith("meshway-"):
            raise _invalid(f"may not be sent as the header {name}")
        return name.encode("ascii"), whole["value"].encode("ascii")
    return b"authorization", (text if " " in text else f"Bearer {text}").encode("ascii")


def _invalid(reason: str) -> InvalidRequest:
    text = f"{reason}; give a token, 'Scheme value', or 'Header-Name: value'"
    return InvalidRequest(f"The agent's credential {text}.", fields=[FieldError("credential", text)])
