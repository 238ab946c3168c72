"""`meshway tasks`: work that is kept until it is done."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing

import click
from rich.text import Text
from rich.tree import Tree

from meshway.cli.failure import EXIT_WAITING, Failure
from meshway.cli.follow_view import open_follow_view
from meshway.cli.hub import HubOptions, connect, hub_options, run
from meshway.cli.output import console, print_json, print_table, shown, table
from meshway.cli.printable import printable
from meshway.cli.task_states import FAILED_STATES, STATE_WORDS, WAITING_STATES, state_code
from meshway.client import MeshwayClient, SubmittedTask, Task, TaskPage, TaskReceipt

__all__ = ["command"]

_STATES = [
    "submitted",
    "working",
    "completed",
    "failed",
    "canceled",
    "rejected",
    "input-required",
    "auth-required",
]
_STATE_STYLES = {
    "TASK_STATE_WORKING": "cyan",
    "TASK_STATE_COMPLETED": "green",
    "TASK_STATE_FAILED": "red",
    "TASK_STATE_REJECTED": "red",
    "TASK_STATE_INPUT_REQUIRED": "yellow",
    "TASK_STATE_AUTH_REQUIRED": "yellow",
}


@click.group("tasks", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Work that is kept until it is done: the agent need not be there, nor the client stay.

    \b
    Examples:
      meshway tasks submit billing "Write the invoice of order 17."
      meshway tasks follow 6f0c...
      meshway tasks list --state working
    """


@command.command("submit", short_help="Leave work for an agent.")
@click.argument("words", nargs=-1, required=True, metavar="[AGENT] TEXT")
@click.option("--skill", help="For whoever has this skill (its id), instead of an agent.")
@click.option("--timeout-ms", type=click.IntRange(min=1), metavar="N", help="The work fails when it takes longer.")
@click.option("--key", metavar="KEY", help="The same again joins the task instead of beginning another.")
@click.option("--follow", is_flag=True, help="Then follow it to its end.")
@hub_options
def _submit(
    *, words: Sequence[str], skill: str | None, timeout_ms: int | None, key: str | None, follow: bool, hub: HubOptions
) -> None:
    """Give TEXT to AGENT, or to whoever has the --skill, and print the task's id. TEXT `-` reads standard input.

    Kept when the command ends. Exit code with --follow: as `meshway tasks follow`.

    \b
    Examples:
      meshway tasks submit billing "Write the invoice of order 17." --key order-17
      meshway tasks submit --skill translate "Guten Morgen" --follow
      git diff | meshway tasks submit reviewer -
    """
    if len(words) != (2 if skill is None else 1):
        raise click.UsageError("Give AGENT and TEXT, or --skill SKILL and TEXT; quote a text of several words.")
    agent, text = (words[0] if skill is None else None), words[-1]
    content = sys.stdin.read() if text == "-" else text

    async def work() -> SubmittedTask:
        async with connect(hub) as client:
            task = await client.tasks.submit(
                content, agent=agent, skill=skill, timeout_ms=timeout_ms, idempotency_key=key
            )
            if follow:
                click.echo(f"Task {task.id} of {task.agent}", err=True)
                await _follow_to_end(client, task.id, agent=task.agent, as_json=hub.as_json)
            return task

    task = run(work())
    if follow:
        return
    if hub.as_json:
        print_json(task)
        return
    click.echo(task.id)
    click.echo(f"{task.agent} has it. Follow it: meshway tasks follow {task.id}", err=True)


