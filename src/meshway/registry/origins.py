"""Where an agent lives: the origins of its URLs. A credential is given to one set of origins and to no other. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

import msgspec

from meshway.registry.values import Agent, AgentInterface, Instance

__all__ = ["agent_origins", "instance_origins", "origin_of", "told_apart"]

_DEFAULT_PORTS = {"http": 80, "https": 443}


def origin_of(url: str) -> str:
    """Scheme, host and port, in one spelling. Raises: ValueError for a port that is none."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    port = parts.port or _DEFAULT_PORTS.get(scheme, 0)
    return f"{scheme}://{(parts.hostname or '').rstrip('.')}:{port}"


def instance_origins(instances: Iterable[Instance]) -> frozenset[str]:
    """Every origin that calls, probes and card reads of these instances go to."""
    return frozenset(
        origin_of(url) for instance in instances for url in (instance.url, *(i.url for i in instance.interfaces))
    )


def agent_origins(agent: Agent) -> frozenset[str]:
    return instance_origins(agent.instances)


def told_apart(instances: Sequence[Instance]) -> tuple[Instance, ...]:
    """Replicas whose cards all name one address (a load balancer's, or one baked into the image) are called directly.

    An interface URL that several instances share is moved to the origin each of them was registered at; its path and
    everything that is not shared stay as the card says.
    """
    shared = Counter(interface.url for instance in instances for interface in instance.interfaces)
    return tuple(_moved(instance, shared) for instance in instances)


def _moved(instance: Instance, shared: Counter[str]) -> Instance:
    own = Counter(interface.url for interface in instance.interfaces)
    interfaces = tuple(
        _at_origin(interface, instance.url) if shared[interface.url] > own[interface.url] else interface
        for interface in instance.interfaces
    )
    return instance if interfaces == instance.interfaces else msgspec.structs.replace(instance, interfaces=interfaces)


def _at_origin(interface: AgentInterface, url: str) -> AgentInterface:
    home = urlsplit(url)
    moved = urlsplit(interface.url)._replace(scheme=home.scheme, netloc=home.netloc).geturl()
    return msgspec.structs.replace(interface, url=moved)
