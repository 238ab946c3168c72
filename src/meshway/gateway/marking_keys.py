"""The keys with which hubs mark what they give out and want to know again: one per hub, readable by every hub.

Each hub makes a random key when it starts and seals it once under the mesh's secret key; the sealed key travels with
each mark. Sealing every text would cost more, and would use up the number of seals that are safe under one key within
weeks (NIST SP 800-38D, 8.3), a key that also protects stored credentials.
"""

import base64
import binascii
import secrets
from collections import OrderedDict

from meshway.gateway.ports import SecretBox
from meshway.kernel.errors import StoreCorrupt

__all__ = ["MarkingKeys"]

_KEY_BYTES = 32
# Hubs of a mesh, those of before a restart included; each key is 32 bytes.
_KEYS_MAX = 256


class MarkingKeys:
    """One per hub and purpose."""

    def __init__(self, secret_box: SecretBox, *, context: str) -> None:
        """`context` names the purpose: a key sealed for another one does not open."""
        self._secret_box = secret_box
        self._context = context
        self._own: tuple[str, bytes] | None = None
        self._opened: OrderedDict[str, bytes] = OrderedDict()

    def own(self) -> tuple[str, bytes]:
        """This hub's key, sealed and plain."""
        if self._own is None:
            key = secrets.token_bytes(_KEY_BYTES)
            self._own = self._secret_box.seal(base64.b64encode(key).decode(), context=self._context), key
        return self._own

    def open(self, sealed: str) -> bytes | None:
        """The key of some hub of this mesh; None for text that none of them sealed."""
        if self._own is not None and sealed == self._own[0]:
            return self._own[1]
        known = self._opened.get(sealed)
        if known is not None:
            return known
        try:
            key = base64.b64decode(self._secret_box.open(sealed, context=self._context), validate=True)
        except (StoreCorrupt, binascii.Error):
            return None
        if len(self._opened) >= _KEYS_MAX:
            self._opened.popitem(last=False)
        self._opened[sealed] = key
        return key
