"""Finding agents: exact filters, and a ranked text search over name, description and skills. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.kernel.pages import LIMIT_DEFAULT, LIMIT_MAX
from meshway.registry.presence import agent_state
from meshway.registry.values import Agent, AgentState, Instance

__all__ = ["AgentQuery", "SearchText", "matches", "score", "search_tokens"]

# Longer questions come from programs gone wrong; each token costs a pass over every agent's text.
_QUERY_CHARS_MAX = 512
_TOKENS_MAX = 16
# Where a word is found tells how much it says about the agent: its name most, the running text least.
_POINTS_NAME, _POINTS_SKILL, _POINTS_TAG, _POINTS_TEXT = 8, 5, 4, 1
# A word that is there as a word, not inside another one.
_WHOLE_WORD_FACTOR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentQuery:
    """All given filters must hold. `labels` are `key=value` or `key`, all on one instance; `q` is free text."""

    tag: str | None = None
    skill: str | None = None
    labels: Sequence[str] = ()
    state: AgentState | None = None
    q: str | None = None
    limit: int = LIMIT_DEFAULT
    cursor: str | None = None

    def check(self) -> None:
        """Raises: InvalidRequest naming the field."""
        wrong = []
        if not 1 <= self.limit <= LIMIT_MAX:
            wrong.append(FieldError("limit", f"use 1 to {LIMIT_MAX}"))
        if self.q is not None and len(self.q) > _QUERY_CHARS_MAX:
            wrong.append(FieldError("q", f"use at most {_QUERY_CHARS_MAX} characters"))
        if wrong:
            raise InvalidRequest(f"{wrong[0].field}: {wrong[0].message}", fields=wrong)


@dataclass(frozen=True, slots=True)
class SearchText:
    """An agent's words in lower case, made once per version of its record."""

    name: str
    skills: str
    tags: str
    text: str
    skill_names: frozenset[str]
    tag_names: frozenset[str]

    @classmethod
    def of(cls, agent: Agent) -> "SearchText":
        skills = agent.card.skills
        skill_names = frozenset(name.casefold() for skill in skills for name in (skill.id, skill.name))
        tag_names = frozenset(tag.casefold() for skill in skills for tag in skill.tags)
        return cls(
            name=f"{agent.id} {agent.card.name}".casefold(),
            skills="\n".join(skill_names),
            tags="\n".join(tag_names),
            text="\n".join([agent.card.description, *(skill.description for skill in skills)]).casefold(),
            skill_names=skill_names,
            tag_names=tag_names,
        )


def search_tokens(q: str | None) -> tuple[str, ...]:
    """The words asked for."""
    return tuple(dict.fromkeys(q.casefold().split()))[:_TOKENS_MAX] if q else ()


def matches(agent: Agent, text: Callable[[], SearchText], query: AgentQuery) -> bool:
    """Do all exact filters hold? Skills match by id or name, skills and tags whatever their case."""
    if query.skill is not None and query.skill.casefold() not in text().skill_names:
        return False
    if query.tag is not None and query.tag.casefold() not in text().tag_names:
        return False
    if query.state is not None and agent_state(agent) is not query.state:
        return False
    return not query.labels or any(_has_labels(instance, query.labels) for instance in agent.instances)


def score(text: SearchText, tokens: Sequence[str]) -> int:
    """How well the agent answers the words; 0 when one of them occurs nowhere. Best place of each word counts."""
    total = 0
    for token in tokens:
        points = max(
            _points(token, text.name, _POINTS_NAME),
            _points(token, text.skills, _POINTS_SKILL),
            _points(token, text.tags, _POINTS_TAG),
            _points(token, text.text, _POINTS_TEXT),
        )
        if not points:
            return 0
        total += points
    return total


def _points(token: str, place: str, points: int) -> int:
    at = place.find(token)
    while at >= 0:
        end = at + len(token)
        if (at == 0 or not place[at - 1].isalnum()) and (end == len(place) or not place[end].isalnum()):
            return points * _WHOLE_WORD_FACTOR
        following = place.find(token, at + 1)
        if following < 0:
            return points
        at = following
    return 0


def _has_labels(instance: Instance, labels: Sequence[str]) -> bool:
    for label in labels:
        key, separator, value = label.partition("=")
        if key not in instance.labels or (separator and instance.labels[key] != value):
            return False
    return True
