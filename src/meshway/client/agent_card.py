"""The card of an agent that connects out, made of what its author said and of the handlers themselves."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from meshway.client.task_context import TaskContext

__all__ = ["AgentHandler", "Skill", "agent_card", "skill_of"]

AgentHandler = Callable[[TaskContext], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """One thing an agent can do, and the function that does it."""

    id: str
    name: str
    description: str
    tags: tuple[str, ...]
    examples: tuple[str, ...]
    handler: AgentHandler


def agent_card(
    agent_id: str,
    *,
    name: str | None,
    description: str | None,
    version: str,
    handler: AgentHandler | None,
    skills: Sequence[Skill],
) -> Mapping[str, object]:
    """A2A 1.0, without `supportedInterfaces`: where it is called is the hub's to say. No required field is empty."""
    shown_name = name or agent_id
    described = description or _docstring(handler) or "; ".join(each.description for each in skills)
    described = described or f"The agent {shown_name}."
    listed = [_skill(each) for each in skills]
    if not listed:
        listed = [{"id": agent_id, "name": shown_name, "description": described, "tags": [agent_id]}]
    return {
        "name": shown_name,
        "description": described,
        "version": version,
        "capabilities": {"streaming": True, "pushNotifications": True, "extendedAgentCard": False},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": listed,
    }


def skill_of(
    skill_id: str,
    handler: AgentHandler,
    *,
    name: str | None,
    description: str | None,
    tags: Sequence[str],
    examples: Sequence[str],
) -> Skill:
    """What was not said is taken from the function."""
    shown_name = name or skill_id.replace("-", " ").replace("_", " ").capitalize()
    return Skill(
        id=skill_id,
        name=shown_name,
        description=description or _docstring(handler) or f"{shown_name}.",
        tags=tuple(tags) or (skill_id,),
        examples=tuple(examples),
        handler=handler,
    )


def _skill(skill: Skill) -> dict[str, object]:
    document: dict[str, object] = {
        "id": skill.id,
        "name": skill.name,
        "description": skill.description,
        "tags": list(skill.tags),
    }
    if skill.examples:
        document["examples"] = list(skill.examples)
    return document


def _docstring(handler: AgentHandler | None) -> str | None:
    return inspect.getdoc(handler) if handler is not None and inspect.isroutine(handler) else None