@command.command("list", short_help="List tasks.")
@click.option("--agent", help="Only those of this agent.")
@click.option("--state", type=click.Choice(_STATES), help="Only those in this state.")
@click.option("--context", "context_id", metavar="ID", help="Only those of this conversation.")
@click.option("--since", metavar="TIME", help="Only those that changed since, such as 2026-11-22T07:00:00Z.")
@click.option("--limit", type=click.IntRange(1, 100), default=50, show_default=True, help="How many at most.")
@click.option("--cursor", help="Go on where the page before ended.")
@hub_options
def _list(
    *,
    agent: str | None,
    state: str | None,
    context_id: str | None,
    since: str | None,
    limit: int,
    cursor: str | None,
    hub: HubOptions,
) -> None:
    """List tasks, the last that changed first: your own, and with an admin's key all.

    \b
    Examples:
      meshway tasks list --agent billing --state working
      meshway tasks list --json | jq -r '.items[].id'
    """

    async def work() -> TaskPage:
        async with connect(hub) as client:
            return await client.tasks.list(
                agent=agent, state=state, context_id=context_id, status_after=since, limit=limit, cursor=cursor
            )

    page = run(work())
    if hub.as_json:
        print_json(page)
        return
    if not page.items:
        click.echo("No tasks. Submit one: meshway tasks submit AGENT TEXT", err=True)
        return
    rows = table("TASK", "AGENT", "STATE", "CHANGED", "TURN", "ASKED FOR BY")
    for each in page.items:
        parent = "" if each.parent is None else f"{each.parent.agent} {each.parent.id}"
        rows.add_row(
            shown(each.id), shown(each.agent), _state(each.state), Text(each.status_at), str(each.turn), shown(parent)
        )
    print_table(rows)
    if page.next_cursor is not None:
        click.echo(f"{page.total:,} in all. More: repeat with --cursor {page.next_cursor}", err=True)


@command.command("show", short_help="Show one task.")
@click.argument("task_id", metavar="ID")
@hub_options
def _show(task_id: str, hub: HubOptions) -> None:
    """Show a task as it is now: its state, and what it has to say.

    \b
    Example:
      meshway tasks show 6f0c...
    """

    async def work() -> Task:
        async with connect(hub) as client:
            return await client.tasks.get(task_id)

    task = run(work())
    if hub.as_json:
        print_json(task)
        return
    facts = table("", "")
    facts.show_header = False
    facts.add_row("task", shown(task.id))
    facts.add_row("conversation", shown(task.context_id or "-"))
    facts.add_row("state", _state(task.status.state))
    facts.add_row("since", shown(task.status.timestamp or "-"))
    if task.status.message is not None:
        facts.add_row("says", shown(task.status.message.text))
    for message in task.history:
        facts.add_row(message.role.removeprefix("ROLE_").lower(), shown(message.text))
    print_table(facts)
    for artifact in task.artifacts:
        console().print()
        console().print(shown(artifact.text))


@command.command("follow", short_help="Follow a task to its end.")
@click.argument("task_id", metavar="ID")
@hub_options
def _follow(task_id: str, hub: HubOptions) -> None:
    """Show what has happened in a task so far and then what happens, until it ends or waits for input.

    Survives restarts of the hub, without gap or repetition. On a terminal each status is a line above the growing
    answer; in a pipe the answer alone goes to standard output, and statuses to standard error.

    Exit code 0: completed; 1: failed, rejected or cancelled; 6: it waits for input.

    \b
    Examples:
      meshway tasks follow 6f0c...
      meshway tasks follow 6f0c... > answer.txt
      meshway tasks follow 6f0c... --json | jq -c .statusUpdate
    """

    async def work() -> None:
        async with connect(hub) as client:
            await _follow_to_end(client, task_id, as_json=hub.as_json)

    run(work())


async def _follow_to_end(client: MeshwayClient, task_id: str, *, as_json: bool, agent: str = "AGENT") -> None:
    """Raises: Failure for a task that ended without success, or waits."""
    state, reason = "", ""
    with open_follow_view(task_id, as_json=as_json) as view:
        async with aclosing(client.tasks.events(task_id)) as events:
            async for event in events:
                view.show(event)
                if event.state is None:
                    continue
                state, reason = event.state, event.text
                if state in WAITING_STATES and await _still_waits(client, task_id, event.raw):
                    break
    if state in WAITING_STATES:
        raise Failure(
            f"The task waits for {WAITING_STATES[state]}.",
            hint=f"Answer it: meshway call {agent} TEXT --task {task_id}",
            exit_code=EXIT_WAITING,
            code=state_code(state),
        )
    if state in FAILED_STATES:
        detail = f"The task {FAILED_STATES[state]}" + (f": {reason}" if reason else ".")
        raise Failure(detail, hint=f"Its steps: meshway tasks receipts {task_id}", code=state_code(state))


