"""An agent that connects out: a function, the hub does the rest.

agent = Agent("counter")

@agent.handler
async def count(task):
    for i in range(int(task.text)):
        yield f"{i} "

agent.run()
"""

import asyncio
import re
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from os import getpid
from typing import TypeVar

import msgspec

from meshway.client.agent_card import AgentHandler, Skill, agent_card, skill_of
from meshway.client.agent_service import WAITING_MAX, AgentProfile, AgentService
from meshway.client.agent_values import AgentOptions
from meshway.client.connection import HubConnection
from meshway.client.handlers import HandlerCall
from meshway.client.link import LinkSession
from meshway.client.owned_tasks import OwnedTasks
from meshway.client.task_context import TaskContext

__all__ = ["Agent"]

# As the hub demands of agents and of instances.
_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# With the number of a process (7 digits), 8 random characters and two dashes below 63.
_HOST_CHARS_MAX = 40

Handler = TypeVar("Handler", bound=AgentHandler)


class Agent:
    """Any number of processes with the same id are instances of one agent, and share its work.

    A handler is an async function, an async generator, or a blocking function or generator, which runs in a thread.
    A yielded str is a chunk of one text; an `Artifact` or `Progress` is what it says; anything else JSON can say is an
    artifact of its own, and so is what is returned. Then the task is completed. An exception fails it, but for `Retry`
    and those in `retry_on`, after which the hub tries again, here or elsewhere, and `Reject`, which nothing can help.

    A `skill` named by the message's `metadata.skill` has a handler of its own. `capacity`: tasks at once.
    """

    def __init__(
        self,
        agent_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        capacity: int = 10,
        labels: Mapping[str, str] | None = None,
        retry_on: Sequence[type[Exception]] = (),
        version: str = "1.0.0",
        drain_timeout_s: float = 25.0,
    ) -> None:
        """`description`: of the card; else the handler's docstring. `drain_timeout_s`: for handlers at the stop.

        Raises: ValueError.
        """
        if _ID.fullmatch(agent_id) is None:
            raise ValueError(f"{agent_id!r} is no id of an agent: lower case letters, digits and dashes, at most 63")
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; it must be at least 1")
        self.id = agent_id
        self._name = name
        self._description = description
        self._version = version
        self._labels = dict(labels or {})
        self._options = AgentOptions(capacity=capacity, retry_on=tuple(retry_on), drain_timeout_s=drain_timeout_s)
        self._handler: AgentHandler | None = None
        self._skills: dict[str, Skill] = {}
        self._service: AgentService | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def handler(self, function: Handler) -> Handler:
        """Decorator: this does the tasks that name no skill."""
        if self._handler is not None:
            raise ValueError(f"agent {self.id!r} has a handler already; several go by @agent.skill")
        self._handler = function
        return function

    def skill(
        self,
        skill_id: str,
        *,
        name: str | None = None,
        description: str | None = None,
        tags: Sequence[str] = (),
        examples: Sequence[str] = (),
    ) -> Callable[[Handler], Handler]:
        """Decorator: this does the tasks whose message has `metadata.skill` equal to `skill_id`."""

        def register(function: Handler) -> Handler:
            if skill_id in self._skills:
                raise ValueError(f"agent {self.id!r} has a skill {skill_id!r} already")
            self._skills[skill_id] = skill_of(
                skill_id, function, name=name, description=description, tags=tags, examples=examples
            )
            return function

        return register

    @property
    def card(self) -> Mapping[str, object]:
        """What the hub shows of it (A2A 1.0); where it is called is added there."""
        return agent_card(
            self.id,
            name=self._name,
            description=self._description,
            version=self._version,
            handler=self._handler,
            skills=tuple(self._skills.values()),
        )

    def run(self, url: str | None = None, api_key: str | None = None) -> None:
        """Serve until SIGTERM, SIGINT or `stop`, then drain; a second signal ends that at once. Raises: as `serve`."""
        with asyncio.Runner(loop_factory=_new_event_loop) as runner:
            runner.run(self._serve(url, api_key, handle_signals=True))

    async def serve(self, url: str | None = None, api_key: str | None = None) -> None:
        """Serve until `stop`, then drain. Cancelled, it gives back at once what it has.

        `url` and `api_key` default to MESHWAY_URL and MESHWAY_API_KEY; several URLs, separated by commas, are hubs of
        one mesh. Survives restarts of the hub. Raises: HubError when the hub refuses (no key, a wrong name).
        """
        await self._serve(url, api_key, handle_signals=False)

    def stop(self) -> None:
        """Take nothing more, let handlers finish within the drain's bound, end. From any thread; idempotent."""
        if self._service is not None and self._loop is not None:
            self._loop.call_soon_threadsafe(self._service.stop)

    async def _serve(self, url: str | None, api_key: str | None, *, handle_signals: bool) -> None:
        if self._service is not None:
            raise RuntimeError(f"agent {self.id!r} runs already")
        if self._handler is None and not self._skills:
            raise ValueError(f"agent {self.id!r} has nothing to do: decorate a function with @agent.handler")
        connection = HubConnection(url, api_key)
        tasks = OwnedTasks()
        self._loop = asyncio.get_running_loop()
        try:
            self._service = self._make_service(LinkSession(connection, tasks))
            await self._service.run(handle_signals=handle_signals)
        finally:
            self._service = None
            self._loop = None
            await tasks.aclose()
            await connection.aclose()

    def _make_service(self, session: LinkSession) -> AgentService:
        profile = AgentProfile(
            agent=self.id, instance=_instance_id(), card=msgspec.json.encode(self.card), labels=self._labels
        )
        skills = {skill.id: self._call(skill.handler) for skill in self._skills.values()}
        handler = None if self._handler is None else self._call(self._handler)
        if handler is None and len(skills) == 1:
            handler = next(iter(skills.values()))
        return AgentService(profile, session, handler=handler, skills=skills, options=self._options)

    def _call(self, handler: AgentHandler) -> HandlerCall[TaskContext]:
        # Handlers that wait for their clients take no capacity, but threads they do take.
        return HandlerCall(handler, concurrency=self._options.capacity + WAITING_MAX)


def _instance_id() -> str:
    """A name for this process that no other has: of the host, for people, and chance."""
    host = re.sub(r"[^a-z0-9]+", "-", socket.gethostname().lower()).strip("-")[:_HOST_CHARS_MAX].strip("-")
    return f"{host or 'host'}-{getpid()}-{secrets.token_hex(4)}"


def _new_event_loop() -> asyncio.AbstractEventLoop:
    # Costs milliseconds at the start that no other user of the SDK needs to pay.
    import uvloop  # noqa: PLC0415

    return uvloop.new_event_loop()
