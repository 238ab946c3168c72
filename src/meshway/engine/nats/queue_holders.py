"""Whether another hub holds a message that the server hands out again: asked before anybody works on it.

    mw.held          every hub says every few seconds that it is there, and asks who is there and who holds messages
    mw.held.<hub>    what the hub is answered

A server that became the leader of a consumer a moment ago may not know all leases, and one that was killed may have
lost some. A question is over when all hubs that are known have answered, or after a moment: a hub that is dead or
frozen does not answer, and then the time of the server counts.

Two hubs may have a message on its way to their workers at once. Then the later hand-out stands: who hears a question
about a later one than its own, before anybody has that, gives up its own.
"""

import asyncio
import contextlib
import re
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from meshway.engine.nats.link import Link
from meshway.engine.nats.owned_tasks import OwnedTasks
from meshway.engine.nats.queue_deliveries import HeldMessages
from meshway.engine.nats.wire import Incoming
from meshway.kernel.clock import Clock
from meshway.kernel.errors import EngineUnavailable

__all__ = ["Elsewhere", "HeldElsewhere", "Holders"]

_ANSWERS_WITHIN_S = 0.15
_HELLO_EVERY_S = 2.0
# A hub that was not heard of for so long is gone.
_FORGOTTEN_S = 6.0
# Who has answered since we are connected for so long are all there are.
_ALL_KNOWN_S = 0.5
# More hubs than this no mesh has; others that say they are one are not believed.
_HUBS_MAX = 10_000
_ID_BYTES = 8
# Longer than a message is on its way to a worker, and more than are so at once.
_HEARD_MS = 60_000
_HEARD_MAX = 10_000
_VERSION = 1
_HUB = re.compile(r"[0-9a-f]{16}")


class _Told(msgspec.Struct, frozen=True, array_like=True):
    """From `hub` to all others. `number`: of a question about `seqs`; 0 where nothing is asked, or who is there.

    `seqs`: with how often each was delivered, as the one who asks was told.
    """

    version: int
    hub: str
    number: int = 0
    queue_hash: str = ""
    seqs: Sequence[tuple[int, int]] = ()
    is_new: bool = False
    is_leaving: bool = False


class _Heard(NamedTuple):
    """The question of another hub about the latest hand-out of a message."""

    delivered: int
    hub: str
    at_ms: int


class _Answer(msgspec.Struct, frozen=True, array_like=True):
    """`held`: sequences, and until when; `attempts` of the same, in their order."""

    version: int
    hub: str
    number: int
    held: Sequence[tuple[int, int]]
    attempts: Sequence[int] = ()


class HeldElsewhere(NamedTuple):
    """A lease of another hub. `attempt` is 0 where it is not known."""

    until_ms: int = 0
    attempt: int = 0


class Elsewhere(NamedTuple):
    """What other hubs hold, by sequence. `is_all`: every hub that is known has answered."""

    held: dict[int, HeldElsewhere]
    is_all: bool


class _Question:
    __slots__ = ("_are_known", "answered", "held", "missing")

    def __init__(self, missing: set[str], *, are_known: bool) -> None:
        """`missing`: who has to answer, and whether these are all there are."""
        self.missing = missing
        self._are_known = are_known
        self.held: dict[int, HeldElsewhere] = {}
        self.answered = asyncio.Event()

    def take(self, answer: _Answer) -> None:
        # A hub of the version before names none.
        attempts = answer.attempts or [0] * len(answer.held)
        for (seq, until_ms), attempt in zip(answer.held, attempts, strict=False):
            self.held[seq] = max(HeldElsewhere(until_ms, attempt), self.held.get(seq, HeldElsewhere()))
        self.missing.discard(answer.hub)
        if self._are_known and not self.missing:
            self.answered.set()


_encode = msgspec.msgpack.Encoder().encode
_decode_told = msgspec.msgpack.Decoder(_Told).decode
_decode_answer = msgspec.msgpack.Decoder(_Answer).decode


