"""Who may come in: the gate, the principal and the hub's own URL, as the edges want them."""

from collections.abc import Callable, Mapping, Sequence

from meshway.gateway.ports import Credentials
from meshway.kernel.principal import Principal
from meshway.security.credentials import credentials_of, read_credentials
from meshway.security.hosts import HostRules
from meshway.security.keys import KeyRing

__all__ = ["HubGate", "base_url_of", "principal_of_pairs", "shown_credentials"]


class HubGate:
    """Host, Origin and proxy headers, before anything else of a request is looked at."""

    def __init__(self, rules: HostRules, keys: KeyRing) -> None:
        self._rules = rules
        self._keys = keys

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """See RequestGate."""
        # Only an open hub minds proxies, so only an open hub pays for looking.
        forwarded = not self._keys.demands_key and any(
            name == b"forwarded" or name.startswith(b"x-forwarded-") for name in headers
        )
        self._rules.check(headers.get(b"host"), headers.get(b"origin"), forwarded=forwarded)


def shown_credentials(headers: Mapping[bytes, bytes]) -> Credentials:
    """What a request shows. The server has refused requests that carry one of these headers twice."""
    return credentials_of(headers.get(b"authorization"), headers.get(b"x-api-key"))


def principal_of_pairs(keys: KeyRing) -> Callable[[Sequence[tuple[bytes, bytes]]], Principal]:
    """For the control plane."""
    return lambda pairs: keys.authenticate(read_credentials(pairs))


def base_url_of(public_url: str | None, own_url: str) -> Callable[[bytes], str]:
    """The hub's URL as callers see it: `public_url`, else the Host header, which the gate has checked."""
    if public_url is not None:
        fixed = public_url.rstrip("/")
        return lambda host: fixed
    return lambda host: f"http://{host.decode('ascii', 'replace')}" if host else own_url
