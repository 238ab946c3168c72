"""Names of the operations on the wire, and which of them a dialect has."""

from meshway.kernel.operations import AgentOperation
from meshway.protocols.a2a.dialect import JSONRPC_0_3, JSONRPC_1_0, REST_0_3, REST_1_0, Dialect

__all__ = ["METHODS_0_3", "METHODS_1_0", "METHOD_NAMES_0_3", "STREAMING", "is_supported"]

_Op = AgentOperation

METHODS_1_0 = {operation.value: operation for operation in AgentOperation}
METHODS_0_3 = {
    "message/send": _Op.SEND_MESSAGE,
    "message/stream": _Op.STREAM_MESSAGE,
    "tasks/get": _Op.GET_TASK,
    "tasks/cancel": _Op.CANCEL_TASK,
    "tasks/resubscribe": _Op.SUBSCRIBE_TASK,
    "tasks/pushNotificationConfig/set": _Op.CREATE_PUSH_CONFIG,
    "tasks/pushNotificationConfig/get": _Op.GET_PUSH_CONFIG,
    "tasks/pushNotificationConfig/list": _Op.LIST_PUSH_CONFIGS,
    "tasks/pushNotificationConfig/delete": _Op.DELETE_PUSH_CONFIG,
    "agent/getAuthenticatedExtendedCard": _Op.GET_EXTENDED_CARD,
}
METHOD_NAMES_0_3 = {operation: name for name, operation in METHODS_0_3.items()}

STREAMING = frozenset({_Op.STREAM_MESSAGE, _Op.SUBSCRIBE_TASK})

# Version 0.3 has no list of tasks.
_LACKING: dict[Dialect, frozenset[AgentOperation]] = {
    JSONRPC_1_0: frozenset(),
    REST_1_0: frozenset(),
    JSONRPC_0_3: frozenset({_Op.LIST_TASKS}),
    REST_0_3: frozenset({_Op.LIST_TASKS}),
}


def is_supported(operation: AgentOperation, dialect: Dialect) -> bool:
    """Whether the dialect can express the operation at all."""
    return operation not in _LACKING[dialect]
