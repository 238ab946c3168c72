"""What a receiver demands of its notifications: token and credentials, sealed in the config's record."""

import msgspec

from meshway.gateway.ports import SecretBox
from meshway.kernel.errors import StoreCorrupt
from meshway.tasks.push_configs import PushConfig

__all__ = ["PushSecrets", "ReceiverSecrets"]


class ReceiverSecrets(msgspec.Struct, frozen=True, omit_defaults=True):
    """Empty: the receiver demands none."""

    token: str = ""
    credentials: str = ""


class PushSecrets:
    """Seals to one config: moved to another config's record, they do not open."""

    def __init__(self, box: SecretBox) -> None:
        self._box = box

    def seal(self, config_key: str, secrets: ReceiverSecrets) -> str:
        """Empty where there is nothing to hide."""
        if not secrets.token and not secrets.credentials:
            return ""
        return self._box.seal(msgspec.json.encode(secrets).decode(), context=_context(config_key))

    def open(self, config: PushConfig) -> ReceiverSecrets:
        """Raises: StoreCorrupt, as the SecretBox does."""
        if not config.sealed:
            return ReceiverSecrets()
        text = self._box.open(config.sealed, context=_context(config.key))
        try:
            return msgspec.json.decode(text, type=ReceiverSecrets)
        except msgspec.DecodeError:
            raise StoreCorrupt(f"The secrets of {config.key!r} cannot be read; make the config again.") from None


def _context(config_key: str) -> str:
    return f"push:{config_key}"
