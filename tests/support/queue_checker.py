"""Judges what a queue did by what was asked of it and what it answered. Values in, `Broken` out; no I/O, no clock.

Fed by whoever talks to the queue, it holds the promises against the answers: nothing accepted is lost, nothing is held
by two at a time, attempts rise by one and never pass the maximum, what is done never comes again, ordering keys and
priorities are kept, repetitions add nothing, and a dead letter says truly how it died.

`exact` is for one caller on virtual time: then each answer is predicted to the millisecond. Without it calls may
overlap and be cut off by a crash (`outcome` None), times are only bounds, and only what must hold all the same is held
against the queue. Then: announce a settlement with `settling` before it is sent, `settled` when it was answered.
`is_mesh`: a settlement may be under way for longer than its lease, and be done all the same while somebody else has the
message already; then whatever that one says must be refused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Broken", "DeadSeen", "Delivered", "Posted", "QueueChecker", "QueueRules"]

Action = Literal["ack", "retry", "dead_letter", "extend"]
# The port keeps the last 16 hand-outs of a message, the hub's own take among them.
_HISTORY_SURELY_KEPT = 15
# What hubs that share an engine settle nothing in, before a lease ends: their clocks may differ by so much.
_MARGIN_MS, _MARGIN_PARTS = 250, 5


class Broken(AssertionError):
    """A promise that was not kept."""


@dataclass(frozen=True)
class QueueRules:
    """Settings of the queue under judgement. `jitter` is the chance the hub was given, None where it is random."""

    lease_ms: int
    attempts_max: int
    backoff_initial_ms: int
    backoff_max_ms: int
    dead_letter: bool = True
    ordered: bool = False
    dedupe_window_ms: int = 120_000
    jitter: float | None = None


@dataclass(frozen=True)
class Posted:
    """What was asked for one message; times are epoch ms, `expires_at_ms` as the engine rounds it."""

    id: str
    priority: int = 1
    key: str | None = None
    deliver_at_ms: int = 0
    expires_at_ms: int | None = None
    dedupe_id: str | None = None


@dataclass(frozen=True)
class Delivered:
    """One delivery of a lease's answer."""

    delivery_id: str
    attempt: int
    lease_until_ms: int
    message_id: str


@dataclass(frozen=True)
class DeadSeen:
    """One dead letter as listed; `attempts` are (attempt, outcome, reason)."""

    message_id: str
    reason: str
    attempts: Sequence[tuple[int, str, str]]


@dataclass
class _Hold:
    delivery_id: str
    attempt: int
    # Not over before.
    until_ms: int
    # A settlement that ends it was sent; `settled` says what came of it.
    is_ending: bool = False


@dataclass
class _Message:
    posted: Posted
    # sent (no answer yet), queued, done, dead, gone (purged, dropped)
    state: str
    turn: int
    not_before_ms: int = 0
    due_by_ms: int = 0
    attempt: int = 0
    hold: _Hold | None = None
    history: list[tuple[int, str, str]] = field(default_factory=list)
    reason: str = ""
    # Calls about it went unanswered: what it went through is not known to the last.
    is_uncertain: bool = False
    # Deliveries that were over before what was said of them was answered.
    overtaken: set[str] = field(default_factory=set)

    def expired(self, now_ms: int) -> bool:
        expires_at_ms = self.posted.expires_at_ms
        return self.hold is None and expires_at_ms is not None and expires_at_ms <= now_ms


