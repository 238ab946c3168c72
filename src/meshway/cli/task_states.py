"""What commands say of the states of tasks."""

__all__ = ["FAILED_STATES", "STATE_WORDS", "WAITING_STATES", "state_code"]

STATE_WORDS = {
    "TASK_STATE_SUBMITTED": "submitted",
    "TASK_STATE_WORKING": "working",
    "TASK_STATE_COMPLETED": "done",
    "TASK_STATE_FAILED": "failed",
    "TASK_STATE_CANCELED": "cancelled",
    "TASK_STATE_REJECTED": "rejected",
    "TASK_STATE_INPUT_REQUIRED": "waits for input",
    "TASK_STATE_AUTH_REQUIRED": "waits for authorisation",
}
FAILED_STATES = {
    "TASK_STATE_FAILED": "failed",
    "TASK_STATE_REJECTED": "was rejected",
    "TASK_STATE_CANCELED": "was cancelled",
}
WAITING_STATES = {"TASK_STATE_INPUT_REQUIRED": "an answer", "TASK_STATE_AUTH_REQUIRED": "authorisation"}


def state_code(state: str) -> str:
    """As the code of a failure: `failed`."""
    return state.removeprefix("TASK_STATE_").lower()
