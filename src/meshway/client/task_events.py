"""What a handler says, as A2A 1.0 events: parts, artifacts, states. Pure, but for the time it is said at.

A text artifact that comes in chunks has one id; ids are made of the turn and a number, not by chance, so that the next
attempt of a turn that broke off replaces what the one before had said.
"""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from meshway.client.messages import Artifact, Part

__all__ = ["TaskWriter", "artifact_of"]

_encode = msgspec.json.Encoder().encode


class TaskWriter:
    """The events of one delivery of one task; counts its artifacts."""

    def __init__(self, task_id: str, context_id: str, turn: int) -> None:
        self._task_id = task_id
        self._context_id = context_id
        self._turn = turn
        self._artifacts = 0
        self._text_id = ""
        # A chunk that waits for the next one, or for the end that makes it the last.
        self._held_chunk: str | None = None

    @property
    def holds_chunk(self) -> bool:
        return self._held_chunk is not None

    def chunk(self, text: str) -> list[bytes]:
        """The chunk before, if it was held; this one is held now. Raises: UnicodeEncodeError for half characters."""
        if not text.isascii():
            # Here, where its author learns of it, and not when it is sent.
            text.encode()
        said = self.flush()
        self._held_chunk = text
        return said

    def flush(self) -> list[bytes]:
        """The held chunk, with more to come."""
        return [] if self._held_chunk is None else [self._next_chunk(self._held_chunk, is_last=False)]

    def finish_text(self) -> list[bytes]:
        """The end of the text, if there is any: on its last chunk, or by an empty one. Text after it is another."""
        if self._held_chunk is None and not self._text_id:
            return []
        said = [self._next_chunk(self._held_chunk or "", is_last=True)]
        self._text_id = ""
        return said

    def artifact(self, artifact: Artifact) -> bytes:
        """A whole one."""
        document: dict[str, object] = {
            "artifactId": artifact.artifact_id or self._next_id(),
            "parts": [_part_document(part) for part in artifact.parts],
        }
        if artifact.name is not None:
            document["name"] = artifact.name
        if artifact.description is not None:
            document["description"] = artifact.description
        if artifact.metadata is not None:
            document["metadata"] = artifact.metadata
        return self._artifact_update(document, append=False, is_last=True)

    def status(self, state: str, *, text: str | None = None, metadata: Mapping[str, object] | None = None) -> bytes:
        """`state` as in A2A without its prefix: `COMPLETED`; `text` becomes the status message."""
        status: dict[str, object] = {"state": f"TASK_STATE_{state}", "timestamp": _now()}
        if text is not None:
            status["message"] = {
                "messageId": str(uuid.uuid4()),
                "role": "ROLE_AGENT",
                "taskId": self._task_id,
                "contextId": self._context_id,
                "parts": [{"text": text}],
            }
        update: dict[str, object] = {"taskId": self._task_id, "contextId": self._context_id, "status": status}
        if metadata:
            update["metadata"] = metadata
        return _encode({"statusUpdate": update})

    def _next_chunk(self, text: str, *, is_last: bool) -> bytes:
        is_first = not self._text_id
        if is_first:
            self._text_id = self._next_id()
        self._held_chunk = None
        document: dict[str, object] = {"artifactId": self._text_id, "parts": [{"text": text}]}
        return self._artifact_update(document, append=not is_first, is_last=is_last)

    def _artifact_update(self, document: dict[str, object], *, append: bool, is_last: bool) -> bytes:
        update = {
            "taskId": self._task_id,
            "contextId": self._context_id,
            "artifact": document,
            "append": append,
            "lastChunk": is_last,
        }
        return _encode({"artifactUpdate": update})

    def _next_id(self) -> str:
        self._artifacts += 1
        return f"turn-{self._turn}-{self._artifacts}"


def artifact_of(value: object) -> Artifact:
    """What a handler returned, or yielded, as an artifact. Raises: TypeError for what JSON cannot say."""
    return value if isinstance(value, Artifact) else Artifact.of(value)


def _part_document(part: Part) -> dict[str, object]:
    document: dict[str, object] = {}
    if part.text is not None:
        document["text"] = part.text
    elif part.raw is not None:
        document["raw"] = part.raw
    elif part.url is not None:
        document["url"] = part.url
    else:
        document["data"] = part.data
    if part.media_type is not None:
        document["mediaType"] = part.media_type
    if part.filename is not None:
        document["filename"] = part.filename
    return document


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
