"""Agent cards: reading an agent's own (1.0, 0.3, or both in one), and writing the one the hub serves in its place."""

from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from meshway.kernel.errors import FieldError, InvalidRequest, PayloadTooLarge
from meshway.protocols.a2a.card_versions import (
    is_core_card,
    legacy_interfaces,
    lower_card,
    raise_card,
    strip_legacy,
)
from meshway.protocols.a2a.dialect import JSONRPC_0_3, JSONRPC_1_0, REST_0_3, REST_1_0, Dialect, dialect_of, major_minor
from meshway.protocols.a2a.inbound import WireReply
from meshway.protocols.a2a.requests import A2ARequest
from meshway.protocols.a2a.shapes import JsonObject, ShapeError
from meshway.protocols.jsonrpc import malformed
from meshway.registry.values import AgentInterface, CardFacts, Skill

__all__ = ["CARD_BYTES_MAX", "CARD_DEPTH_MAX", "CardStyle", "read_card", "serve_card", "serve_extended_card"]

CardStyle = Literal["1.0", "union", "0.3"]

# A card with a thousand skills is about 300 KB; more is not a card.
CARD_BYTES_MAX = 1024 * 1024
# Real cards nest 8 deep; extensions may add some.
CARD_DEPTH_MAX = 32
# Enough to say what is wrong; a card with more faults has one cause.
_FAULTS_MAX = 50

_SERVED: tuple[Dialect, ...] = (JSONRPC_1_0, REST_1_0, JSONRPC_0_3, REST_0_3)
_HTTP_SCHEMES = frozenset({"http", "https"})
_SCHEMES = {
    "meshwayBearer": {"httpAuthSecurityScheme": {"scheme": "Bearer", "description": "A Meshway API key."}},
    "meshwayApiKey": {
        "apiKeySecurityScheme": {"location": "header", "name": "X-API-Key", "description": "A Meshway API key."}
    },
}
_REQUIREMENTS: list[JsonObject] = [{"schemes": {name: {"list": []}}} for name in _SCHEMES]


class _Faults(list[FieldError]):
    """What is wrong with a card, in the order of its fields."""

    def add(self, field: str, message: str) -> None:
        if len(self) < _FAULTS_MAX:
            self.append(FieldError(field, message))


# --- Reading ----------------------------------------------------------------------------------------------------------


def read_card(document: bytes) -> CardFacts:
    """What the hub needs of a card, 1.0, 0.3 or both in one.

    What ProtoJSON leaves out because it is empty (no skills, no modes, no capabilities) may be absent. Raises:
    PayloadTooLarge, InvalidRequest with every wrong field as a dotted path.
    """
    if len(document) > CARD_BYTES_MAX:
        raise PayloadTooLarge(f"the card is {len(document)} bytes long; at most {CARD_BYTES_MAX} are read")
    card = _decode(document)
    faults = _Faults()
    for name in ("name", "description", "version"):
        _check_text(card.get(name), name, faults, required=True)
    legacy = not is_core_card(card)
    _check_interfaces(card, faults, legacy)
    _check_capabilities(card, faults)
    _check_skills(card.get("skills"), faults)
    for name in ("defaultInputModes", "defaultOutputModes"):
        _check_texts(card.get(name), name, faults)
    _check_links(card, faults)
    if faults:
        raise _invalid(faults)
    try:
        core = raise_card(card) if legacy else _core_of(card)
    except ShapeError as error:
        raise _invalid([FieldError(error.path, error.message)]) from None
    interfaces = _interfaces_of(core)
    _check_spoken(interfaces, "url" if legacy else "supportedInterfaces")
    return _facts(core, interfaces, document)


def _decode(document: bytes) -> JsonObject:
    if (error := malformed(document)) is not None:
        raise InvalidRequest(f"card: {error.detail}", fields=[FieldError("card", error.detail)])
    card: Any = msgspec.json.decode(document)
    if not isinstance(card, dict):
        raise InvalidRequest("card: must be a JSON object", fields=[FieldError("card", "must be a JSON object")])
    if _deeper_than(card, CARD_DEPTH_MAX):
        message = f"is nested deeper than {CARD_DEPTH_MAX} levels"
        raise InvalidRequest(f"card: {message}", fields=[FieldError("card", message)])
    return card


