"""What can go wrong when a program talks to a hub, grouped by what the program can do about it.

ClientError
├── HubUnreachable      no hub answered: start one, or set MESHWAY_URL
│   └── ConnectionLost  the connection broke under a request; `may_have_acted` says whether it can be repeated safely
├── HubError            the hub said no: `code` is the stable code of its error tree, `fields` name what is wrong
│   └── CallError       an agent, or the hub on its behalf, answered a call with a JSON-RPC error
├── DataNotFetched      a message's data lies in the blob store: `await client.fetch(message)`
└── UnexpectedAnswer    something answered that does not speak like a hub

Nothing of httpx leaks: its exceptions are translated where it is called.
"""

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = [
    "CallError",
    "ClientError",
    "ConnectionLost",
    "DataNotFetched",
    "HubError",
    "HubUnreachable",
    "UnexpectedAnswer",
    "WrongField",
]


@dataclass(frozen=True, slots=True)
class WrongField:
    """One field the hub refused. `field` is a dotted path such as `card.skills.0.id`."""

    field: str
    message: str


class ClientError(Exception):
    """Base of the tree. `detail` is one sentence for a person."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class HubUnreachable(ClientError):
    """Nobody answered at the hub's address; nothing was sent."""

    def __init__(self, detail: str, *, url: str) -> None:
        super().__init__(detail)
        self.url = url


class ConnectionLost(HubUnreachable):
    """The hub was there, then the connection broke or fell silent.

    `may_have_acted`: the request had been sent. `task_id` and `last_event_id` say how far a stream came.
    """

    def __init__(
        self,
        detail: str,
        *,
        url: str,
        may_have_acted: bool = True,
        task_id: str | None = None,
        last_event_id: str | None = None,
    ) -> None:
        super().__init__(detail, url=url)
        self.may_have_acted = may_have_acted
        self.task_id = task_id
        self.last_event_id = last_event_id


class DataNotFetched(ClientError):
    """The data of a message is too large to travel with it."""


class HubError(ClientError):
    """The hub refused or failed. `retry_after_ms` is set where coming back later helps.

    `accepted`: of a batch that was taken in part, the ids of the messages that the hub has.
    """

    def __init__(
        self,
        detail: str,
        *,
        code: str,
        status: int,
        fields: Sequence[WrongField] = (),
        retry_after_ms: int | None = None,
        accepted: Sequence[str] = (),
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status = status
        self.fields = tuple(fields)
        self.retry_after_ms = retry_after_ms
        self.accepted = tuple(accepted)

    def __str__(self) -> str:
        wrong = "; ".join(f"{each.field}: {each.message}" for each in self.fields if each.message not in self.detail)
        return f"{self.detail} ({wrong}) [{self.code}]" if wrong else f"{self.detail} [{self.code}]"


class CallError(HubError):
    """A JSON-RPC error object. `code` is the reason in lower case where one was given, else `rpc_<number>`."""

    def __init__(
        self,
        detail: str,
        *,
        code: str,
        status: int,
        rpc_code: int,
        agent: str,
        fields: Sequence[WrongField] = (),
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(detail, code=code, status=status, fields=fields, retry_after_ms=retry_after_ms)
        self.rpc_code = rpc_code
        self.agent = agent


class UnexpectedAnswer(ClientError):
    """What came back is not what a Meshway hub sends: perhaps MESHWAY_URL points at something else."""

    def __init__(self, detail: str, *, url: str) -> None:
        super().__init__(detail)
        self.url = url
