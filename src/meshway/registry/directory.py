"""The live picture of all agents, in memory; follows the store, so that every hub of a mesh sees the same.

Reads are synchronous and never touch the store. Writers go through AgentStore, which shows its own writes here before
it returns; presence shows what it observed here before it is stored.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from meshway.engine.ports import KeyValue, KvDeleted, KvEntry, PrefixFollower
from meshway.kernel.errors import FieldError, InvalidRequest
from meshway.kernel.ids import AgentId
from meshway.kernel.pages import Page, decode_cursor, encode_cursor
from meshway.registry.search import AgentQuery, SearchText, matches, score, search_tokens
from meshway.registry.settings import RegistrySettings
from meshway.registry.values import Agent

__all__ = ["AGENTS_PREFIX", "AgentChange", "Directory", "PictureAnew"]

_log = logging.getLogger(__name__)

AGENTS_PREFIX = "agents"

_decode_agent = msgspec.json.Decoder(Agent).decode


class AgentChange(msgspec.Struct, frozen=True, kw_only=True):
    """The present value of an agent that changed; `agent` None: it is gone.

    `sequence` resumes a watch after this change, at this Directory only.
    """

    sequence: int
    agent_id: AgentId
    agent: Agent | None


class PictureAnew(msgspec.Struct, frozen=True):
    """What the reader of a watch knew is void: every present agent follows as a change. There may be none."""


class _Known:
    """One agent with the revision it was read at; its search text is made when first asked for."""

    __slots__ = ("agent", "revision", "text")

    def __init__(self, agent: Agent, revision: int) -> None:
        self.agent = agent
        self.revision = revision
        self.text: SearchText | None = None

    def search_text(self) -> SearchText:
        if self.text is None:
            self.text = SearchText.of(self.agent)
        return self.text


class Directory:
    """All agents by id, with search and a change feed. One per hub; used from the event loop only."""

    def __init__(self, key_value: KeyValue, *, settings: RegistrySettings) -> None:
        self._key_value = key_value
        self._settings = settings
        self._known: dict[AgentId, _Known] = {}
        # Last change of each agent, oldest first; removed ones stay, bounded, until they are the oldest of too many.
        self._changed: OrderedDict[AgentId, int] = OrderedDict()
        self._removed: OrderedDict[AgentId, int] = OrderedDict()
        self._sequence = 0
        self._forgotten = 0
        self._wake = asyncio.Event()
        self._listeners: list[Callable[[AgentId, Agent | None], None]] = []
        self._overlay: Callable[[Agent], Agent] | None = None
        self._follower = PrefixFollower(
            key_value, AGENTS_PREFIX, known=self._revisions, entry=self.apply, deleted=self._apply_deleted_key
        )

    # Reading

    def __len__(self) -> int:
        return len(self._known)

    def get(self, agent_id: str) -> Agent | None:
        """The agent, or None. Constant time: it stands in the path of every call."""
        known = self._known.get(AgentId(agent_id))
        return None if known is None else known.agent

    def all(self) -> Iterator[Agent]:
        """Every agent, by id."""
        return (self._known[agent_id].agent for agent_id in sorted(self._known))

    def in_any_order(self) -> Iterable[Agent]:
        """Every agent; for duties that look at all of them often. The Directory must not change meanwhile."""
        return (known.agent for known in self._known.values())

    @property
    def version(self) -> int:
        """Sequence of the latest change; starts at 0 with every Directory."""
        return self._sequence

    def find(self, query: AgentQuery) -> Page[Agent]:
        """A page of the agents for which every filter holds: by id, or best answer first where `q` is given.

        Paging goes on after the last item's place, so agents that come or go between two pages repeat none.
        Raises: InvalidRequest for a cursor that is none of ours, or a limit out of range.
        """
        query.check()
        tokens = search_tokens(query.q)
        places: list[tuple[int, AgentId]] = []
        after = None if query.cursor is None else _place(query.cursor)
        for agent_id, known in self._known.items():
            if not matches(known.agent, known.search_text, query):
                continue
            points = score(known.search_text(), tokens) if tokens else 0
            if (tokens and not points) or (after is not None and (-points, agent_id) <= after):
                continue
            places.append((-points, agent_id))
        places.sort()
        page = places[: query.limit]
        more = encode_cursor(f"{-page[-1][0]}:{page[-1][1]}") if len(places) > len(page) else None
        return Page([self._known[agent_id].agent for _, agent_id in page], more)

    def changes(self, after: int | None = None) -> AsyncIterator[AgentChange | PictureAnew]:
        """What changes, for ever; counts from this call, not from the first item asked for.

        `after` None: `PictureAnew` and everything present first. Else the present value of each agent that changed
        since, removals included; a number that is unknown or too old begins anew. A reader that is slow sees only the
        last of several changes to one agent, so no reader costs memory; one that slept through more removals than are
        kept begins anew as well.
        """
        if after is None or not self._forgotten <= after <= self._sequence:
            return self._follow_changes(0, picture_until=self._sequence)
        return self._follow_changes(after, picture_until=None)

    async def _follow_changes(
        self, position: int, *, picture_until: int | None
    ) -> AsyncGenerator[AgentChange | PictureAnew, None]:
        if picture_until is not None:
            yield PictureAnew()
        else:
            picture_until = 0
        while True:
            if position < self._forgotten and picture_until < self._forgotten:
                # Only the whole picture is true.
                position, picture_until = 0, self._sequence
                yield PictureAnew()
            wake = self._wake
            for sequence, agent_id in self._since(position):
                if self._changed.get(agent_id) != sequence:
                    continue
                position = sequence
                agent = self.get(agent_id)
                if agent is not None or sequence > picture_until:
                    yield AgentChange(sequence=sequence, agent_id=agent_id, agent=agent)
            if wake is self._wake:
                await wake.wait()

    def _since(self, position: int) -> Sequence[tuple[int, AgentId]]:
        """Agents whose last change is after `position`, oldest change first."""
        found = []
        for agent_id in reversed(self._changed):
            sequence = self._changed[agent_id]
            if sequence <= position:
                break
            found.append((sequence, agent_id))
        found.reverse()
        return found

    # Following the store

    async def wait_ready(self) -> None:
        """Until everything that was stored when the watch began is here."""
        await self._follower.wait_ready()

    async def run(self) -> None:
        """Follow the store until cancelled. A lost watch is opened again; meanwhile the last picture stands."""
        await self._follower.run()

    def apply(self, entry: KvEntry) -> None:
        """Show a stored record, unless a later one is shown already. Raises nothing: an unreadable one is logged."""
        agent_id = _agent_id_of(entry.key)
        known = self._known.get(agent_id)
        if (known is not None and known.revision >= entry.revision) or self._removed.get(agent_id, -1) > entry.revision:
            return
        try:
            agent = _decode_agent(entry.value)
        except msgspec.DecodeError as error:
            _log.error("agent_record_unreadable", extra={"agent": agent_id, "reason": str(error)})
            return
        if self._overlay is not None:
            agent = self._overlay(agent)
        if known is None:
            self._known[agent_id] = _Known(agent, entry.revision)
        else:
            known.revision = entry.revision
            if agent == known.agent:
                return
            known.agent, known.text = agent, None
        self._removed.pop(agent_id, None)
        self._announce(agent_id, agent)

    def apply_deleted(self, agent_id: AgentId, revision: int) -> None:
        """Show a deletion, unless a later write is shown already."""
        known = self._known.get(agent_id)
        if known is not None and known.revision <= revision:
            self._remove(agent_id, revision)

    def _apply_deleted_key(self, event: KvDeleted) -> None:
        self.apply_deleted(_agent_id_of(event.key), event.revision)

    def _revisions(self) -> Mapping[str, int]:
        return {f"{AGENTS_PREFIX}.{agent_id}": known.revision for agent_id, known in self._known.items()}

    def show(self, agent: Agent) -> None:
        """Show what presence observed before it is stored. An agent that is gone meanwhile stays gone."""
        known = self._known.get(agent.id)
        if known is None or known.agent == agent:
            return
        if agent.card is not known.agent.card:
            known.text = None
        known.agent = agent
        self._announce(agent.id, agent)

    def listen(self, listener: Callable[[AgentId, Agent | None], None]) -> None:
        """Call `listener` at each change, in the same turn of the loop; None: the agent is gone. For life."""
        self._listeners.append(listener)

    def overlay_with(self, overlay: Callable[[Agent], Agent]) -> None:
        """Let `overlay` add to each stored record what is known here but not stored yet."""
        self._overlay = overlay

    def _remove(self, agent_id: AgentId, revision: int) -> None:
        del self._known[agent_id]
        self._removed[agent_id] = revision
        self._removed.move_to_end(agent_id)
        self._announce(agent_id, None)
        if len(self._removed) > self._settings.removals_kept:
            oldest, _ = self._removed.popitem(last=False)
            self._forgotten = max(self._forgotten, self._changed.pop(oldest))

    def _announce(self, agent_id: AgentId, agent: Agent | None) -> None:
        self._sequence += 1
        self._changed[agent_id] = self._sequence
        self._changed.move_to_end(agent_id)
        for listener in self._listeners:
            listener(agent_id, agent)
        wake, self._wake = self._wake, asyncio.Event()
        wake.set()


def _agent_id_of(key: str) -> AgentId:
    return AgentId(key[len(AGENTS_PREFIX) + 1 :])


def _place(cursor: str) -> tuple[int, AgentId]:
    points, separator, agent_id = decode_cursor(cursor).partition(":")
    if not separator or not points.isascii() or not points.isdigit() or len(points) > 9:
        message = "use the next_cursor of the page before, unchanged"
        raise InvalidRequest(f"cursor: {message}", fields=[FieldError("cursor", message)])
    return -int(points), AgentId(agent_id)