def _deeper_than(value: object, depth_max: int) -> bool:
    layer = [value]
    for _ in range(depth_max):
        layer = [
            child
            for item in layer
            for child in (item.values() if isinstance(item, dict) else item)  # type: ignore[attr-defined]  # lists only
            if isinstance(child, dict | list)
        ]
        if not layer:
            return False
    return True


def _core_of(card: JsonObject) -> JsonObject:
    """A 1.0 card, or the 1.0 half of a union; 0.3 interfaces that only the other half names are added."""
    core = strip_legacy(card)
    if isinstance(card.get("url"), str):
        known = {
            (i.get("url"), i.get("protocolBinding"), major_minor(_version_of(i))) for i in core["supportedInterfaces"]
        }
        added = [
            i
            for i in legacy_interfaces(card)
            if (i["url"], i["protocolBinding"], major_minor(str(i["protocolVersion"]))) not in known
        ]
        core["supportedInterfaces"] = [*core["supportedInterfaces"], *added]
    return core


def _facts(core: JsonObject, interfaces: tuple[AgentInterface, ...], document: bytes) -> CardFacts:
    capabilities = core.get("capabilities") or {}
    return CardFacts(
        name=core["name"],
        description=core["description"],
        version=core["version"],
        skills=tuple(
            Skill(
                id=skill["id"],
                name=skill["name"],
                description=skill.get("description") or "",
                tags=tuple(skill.get("tags") or ()),
            )
            for skill in core.get("skills") or ()
        ),
        interfaces=interfaces,
        streaming=capabilities.get("streaming") is True,
        push_notifications=capabilities.get("pushNotifications") is True,
        extended_card=capabilities.get("extendedAgentCard") is True,
        document=msgspec.json.encode(core).decode(),
        original=document.decode(),
    )


def _interfaces_of(core: JsonObject) -> tuple[AgentInterface, ...]:
    return tuple(
        AgentInterface(
            url=interface["url"],
            binding=interface["protocolBinding"].upper()
            if interface["protocolBinding"].upper() in ("JSONRPC", "HTTP+JSON", "GRPC")
            else interface["protocolBinding"],
            version=major_minor(_version_of(interface)) or _version_of(interface),
            tenant=interface.get("tenant") or None,
        )
        for interface in core["supportedInterfaces"]
    )


def _version_of(interface: JsonObject) -> str:
    """An interface without a version is one of 0.3, as the stock SDK has it."""
    return str(interface.get("protocolVersion") or "0.3")


def _check_spoken(interfaces: Sequence[AgentInterface], field: str) -> None:
    if any(dialect_of(interface) is not None for interface in interfaces):
        return
    offered = ", ".join(sorted({f"{i.binding} {i.version}" for i in interfaces}))
    message = (
        f"offers only {offered}; the hub speaks JSONRPC and HTTP+JSON, A2A 1.0 and 0.3: offer one of these as well"
    )
    raise InvalidRequest(f"{field}: {message}", fields=[FieldError(field, message)])


# --- Checks -----------------------------------------------------------------------------------------------------------


def _check_interfaces(card: JsonObject, faults: _Faults, legacy: bool) -> None:  # noqa: FBT001 - what the card is
    if legacy:
        if card.get("url") is None:
            faults.add("supportedInterfaces", "is required (A2A 1.0), or 'url' (A2A 0.3)")
            return
        _check_url(card["url"], "url", faults, binding=card.get("preferredTransport"))
        _check_text(card.get("preferredTransport"), "preferredTransport", faults)
        _check_text(card.get("protocolVersion"), "protocolVersion", faults)
        for index, interface in _objects(card.get("additionalInterfaces"), "additionalInterfaces", faults):
            path = f"additionalInterfaces.{index}"
            _check_text(interface.get("transport"), f"{path}.transport", faults, required=True)
            _check_url(interface.get("url"), f"{path}.url", faults, binding=interface.get("transport"))
        return
    if card["supportedInterfaces"] == []:
        faults.add("supportedInterfaces", "must hold at least one interface")
    for index, interface in _objects(card["supportedInterfaces"], "supportedInterfaces", faults):
        path = f"supportedInterfaces.{index}"
        _check_url(interface.get("url"), f"{path}.url", faults, binding=interface.get("protocolBinding"))
        _check_text(interface.get("protocolBinding"), f"{path}.protocolBinding", faults, required=True)
        _check_text(interface.get("protocolVersion"), f"{path}.protocolVersion", faults)
        _check_text(interface.get("tenant"), f"{path}.tenant", faults)


