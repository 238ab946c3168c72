"""Take a message on once, however often it is sent: by its Idempotency-Key, or its own id where the agent wants it."""

import asyncio
from dataclasses import dataclass, replace

import msgspec

from meshway.gateway.accept_task import AcceptTask, TaskRequest
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.errors import EngineUnavailable, MeshwayError, StorageFull
from meshway.kernel.ids import TaskId, new_id
from meshway.tasks.flights import Begun, Conflicting, Flight, Joined, KeyedRequest, Unknown
from meshway.tasks.idempotency import IdempotencyKeys, check_idempotency_key, content_digest, dedupe_key
from meshway.tasks.track import Track

__all__ = ["AcceptOnce", "Accepted", "key_of"]


class _Message(msgspec.Struct):
    messageId: str = ""  # noqa: N815 - the wire's own name


class _Task(msgspec.Struct):
    history: list[_Message] = []


_decode_history = msgspec.json.Decoder(_Task).decode


@dataclass(frozen=True, slots=True)
class Accepted:
    """`is_new` False: it had been accepted before."""

    track: Track
    is_new: bool


class AcceptOnce:
    """Without a key each message is new."""

    def __init__(self, places: TaskPlaces, accept: AcceptTask, keys: IdempotencyKeys) -> None:
        self._places = places
        self._accept = accept
        self._keys = keys

    async def execute(self, request: TaskRequest, *, method: str) -> Accepted:
        """Raises: as AcceptTask; IdempotencyKeyReused, InvalidRequest naming `Idempotency-Key`."""
        terms = request.terms
        dedupes = self._places.agent(request.agent_id).settings.dedupe_messages
        if request.idempotency_key is None and not dedupes:
            return Accepted(await self._accept.execute(request), is_new=True)
        digest = content_digest(request.agent_id, method, terms.message + b"\n" + (terms.metadata or b""))
        key = key_of(
            request.idempotency_key,
            message_id=terms.message_id,
            digest=digest,
            dedupes=dedupes,
        )
        if key is None:
            return Accepted(await self._accept.execute(request), is_new=True)
        task_id = TaskId(terms.task_id or request.task_id or new_id())
        keyed = KeyedRequest(principal_id=request.principal.id, key=key, content_digest=digest, task_id=task_id)
        found = await self._keys.begin(keyed)
        match found:
            case Begun():
                return await self._act(request, task_id, found.flight)
            case Joined():
                return await self._join(request, found)
            case Conflicting() | Unknown():
                raise found.error()

    async def _act(self, request: TaskRequest, task_id: TaskId, flight: Flight) -> Accepted:
        try:
            track = await self._accept.execute(_with_id(request, task_id))
        except (EngineUnavailable, StorageFull):
            # It may have been accepted: the inbox, and then the task's record, will tell.
            self._keys.lose(flight)
            raise
        except MeshwayError as error:
            await self._keys.abandon(flight, error)
            raise
        except asyncio.CancelledError:
            self._keys.lose(flight)
            raise
        await self._keys.finish(flight, None)
        return Accepted(track, is_new=True)

    async def _join(self, request: TaskRequest, joined: Joined) -> Accepted:
        if joined.flight is not None:
            await joined.flight.wait_over()
        assert joined.task_id is not None
        tasks = self._places.tasks
        owner = await tasks.owners.owner_of(request.agent_id, joined.task_id)
        track = None if owner is None else await tasks.track_of(owner)
        if owner is not None and track is not None and not track.written:
            # Its first event is on its way, or could not be written and is looked up.
            await track.quiet()
            track = await tasks.track_of(owner)
        if track is None or not track.written:
            # The hub died between the key and the task, or could not write: nobody has begun it.
            return Accepted(await self._accept.execute(_with_id(request, joined.task_id)), is_new=True)
        if request.terms.task_id is not None and not await self._was_said(track, request.terms.message_id):
            # The hub died between the key and the turn: the task still waits for this answer.
            return Accepted(await self._accept.execute(request), is_new=True)
        return Accepted(track, is_new=False)

    async def _was_said(self, track: Track, message_id: str) -> bool:
        picture = await self._places.tasks.tracks.picture(track)
        return message_id in _message_ids(picture.encode())


def _message_ids(task: bytes) -> set[str]:
    return {message.messageId for message in _decode_history(task).history}


def key_of(given: str | None, *, message_id: str, digest: str, dedupes: bool) -> str | None:
    """Under which key a message is looked for, if under any. Raises: InvalidRequest naming `Idempotency-Key`."""
    if given is not None:
        return check_idempotency_key(given)
    return dedupe_key(message_id, digest) if dedupes and message_id else None


def _with_id(request: TaskRequest, task_id: TaskId) -> TaskRequest:
    return request if request.terms.task_id is not None else replace(request, task_id=task_id)