class Holders:
    """`held`: what this hub holds, of which it tells the others."""

    def __init__(self, link: Link, subject: str, *, held: HeldMessages, tasks: OwnedTasks, clock: Clock) -> None:
        self.held = held
        self._link = link
        self._subject = subject
        self._tasks = tasks
        self._clock = clock
        self._hub = secrets.token_hex(_ID_BYTES)
        # When each was heard last.
        self._others: dict[str, float] = {}
        self._all_known_at = 0.0
        self._asked = 0
        self._open: dict[int, _Question] = {}
        # By hash of the queue and sequence, the oldest first.
        self._heard: OrderedDict[tuple[str, int], _Heard] = OrderedDict()
        self._is_connected = asyncio.Event()

    async def start(self) -> None:
        """Raises: EngineUnavailable."""
        await self._link.hear(self._subject, self._on_told)
        await self._link.hear(f"{self._subject}.{self._hub}", self._on_answer)
        self._link.listen(self._on_connection)
        self._on_connection(True)
        self._tasks.start(self._say_hello(), name="meshway-nats-holders")

    def is_overtaken(self, queue_hash: str, seq: int, *, delivered: int, since_ms: int) -> bool:
        """Whether another hub has a later hand-out of this message, and asked since then."""
        heard = self._heard.get((queue_hash, seq))
        return heard is not None and heard.at_ms >= since_ms and (heard.delivered, heard.hub) > (delivered, self._hub)

    async def ask(self, queue_hash: str, seqs: Sequence[tuple[int, int]]) -> Elsewhere:
        """Whether others hold them, each with how often it was delivered. Raises: EngineUnavailable."""
        now_s = _now_s()
        self._others = {hub: at for hub, at in self._others.items() if now_s - at < _FORGOTTEN_S}
        are_known = now_s >= self._all_known_at
        if are_known and not self._others:
            return Elsewhere({}, is_all=True)
        question = _Question(set(self._others), are_known=are_known)
        self._asked += 1
        number = self._asked
        self._open[number] = question
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN_S):
                await self._link.publish(self._subject, _encode(_Told(_VERSION, self._hub, number, queue_hash, seqs)))
                await question.answered.wait()
        except TimeoutError:
            pass
        finally:
            del self._open[number]
        return Elsewhere(question.held, is_all=not question.missing)

    def _on_told(self, message: Incoming) -> None:
        try:
            told = _decode_told(message.data)
        except msgspec.DecodeError:
            # Of a version that says it otherwise.
            return
        if told.hub == self._hub or told.version != _VERSION or not _HUB.fullmatch(told.hub):
            return
        if told.is_leaving:
            self._others.pop(told.hub, None)
            return
        self._notice(told.hub)
        if not told.number and not told.is_new:
            return
        now_ms = self._clock.now_ms()
        held: list[tuple[int, int]] = []
        attempts: list[int] = []
        for seq, delivered in told.seqs:
            self._hear(told, seq, _Heard(delivered, told.hub, now_ms))
            one = self.held.get(told.queue_hash, seq)
            if one is not None and not one.is_settled and one.until_ms > now_ms:
                held.append((seq, one.until_ms))
                attempts.append(one.attempt)
        answer = _Answer(_VERSION, self._hub, told.number, held, attempts)
        with contextlib.suppress(EngineUnavailable):
            self._link.post(f"{self._subject}.{told.hub}", _encode(answer))

    def _notice(self, hub: str) -> None:
        if hub in self._others or len(self._others) < _HUBS_MAX:
            self._others[hub] = _now_s()

    def leave(self) -> None:
        """Tell the others that nobody need wait for an answer of this hub."""
        with contextlib.suppress(EngineUnavailable):
            self._link.post(self._subject, _encode(_Told(_VERSION, self._hub, is_leaving=True)))

    def _hear(self, told: _Told, seq: int, heard: _Heard) -> None:
        key = told.queue_hash, seq
        known = self._heard.pop(key, heard)
        self._heard[key] = heard if heard.at_ms - known.at_ms > _HEARD_MS else max(known, heard)
        while len(self._heard) > _HEARD_MAX:
            self._heard.popitem(last=False)

    def _on_answer(self, message: Incoming) -> None:
        try:
            answer = _decode_answer(message.data)
        except msgspec.DecodeError:
            return
        self._notice(answer.hub)
        question = self._open.get(answer.number)
        if question is not None:
            question.take(answer)

    def _on_connection(self, is_connected: object) -> None:
        if is_connected:
            self._all_known_at = _now_s() + _ALL_KNOWN_S
            self._is_connected.set()

    async def _say_hello(self) -> None:
        """Now and then, and at once where the connection is new."""
        while True:
            is_new = self._is_connected.is_set()
            self._is_connected.clear()
            with contextlib.suppress(EngineUnavailable):
                await self._link.publish(self._subject, _encode(_Told(_VERSION, self._hub, is_new=is_new)))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HELLO_EVERY_S):
                    await self._is_connected.wait()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