def _check_url(value: object, path: str, faults: _Faults, *, binding: object = None) -> None:
    """An absolute http(s) URL without credentials; gRPC interfaces are host:port and not the hub's business."""
    if not isinstance(value, str) or not value:
        faults.add(path, "is required and must be a URL")
        return
    if isinstance(binding, str) and binding.upper() == "GRPC":
        return
    try:
        parts = urlsplit(value)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        faults.add(path, "is no valid URL")
        return
    if parts.scheme.lower() not in _HTTP_SCHEMES:
        faults.add(path, "must begin with http:// or https://")
    elif not parts.hostname or not port_is_fine or any(c <= " " or c == "\x7f" for c in value):
        faults.add(path, "is no valid URL")
    elif parts.username is not None or parts.password is not None:
        faults.add(path, "must not contain credentials; register the agent's credential with the hub instead")
    elif parts.fragment:
        faults.add(path, "must not contain a fragment")


def _check_capabilities(card: JsonObject, faults: _Faults) -> None:
    capabilities = card.get("capabilities")
    if capabilities is None:
        return
    if not isinstance(capabilities, dict):
        faults.add("capabilities", "must be an object")
        return
    for name in ("streaming", "pushNotifications", "extendedAgentCard"):
        if not isinstance(capabilities.get(name), bool | None):
            faults.add(f"capabilities.{name}", "must be true or false")
    for index, extension in _objects(capabilities.get("extensions"), "capabilities.extensions", faults):
        _check_text(extension.get("uri"), f"capabilities.extensions.{index}.uri", faults)


def _check_skills(value: object, faults: _Faults) -> None:
    for index, skill in _objects(value, "skills", faults):
        path = f"skills.{index}"
        _check_text(skill.get("id"), f"{path}.id", faults, required=True)
        _check_text(skill.get("name"), f"{path}.name", faults, required=True)
        _check_text(skill.get("description"), f"{path}.description", faults)
        for name in ("tags", "examples", "inputModes", "outputModes"):
            _check_texts(skill.get(name), f"{path}.{name}", faults)


def _check_links(card: JsonObject, faults: _Faults) -> None:
    """Links that people will follow from the dashboard: no javascript:, no data:."""
    links = [("documentationUrl", card.get("documentationUrl")), ("iconUrl", card.get("iconUrl"))]
    provider = card.get("provider")
    if provider is not None and not isinstance(provider, dict):
        faults.add("provider", "must be an object")
    elif provider is not None:
        links.append(("provider.url", provider.get("url")))
    for path, value in links:
        if value is None or value == "":
            continue
        if not isinstance(value, str) or _scheme_of(value) not in _HTTP_SCHEMES:
            faults.add(path, "must be a URL that begins with http:// or https://")


def _scheme_of(value: str) -> str:
    """The scheme in lower case; empty where there is none or the text is no URL."""
    try:
        return urlsplit(value).scheme.lower()
    except ValueError:
        return ""


def _check_text(value: object, path: str, faults: _Faults, *, required: bool = False) -> None:
    if value is None:
        if required:
            faults.add(path, "is required")
    elif not isinstance(value, str):
        faults.add(path, "must be a string")
    elif required and not value and not path.endswith("description"):
        faults.add(path, "must not be empty")


def _check_texts(value: object, path: str, faults: _Faults) -> None:
    if value is None:
        return
    if not isinstance(value, list):
        faults.add(path, "must be an array of strings")
        return
    for index, item in enumerate(value):
        if not isinstance(item, str):
            faults.add(f"{path}.{index}", "must be a string")


