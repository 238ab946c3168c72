"""Decoding requests strictly: media type, JSON, query, and every wrong field by its dotted path. Pure."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec
import msgspec.inspect

from meshway.kernel.errors import ContentTypeUnsupported, FieldError, InvalidRequest, MalformedBody

__all__ = ["check_json_type", "decode_body", "decode_query"]

Model = TypeVar("Model", bound=msgspec.Struct)

_AT = re.compile(r"^(?P<text>.*?)(?: - at (?:`key` in )?`\$(?P<path>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.([^.\[]+)|\[(\d+|\.\.\.)\]")
_MISSING = re.compile(r"Object missing required field `(?P<name>[^`]+)`")
_PATTERN = re.compile(r"Expected `str` matching regex '(?P<pattern>.*)'", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
# Names and values of the caller are shown back to them, but not by the kilobyte.
_SHOWN_CHARACTERS_MAX = 64
# A body of ten thousand unknown names gets an answer of readable length.
_ERRORS_MAX = 20


def check_json_type(content_type: str) -> None:
    """Is this the Content-Type of JSON? Raises: ContentTypeUnsupported."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        shown = f"not {media_type[:_SHOWN_CHARACTERS_MAX]!r}" if media_type else "and the request names none"
        raise ContentTypeUnsupported(f"The body must be application/json, {shown}; set the Content-Type header.")


def decode_body(body: bytes, model: type[Model]) -> Model:
    """The body as `model`. Raises: MalformedBody, InvalidRequest with every wrong field."""
    try:
        # msgspec takes strings on trust that it does not build, such as those inside a posted card.
        body.decode()
        return msgspec.json.decode(body, type=model)
    except msgspec.ValidationError as error:
        raise _invalid("The body", _wrong_members(body, model) or [_field_error(str(error))]) from None
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError as error:
        raise MalformedBody(f"The body is not valid UTF-8 (byte {error.start}).") from None
    except msgspec.DecodeError as error:
        raise MalformedBody(f"The body is not valid JSON: {error}") from None


def decode_query(pairs: Iterable[tuple[str, str]], model: type[Model]) -> Model:
    """The query as `model`: numbers are read from text, names that repeat give lists where the model has a tuple.

    Raises: InvalidRequest with every wrong parameter; an unknown one is wrong, so that a mistyped filter never
    silently matches everything.
    """
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name, []).append(value)
    fields = {field.encode_name: field for field in msgspec.structs.fields(model)}
    wrong: list[FieldError] = []
    members: dict[str, object] = {}
    for name, given in values.items():
        if name not in fields:
            wrong.append(_unknown_name(name, fields))
        elif len(given) > 1 and not _takes_many(fields[name]):
            wrong.append(FieldError(name, "is given more than once"))
        else:
            members[name] = given if _takes_many(fields[name]) else given[0]
    for name, member in members.items():
        try:
            found = msgspec.convert(member, fields[name].type, strict=False)
        except msgspec.ValidationError as error:
            wrong.append(_field_error(str(error), within=name, expected=fields[name].type))
        else:
            if found is None:
                # The text `null` stands for None there, and a filter that is written must not match everything.
                wrong.append(FieldError(name, "has no value; leave the parameter out"))
    wrong.extend(
        FieldError(name, "is missing") for name, field in fields.items() if field.required and name not in values
    )
    if wrong:
        raise _invalid("The query", wrong)
    return msgspec.convert(members, model, strict=False)


def _takes_many(field: msgspec.structs.FieldInfo) -> bool:
    return isinstance(field.default, tuple)


def _wrong_members(body: bytes, model: type[msgspec.Struct]) -> list[FieldError]:
    """All wrong members of the top level, where msgspec itself stops at the first. Empty when the body is no object."""
    try:
        members = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return []
    except RecursionError:
        # Deep nesting behind the fault that was found first.
        raise _too_deep() from None
    fields = {field.encode_name: field for field in msgspec.structs.fields(model)}
    wrong = [FieldError(name, "is missing") for name, field in fields.items() if field.required and name not in members]
    for name, raw in members.items():
        if name not in fields:
            wrong.append(_unknown_name(name, fields))
            continue
        try:
            msgspec.json.decode(raw, type=fields[name].type)
        except msgspec.ValidationError as error:
            wrong.append(_field_error(str(error), within=name, expected=fields[name].type))
    return wrong


def _field_error(text: str, *, within: str = "", expected: object = None) -> FieldError:
    """Of msgspec's "Expected `str`, got `int` - at `$.labels[...]`": field `labels`, "expected `str`, got `int`".

    `expected` is the type of the member `within`; a word that is none of a closed choice is answered with the choice.
    """
    match = _AT.match(text)
    message, path = (match["text"], match["path"] or "") if match else (text, "")
    steps = [within] if within else []
    steps += [name or index for name, index in _STEP.findall(path) if index != "..."]
    if missing := _MISSING.match(message):
        return FieldError(".".join([*steps, missing["name"]]), "is missing")
    if unknown := _UNKNOWN.match(message):
        return FieldError(".".join([*steps, _shown(unknown["name"])]), "is unknown")
    if pattern := _PATTERN.match(message):
        return FieldError(".".join(steps), f"must have the form {pattern['pattern']}")
    if message.startswith("Invalid enum value") and (choice := _choice(expected)):
        return FieldError(".".join(steps), f"must be one of {', '.join(choice)}")
    return FieldError(".".join(steps), message[:1].lower() + message[1:])


def _choice(expected: object) -> Sequence[str]:
    """The words of an enum or Literal, also where it may be left out; empty for any other type."""
    pending = [msgspec.inspect.type_info(expected)]
    while pending:
        match pending.pop():
            case msgspec.inspect.EnumType(cls=choice):
                return [str(member.value) for member in choice]
            case msgspec.inspect.LiteralType(values=values):
                return [str(value) for value in values]
            case msgspec.inspect.UnionType(types=types):
                pending += types
            case msgspec.inspect.Metadata(type=kind):
                pending.append(kind)
            case _:
                pass
    return ()


def _unknown_name(name: str, known: Mapping[str, object]) -> FieldError:
    near = difflib.get_close_matches(name[:_SHOWN_CHARACTERS_MAX], known, n=1)
    if near:
        return FieldError(_shown(name), f"is unknown; did you mean {near[0]}?")
    return FieldError(_shown(name), f"is unknown; known are {', '.join(known)}" if known else "is unknown")


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS_MAX else text[:_SHOWN_CHARACTERS_MAX] + "..."


def _invalid(what: str, wrong: Sequence[FieldError]) -> InvalidRequest:
    shown = wrong[:_ERRORS_MAX]
    first = "; ".join(f"{each.field} {each.message}".strip() for each in shown[:3])
    more = f" (and {len(wrong) - 3} more)" if len(wrong) > 3 else ""
    return InvalidRequest(f"{what} is not as expected: {first}{more}.", fields=shown)


def _too_deep() -> MalformedBody:
    return MalformedBody("The JSON of the body is nested too deeply.")
