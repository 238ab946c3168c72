"""Agent cards between 0.3 and 1.0. Decoded JSON in, decoded JSON out; unknown fields are kept where they stand."""

from typing import Any

from meshway.protocols.a2a.shapes import JsonObject, ShapeError, list_of, object_of

__all__ = [
    "LEGACY_CARD_FIELDS",
    "is_core_card",
    "legacy_interfaces",
    "lower_card",
    "lower_security",
    "raise_card",
    "strip_legacy",
]

# Fields of a 0.3 card that 1.0 says in another way; in a union card they stand beside the 1.0 ones.
LEGACY_CARD_FIELDS = frozenset(
    {
        "url",
        "preferredTransport",
        "protocolVersion",
        "additionalInterfaces",
        "security",
        "supportsAuthenticatedExtendedCard",
    }
)
# Kept over a translation: everything that has the same name and shape in both versions passes as it is.
_SCHEME_KINDS = {
    "apiKey": "apiKeySecurityScheme",
    "http": "httpAuthSecurityScheme",
    "oauth2": "oauth2SecurityScheme",
    "openIdConnect": "openIdConnectSecurityScheme",
    "mutualTLS": "mtlsSecurityScheme",
}
_SCHEME_TYPES = {core: legacy for legacy, core in _SCHEME_KINDS.items()}
# Fields of the OpenAPI form, which union cards show beside the 1.0 form.
_LEGACY_SCHEME_FIELDS = frozenset(
    {"type", "in", "name", "scheme", "bearerFormat", "flows", "oauth2MetadataUrl", "openIdConnectUrl", "description"}
)


def is_core_card(card: JsonObject) -> bool:
    """Whether the card says where the agent is in the way of 1.0 (alone or beside that of 0.3)."""
    return card.get("supportedInterfaces") is not None


def raise_card(card: JsonObject) -> JsonObject:
    """The 1.0 form of a 0.3 card. Raises: ShapeError."""
    core = {name: value for name, value in card.items() if name not in LEGACY_CARD_FIELDS}
    core["supportedInterfaces"] = legacy_interfaces(card)
    capabilities = dict(object_of(card.get("capabilities") or {}, "capabilities"))
    if card.get("supportsAuthenticatedExtendedCard") is not None:
        capabilities.setdefault("extendedAgentCard", card["supportsAuthenticatedExtendedCard"])
    core["capabilities"] = capabilities
    if card.get("securitySchemes") is not None:
        schemes = object_of(card["securitySchemes"], "securitySchemes")
        core["securitySchemes"] = {
            name: _raise_scheme(object_of(scheme, f"securitySchemes.{name}")) for name, scheme in schemes.items()
        }
    if card.get("security") is not None:
        core["securityRequirements"] = _raise_requirements(card["security"], "security")
    if card.get("skills") is not None:
        core["skills"] = [
            _raise_skill(object_of(skill, f"skills.{index}"), index)
            for index, skill in enumerate(list_of(card["skills"], "skills"))
        ]
    return {name: value for name, value in core.items() if value is not None}


def legacy_interfaces(card: JsonObject) -> list[JsonObject]:
    """The interfaces a 0.3 card names, preferred one first, each once, in the form of 1.0. Raises: ShapeError."""
    version = card.get("protocolVersion") or "0.3"
    named: list[tuple[Any, Any]] = [(card.get("url"), card.get("preferredTransport") or "JSONRPC")]
    for index, value in enumerate(list_of(card.get("additionalInterfaces"), "additionalInterfaces")):
        interface = object_of(value, f"additionalInterfaces.{index}")
        named.append((interface.get("url"), interface.get("transport")))
    interfaces: list[JsonObject] = []
    for url, transport in named:
        interface = {"url": url, "protocolBinding": transport, "protocolVersion": version}
        if interface not in interfaces:
            interfaces.append(interface)
    return interfaces


def strip_legacy(card: JsonObject) -> JsonObject:
    """A 1.0 or union card without what only 0.3 readers need."""
    core = {name: value for name, value in card.items() if name not in LEGACY_CARD_FIELDS}
    schemes = core.get("securitySchemes")
    if isinstance(schemes, dict):
        core["securitySchemes"] = {name: _strip_scheme(scheme) for name, scheme in schemes.items()}
    skills = core.get("skills")
    if isinstance(skills, list):
        core["skills"] = [_without(skill, "security") for skill in skills]
    return core


