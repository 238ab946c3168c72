"""The SDK: talk to a hub from a program. Imports nothing of the server.

`MeshwayClient` asks agents, sends and receives messages, and operates the hub;
`BlockingClient` is the same for programs without an event loop. `Agent` makes a function an agent of the hub.
"""

from meshway.client.agent import Agent
from meshway.client.agent_values import Progress, TaskAnswer
from meshway.client.blocking import BlockingClient
from meshway.client.channel_messages import (
    ChannelInfo,
    ChannelMessage,
    DataReference,
    DeadLetter,
    Delivery,
    FailedAttempt,
    MessagePage,
    Missed,
    Receipt,
    RedriveStarted,
    RequestMessage,
    RequestReply,
    StreamReader,
)
from meshway.client.client import MeshwayClient
from meshway.client.errors import (
    CallError,
    ClientError,
    ConnectionLost,
    DataNotFetched,
    HubError,
    HubUnreachable,
    UnexpectedAnswer,
    WrongField,
)
from meshway.client.feeds import EventFeed, StreamFeed
from meshway.client.handlers import Refused, Reject, Retry
from meshway.client.mesh import EngineNode, MeshDuty, MeshEngine, MeshHub, MeshStatus
from meshway.client.messages import Answer, Artifact, EventKind, Message, Part, StreamEvent, Task, TaskStatus
from meshway.client.outgoing import NewMessage
from meshway.client.push import LostNotification
from meshway.client.responder import Responder
from meshway.client.task_context import TaskContext
from meshway.client.task_values import Inbox, LostTask, StopNotice, SubmittedTask, TaskPage, TaskReceipt, TaskSummary
from meshway.client.values import (
    AgentChange,
    AgentInstance,
    AgentSkill,
    ApiKeyInfo,
    NewApiKey,
    Page,
    RegisteredAgent,
)
from meshway.client.worker import Worker
from meshway.messaging.settlements import SettlementItem

__all__ = [
    "Agent",
    "AgentChange",
    "AgentInstance",
    "AgentSkill",
    "Answer",
    "ApiKeyInfo",
    "Artifact",
    "BlockingClient",
    "CallError",
    "ChannelInfo",
    "ChannelMessage",
    "ClientError",
    "ConnectionLost",
    "DataNotFetched",
    "DataReference",
    "DeadLetter",
    "Delivery",
    "EngineNode",
    "EventFeed",
    "EventKind",
    "FailedAttempt",
    "HubError",
    "HubUnreachable",
    "Inbox",
    "LostNotification",
    "LostTask",
    "MeshDuty",
    "MeshEngine",
    "MeshHub",
    "MeshStatus",
    "MeshwayClient",
    "Message",
    "MessagePage",
    "Missed",
    "NewApiKey",
    "NewMessage",
    "Page",
    "Part",
    "Progress",
    "Receipt",
    "RedriveStarted",
    "Refused",
    "RegisteredAgent",
    "Reject",
    "RequestMessage",
    "RequestReply",
    "Responder",
    "Retry",
    "SettlementItem",
    "StopNotice",
    "StreamEvent",
    "StreamFeed",
    "StreamReader",
    "SubmittedTask",
    "Task",
    "TaskAnswer",
    "TaskContext",
    "TaskPage",
    "TaskReceipt",
    "TaskStatus",
    "TaskSummary",
    "UnexpectedAnswer",
    "Worker",
    "WrongField",
]
