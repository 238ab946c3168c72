"""The inbox of an agent: a queue in which each message is one turn of one task, with all that is needed to begin it.

The message is what makes an accepted task survive: record and first event are made from it where a crash lost them.
"""

from collections.abc import Callable, Sequence

import msgspec

from meshway.engine.ports import (
    Ack,
    DeadLetter,
    Enqueued,
    Extend,
    Lease,
    Priority,
    Queue,
    QueueAdmin,
    QueueAppend,
    QueueDepth,
    QueuedMessage,
    QueueFull,
    QueueOutcome,
    QueueSettings,
    Settlement,
    SettleOutcome,
    ToDeadLetters,
    ToRetry,
    Undecided,
)
from meshway.kernel.errors import EngineUnavailable, InboxFull, StoreCorrupt
from meshway.kernel.ids import AgentId, ContextId, PrincipalId, TaskId
from meshway.tasks.settings import TaskSettings
from meshway.tasks.tokens import inbox_name
from meshway.tasks.values import TaskParent

__all__ = ["Inbox", "InboxItem", "read_item"]

_ROUNDS_MAX = 16
# What a caller of a full inbox is told to wait: some seconds of work.
_FULL_RETRY_AFTER_MS = 5_000
# The hub ends what has expired, with an event, also after it was away over a long weekend; the engine's own expiry only
# sweeps up behind it.
_EXPIRY_MARGIN_MS = 4 * 86_400_000


class InboxItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn of a task that waits for an instance. Stored; `v` is the format.

    `message` is the client's, A2A 1.0. `expires_at_ms`: no attempt begins after it. `deadline_ms`: the work ends by it;
    None: the agent's task time-out counts from the first attempt. `chain`: what called, as the token of its chain.
    """

    agent_id: AgentId
    task_id: TaskId
    context_id: ContextId
    principal_id: PrincipalId
    turn: int
    created_at_ms: int
    expires_at_ms: int
    message: msgspec.Raw
    # Event 1 of the task, or the event that begins this turn.
    opening: msgspec.Raw
    deadline_ms: int | None = None
    chain: str = ""
    traceparent: str | None = None
    idempotency_key: str | None = None
    extensions: str | None = None
    # Handed on to push agents: the client's own terms of the send.
    metadata: msgspec.Raw | None = None
    parent: TaskParent | None = None
    root: TaskParent | None = None
    v: int = 1


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(InboxItem).decode


def read_item(message: QueuedMessage) -> InboxItem:
    """Raises: StoreCorrupt."""
    try:
        return _decode(message.data)
    except msgspec.DecodeError as error:
        text = f"A message of {message.queue!r} cannot be read ({error}); a newer Meshway wrote it, or it is damaged."
        raise StoreCorrupt(text) from error


class Inbox:
    """The inboxes of all agents, over Queue. All methods raise EngineUnavailable."""

    def __init__(self, queue: Queue, admin: QueueAdmin, *, settings: TaskSettings) -> None:
        self._queue = queue
        self._admin = admin
        self._settings = settings
        self._configured: set[AgentId] = set()
        self._listeners: list[Callable[[InboxItem], object]] = []

    def on_put(self, listener: Callable[[InboxItem], object]) -> None:
        """Call `listener` with each turn that was kept. For life."""
        self._listeners.append(listener)

    async def put(self, item: InboxItem, *, is_repeatable: bool) -> bool:
        """Keep it durably; False: this turn of the task was there before. Raises: InboxFull, StorageFull.

        `is_repeatable` False: the task's id was made for this call, so nobody can have put it before.
        """
        await self._configure(item.agent_id)
        append = QueueAppend(
            queue=inbox_name(item.agent_id),
            message_id=f"{item.task_id}.{item.turn}",
            data=_encode(item),
            priority=Priority.NORMAL,
            expires_at_ms=item.expires_at_ms + _EXPIRY_MARGIN_MS,
            is_repeatable=is_repeatable,
        )
        outcome: QueueOutcome = Undecided(reason="")
        for _ in range(_ROUNDS_MAX):
            (outcome,) = await self._queue.append([append])
            if not isinstance(outcome, Undecided):
                break
        match outcome:
            case Enqueued():
                for listener in self._listeners:
                    listener(item)
                return not outcome.duplicate
            case QueueFull():
                text = f"{self._settings.inbox_max} tasks wait for agent {item.agent_id!r}, as many as may."
                raise InboxFull(text, agent=item.agent_id, retry_after_ms=_FULL_RETRY_AFTER_MS)
            case Undecided():
                raise EngineUnavailable("The store does not say whether the task was accepted; ask for it, or repeat.")

    async def lease(self, agent_id: AgentId, *, count: int, wait_ms: int) -> Sequence[Lease]:
        """As Queue.lease."""
        await self._configure(agent_id)
        return await self._queue.lease(inbox_name(agent_id), count=count, wait_ms=wait_ms)

    async def done(self, delivery_ids: Sequence[str]) -> Sequence[SettleOutcome]:
        """These turns have ended."""
        return await self.settle([Ack(delivery_id=delivery_id) for delivery_id in delivery_ids])

    async def extend(self, delivery_ids: Sequence[str]) -> Sequence[bool]:
        """One full lease from now; False: it has ended."""
        outcomes = await self.settle([Extend(delivery_id=delivery_id) for delivery_id in delivery_ids])
        return [outcome is SettleOutcome.DONE for outcome in outcomes]

    async def retry(self, delivery_id: str, *, at_ms: int, reason: str) -> bool:
        """Due again at that time; False: the lease had ended."""
        settlement = ToRetry(delivery_id=delivery_id, visible_at_ms=at_ms, reason=reason)
        (outcome,) = await self.settle([settlement])
        return outcome is SettleOutcome.DONE

    async def bury(self, delivery_id: str, *, reason: str) -> bool:
        """To the agent's dead letters; False: the lease had ended."""
        (outcome,) = await self.settle([ToDeadLetters(delivery_id=delivery_id, reason=reason)])
        return outcome is SettleOutcome.DONE

    async def settle(self, settlements: Sequence[Settlement]) -> Sequence[SettleOutcome]:
        """As Queue.settle, asked again where the engine did not say."""
        outcomes = list(await self._queue.settle(settlements))
        for _ in range(_ROUNDS_MAX):
            places = [place for place, outcome in enumerate(outcomes) if outcome is SettleOutcome.UNDECIDED]
            if not places:
                return outcomes
            again = await self._queue.settle([settlements[place] for place in places])
            for place, outcome in zip(places, again, strict=True):
                outcomes[place] = outcome
        raise EngineUnavailable("The store does not say whether the deliveries were settled; repeat it.")

    async def peek(self, agent_id: AgentId, *, after: str | None = None, limit: int = 50) -> Sequence[QueuedMessage]:
        """Turns that wait or are worked on, in the order in which they are handed out."""
        return await self._queue.peek(inbox_name(agent_id), after=after, limit=limit)

    async def depth(self, agent_id: AgentId) -> QueueDepth:
        """How many wait, are held and are dead."""
        (depth,) = await self._queue.depth([inbox_name(agent_id)])
        return depth

    async def dead_letters(
        self, agent_id: AgentId, *, after: str | None = None, limit: int = 50
    ) -> Sequence[DeadLetter]:
        """Turns that used up their attempts, oldest first."""
        return await self._admin.dead_letters(inbox_name(agent_id), after=after, limit=limit)

    async def redrive(self, agent_id: AgentId, message_ids: Sequence[str]) -> Sequence[bool]:
        """As QueueAdmin.redrive."""
        return await self._admin.redrive(inbox_name(agent_id), message_ids)

    async def names(self, *, after: str | None = None) -> Sequence[str]:
        """Queues of the engine, inboxes or not, in pages."""
        return await self._admin.queues(after=after)

    async def _configure(self, agent_id: AgentId) -> None:
        if agent_id in self._configured:
            return
        settings = QueueSettings(lease_ms=self._settings.lease_ms, messages_max=self._settings.inbox_max)
        name = inbox_name(agent_id)
        if await self._admin.settings(name) != settings:
            await self._admin.configure(name, settings)
        self._configured.add(agent_id)