def lower_card(card: JsonObject) -> JsonObject:
    """The 0.3 form of a 1.0 card; its 0.3 interfaces, or if it has none all of them, become the 0.3 ones.

    Raises: ShapeError.
    """
    interfaces = [
        object_of(i, "supportedInterfaces") for i in list_of(card.get("supportedInterfaces"), "supportedInterfaces")
    ]
    legacy = [i for i in interfaces if str(i.get("protocolVersion", "")).startswith("0.")] or interfaces
    if not legacy:
        raise ShapeError("supportedInterfaces", "must hold at least one interface")
    dropped = ("supportedInterfaces", "securityRequirements", "securitySchemes", "skills", "capabilities")
    lowered: JsonObject = {
        "protocolVersion": "0.3.0",
        "url": legacy[0].get("url", ""),
        "preferredTransport": legacy[0].get("protocolBinding", "JSONRPC"),
    }
    lowered |= {name: value for name, value in card.items() if name not in dropped}
    if len(legacy) > 1:
        lowered["additionalInterfaces"] = [
            {"url": i.get("url", ""), "transport": i.get("protocolBinding", "JSONRPC")} for i in legacy
        ]
    capabilities = dict(object_of(card.get("capabilities") or {}, "capabilities"))
    if capabilities.pop("extendedAgentCard", False):
        lowered["supportsAuthenticatedExtendedCard"] = True
    lowered["capabilities"] = capabilities
    for name in ("defaultInputModes", "defaultOutputModes"):
        lowered.setdefault(name, [])
    skills = enumerate(list_of(card.get("skills"), "skills"))
    lowered["skills"] = [_lower_skill(object_of(skill, f"skills.{index}"), index) for index, skill in skills]
    return lowered | lower_security(card)


def lower_security(card: JsonObject) -> JsonObject:
    """`securitySchemes` and `security` of a 1.0 card in the form of 0.3; absent where the card has none."""
    lowered: JsonObject = {}
    if card.get("securitySchemes"):
        schemes = object_of(card["securitySchemes"], "securitySchemes")
        lowered["securitySchemes"] = {
            name: _lower_scheme(object_of(scheme, f"securitySchemes.{name}")) for name, scheme in schemes.items()
        }
    if card.get("securityRequirements"):
        lowered["security"] = _lower_requirements(card["securityRequirements"], "securityRequirements")
    return lowered


# --- Skills, requirements, schemes ------------------------------------------------------------------------------------


def _raise_skill(skill: JsonObject, index: int) -> JsonObject:
    raised = _without(skill, "security")
    if skill.get("security") is not None:
        raised["securityRequirements"] = _raise_requirements(skill["security"], f"skills.{index}.security")
    return raised


def _lower_skill(skill: JsonObject, index: int) -> JsonObject:
    lowered: JsonObject = {"description": "", "tags": []} | _without(skill, "securityRequirements")
    if skill.get("securityRequirements") is not None:
        path = f"skills.{index}.securityRequirements"
        lowered["security"] = _lower_requirements(skill["securityRequirements"], path)
    return lowered


def _raise_requirements(value: object, path: str) -> list[JsonObject]:
    return [_raise_requirement(object_of(item, f"{path}.{index}")) for index, item in enumerate(list_of(value, path))]


def _raise_requirement(requirement: JsonObject) -> JsonObject:
    """`{name: [scopes]}`; the 0.3 proto's own form is that of 1.0 and passes."""
    if isinstance(requirement.get("schemes"), dict):
        return requirement
    return {"schemes": {name: {"list": scopes} for name, scopes in requirement.items()}}


def _lower_requirements(value: object, path: str) -> list[JsonObject]:
    lowered = []
    for index, item in enumerate(list_of(value, path)):
        schemes = object_of(object_of(item, f"{path}.{index}").get("schemes") or {}, f"{path}.{index}.schemes")
        # ProtoJSON leaves an empty list out.
        lowered.append({name: _scopes(scopes) for name, scopes in schemes.items()})
    return lowered


def _scopes(value: object) -> list[Any]:
    scopes = value.get("list") if isinstance(value, dict) else value
    return scopes if isinstance(scopes, list) else []


def _raise_scheme(scheme: JsonObject) -> JsonObject:
    kind = _SCHEME_KINDS.get(str(scheme.get("type")))
    if kind is None:
        return scheme
    inner = _without(scheme, "type")
    if "in" in inner:
        inner["location"] = inner.pop("in")
    return {kind: inner}


def _lower_scheme(scheme: JsonObject) -> JsonObject:
    for kind, legacy_type in _SCHEME_TYPES.items():
        inner = scheme.get(kind)
        if not isinstance(inner, dict):
            continue
        lowered: JsonObject = {"type": legacy_type} | inner
        if "location" in lowered:
            lowered["in"] = lowered.pop("location")
        if isinstance(lowered.get("flows"), dict):
            # 0.3 does not know this flow and refuses what it does not know.
            lowered["flows"] = _without(lowered["flows"], "deviceCode")
        return lowered
    return scheme


def _strip_scheme(scheme: object) -> object:
    if not isinstance(scheme, dict):
        return scheme
    if not _SCHEME_TYPES.keys() & scheme.keys():
        return _raise_scheme(scheme)
    return {name: value for name, value in scheme.items() if name not in _LEGACY_SCHEME_FIELDS}


def _without(fields: JsonObject, name: str) -> JsonObject:
    return {key: value for key, value in fields.items() if key != name}
