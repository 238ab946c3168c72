"""What can be asked of an agent, whatever protocol version or binding asks it."""

import enum

__all__ = ["AgentOperation"]


class AgentOperation(enum.Enum):
    """The operations of A2A 1.0 (specification section 3); values are the JSON-RPC method names."""

    SEND_MESSAGE = "SendMessage"
    STREAM_MESSAGE = "SendStreamingMessage"
    GET_TASK = "GetTask"
    LIST_TASKS = "ListTasks"
    CANCEL_TASK = "CancelTask"
    SUBSCRIBE_TASK = "SubscribeToTask"
    CREATE_PUSH_CONFIG = "CreateTaskPushNotificationConfig"
    GET_PUSH_CONFIG = "GetTaskPushNotificationConfig"
    LIST_PUSH_CONFIGS = "ListTaskPushNotificationConfigs"
    DELETE_PUSH_CONFIG = "DeleteTaskPushNotificationConfig"
    GET_EXTENDED_CARD = "GetExtendedAgentCard"