class QueueChecker:
    """One queue. `exact`: see the module."""

    def __init__(self, rules: QueueRules, *, exact: bool, is_mesh: bool = False) -> None:
        self.rules = rules
        self._exact = exact
        self._is_mesh = is_mesh
        self._messages: dict[str, _Message] = {}
        # Those with an ordering key.
        self._by_key: dict[str, list[_Message]] = {}
        self._by_delivery: dict[str, str] = {}
        self._final: set[str] = set()
        self._deduped: dict[str, int] = {}
        self._turn = 0

    # Posting

    def posting(self, posts: Iterable[Posted]) -> None:
        """Before the call: from here on the queue may hold them."""
        for posted in posts:
            self._turn += 1
            # A repetition of an id changes nothing.
            if posted.id not in self._messages:
                self._add(_Message(posted, "sent", self._turn))

    def posted(self, posted: Posted, *, duplicate: bool, now_ms: int) -> None:
        """The receipt of one message."""
        message = self._messages[posted.id]
        is_repeated = message.state != "sent"
        deduped_until_ms = self._deduped.get(posted.dedupe_id or "", -1)
        is_known = is_repeated or deduped_until_ms > now_ms
        if is_known and not duplicate:
            raise Broken(f"{posted.id}: was accepted twice as new")
        if duplicate and not is_known and self._exact:
            raise Broken(f"{posted.id}: is called a duplicate, and is none")
        if duplicate and not is_repeated and deduped_until_ms > now_ms:
            # Another message of that dedupe id stands for it.
            message.state = "gone"
            return
        if posted.dedupe_id is not None and not duplicate:
            self._deduped[posted.dedupe_id] = now_ms + self.rules.dedupe_window_ms
        if message.state == "sent":
            message.state = "queued"
            message.not_before_ms = message.due_by_ms = max(posted.deliver_at_ms, 0)

    # Handing out

    def leased(self, deliveries: Sequence[Delivered], *, count: int, begin_ms: int, end_ms: int) -> None:
        """The answer of a lease."""
        if len(deliveries) > count:
            raise Broken(f"asked for {count}, got {len(deliveries)}")
        if self._exact:
            self._pass_time(end_ms)
            self._check_turns([each.message_id for each in deliveries], count, end_ms)
        elif not self.rules.ordered:
            priorities = [self._known(each.message_id).posted.priority for each in deliveries]
            if priorities != sorted(priorities, reverse=True):
                raise Broken(f"priorities within one lease are {priorities}")
        for delivery in deliveries:
            self._take(delivery, begin_ms, end_ms)

    def _take(self, delivery: Delivered, begin_ms: int, end_ms: int) -> None:
        name = delivery.message_id
        message = self._known(name)
        self._check_may_come(message, begin_ms, end_ms)
        self._end_hold(message, end_ms)
        self._check_attempt(message, delivery)
        self._check_key(message, end_ms)
        if delivery.delivery_id in self._by_delivery:
            raise Broken(f"{name}: delivery id {delivery.delivery_id} was given before")
        earliest = begin_ms + self.rules.lease_ms
        if delivery.lease_until_ms < earliest or (self._exact and delivery.lease_until_ms != earliest):
            raise Broken(f"{name}: the lease ends at {delivery.lease_until_ms}, not at {earliest}")
        message.state = "queued"
        message.attempt = delivery.attempt
        message.hold = _Hold(delivery.delivery_id, delivery.attempt, delivery.lease_until_ms)
        self._by_delivery[delivery.delivery_id] = name

    def _check_may_come(self, message: _Message, begin_ms: int, end_ms: int) -> None:
        name = message.posted.id
        if message.state in ("done", "dead", "gone"):
            raise Broken(f"{name}: was handed out though it is {message.state}")
        if message.not_before_ms > end_ms:
            raise Broken(f"{name}: came {message.not_before_ms - end_ms} ms too early")
        if message.expired(begin_ms):
            raise Broken(f"{name}: came though it has expired")

    def _end_hold(self, message: _Message, now_ms: int) -> None:
        """Somebody else gets it: the hold of before must be over."""
        hold = message.hold
        if hold is None:
            return
        if hold.until_ms > now_ms and not hold.is_ending:
            raise Broken(f"{message.posted.id}: held twice at a time, the other lease ends in {hold.until_ms - now_ms}")
        if hold.is_ending:
            message.is_uncertain = True
            message.overtaken.add(hold.delivery_id)
        else:
            message.history.append((hold.attempt, "expired", "the lease ran out"))
        message.hold = None

    def _check_attempt(self, message: _Message, delivery: Delivered) -> None:
        name, attempt = message.posted.id, delivery.attempt
        if attempt > self.rules.attempts_max:
            raise Broken(f"{name}: attempt {attempt} of {self.rules.attempts_max}")
        if attempt <= message.attempt or (self._exact and attempt != message.attempt + 1):
            raise Broken(f"{name}: attempt {attempt} came after attempt {message.attempt}")
        if attempt != message.attempt + 1:
            # A hand-out whose answer never arrived counts.
            message.is_uncertain = True

    def _check_key(self, message: _Message, now_ms: int) -> None:
        if not self.rules.ordered or message.posted.key is None:
            return
        for other in self._by_key[message.posted.key]:
            if other is not self._messages[other.posted.id] or other.turn >= message.turn or other.state != "queued":
                continue
            is_ending = other.hold is not None and other.hold.is_ending
            if not (is_ending or other.is_uncertain or self._is_spent(other, now_ms) or other.expired(now_ms)):
                raise Broken(f"{message.posted.id}: came before {other.posted.id}, which has the same key")

    def _check_turns(self, taken: Sequence[str], count: int, now_ms: int) -> None:
        """Taken must be the first of those that are due, but for those that only may be."""
        rest = list(taken)
        due = self._due(now_ms)
        wanted = min(count, sum(is_sure for _message, is_sure in due))
        if any(self._is_used_up(message) for message in self._messages.values() if message.state == "queued"):
            # The hub may have taken some for itself, to bury them.
            wanted = min(wanted, 1)
        if len(taken) < wanted:
            raise Broken(f"{wanted} are due, {len(taken)} came")
        for message, is_sure in due:
            if rest and rest[0] == message.posted.id:
                rest.pop(0)
            elif is_sure and rest:
                raise Broken(f"{message.posted.id} was passed over: {list(taken)} came instead")
        if rest:
            raise Broken(f"{rest[0]} came out of turn")

    def _due(self, now_ms: int) -> list[tuple[_Message, bool]]:
        """Whatever may be handed out, in order, and whether it must be."""
        found = []
        # By key: False where an older one surely stands before, True where it only may.
        heads: dict[str, bool] = {}
        for message in sorted(self._messages.values(), key=lambda each: each.turn):
            if message.state != "queued" or message.expired(now_ms):
                continue
            key = message.posted.key if self.rules.ordered else None
            may = heads.get(key, True) if key is not None else True
            is_behind = key in heads
            if key is not None:
                heads[key] = may and self._is_spent(message, now_ms)
            if may and message.hold is None and message.not_before_ms <= now_ms and not self._is_used_up(message):
                found.append((message, message.due_by_ms <= now_ms and not is_behind))
        if not self.rules.ordered:
            found.sort(key=lambda each: (-each[0].posted.priority, each[0].turn))
        return found

    # Settling

    def settling(self, delivery_id: str, action: Action) -> None:
        """Before the call."""
        name = self._by_delivery.get(delivery_id)
        hold = self._messages[name].hold if name is not None else None
        if hold is not None and hold.delivery_id == delivery_id and action != "extend":
            hold.is_ending = True

    def settled(
        self,
        delivery_id: str,
        action: Action,
        outcome: str | None,
        *,
        begin_ms: int,
        end_ms: int,
        reason: str = "",
        delay_ms: int | None = None,
    ) -> None:
        """The answer; `outcome` None when there was none."""
        name = self._by_delivery.get(delivery_id)
        if name is None:
            if outcome == "done":
                raise Broken(f"{delivery_id}: a delivery nobody was given is done")
            return
        message = self._messages[name]
        hold = message.hold if message.hold is not None and message.hold.delivery_id == delivery_id else None
        if self._exact:
            is_live = hold is not None and hold.until_ms > begin_ms
            if outcome != ("done" if is_live else "stale"):
                raise Broken(f"{name}: {action} of a {'live' if is_live else 'stale'} delivery is {outcome}")
        if outcome is None:
            message.is_uncertain = True
        elif outcome == "stale":
            self._refused(message, hold, action, end_ms)
        elif action == "extend":
            if hold is not None:
                hold.until_ms = max(hold.until_ms, begin_ms + self.rules.lease_ms)
        else:
            self._end(message, delivery_id, action, reason, delay_ms, (begin_ms, end_ms))

    def _refused(self, message: _Message, hold: _Hold | None, action: Action, end_ms: int) -> None:
        """`stale`: the hold is over, though nobody else had the message yet."""
        if hold is None:
            return
        margin_ms = min(_MARGIN_MS, self.rules.lease_ms // _MARGIN_PARTS) if self._is_mesh else 0
        if action != "extend" and hold.until_ms - margin_ms > end_ms and not message.is_uncertain:
            raise Broken(f"{message.posted.id}: {action} of a live delivery is stale")
        if action != "extend":
            hold.is_ending = False
            hold.until_ms = min(hold.until_ms, end_ms)

    def _end(
        self,
        message: _Message,
        delivery_id: str,
        action: Action,
        reason: str,
        delay_ms: int | None,
        span: tuple[int, int],
    ) -> None:
        name = message.posted.id
        if delivery_id in self._final:
            raise Broken(f"{name}: delivery {delivery_id} is done twice")
        self._final.add(delivery_id)
        hold = message.hold
        if hold is None or hold.delivery_id != delivery_id:
            if action == "retry":
                return
            if self._is_mesh and delivery_id in message.overtaken and message.state == "queued":
                message.hold = None
                message.state = "done" if action == "ack" else "dead"
            else:
                raise Broken(f"{name}: {action} of a delivery is done, but somebody else has the message")
            return
        message.hold = None
        if action == "ack":
            message.state = "done"
        elif action == "dead_letter":
            self._bury(message, reason or "rejected by the worker", hold.attempt)
        elif hold.attempt >= self.rules.attempts_max:
            text = f"attempt {hold.attempt} of {self.rules.attempts_max} failed: {reason or 'no reason given'}"
            if self.rules.dead_letter:
                self._bury(message, text, hold.attempt)
            else:
                message.state = "gone"
        else:
            message.history.append((hold.attempt, "retry", reason))
            low, high = (delay_ms, delay_ms) if delay_ms is not None else self._backoff(hold.attempt)
            message.not_before_ms, message.due_by_ms = span[0] + low, span[1] + high

    def _bury(self, message: _Message, reason: str, attempt: int) -> None:
        message.state = "dead"
        message.reason = reason
        message.history.append((attempt, "dead_letter", reason))

    def _backoff(self, attempt: int) -> tuple[int, int]:
        full = min(self.rules.backoff_initial_ms * 2 ** (attempt - 1), self.rules.backoff_max_ms)
        low = full // 2
        if self.rules.jitter is None:
            return low, full
        wait_ms = low + int((full - low) * self.rules.jitter)
        return wait_ms, wait_ms

    # Dead letters, purges and the whole

    def saw_dead(self, letters: Sequence[DeadSeen], *, now_ms: int) -> None:
        """All dead letters of the queue, in order."""
        self._pass_time(now_ms)
        names = [letter.message_id for letter in letters]
        if len(set(names)) != len(names):
            raise Broken(f"a message is dead twice: {names}")
        for letter in letters:
            self._check_dead(letter, self._known(letter.message_id), now_ms)
        for message in self._messages.values():
            if message.state == "dead" and message.posted.id not in names and not message.is_uncertain:
                raise Broken(f"{message.posted.id}: was to be a dead letter and is none")

    def _check_dead(self, letter: DeadSeen, message: _Message, now_ms: int) -> None:
        name = letter.message_id
        if message.is_uncertain:
            message.state = "dead"
            return
        if message.state == "queued" and self._is_spent(message, now_ms) and self.rules.dead_letter:
            # A lease found it used up; that take is the hub's and not in the history.
            self._end_hold(message, now_ms)
            message.state = "dead"
            most = self.rules.attempts_max
            message.reason = f"attempt {most} of {most} was not settled: its lease ran out"
        if message.state != "dead":
            raise Broken(f"{name}: is a dead letter though it is {message.state}")
        if letter.reason != message.reason:
            raise Broken(f"{name}: died of {message.reason!r}, not of {letter.reason!r}")
        kept = message.history[-_HISTORY_SURELY_KEPT:]
        if list(letter.attempts)[-len(kept) :] != kept:
            raise Broken(f"{name}: had the attempts {kept}, not {list(letter.attempts)}")

    def redriven(self, message_ids: Sequence[str], count: int, *, now_ms: int) -> None:
        """These dead letters, as listed a moment ago, went back in this order."""
        expected = [name for name in dict.fromkeys(message_ids) if self._is_dead(name)]
        if count != len(expected):
            raise Broken(f"{count} dead letters went back, not {len(expected)}")
        for name in expected:
            message = self._messages[name]
            self._turn += 1
            fresh = Posted(message.posted.id, message.posted.priority, message.posted.key)
            self._add(_Message(fresh, "queued", self._turn, now_ms, now_ms))

    def purged(self, count: int, *, now_ms: int) -> None:
        """All messages but the dead letters are gone; an `audit` came just before."""
        self._pass_time(now_ms)
        live = expired = 0
        for message in self._messages.values():
            if message.state != "queued":
                continue
            # Those that expired may have been dropped before.
            expired += message.expired(now_ms)
            live += not message.expired(now_ms)
            message.state = "gone"
            message.hold = None
        if self._exact and not live <= count <= live + expired:
            raise Broken(f"{count} messages were purged, not {live} to {live + expired}")

    def audit(self, in_queue: Sequence[str], dead: Sequence[DeadSeen], *, now_ms: int) -> None:
        """The whole of what is there now: nothing accepted is lost, and nothing is there twice."""
        self.saw_dead(dead, now_ms=now_ms)
        shown = set(in_queue)
        if len(shown) != len(in_queue):
            raise Broken("a message is in the queue twice")
        for message in self._messages.values():
            name = message.posted.id
            is_in = name in shown
            if message.state in ("done", "dead", "gone") and is_in and not message.is_uncertain:
                raise Broken(f"{name}: is in the queue though it is {message.state}")
            if message.state != "queued" or is_in or message.is_uncertain or message.expired(now_ms):
                continue
            if self._is_spent(message, now_ms) and not self.rules.dead_letter:
                message.state = "gone"
                continue
            if message.hold is None or not message.hold.is_ending:
                raise Broken(f"{name}: is lost")

    def unsure_of(self, message_ids: Iterable[str]) -> None:
        """Something is known to have happened to these that no answer told of."""
        for name in message_ids:
            self._known(name).is_uncertain = True

    @property
    def uncertain_count(self) -> int:
        """Messages of which not everything is known, and so not everything is held against the queue."""
        return sum(message.is_uncertain for message in self._messages.values())

    def unfinished(self) -> Sequence[str]:
        """Accepted messages that are neither done nor dead nor gone."""
        return [message.posted.id for message in self._messages.values() if message.state == "queued"]

    # What is known

    def _add(self, message: _Message) -> None:
        self._messages[message.posted.id] = message
        if message.posted.key is not None:
            self._by_key.setdefault(message.posted.key, []).append(message)

    def _known(self, name: str) -> _Message:
        message = self._messages.get(name)
        if message is None:
            raise Broken(f"{name}: nobody posted it")
        return message

    def _is_dead(self, name: str) -> bool:
        return name in self._messages and self._messages[name].state == "dead"

    def _is_used_up(self, message: _Message) -> bool:
        """Had all its attempts; nobody holds it, so the next lease that meets it ends it."""
        return message.hold is None and message.attempt >= self.rules.attempts_max

    def _is_spent(self, message: _Message, now_ms: int) -> bool:
        hold = message.hold
        return message.attempt >= self.rules.attempts_max and (hold is None or hold.until_ms <= now_ms)

    def _pass_time(self, now_ms: int) -> None:
        """Leases that are over by now end, where it is known when."""
        if not self._exact:
            return
        for message in self._messages.values():
            hold = message.hold
            if hold is not None and not hold.is_ending and hold.until_ms <= now_ms:
                message.history.append((hold.attempt, "expired", "the lease ran out"))
                message.not_before_ms = message.due_by_ms = hold.until_ms
                message.hold = None
