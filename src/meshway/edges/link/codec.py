"""Frames between bytes and values: what cannot be read becomes a refusal that names what it belongs to, if it can."""

import re
from collections.abc import Sequence

import msgspec

from meshway.edges.http.decoding import decode_body
from meshway.edges.http.problems import render_problem
from meshway.kernel.errors import FieldError, InvalidRequest, MalformedBody, MeshwayError, MethodUnknown
from meshway.messaging.incoming import IncomingBatch, IncomingMessage
from meshway.protocols.link.frames import CLIENT_FRAME_TYPES, ClientFrame, HubFrame, Name

__all__ = ["FrameRefused", "decode_frame", "decode_messages", "encode_frame", "problem_raw"]

_decode = msgspec.json.Decoder(ClientFrame).decode
_decode_messages = msgspec.json.Decoder(list[IncomingMessage]).decode
_encode = msgspec.json.Encoder().encode
_PLACE = re.compile(r" - at `\$\.?(?P<path>.*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]+)`$")


class FrameRefused(Exception):
    """A frame nobody acts on. With neither `id` nor `ref` the client cannot know which, and the connection ends."""

    def __init__(self, error: MeshwayError, *, id_: str | None = None, ref: str | None = None) -> None:
        super().__init__(error.detail)
        self.error = error
        self.id = id_
        self.ref = ref


class _Head(msgspec.Struct):
    """What is read of a frame that is wrong."""

    type: msgspec.Raw = msgspec.Raw(b"null")
    id: msgspec.Raw = msgspec.Raw(b"null")
    ref: msgspec.Raw = msgspec.Raw(b"null")


_decode_head = msgspec.json.Decoder(_Head).decode


def decode_frame(text: bytes) -> ClientFrame:
    """Raises: FrameRefused."""
    try:
        if not text.isascii():
            # msgspec takes strings on trust that it does not build, such as those of a message's data.
            text.decode()
        frame: ClientFrame = _decode(text)
        return frame
    except msgspec.ValidationError as error:
        raise _refused(text, str(error)) from None
    except RecursionError:
        raise FrameRefused(MalformedBody("The JSON of the frame is nested too deeply.")) from None
    except UnicodeDecodeError as error:
        raise FrameRefused(MalformedBody(f"The frame is not valid UTF-8 (byte {error.start}).")) from None
    except msgspec.DecodeError as error:
        raise FrameRefused(MalformedBody(f"The frame is not valid JSON: {error}")) from None


def decode_messages(raw: msgspec.Raw) -> Sequence[IncomingMessage]:
    """The `messages` of a publish. Raises: InvalidRequest naming the member, MalformedBody."""
    try:
        return _decode_messages(raw)
    except (msgspec.MsgspecError, RecursionError):
        # Once more, by the reader that knows the words for what is wrong with the body of a post.
        return decode_body(b'{"messages":%b}' % bytes(raw), IncomingBatch).messages


def encode_frame(frame: HubFrame) -> bytes:
    return _encode(frame)


def problem_raw(error: MeshwayError) -> msgspec.Raw:
    """The document of RFC 9457, with `retry_after_ms` as a member: a frame has no headers."""
    body = render_problem(error).body
    if error.retry_after_ms is None:
        return msgspec.Raw(body)
    return msgspec.Raw(b'%b,"retry_after_ms":%d}' % (body[:-1], error.retry_after_ms))


def _refused(text: bytes, wrong: str) -> FrameRefused:
    try:
        head = _decode_head(text)
    except msgspec.MsgspecError:
        return FrameRefused(InvalidRequest("A frame is one JSON object with a type."))
    id_, ref, kind = _name_of(head.id), _name_of(head.ref), _name_of(head.type)
    if kind not in CLIENT_FRAME_TYPES:
        known = ", ".join(CLIENT_FRAME_TYPES)
        return FrameRefused(MethodUnknown(f"No frame of a client has this type; there are {known}."), id_=id_, ref=ref)
    place = _PLACE.search(wrong)
    path = (place["path"] if place else "").replace("[", ".").replace("]", "")
    message = _PLACE.sub("", wrong)
    if missing := _MISSING.match(message):
        path, message = f"{path}.{missing['name']}".strip("."), "is missing"
    elif message.startswith("Invalid enum value") and path == "kind":
        message = "must be one of events, streams, queues, commands, queries"
    error = InvalidRequest(f"The {kind} frame is not as expected: {path} {message}", fields=[FieldError(path, message)])
    return FrameRefused(error, id_=id_, ref=ref)


def _name_of(raw: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(raw, type=Name)
    except msgspec.MsgspecError:
        return None
