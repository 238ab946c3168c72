"""From handed-out tasks and outcomes of reports to what instances get, over the WebSocket or by long poll. Pure."""

import msgspec

from meshway.gateway.lease_tasks import HandedTask
from meshway.gateway.report_tasks import Reported
from meshway.kernel.clock import rfc3339_ms
from meshway.protocols.link import frames

__all__ = ["report_outcome", "task_delivery"]


def task_delivery(handed: HandedTask) -> frames.TaskDelivery:
    """One attempt at one turn."""
    claim, item = handed.claim, handed.item
    return frames.TaskDelivery(
        delivery_id=claim.delivery_id,
        task_id=item.task_id,
        context_id=item.context_id,
        attempt=claim.attempt,
        turn=item.turn,
        lease_ms=handed.lease_ms,
        deadline=None if claim.deadline_ms is None else rfc3339_ms(claim.deadline_ms),
        chain=handed.chain,
        traceparent=item.traceparent,
        message=item.message,
        task=msgspec.UNSET if handed.snapshot is None else msgspec.Raw(handed.snapshot),
    )


def report_outcome(reported: Reported) -> frames.ReportOutcome:
    return frames.ReportOutcome(
        delivery_id=reported.delivery_id, outcome=reported.outcome, source=reported.source, detail=reported.detail
    )
