"""API keys that live in the configuration: read, checked, and never written to the store."""

from collections.abc import Mapping, Sequence

from meshway.kernel.errors import wrong_field
from meshway.kernel.ids import PrincipalId
from meshway.kernel.principal import Principal, parse_scope
from meshway.security.key_text import key_digest
from meshway.security.settings import KeyEntry

__all__ = ["CONFIGURED_ID_PREFIX", "configured_principals"]

# Ids of keys from the configuration; ids of stored keys have no hyphen, so the two never meet.
CONFIGURED_ID_PREFIX = "config-"


def configured_principals(configured: Sequence[KeyEntry]) -> Mapping[bytes, Principal]:
    """Digest of each key -> its principal, named after the entry, so that a rotated key still owns what it made.

    Raises: InvalidRequest naming the first wrong field (`keys.0.scopes`).
    """
    principals: dict[bytes, Principal] = {}
    names: set[str] = set()
    for index, entry in enumerate(configured):
        if (entry.key is None) == (entry.key_sha256 is None):
            raise wrong_field(f"keys.{index}", "give either key or key_sha256")
        if entry.name in names:
            raise wrong_field(f"keys.{index}.name", f"{entry.name!r} is the name of another configured key")
        if not entry.scopes:
            raise wrong_field(f"keys.{index}.scopes", "give at least one scope: call, admin or serve:<agent pattern>")
        digest = key_digest(entry.key) if entry.key is not None else bytes.fromhex(entry.key_sha256 or "")
        if digest in principals:
            raise wrong_field(f"keys.{index}", f"is the same key as {principals[digest].id!r}")
        names.add(entry.name)
        scopes = frozenset(parse_scope(scope, field=f"keys.{index}.scopes") for scope in entry.scopes)
        principals[digest] = Principal(PrincipalId(CONFIGURED_ID_PREFIX + entry.name), scopes)
    return principals
