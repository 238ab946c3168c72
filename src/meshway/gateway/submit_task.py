"""Leave work at the hub: accepted for an agent, or for whoever has a skill, and done when it can be."""

import hashlib
import random
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from meshway.gateway.accept_once import AcceptOnce
from meshway.gateway.accept_task import TaskRequest
from meshway.gateway.show_task import ShownTask, ShowTask
from meshway.gateway.task_places import TaskPlaces
from meshway.kernel.errors import AgentNotFound, Forbidden, wrong_field
from meshway.kernel.ids import AgentId, new_id
from meshway.kernel.principal import Principal
from meshway.registry.presence import agent_state
from meshway.registry.values import Agent, AgentState
from meshway.tasks.receipts import Receipt, receipts_of
from meshway.tasks.send_terms import SendTerms

__all__ = ["SubmitTask", "Submitted", "TaskSubmission"]

# Names of messages that are made of idempotency keys.
_MESSAGE_NAMES = uuid.UUID("3c5ff9a2-6a2e-4e0b-9f0c-5f4cf4a5d3a9")
_TIMEOUT_MAX_MS = 30 * 86_400_000
_STATES = (AgentState.ONLINE, AgentState.SUSPECT, AgentState.OFFLINE, AgentState.DRAINING)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSubmission:
    """Either `agent` or `skill`; either `text` or `message` (A2A 1.0 JSON). `timeout_ms` bounds the work from now."""

    agent: str | None = None
    skill: str | None = None
    text: str | None = None
    message: bytes | None = None
    context_id: str | None = None
    timeout_ms: int | None = None
    idempotency_key: str | None = None
    chain: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """The task as it was accepted, or as it is where the same key had submitted it before."""

    shown: ShownTask
    receipts: Sequence[Receipt]
    is_new: bool = True


class SubmitTask:
    """Durable for every kind of agent: one that is called by URL is called with retries."""

    def __init__(self, places: TaskPlaces, accept: AcceptOnce, show: ShowTask) -> None:
        self._places = places
        self._accept = accept
        self._show = show

    async def execute(self, principal: Principal, submission: TaskSubmission) -> Submitted:
        """On disk when this returns.

        Raises: Forbidden, InvalidRequest naming the field, AgentNotFound (also: nobody has the skill), AgentStopped,
        InboxFull, IdempotencyKeyReused, DelegationRefused, OwnLimitReached, StorageFull, EngineUnavailable.
        """
        if not principal.may_call:
            raise Forbidden(f"Key {principal.id!r} may not submit tasks; that needs the scope 'call'.")
        agent = self._agent(submission)
        if submission.timeout_ms is not None and not 1 <= submission.timeout_ms <= _TIMEOUT_MAX_MS:
            raise wrong_field("timeout_ms", f"use 1 to {_TIMEOUT_MAX_MS} (30 days)")
        request = TaskRequest(
            principal=principal,
            agent_id=agent.id,
            terms=_terms(submission),
            timeout_ms=submission.timeout_ms,
            chain=submission.chain,
            traceparent=submission.traceparent,
            idempotency_key=submission.idempotency_key,
        )
        accepted = await self._accept.execute(request, method="submit")
        track = accepted.track
        owner = await self._places.owned(principal, track.agent_id, track.task_id)
        receipts = receipts_of(await self._places.tasks.tracks.events(track))
        return Submitted(await self._show.shown(owner), receipts, is_new=accepted.is_new)

    def _agent(self, submission: TaskSubmission) -> Agent:
        if (submission.agent is None) == (submission.skill is None):
            raise wrong_field("agent", "give an agent or a skill, one of them")
        if submission.agent is not None:
            return self._places.agent(AgentId(submission.agent))
        able = [
            agent
            for agent in self._places.directory.in_any_order()
            if any(skill.id == submission.skill for skill in agent.card.skills)
            and not self._places.stops.is_stopped(agent.id)
        ]
        if not able:
            raise AgentNotFound(f"No agent at this hub has the skill {submission.skill!r}.")
        best = min(_STATES.index(agent_state(agent)) for agent in able)
        choice = [agent for agent in able if _STATES.index(agent_state(agent)) == best]
        key = submission.idempotency_key
        if key is None:
            return random.choice(choice)  # noqa: S311  spreads load; nothing is guessed from it
        # A repetition must come to the same agent, whatever state the others are in (rendezvous hashing).
        return max(able, key=lambda agent: hashlib.sha256(f"{key} {agent.id}".encode()).digest())


def _terms(submission: TaskSubmission) -> SendTerms:
    if (submission.text is None) == (submission.message is None):
        raise wrong_field("text", "give a text or a message, one of them")
    if submission.message is None:
        fields: dict[str, object] = {"role": "ROLE_USER", "parts": [{"text": submission.text}]}
    else:
        fields = _message_fields(submission.message)
    fields.setdefault("messageId", _message_id(submission))
    if submission.skill is not None:
        # An agent with several skills is told which one is meant.
        metadata = fields.get("metadata")
        fields["metadata"] = {"skill": submission.skill, **(metadata if isinstance(metadata, dict) else {})}
    task_id, context_id = fields.pop("taskId", None), fields.get("contextId", submission.context_id)
    return SendTerms(
        message=msgspec.json.encode(fields),
        message_id=str(fields["messageId"]),
        task_id=task_id if isinstance(task_id, str) and task_id else None,
        context_id=context_id if isinstance(context_id, str) and context_id else None,
        blocking=False,
    )


def _message_fields(message: bytes) -> dict[str, object]:
    try:
        fields = msgspec.json.decode(message, type=dict[str, object])
    except msgspec.DecodeError as error:
        raise wrong_field("message", f"must be an A2A 1.0 message, a JSON object ({error})") from None
    parts = fields.get("parts")
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise wrong_field("message.parts", 'must be a list of at least one part, such as {"text": "..."}')
    fields.setdefault("role", "ROLE_USER")
    return fields


def _message_id(submission: TaskSubmission) -> str:
    """Of a message without one: the same for the same key, so that a repetition is the same message."""
    if submission.idempotency_key is None:
        return new_id()
    return str(uuid.uuid5(_MESSAGE_NAMES, submission.idempotency_key))
