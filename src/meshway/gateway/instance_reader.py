"""Turns what somebody says of an instance into one the hub can call: checked, allowed to be dialled, card read."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from meshway.gateway.ports import CardReader, EgressRules
from meshway.kernel.errors import (
    DeadlineExceeded,
    EgressDenied,
    FieldError,
    InvalidRequest,
    MeshwayError,
    UpstreamError,
    UpstreamUnreachable,
)
from meshway.kernel.ids import InstanceId, parse_instance_id
from meshway.registry.checks import check_capacity, check_labels, check_url_form, check_weight
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import AgentInterface, AgentState, CardFacts, Instance

__all__ = ["InstanceReader", "InstanceSpec"]

_BINDINGS = frozenset({"JSONRPC", "HTTP+JSON"})
_INTERFACES_FIELD = "card.supportedInterfaces"
# The readable part of a made-up id; with the dash and eight characters of the hash it stays a DNS label.
_SLUG_CHARS_MAX = 48
_NOT_IN_IDS = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceSpec:
    """One replica as somebody describes it. Without an `id` it gets one made of its URL, the same each time."""

    url: str
    id: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    capacity: int | None = None
    weight: int = 1


class InstanceReader:
    """Checks, and reads cards. `prefix` is where the specification stands in the request (`instances.0.`)."""

    def __init__(self, cards: CardReader, egress: EgressRules, settings: RegistrySettings) -> None:
        self._cards = cards
        self._egress = egress
        self._settings = settings

    def check(self, spec: InstanceSpec, *, prefix: str = "") -> list[FieldError]:
        """Everything about the specification that is wrong without asking anybody. Raises: EgressDenied."""
        wrong = check_url_form(spec.url, prefix + "url")
        if not wrong:
            wrong = _faults_of(lambda: self._egress.check_url(spec.url, field=prefix + "url"))
        return [*wrong, *self.check_description(spec, prefix=prefix)]

    def check_description(self, spec: InstanceSpec, *, prefix: str = "") -> list[FieldError]:
        """The same without the URL, which a posted card brings itself."""
        wrong = [
            *check_labels(spec.labels, prefix + "labels", self._settings),
            *check_capacity(spec.capacity, prefix + "capacity"),
            *check_weight(spec.weight, prefix + "weight"),
        ]
        if spec.id is not None:
            instance_id = spec.id
            wrong += _faults_of(lambda: parse_instance_id(instance_id, field=prefix + "id"))
        return wrong

    async def by_url(
        self, spec: InstanceSpec, *, now_ms: int, credential: str | None = None, prefix: str = ""
    ) -> tuple[CardFacts, Instance]:
        """Fetch the card; the instance is online, for it has just answered.

        Raises: UpstreamUnreachable and UpstreamInvalid naming the URL's field, InvalidRequest the card's; EgressDenied.
        """
        url_field = prefix + "url"
        try:
            facts = await self._cards.fetch(spec.url, credential=credential)
        except (UpstreamError, EgressDenied) as error:
            raise _at_field(error, url_field) from error
        except InvalidRequest as error:
            raise _below_card(error, "url") from None
        instance = self._instance(spec, facts, AgentState.ONLINE, now_ms, seen_ms=now_ms)
        return facts, instance

    def by_card(self, document: bytes, spec: InstanceSpec, *, now_ms: int) -> tuple[CardFacts, Instance]:
        """Read a posted card; its first interface the hub speaks is the instance, suspect until first contact.

        `spec` carries labels, capacity and weight; its URL is not used. Raises: InvalidRequest, EgressDenied.
        """
        try:
            facts = self._cards.read(document)
        except InvalidRequest as error:
            raise _below_card(error, "card") from None
        placed = replace(spec, url=self.spoken(facts)[0].url)
        return facts, self._instance(placed, facts, AgentState.SUSPECT, now_ms, seen_ms=None)

    def read_card(self, document: bytes) -> CardFacts:
        """Of an agent that has no address the hub could call. Raises: InvalidRequest naming fields of `card`."""
        try:
            return self._cards.read(document)
        except InvalidRequest as error:
            raise _below_card(error, "card") from None

    def spoken(self, facts: CardFacts) -> Sequence[AgentInterface]:
        """Interfaces the hub can use, in the card's order, each allowed by the egress rules.

        Raises: InvalidRequest naming `card.supportedInterfaces` when there is none, EgressDenied naming one.
        """
        found = []
        for number, interface in enumerate(facts.interfaces):
            if interface.binding in _BINDINGS and _is_spoken(interface.version):
                self._egress.check_url(interface.url, field=f"{_INTERFACES_FIELD}.{number}.url")
                found.append(interface)
        if found:
            return found
        offered = ", ".join(dict.fromkeys(f"{i.binding} {i.version}" for i in facts.interfaces)) or "nothing"
        text = f"the agent offers {offered}; the hub speaks JSONRPC and HTTP+JSON of A2A 1.0 and 0.3: add one of them"
        raise InvalidRequest(f"{_INTERFACES_FIELD}: {text}", fields=[FieldError(_INTERFACES_FIELD, text)])

    def _instance(
        self, spec: InstanceSpec, facts: CardFacts, state: AgentState, now_ms: int, *, seen_ms: int | None
    ) -> Instance:
        return Instance(
            id=InstanceId(spec.id) if spec.id is not None else _id_of(spec.url),
            url=spec.url,
            interfaces=tuple(self.spoken(facts)),
            labels=dict(spec.labels),
            capacity=spec.capacity,
            weight=spec.weight,
            state=state,
            state_since_ms=now_ms,
            last_seen_ms=seen_ms,
        )


def _faults_of(check: Callable[[], object]) -> list[FieldError]:
    try:
        check()
    except InvalidRequest as error:
        return list(error.fields)
    return []


def _is_spoken(version: str) -> bool:
    """Only Major.Minor is negotiated, and every 1.x answers to 1.0 (A2A 1.0, 3.6)."""
    return version == "0.3" or version.startswith(("1.", "0.3."))


def _id_of(url: str) -> InstanceId:
    """A readable id that is the same at each registration of one URL, so that tasks keep their owner."""
    slug = _NOT_IN_IDS.sub("-", url.partition("://")[2].lower())[:_SLUG_CHARS_MAX].strip("-")
    digest = hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:8]
    return InstanceId(f"{slug}-{digest}" if slug else digest)


def _below_card(error: InvalidRequest, outer: str) -> InvalidRequest:
    """The card's own faults as fields of the request: `card.version`; `outer` and what is named so already stay."""
    fields = [
        fault if fault.field in (outer, "card") else FieldError(f"card.{fault.field}", fault.message)
        for fault in error.fields
    ]
    return InvalidRequest(error.detail, fields=fields)


def _at_field(error: MeshwayError, url_field: str) -> MeshwayError:
    """The same error, saying which field of the request led there; a slow agent is one that does not answer."""
    text = f"{error.detail} The agent must be running and serve its card below this URL."
    kind = UpstreamUnreachable if isinstance(error, DeadlineExceeded) else type(error)
    return kind(f"{url_field}: {text}", fields=[FieldError(url_field, error.detail), *error.fields])
