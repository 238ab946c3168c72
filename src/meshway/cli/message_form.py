"""What a line or an argument of `send`, `append` and `pub` means as a message. Pure."""

import base64
import binascii
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import click
import msgspec

from meshway.client import NewMessage

__all__ = ["Form", "MessageForm", "MessageOptions", "WrongLine", "read_pairs"]

Given = TypeVar("Given")


class Form(enum.Enum):
    """How a line is read."""

    JSON = "json"
    TEXT = "text"
    ENVELOPE = "envelope"


class WrongLine(Exception):
    """A line, by its number from 1, that is no message; `reason` goes after it in a sentence."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"line {number} {reason}")
        self.number = number
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageOptions:
    """What options say of every message that does not say it itself. From `delay_ms` on for queues only."""

    attributes: Mapping[str, str] = field(default_factory=dict)
    content_type: str | None = None
    delay_ms: int | None = None
    deliver_at: str | None = None
    expires_in_ms: int | None = None
    priority: str | None = None
    ordering_key: str | None = None


class _Envelope(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message with everything; the last row is what the hub adds, so that what `read` prints can be sent on."""

    id: str | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None
    content_type: str | None = None
    attributes: dict[str, str] | None = None
    delay_ms: int | None = None
    deliver_at: str | None = None
    expires_in_ms: int | None = None
    priority: str | None = None
    dedupe_id: str | None = None
    ordering_key: str | None = None

    channel: object = None
    sequence: object = None
    timestamp: object = None
    principal: object = None
    traceparent: object = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


class MessageForm:
    """Lines to messages. Ids are made of the prefix and the line's number, so that a repeated run repeats them."""

    def __init__(self, form: Form, options: MessageOptions, *, id_prefix: str, dedupes: bool) -> None:
        """`dedupes`: a queue; its messages get the id as their dedupe id too, whose window the queue's settings say."""
        self._read = {Form.JSON: self._json, Form.TEXT: self._text, Form.ENVELOPE: self._envelope}[form]
        self._options = options
        self._prefix = id_prefix
        self._dedupes = dedupes

    def message(self, number: int, content: bytes) -> NewMessage:
        """Raises: WrongLine."""
        try:
            content.decode()
        except UnicodeDecodeError as error:
            raise WrongLine(number, f"is not UTF-8 (byte {error.start + 1})") from None
        return self._read(number, content)

    def _json(self, number: int, content: bytes) -> NewMessage:
        try:
            msgspec.json.decode(content)
        except (msgspec.DecodeError, RecursionError) as error:
            reason = f"is not JSON ({error}); --text sends lines as text, --envelope reads whole messages"
            raise WrongLine(number, reason) from None
        return self._made(number, _Envelope(), msgspec.Raw(content.strip()))

    def _text(self, number: int, content: bytes) -> NewMessage:
        return self._made(number, _Envelope(content_type="text/plain"), content.decode())

    def _envelope(self, number: int, content: bytes) -> NewMessage:
        try:
            envelope = _decode_envelope(content)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise WrongLine(number, f"is no message: {error}") from None
        if (envelope.data is msgspec.UNSET) == (envelope.data_base64 is None):
            raise WrongLine(number, "is no message: it needs exactly one of data and data_base64")
        if envelope.data_base64 is None:
            return self._made(number, envelope, envelope.data)
        try:
            return self._made(number, envelope, base64.b64decode(envelope.data_base64, validate=True))
        except (binascii.Error, ValueError):
            raise WrongLine(number, "is no message: its data_base64 is not valid base64") from None

    def _made(self, number: int, given: _Envelope, data: object) -> NewMessage:
        options = self._options
        message_id = f"{self._prefix}-{number}" if given.id is None else given.id
        dedupe_id = given.dedupe_id
        if dedupe_id is None and self._dedupes:
            dedupe_id = message_id
        # A line that says when, in either way, is not told otherwise.
        says_when = given.delay_ms is not None or given.deliver_at is not None
        return NewMessage(
            id=message_id,
            data=data,
            attributes={**options.attributes, **(given.attributes or {})} or None,
            content_type=_first(options.content_type, given.content_type),
            delay_ms=given.delay_ms if says_when else options.delay_ms,
            deliver_at=given.deliver_at if says_when else options.deliver_at,
            expires_in_ms=_first(given.expires_in_ms, options.expires_in_ms),
            # Checked by the hub, which names the line's field.
            priority=_first(given.priority, options.priority),  # type: ignore[arg-type]
            dedupe_id=dedupe_id,
            ordering_key=_first(given.ordering_key, options.ordering_key),
        )


def read_pairs(texts: Sequence[str], *, option: str) -> dict[str, str]:
    """`key=value` options. Raises: click.UsageError."""
    pairs = [text.partition("=") for text in texts]
    if wrong := [text for text, (_, separator, _) in zip(texts, pairs, strict=True) if not separator]:
        raise click.UsageError(f"{option} {wrong[0]}: write it as key=value.")
    return {key: value for key, _, value in pairs}


def _first(given: Given | None, otherwise: Given | None) -> Given | None:
    return otherwise if given is None else given
