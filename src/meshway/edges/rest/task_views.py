"""From tasks to what the wire shows. Pure."""

import msgspec

from meshway.edges.rest.task_models import ReceiptView, TaskReference, TaskSummary, TaskTreeView
from meshway.gateway.show_task import TaskTree
from meshway.gateway.submit_task import Submitted
from meshway.kernel.clock import rfc3339_ms
from meshway.tasks.receipts import Receipt
from meshway.tasks.values import TaskOwner, TaskParent

__all__ = ["receipt_view", "submitted_task", "task_summary", "task_tree"]

_encode = msgspec.json.Encoder().encode
_decode_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def submitted_task(submitted: Submitted) -> bytes:
    """The task as it is, with two members of the hub's own beside A2A's."""
    members: dict[str, object] = {
        **_decode_members(submitted.shown.task),
        "agent": submitted.shown.owner.agent_id,
        "receipts": [receipt_view(receipt) for receipt in submitted.receipts],
    }
    return _encode(members)


def receipt_view(receipt: Receipt) -> ReceiptView:
    return ReceiptView(
        state=receipt.state,
        at=rfc3339_ms(receipt.at_ms),
        attempt=receipt.attempt,
        turn=receipt.turn,
        instance=msgspec.UNSET if receipt.instance is None else receipt.instance,
        reason=msgspec.UNSET if receipt.reason is None else receipt.reason,
    )


def task_summary(owner: TaskOwner) -> TaskSummary:
    return TaskSummary(
        id=owner.task_id,
        agent=owner.agent_id,
        context_id=owner.context_id,
        state=owner.state.value,
        created_at=rfc3339_ms(owner.created_at_ms),
        status_at=rfc3339_ms(owner.status_at_ms),
        turn=owner.turn,
        hub_owned=owner.hub_owned,
        parent=_reference(owner.parent),
        root=_reference(owner.root),
    )


def task_tree(tree: TaskTree) -> TaskTreeView:
    """As deep as the tree is, which its use case bounds."""
    return TaskTreeView(
        id=tree.owner.task_id,
        agent=tree.owner.agent_id,
        state=tree.owner.state.value,
        children=tuple(task_tree(child) for child in tree.children),
        cut=tree.cut,
    )


def _reference(parent: TaskParent | None) -> TaskReference | msgspec.UnsetType:
    return msgspec.UNSET if parent is None else TaskReference(agent=parent.agent_id, id=parent.task_id)
