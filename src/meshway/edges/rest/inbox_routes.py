"""The operations of operators on tasks: inboxes and dead letters, stopping and resuming, the audit log."""

from collections.abc import Sequence

from meshway.edges.rest import inbox
from meshway.edges.rest import inbox_models as models
from meshway.edges.rest.channel_models import PageQuery
from meshway.edges.rest.operations import Answers, Operation

__all__ = ["inbox_operations"]

_ONE_AGENT = ("agent_not_found",)
_OPERATORS = "Needs `admin`, the key that registered the agent, or one that serves it."


def inbox_operations() -> Sequence[Operation]:
    """All of them, in the order in which paths are tried."""
    return (*_INBOX, *_STOPS, *_AUDIT)


_INBOX = (
    Operation(
        method="GET",
        path="/v1/agents/{agent}/inbox",
        id="showInbox",
        tag="inbox",
        summary="Show what waits for an agent, and what is worked on",
        description=f"In the order of hand-out, and how many there are. {_OPERATORS}",
        handler=inbox.show_inbox,
        query=PageQuery,
        answers=Answers({200: models.InboxView}),
        problems=_ONE_AGENT,
    ),
    Operation(
        method="GET",
        path="/v1/agents/{agent}/dead-letters",
        id="listLostTasks",
        tag="inbox",
        summary="List tasks that an agent failed at, with reason and history",
        description=_OPERATORS,
        handler=inbox.list_lost_tasks,
        query=PageQuery,
        answers=Answers({200: models.LostTaskPage}),
        problems=_ONE_AGENT,
    ),
    Operation(
        method="POST",
        path="/v1/agents/{agent}/dead-letters/redrive",
        id="redriveTasks",
        tag="inbox",
        summary="Try tasks of the dead letters again",
        description="Each becomes one new task of the same client, with `metadata.redriveOf`, however often this is "
        f"repeated; the failed one stays as it is. {_OPERATORS}",
        handler=inbox.redrive_tasks,
        body=models.RedriveTasksBody,
        is_body_required=False,
        answers=Answers({202: models.RedriveTasksView}),
        problems=(*_ONE_AGENT, "not_found", "agent_stopped", "inbox_full"),
    ),
)

_STOPPING = "New work is refused (`agent_stopped`), what waits is held, what runs is cancelled with what it has caused."

_STOPS = (
    Operation(
        method="POST",
        path="/v1/agents/{agent}/stop",
        id="stopAgent",
        tag="inbox",
        summary="Stop an agent",
        description=f"{_STOPPING} Needs `admin`, or the key that registered the agent.",
        handler=inbox.stop_agent,
        body=models.StopBody,
        is_body_required=False,
        answers=Answers({200: models.StoppedView}),
        problems=_ONE_AGENT,
    ),
    Operation(
        method="POST",
        path="/v1/agents/{agent}/resume",
        id="resumeStoppedAgent",
        tag="inbox",
        summary="Lift the stop of an agent",
        description="Held work goes on, what was cancelled stays so. The stop of an admin needs `admin`. A drain is "
        "undone by `DELETE /v1/agents/{agent}/drain`.",
        handler=inbox.resume_agent,
        answers=Answers({200: models.ResumedView}),
        problems=_ONE_AGENT,
    ),
    Operation(
        method="POST",
        path="/v1/stop",
        id="stopAll",
        tag="inbox",
        summary="Stop all agents",
        description=f"{_STOPPING} Needs `admin`.",
        handler=inbox.stop_all,
        body=models.StopBody,
        is_body_required=False,
        answers=Answers({200: models.StoppedView}),
    ),
    Operation(
        method="POST",
        path="/v1/resume",
        id="resumeAll",
        tag="inbox",
        summary="Lift the stop of all agents",
        description="Stops of single agents outlive it. Needs `admin`.",
        handler=inbox.resume_all,
        answers=Answers({200: models.ResumedView}),
    ),
)

_AUDIT = (
    Operation(
        method="GET",
        path="/v1/audit",
        id="showAudit",
        tag="operations",
        summary="What operators did",
        description="Stops and resumes, with who, when and why. Needs `admin`.",
        handler=inbox.show_audit,
        query=models.AuditQuery,
        answers=Answers({200: models.AuditPage}),
    ),
)
