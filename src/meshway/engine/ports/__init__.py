"""The five primitives that everything durable in the hub is built from, and the bundle an adapter offers.

Not here: domain words. Rooms keep typed stores on top (`registry/agent_store.py` over KeyValue).

Rules that hold for every port
- Batch first: a Sequence in, a Sequence of outcomes out, same length and order. Each item stands alone: one that
  fails does not undo its neighbours. No transaction spans two items, two calls or two ports.
- Expected outcomes are values (`KvConflict`, `WrongLast`, `STALE`); exceptions mean the call as a whole failed.
- `Undecided` is a declared outcome: the write may or may not have happened. Repeat the same call, with the same id,
  until the answer is another one; ids and revisions make the repetition harmless.
- Times are epoch milliseconds UTC. The engine's own clock decides what is due, leased or expired (the embedded
  adapter's is the hub's, NATS has its own), so no call takes `now_ms`. Due means: not before; usually within 0.5 s.
- Time to live and expiry are rounded up to whole seconds, at least 1 s.
- A watch, tail or subscription goes on until it is closed; where the engine itself ends it, iterating raises
  SubscriptionLost.
- Names (keys, subjects, queues) are dot-separated tokens of `[A-Za-z0-9_=/-]+`; `subject_token` encodes any other
  text as one token. Patterns use `*` for one token and `>` for the rest. Prefixes are whole tokens: `a.b` finds
  `a.b` and `a.b.c`, never `a.bc`.
- Values up to `Engine.inline_bytes_max` travel inside; larger ones the adapter carries, or refuses with
  PayloadTooLarge and keeps nothing of them.
- Every call may raise EngineUnavailable (not reachable, or writes refused until a restart) and every write
  StorageFull (nothing of the failing items was kept; reading goes on). Both are safe to repeat.

Durable means the engine's configured durability: embedded, fsync before the answer; NATS, a majority of replicas,
and on their disks only where the servers run `sync_interval: always`. `Engine.durability` says which in words.
"""

from meshway.engine.ports.blobs import (
    BlobRef,
    Blobs,
)
from meshway.engine.ports.bus import (
    Bus,
    BusGap,
    BusMessage,
    BusSubscription,
    NoResponder,
    ReplyTimedOut,
)
from meshway.engine.ports.engine import Engine, EngineHealth, EngineNode
from meshway.engine.ports.following import (
    PrefixFollower,
)
from meshway.engine.ports.hearing import hear_always
from meshway.engine.ports.key_value import (
    KeyValue,
    KvCaughtUp,
    KvConflict,
    KvCreate,
    KvDelete,
    KvDeleted,
    KvEntry,
    KvEvent,
    KvOutcome,
    KvPage,
    KvPut,
    KvUpdate,
    KvWrite,
    KvWritten,
)
from meshway.engine.ports.log import (
    Appended,
    FromLast,
    FromNew,
    FromPosition,
    FromSequence,
    FromTime,
    Log,
    LogAppend,
    LogBounds,
    LogEntry,
    LogOutcome,
    LogStart,
    LogTail,
    LogTrim,
    WrongLast,
)
from meshway.engine.ports.names import (
    subject_token,
)
from meshway.engine.ports.outcomes import (
    Durability,
    SubscriptionLost,
    Undecided,
)
from meshway.engine.ports.queue import (
    Ack,
    AttemptRecord,
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
)

__all__ = [
    "Ack",
    "Appended",
    "AttemptRecord",
    "BlobRef",
    "Blobs",
    "Bus",
    "BusGap",
    "BusMessage",
    "BusSubscription",
    "DeadLetter",
    "Durability",
    "Engine",
    "EngineHealth",
    "EngineNode",
    "Enqueued",
    "Extend",
    "FromLast",
    "FromNew",
    "FromPosition",
    "FromSequence",
    "FromTime",
    "KeyValue",
    "KvCaughtUp",
    "KvConflict",
    "KvCreate",
    "KvDelete",
    "KvDeleted",
    "KvEntry",
    "KvEvent",
    "KvOutcome",
    "KvPage",
    "KvPut",
    "KvUpdate",
    "KvWrite",
    "KvWritten",
    "Lease",
    "Log",
    "LogAppend",
    "LogBounds",
    "LogEntry",
    "LogOutcome",
    "LogStart",
    "LogTail",
    "LogTrim",
    "NoResponder",
    "PrefixFollower",
    "Priority",
    "Queue",
    "QueueAdmin",
    "QueueAppend",
    "QueueDepth",
    "QueueFull",
    "QueueOutcome",
    "QueueSettings",
    "QueuedMessage",
    "ReplyTimedOut",
    "SettleOutcome",
    "Settlement",
    "SubscriptionLost",
    "ToDeadLetters",
    "ToRetry",
    "Undecided",
    "WrongLast",
    "hear_always",
    "subject_token",
]
