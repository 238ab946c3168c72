"""A setting's type in words for a person: `a whole number from 1 to 65535`."""

from msgspec import inspect

__all__ = ["expected_text"]


def expected_text(field_type: object) -> str:
    """What may stand there. Knows the types that settings models use."""
    return _text(inspect.type_info(field_type))


def _text(kind: inspect.Type) -> str:
    match kind:
        case inspect.UnionType(types=types):
            return " or ".join(_text(each) for each in types if not isinstance(each, inspect.NoneType))
        case inspect.IntType() | inspect.FloatType():
            return _number(kind)
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(str(value) for value in values)
        case inspect.StrType():
            return _string(kind)
        case inspect.VarTupleType(item_type=item):
            return f"a list, each {_text(item)}"
        case inspect.DictType(value_type=value):
            return f"a table, each value {_text(value)}"
        case _:
            return "true or false" if isinstance(kind, inspect.BoolType) else "a table"


def _number(kind: inspect.IntType | inspect.FloatType) -> str:
    noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
    if kind.ge is not None and kind.le is not None:
        return f"{noun} from {kind.ge} to {kind.le}"
    if kind.ge is not None:
        return f"{noun}, at least {kind.ge}"
    return noun if kind.le is None else f"{noun}, at most {kind.le}"


def _string(kind: inspect.StrType) -> str:
    if kind.min_length is not None and kind.max_length is not None:
        return f"text of {kind.min_length} to {kind.max_length} characters"
    return "text" if kind.pattern is None else f"text of the form `{kind.pattern}`"
