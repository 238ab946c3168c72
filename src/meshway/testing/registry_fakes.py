"""Agents, and the outside world of the registry, without a network: for tests of whatever stands on the registry."""

import msgspec

from meshway.kernel.errors import EgressDenied, FieldError, InvalidRequest, StoreCorrupt, UpstreamUnreachable
from meshway.kernel.ids import AgentId, InstanceId, PrincipalId
from meshway.registry.values import Agent, AgentInterface, AgentState, CardFacts, Instance, Skill

__all__ = ["FakeCards", "FakeEgress", "FakeSecretBox", "an_agent", "an_instance", "card_facts"]

_START_MS = 1_700_000_000_000


def card_facts(
    name: str = "Echo",
    *,
    url: str = "http://127.0.0.1:9001",
    description: str = "Says it again",
    skills: tuple[Skill, ...] = (),
    binding: str = "JSONRPC",
    version: str = "1.0",
) -> CardFacts:
    """A card with one interface."""
    document = msgspec.json.encode({"name": name, "description": description, "url": url}).decode()
    return CardFacts(
        name=name,
        description=description,
        version="1",
        skills=skills,
        interfaces=(AgentInterface(url=url, binding=binding, version=version),),
        streaming=True,
        push_notifications=False,
        extended_card=False,
        document=document,
        original=document,
    )


def an_instance(instance_id: str = "one", state: AgentState = AgentState.ONLINE, **fields: object) -> Instance:
    """An instance at a URL of its own; `fields` are those of Instance."""
    url = str(fields.pop("url", f"http://{instance_id}.test"))
    plain = Instance(
        id=InstanceId(instance_id),
        url=url,
        interfaces=(AgentInterface(url=url, binding="JSONRPC", version="1.0"),),
        state=state,
        state_since_ms=_START_MS,
    )
    return msgspec.structs.replace(plain, **fields)


def an_agent(agent_id: str = "echo", *instances: Instance, **fields: object) -> Agent:
    """An agent, online at one instance unless others are given; `fields` are those of Agent."""
    plain = Agent(
        id=AgentId(agent_id),
        card=card_facts(agent_id.title()),
        instances=instances or (an_instance(),),
        registered_at_ms=_START_MS,
        registered_by=PrincipalId("local"),
    )
    return msgspec.structs.replace(plain, **fields)


class FakeCards:
    """CardReader over a dict: URLs that are not in `cards` do not answer. `fetched` keeps (url, credential)."""

    def __init__(self, cards: dict[str, CardFacts] | None = None) -> None:
        self.cards = cards if cards is not None else {}
        self.posted = card_facts()
        self.fetched: list[tuple[str, str | None]] = []

    async def fetch(self, url: str, *, credential: str | None = None) -> CardFacts:
        self.fetched.append((url, credential))
        if url not in self.cards:
            raise UpstreamUnreachable(f"Nobody answers at {url}.")
        return self.cards[url]

    def read(self, document: bytes) -> CardFacts:
        return self.posted


class FakeEgress:
    """EgressRules that know two rules: http(s) only, and not to 169.254.169.254."""

    def check_url(self, url: str, *, field: str = "url") -> None:
        if not url.startswith(("http://", "https://")):
            raise InvalidRequest(f"{field}: use http or https", fields=[FieldError(field, "use http or https")])
        if "//169.254.169.254" in url:
            raise EgressDenied(f"{field}: a metadata address", fields=[FieldError(field, "a metadata address")])

    async def resolve(self, host: str, port: int) -> list[str]:
        return ["127.0.0.1"]


class FakeSecretBox:
    """SecretBox without encryption, but as strict about contexts."""

    def seal(self, plaintext: str, *, context: str) -> str:
        return f"sealed|{context}|{plaintext}"

    def open(self, sealed: str, *, context: str) -> str:
        _, sealed_for, plaintext = sealed.split("|", 2)
        if sealed_for != context:
            raise StoreCorrupt(f"Sealed for {sealed_for}, opened for {context}.")
        return plaintext