def _objects(value: object, path: str, faults: _Faults) -> list[tuple[int, JsonObject]]:
    if value is None:
        return []
    if not isinstance(value, list):
        faults.add(path, "must be an array")
        return []
    found: list[tuple[int, JsonObject]] = []
    for index, item in enumerate(value):
        if isinstance(item, dict):
            found.append((index, item))
        else:
            faults.add(f"{path}.{index}", "must be an object")
    return found


def _invalid(faults: Sequence[FieldError]) -> InvalidRequest:
    first = f"{faults[0].field} {faults[0].message}"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return InvalidRequest(f"the agent card is not valid: {first}{more}", fields=faults)


# --- Serving ----------------------------------------------------------------------------------------------------------


def serve_card(
    facts: CardFacts, *, base_url: str, style: CardStyle, hub_requires_key: bool, hub_notifies: bool = False
) -> bytes:
    """The card of an agent as the hub shows it: same agent, the hub's addresses, the hub's way to authenticate.

    The same arguments give the same bytes, so their hash can be the ETag. `base_url` is the agent's URL at the hub;
    `hub_notifies` whether the hub delivers push notifications for it.
    """
    core: JsonObject = msgspec.json.decode(facts.document)
    if hub_notifies:
        capabilities = core.get("capabilities")
        core["capabilities"] = {**(capabilities if isinstance(capabilities, dict) else {}), "pushNotifications": True}
    return msgspec.json.encode(_serve(core, base_url, style, hub_requires_key=hub_requires_key))


def serve_extended_card(request: A2ARequest, reply: WireReply, *, base_url: str, hub_requires_key: bool) -> WireReply:
    """The answer to GetExtendedAgentCard with the same rewriting; answers that hold no card pass as they are."""
    try:
        answer: Any = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return reply
    by_envelope = isinstance(answer, dict) and "jsonrpc" in answer
    card: Any = answer.get("result") if by_envelope else answer
    if not isinstance(card, dict) or not isinstance(card.get("name"), str) or reply.status >= 400:
        return reply
    style: CardStyle = "1.0" if request.dialect.version.value == "1.0" else "0.3"
    try:
        core = strip_legacy(card) if is_core_card(card) else raise_card(card)
        served = _serve(core, base_url, style, hub_requires_key=hub_requires_key)
    except ShapeError:
        return reply
    body = msgspec.json.encode({**answer, "result": served} if by_envelope else served)
    return msgspec.structs.replace(reply, body=body)


def _serve(core: JsonObject, base_url: str, style: CardStyle, *, hub_requires_key: bool) -> JsonObject:
    card = _rewritten(core, base_url.rstrip("/"), hub_requires_key=hub_requires_key)
    if style == "1.0":
        return card
    legacy = lower_card(card)
    return legacy if style == "0.3" else _merged(card, legacy)


def _rewritten(core: JsonObject, base_url: str, *, hub_requires_key: bool) -> JsonObject:
    """Signatures go: they cover the addresses. Skills lose requirements that named schemes which are gone."""
    gone = {"supportedInterfaces", "signatures", "securitySchemes", "securityRequirements"}
    card: JsonObject = {
        "name": core.get("name", ""),
        "description": core.get("description", ""),
        "supportedInterfaces": [
            {"url": base_url, "protocolBinding": dialect.binding.value, "protocolVersion": dialect.version.value}
            for dialect in _SERVED
        ],
        "version": core.get("version", ""),
        "capabilities": {},
        "defaultInputModes": [],
        "defaultOutputModes": [],
        "skills": [],
    }
    card |= {name: value for name, value in core.items() if name not in gone and value is not None}
    card["skills"] = [
        {"description": "", "tags": []}
        | {name: value for name, value in skill.items() if name != "securityRequirements"}
        for skill in card["skills"]
    ]
    if hub_requires_key:
        card["securitySchemes"] = _SCHEMES
        card["securityRequirements"] = _REQUIREMENTS
    return card


def _merged(card: JsonObject, legacy: JsonObject) -> JsonObject:
    """Both versions in one object: where both have a field, objects are merged and the 1.0 value wins."""
    merged = dict(card)
    for name, value in legacy.items():
        own = merged.get(name)
        if name not in merged:
            merged[name] = value
        elif isinstance(own, dict) and isinstance(value, dict):
            merged[name] = _merged(own, value)
    return merged