async def _still_waits(client: MeshwayClient, task_id: str, raw: Mapping[str, object]) -> bool:
    """Whether the question in this event is the present one: earlier ones were answered, and more follows."""
    task = await client.tasks.get(task_id)
    update = raw.get("statusUpdate") or raw.get("task")
    status = update.get("status") if isinstance(update, Mapping) else None
    asked_at = status.get("timestamp") if isinstance(status, Mapping) else None
    return task.status.state in WAITING_STATES and task.status.timestamp == asked_at


@command.command("cancel", short_help="Cancel a task.")
@click.argument("task_id", metavar="ID")
@hub_options
def _cancel(task_id: str, hub: HubOptions) -> None:
    """End a task, and what it has caused.

    \b
    Example:
      meshway tasks cancel 6f0c...
    """

    async def work() -> Task:
        async with connect(hub) as client:
            return await client.tasks.cancel(task_id)

    task = run(work())
    if hub.as_json:
        print_json(task)
    else:
        click.echo(f"{task.id} is {STATE_WORDS.get(task.status.state, task.status.state)}.")


@command.command("tree", short_help="Draw what a task has caused.")
@click.argument("task_id", metavar="ID")
@hub_options
def _tree(task_id: str, hub: HubOptions) -> None:
    """Draw a task and the tasks that were asked for in its course, by whichever agents.

    \b
    Example:
      meshway tasks tree 6f0c...
    """

    async def work() -> dict[str, object]:
        async with connect(hub) as client:
            return await client.tasks.tree(task_id)

    found = run(work())
    if hub.as_json:
        print_json(found)
        return
    drawn = Tree(_branch(found))
    _draw(found, drawn)
    console().print(drawn)


def _draw(task: Mapping[str, object], branch: Tree) -> None:
    children = task.get("children")
    for child in children if isinstance(children, list) else ():
        _draw(child, branch.add(_branch(child)))
    if task.get("cut"):
        branch.add(Text("...", style="dim"))


def _branch(task: Mapping[str, object]) -> Text:
    return Text.assemble(
        (printable(str(task.get("agent", ""))), "bold"),
        f"  {printable(str(task.get('id', '')))}  ",
        _state(str(task.get("state", ""))),
    )


@command.command("receipts", short_help="Show a task's steps.")
@click.argument("task_id", metavar="ID")
@hub_options
def _receipts(task_id: str, hub: HubOptions) -> None:
    """Show what has become of a task step by step: queued, claimed, running, replied or failed.

    \b
    Example:
      meshway tasks receipts 6f0c...
    """

    async def work() -> Sequence[TaskReceipt]:
        async with connect(hub) as client:
            return await client.tasks.receipts(task_id)

    receipts = run(work())
    if hub.as_json:
        print_json({"items": receipts, "next_cursor": None})
        return
    if not receipts:
        click.echo("No receipts: the agent itself owns this task.", err=True)
        return
    rows = table("STEP", "AT", "TURN", "ATTEMPT", "INSTANCE", "REASON")
    for each in receipts:
        rows.add_row(
            Text(each.state),
            Text(each.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")),
            str(each.turn),
            str(each.attempt or "-"),
            Text(each.instance or "-"),
            shown(each.reason or ""),
        )
    print_table(rows)


def _state(state: str) -> Text:
    return Text(STATE_WORDS.get(state, state), style=_STATE_STYLES.get(state, ""))
