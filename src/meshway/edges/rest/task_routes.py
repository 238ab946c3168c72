"""The operations of tasks, for who gives work, and of the long poll, for instances that do it without a WebSocket."""

from collections.abc import Sequence

from meshway.edges.rest import poll_calls, task_events, tasks
from meshway.edges.rest import poll_models as poll
from meshway.edges.rest import task_models as models
from meshway.edges.rest.operations import Access, Answers, Operation

__all__ = ["task_operations"]

_ONE_TASK = ("task_not_found",)
# What asking an agent for a task of its own can end with.
_RELAYED = ("upstream_unreachable", "upstream_broken", "upstream_invalid", "deadline_exceeded")
_ACCEPTING = (
    "agent_not_found",
    "task_not_found",
    "agent_stopped",
    "inbox_full",
    "idempotency_key_reused",
    "delegation_refused",
    "own_limit_reached",
    "operation_unsupported",
    "deadline_exceeded",
)


def task_operations() -> Sequence[Operation]:
    """All of them, in the order in which paths are tried."""
    return (*_TASKS, *_POLLS)


_TASKS = (
    Operation(
        method="POST",
        path="/v1/tasks",
        id="submitTask",
        tag="tasks",
        summary="Submit a task to an agent, or to whoever has a skill",
        description="On disk with 202; it is done when the agent can, which need not be there now. 200: the same key "
        "submitted it before, and this is how it stands.",
        handler=tasks.submit_task,
        headers={
            "Idempotency-Key": "The same key with the same content joins the task.",
            "Meshway-Chain": "Of work in whose course this is asked for, as the hub gave it.",
            "traceparent": "W3C trace context.",
        },
        body=models.TaskSubmissionBody,
        answers=Answers(
            {200: models.SubmittedTaskView, 202: models.SubmittedTaskView}, headers={"Location": "The task."}
        ),
        problems=_ACCEPTING,
    ),
    Operation(
        method="GET",
        path="/v1/tasks",
        id="listTasks",
        tag="tasks",
        summary="Find tasks",
        description="Latest status first: those submitted with this key, with `admin` all. Of agents by URL those that "
        "passed through the hub.",
        handler=tasks.list_tasks,
        query=models.TaskListQuery,
        answers=Answers({200: models.TaskPage}),
    ),
    Operation(
        method="GET",
        path="/v1/tasks/{task}",
        id="showTask",
        tag="tasks",
        summary="Show a task as it is now",
        handler=tasks.show_task,
        query=models.TaskQuery,
        answers=Answers({200: models.TaskView}),
        problems=(*_ONE_TASK, *_RELAYED),
    ),
    Operation(
        method="GET",
        path="/v1/tasks/{task}/events",
        id="followTask",
        tag="tasks",
        summary="Follow a task to its end",
        description="Server-sent events from the first on, or after `Last-Event-ID`: `id` is the event's number, "
        "`data` an A2A 1.0 StreamResponse. Numbers have no gaps; the stream ends after the terminal event. An `error` "
        "event with a problem document ends it early.",
        handler=task_events.follow_task,
        query=models.TaskEventsQuery,
        headers={"Last-Event-ID": "Go on after the event of this number."},
        answers=Answers({200: None}, media_type="text/event-stream"),
        problems=(*_ONE_TASK, *_RELAYED, "too_many_in_flight"),
        is_stream=True,
    ),
    Operation(
        method="GET",
        path="/v1/tasks/{task}/receipts",
        id="listReceipts",
        tag="tasks",
        summary="What has become of a task, step by step",
        handler=tasks.list_receipts,
        answers=Answers({200: models.ReceiptPage}),
        problems=_ONE_TASK,
    ),
    Operation(
        method="GET",
        path="/v1/tasks/{task}/tree",
        id="showTaskTree",
        tag="tasks",
        summary="Show what a task has caused",
        handler=tasks.show_tree,
        answers=Answers({200: models.TaskTreeView}),
        problems=_ONE_TASK,
    ),
    Operation(
        method="POST",
        path="/v1/tasks/{task}/cancel",
        id="cancelTask",
        tag="tasks",
        summary="Cancel a task, and what it has caused",
        description="Of cancelling and completing, what is written first holds (`task_not_cancelable`).",
        handler=tasks.cancel_task,
        answers=Answers({200: models.TaskView}),
        problems=(*_ONE_TASK, *_RELAYED, "task_not_cancelable", "operation_unsupported"),
    ),
    Operation(
        method="GET",
        path="/v1/push/jwks.json",
        id="pushKeys",
        tag="tasks",
        summary="The keys that push notifications are signed with",
        description="A JSON Web Key Set (RFC 7517).",
        handler=tasks.serve_push_jwks,
        answers=Answers({200: None}),
        access=Access.OPEN,
    ),
)

_SERVING = "Needs `serve` for the agent."

_POLLS = (
    Operation(
        method="POST",
        path="/v1/agents/{agent}/lease",
        id="leaseTasks",
        tag="workers",
        summary="Take tasks of an agent (long poll)",
        description="Registers agent and instance: send the card with the first call, and again when it changes. "
        "Returns as soon as one task is due, with all that are due up to `count`; empty after `wait_ms`. An instance "
        f"that says nothing for 15 s counts as gone; every call is a sign of life. {_SERVING}",
        handler=poll_calls.lease_tasks,
        body=poll.TaskLeaseBody,
        answers=Answers({200: poll.TaskLeaseView}),
        problems=("agent_not_found", "conflict", "capacity_reached"),
    ),
    Operation(
        method="POST",
        path="/v1/agents/{agent}/events",
        id="reportTasks",
        tag="workers",
        summary="Report what happens in tasks",
        description="`done` is written. Repeat the same reports when the answer is lost: what was kept is confirmed. A "
        f"status that is terminal, or waits for the client, ends the delivery. {_SERVING}",
        handler=poll_calls.report_tasks,
        body=poll.TaskReportsBody,
        answers=Answers({200: poll.TaskReportsView}),
    ),
    Operation(
        method="POST",
        path="/v1/agents/{agent}/settle",
        id="settleTasks",
        tag="workers",
        summary="Extend, retry, give up or give back tasks",
        description=f"What is to become of deliveries without an event; see `TaskSettlement`. {_SERVING}",
        handler=poll_calls.settle_tasks,
        body=poll.TaskSettlementsBody,
        answers=Answers({200: poll.TaskSettlementsView}),
    ),
    Operation(
        method="POST",
        path="/v1/agents/{agent}/bye",
        id="leaveAgent",
        tag="workers",
        summary="Leave for good",
        description=f"What the instance holds is due again at once, and the attempt does not count. {_SERVING}",
        handler=poll_calls.leave_agent,
        body=poll.InstanceBody,
        answers=Answers({204: None}),
    ),
)
