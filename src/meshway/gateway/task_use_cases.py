"""Everything that can be asked about tasks, as edges get it."""

from dataclasses import dataclass

from meshway.gateway.cancel_task import CancelTask
from meshway.gateway.follow_task import FollowTask
from meshway.gateway.inspect_inbox import InspectInbox
from meshway.gateway.inspect_push import InspectPush
from meshway.gateway.lease_tasks import LeaseTasks
from meshway.gateway.report_tasks import ReportTasks
from meshway.gateway.serve_agent import ServeAgent
from meshway.gateway.show_task import ShownTask, ShowTask
from meshway.gateway.stop_agents import StopAgents
from meshway.gateway.submit_task import SubmitTask
from meshway.kernel.ids import TaskId
from meshway.kernel.principal import Principal

__all__ = ["TaskUseCases"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskUseCases:
    """Made by assembly."""

    submit: SubmitTask
    show: ShowTask
    follow: FollowTask
    cancel: CancelTask
    inbox: InspectInbox
    push: InspectPush
    serve: ServeAgent
    lease: LeaseTasks
    report: ReportTasks
    stop: StopAgents

    async def cancel_any(self, principal: Principal, task_id: TaskId) -> ShownTask:
        """End a task, whoever owns it, and show it. Raises: as CancelTask and ShowTask."""
        await self.cancel.execute_any(principal, task_id)
        return await self.show.execute(principal, task_id)
