"""`meshway agents inbox`, `stop` and `resume`: what operators see and do of the work of agents."""

import sys

import click
from rich.text import Text

from meshway.cli.hub import HubOptions, connect, hub_options, run
from meshway.cli.output import print_json, print_table, shown, table
from meshway.cli.task_states import STATE_WORDS
from meshway.client import Inbox, LostTask, Page, StopNotice

__all__ = ["inbox", "resume", "stop"]


@click.command("inbox", short_help="Show what waits for an agent.")
@click.argument("agent")
@click.option("--dead", is_flag=True, help="Its dead letters: tasks that it failed at for good.")
@click.option("--redrive", is_flag=True, help="Try all dead letters again, each as a new task.")
@click.option("--limit", type=click.IntRange(1, 500), default=50, show_default=True, help="How many at most.")
@click.option("--cursor", help="Go on where the page before ended.")
@hub_options
def inbox(*, agent: str, dead: bool, redrive: bool, limit: int, cursor: str | None, hub: HubOptions) -> None:
    """Show the tasks that wait for AGENT and those it works on, in the order in which they are handed out.

    \b
    Examples:
      meshway agents inbox billing
      meshway agents inbox billing --dead
      meshway agents inbox billing --redrive
    """
    if dead and redrive:
        raise click.UsageError("--dead shows, --redrive tries again: one of them.")
    if redrive:
        _redrive(agent, hub)
    elif dead:
        _show_dead(agent, limit, cursor, hub)
    else:
        _show_waiting(agent, limit, cursor, hub)


@click.command("stop", short_help="Stop an agent, or all.")
@click.argument("agent", required=False)
@click.option("--all", "everything", is_flag=True, help="All agents of the hub.")
@click.option("--reason", default="", help="Why; callers who are refused are told.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@hub_options
def stop(*, agent: str | None, everything: bool, reason: str, yes: bool, hub: HubOptions) -> None:
    """Stop AGENT, or --all: new work is refused, what waits is held, what runs is cancelled with what it caused.

    \b
    Examples:
      meshway agents stop billing --reason "It invents customers."
      meshway agents stop --all --yes
    """
    _check_which(agent, everything=everything)
    if everything and not yes and sys.stdin.isatty():
        click.confirm("Stop all agents of this hub and cancel what they are doing?", abort=True)

    async def work() -> StopNotice:
        async with connect(hub) as client:
            return await client.tasks.stop(agent, reason=reason)

    notice = run(work())
    if hub.as_json:
        print_json(notice)
        return
    click.echo(f"{_who(agent)} stopped; {notice.cancelled:,} running tasks were cancelled.")
    click.echo(f"Let it go on: meshway agents resume {agent or '--all'}", err=True)


@click.command("resume", short_help="Let a stopped agent go on.")
@click.argument("agent", required=False)
@click.option("--all", "everything", is_flag=True, help="Lift the stop of everything; those of single agents stand.")
@hub_options
def resume(*, agent: str | None, everything: bool, hub: HubOptions) -> None:
    """Lift the stop of AGENT, or of --all. What waits goes on; what was cancelled stays so.

    \b
    Example:
      meshway agents resume billing
    """
    _check_which(agent, everything=everything)

    async def work() -> bool:
        async with connect(hub) as client:
            return await client.tasks.resume(agent)

    was_stopped = run(work())
    if hub.as_json:
        print_json({"agent": agent, "was_stopped": was_stopped})
    else:
        click.echo(f"{_who(agent)} {'no longer' if was_stopped else 'not'} stopped.")


def _show_waiting(agent: str, limit: int, cursor: str | None, hub: HubOptions) -> None:
    async def work() -> Inbox:
        async with connect(hub) as client:
            return await client.tasks.inbox(agent, limit=limit, cursor=cursor)

    found = run(work())
    if hub.as_json:
        print_json(found)
        return
    depth = found.depth
    if found.items:
        rows = table("TASK", "TURN", "STATE", "INSTANCE", "SINCE", "EXPIRES")
        for each in found.items:
            rows.add_row(
                shown(each.task_id),
                str(each.turn),
                Text(STATE_WORDS.get(each.state, each.state)),
                Text(each.instance or "-"),
                Text(each.created_at),
                Text(each.expires_at),
            )
        print_table(rows)
    click.echo(
        f"{agent}: {depth.waiting:,} wait, {depth.held:,} are worked on, {depth.delayed:,} are tried again later, "
        f"{depth.dead:,} are dead letters.",
        err=True,
    )
    _say_more(found.next_cursor)


def _show_dead(agent: str, limit: int, cursor: str | None, hub: HubOptions) -> None:
    async def work() -> Page[LostTask]:
        async with connect(hub) as client:
            return await client.tasks.dead_letters(agent, limit=limit, cursor=cursor)

    page = run(work())
    if hub.as_json:
        print_json(page)
        return
    if not page.items:
        click.echo(f"{agent} has no dead letters.", err=True)
        return
    rows = table("TASK", "SINCE", "ATTEMPTS", "REASON", "TEXT")
    for each in page.items:
        attempts = each.attempts[-1].attempt if each.attempts else 0
        rows.add_row(
            shown(each.task_id), Text(each.dead_at), str(attempts), shown(each.reason), shown(each.message.text[:80])
        )
    print_table(rows)
    _say_more(page.next_cursor)
    click.echo(f"Try them again: meshway agents inbox {agent} --redrive", err=True)


def _redrive(agent: str, hub: HubOptions) -> None:
    async def work() -> list[str]:
        async with connect(hub) as client:
            return await client.tasks.redrive(agent)

    tasks = run(work())
    if hub.as_json:
        print_json({"tasks": tasks})
        return
    for task_id in tasks:
        click.echo(task_id)
    click.echo(f"{len(tasks):,} tasks of {agent} are tried again.", err=True)


def _check_which(agent: str | None, *, everything: bool) -> None:
    if (agent is None) != everything:
        raise click.UsageError("Give an agent, or --all.")


def _who(agent: str | None) -> str:
    return "All agents are" if agent is None else f"{agent} is"


def _say_more(cursor: str | None) -> None:
    if cursor is not None:
        click.echo(f"More: repeat with --cursor {cursor}", err=True)
