"""The SDK: talk to a hub from a program. Imports nothing of the server.

`MeshwayClient` asks agents and operates the registry; `BlockingClient` is the same for programs without an event loop.
"""

from meshway.client.blocking import BlockingClient
from meshway.client.client import MeshwayClient
from meshway.client.errors import (
    CallError,
    ClientError,
    ConnectionLost,
    HubError,
    HubUnreachable,
    UnexpectedAnswer,
    WrongField,
)
from meshway.client.messages import Answer, Artifact, EventKind, Message, Part, StreamEvent, Task, TaskStatus
from meshway.client.values import (
    AgentChange,
    AgentInstance,
    AgentSkill,
    ApiKeyInfo,
    NewApiKey,
    Page,
    RegisteredAgent,
)

__all__ = [
    "AgentChange",
    "AgentInstance",
    "AgentSkill",
    "Answer",
    "ApiKeyInfo",
    "Artifact",
    "BlockingClient",
    "CallError",
    "ClientError",
    "ConnectionLost",
    "EventKind",
    "HubError",
    "HubUnreachable",
    "MeshwayClient",
    "Message",
    "NewApiKey",
    "Page",
    "Part",
    "RegisteredAgent",
    "StreamEvent",
    "Task",
    "TaskStatus",
    "UnexpectedAnswer",
    "WrongField",
]
