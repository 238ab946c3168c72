"""What was missed while a stream of an agent was broken, told from the task as the agent shows it afterwards. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from meshway.tasks.event_bodies import artifact_chunk, status_update
from meshway.tasks.picture import PicturedArtifact, TaskPicture

__all__ = ["RepeatedEnd", "is_said_again", "missed_events", "repeats_the_end"]

_encode = msgspec.json.Encoder(order="deterministic").encode
_decode = msgspec.json.Decoder().decode
# What ProtoJSON leaves out of one answer and another serialiser writes into the next.
_EMPTY = frozenset({b"null", b'""', b"[]", b"{}", b"false"})


def missed_events(picture: TaskPicture, snapshot: bytes, *, task_id: str) -> list[bytes]:
    """Events that bring the picture to the agent's own Task (A2A 1.0 JSON): artifacts first, the status last.

    A text that grew is continued, also where the agent keeps in one part what it sent in several; what changed in any
    other way is sent whole. Nothing comes of an equal task, and nothing after the end of one.
    Raises: msgspec.DecodeError when the snapshot is no Task.
    """
    if picture.state.is_terminal:
        return []
    present = TaskPicture.of_task(snapshot)
    context_id = picture.context_id or present.context_id
    ends = present.state.is_terminal
    events: list[bytes] = []
    for artifact_id, artifact in present.artifacts.items():
        missing, appends = _missing_parts(picture.artifacts.get(artifact_id), artifact)
        if missing is not None:
            fields = {"artifactId": artifact_id} if appends else artifact.fields
            events.append(artifact_chunk(task_id, context_id, fields, missing, append=appends, last_chunk=ends))
    said, heard = (_canonical(each.status_message or b"null") for each in (present, picture))
    if present.state is not picture.state or said != heard:
        fresh = {name: raw for name, raw in present.metadata.items() if picture.metadata.get(name) != raw}
        events.append(status_update(task_id, context_id, present.status, metadata=fresh))
    return events


def _missing_parts(known: PicturedArtifact | None, present: PicturedArtifact) -> tuple[Sequence[object] | None, bool]:
    """The parts to send, None when there are none, and whether they continue what is known."""
    if known is None or _substance(known.fields) != _substance(present.fields):
        return present.parts, False
    before, after = _substances(known.parts), _substances(present.parts)
    if before == after[: len(before)]:
        return present.parts[len(before) :] or None, True
    rest = _rest(_merged(known.parts), _merged(present.parts))
    return (present.parts, False) if rest is None else (rest or None, True)


def _rest(known: list[object], present: list[object]) -> list[object] | None:
    """What follows `known` in `present`; None when it does not begin with it. A last text may go on."""
    same = len(known) - 1
    if same < 0 or known[:same] != present[:same] or same >= len(present):
        return None
    last, next_ = known[same], present[same]
    if last == next_:
        return present[same + 1 :]
    if isinstance(last, _Text) and isinstance(next_, _Text) and next_.text.startswith(last.text):
        return [_Text(next_.text[len(last.text) :]), *present[same + 1 :]]
    return None


class _Text(msgspec.Struct, frozen=True):
    """A part that is a text and nothing else; encoded, it is the part."""

    text: str


def _merged(parts: Sequence[msgspec.Raw]) -> list[object]:
    """The parts, bare texts that follow one another being one."""
    merged: list[object] = []
    run: list[str] = []
    for part in parts:
        value = _decode(part)
        if isinstance(value, dict) and value.keys() == {"text"} and isinstance(value["text"], str):
            run.append(value["text"])
            continue
        if run:
            merged.append(_Text("".join(run)))
            run = []
        merged.append(msgspec.Raw(_encode(value)))
    if run:
        merged.append(_Text("".join(run)))
    return merged


_NO_NAME = msgspec.Raw(b'""')


class _Chunk(msgspec.Struct):
    artifact: dict[str, msgspec.Raw]
    append: bool | None = None


class _ChunkEvent(msgspec.Struct):
    artifactUpdate: _Chunk | None = None  # noqa: N815 - the wire's own name


_decode_chunk = msgspec.json.Decoder(_ChunkEvent).decode


@dataclass(frozen=True, slots=True)
class RepeatedEnd:
    """A chunk that says what an artifact ends with already: said twice, or said again."""

    artifact_id: str
    # How many parts the artifact has without it.
    known: int
    chunk: Sequence[bytes]


def repeats_the_end(picture: TaskPicture, event: bytes) -> RepeatedEnd | None:
    """Whether this event adds to an artifact once more what it ends with; None: it adds something else.

    Between an agent's snapshot and the stream behind it the same chunk may stand in both.
    """
    update = _decode_chunk(event).artifactUpdate
    if update is None or not update.append:
        return None
    chunk = PicturedArtifact(dict(update.artifact))
    name = _canonical(chunk.fields.get("artifactId", _NO_NAME))
    for artifact_id, known in picture.artifacts.items():
        if _canonical(known.fields.get("artifactId", _NO_NAME)) == name:
            told = _substances(chunk.parts)
            is_same = bool(told) and _substances(known.parts[-len(told) :]) == told
            return RepeatedEnd(artifact_id, len(known.parts), told) if is_same else None
    return None


def is_said_again(end: RepeatedEnd, present: TaskPicture) -> bool:
    """Whether the agent's own task, as it is by now, has the chunk a second time where it would stand."""
    artifact = present.artifacts.get(end.artifact_id)
    parts = [] if artifact is None else artifact.parts
    return _substances(parts[end.known : end.known + len(end.chunk)]) == list(end.chunk)


def _substances(parts: Sequence[msgspec.Raw]) -> list[bytes]:
    return [_canonical(part) for part in parts]


def _substance(fields: Mapping[str, msgspec.Raw]) -> dict[str, bytes]:
    """What two objects must share to say the same."""
    canonical = {name: _canonical(raw) for name, raw in fields.items()}
    return {name: value for name, value in canonical.items() if value not in _EMPTY}


def _canonical(raw: bytes) -> bytes:
    """The same bytes for the same JSON value, however it was written."""
    return _encode(_decode(raw))
