"""`meshway call`: one message to one agent."""

import sys
from collections.abc import AsyncIterator

import click

from meshway.cli.failure import Failure
from meshway.cli.hub import HubOptions, connect, hub_options, run
from meshway.cli.output import print_json
from meshway.cli.printable import printable
from meshway.cli.stream_view import StreamView, open_stream_view
from meshway.cli.task_states import FAILED_STATES, WAITING_STATES, state_code
from meshway.client import Answer, StreamEvent

__all__ = ["command"]


@click.command("call")
@click.argument("agent")
@click.argument("text")
@click.option("--stream", "streams", is_flag=True, help="Show the answer while it is made.")
@click.option("--task", "task_id", metavar="ID", help="Go on with a task that waits for input.")
@click.option("--context", "context_id", metavar="ID", help="Go on in a conversation.")
@click.option(
    "--timeout-ms",
    type=click.IntRange(min=1),
    metavar="N",
    help="Wait this long at most; default: the agent's, or 60 s.",
)
@hub_options
def command(
    *,
    agent: str,
    text: str,
    streams: bool,
    task_id: str | None,
    context_id: str | None,
    timeout_ms: int | None,
    hub: HubOptions,
) -> None:
    """Send TEXT to AGENT and print the answer. TEXT `-` reads standard input.

    Prints the answer's text; --json prints the A2A result, and with --stream one event a line.

    \b
    Examples:
      meshway call echo "good morning"
      meshway call countdown "from 5" --stream
      meshway call countdown "down, please"        it asks from where, and prints how to answer:
      meshway call countdown 3 --task 6f0c...
      git diff | meshway call reviewer - --timeout-ms 300000
      meshway call countdown 3 --stream --json | jq -c .statusUpdate
    """
    if streams and timeout_ms is not None:
        raise click.UsageError("--timeout-ms bounds a whole answer; a stream ends when the agent, or you, end it.")
    content = sys.stdin.read() if text == "-" else text

    async def work() -> None:
        async with connect(hub) as client:
            if streams:
                events = client.stream(agent, content, context_id=context_id, task_id=task_id)
                await _show_stream(agent, events, view=open_stream_view(agent, as_json=hub.as_json))
            else:
                answer = await client.ask(agent, content, timeout_ms=timeout_ms, context_id=context_id, task_id=task_id)
                _show_answer(agent, answer, as_json=hub.as_json)

    run(work())


async def _show_stream(agent: str, events: AsyncIterator[StreamEvent], *, view: StreamView) -> None:
    state: str | None = None
    reason = ""
    task_id: str | None = None
    with view:
        async for event in events:
            view.show(event)
            task_id = event.task_id or task_id
            if event.state is not None:
                state, reason = event.state, event.text
    _judge(agent, state, reason=reason, task_id=task_id)


def _show_answer(agent: str, answer: Answer, *, as_json: bool) -> None:
    if as_json:
        print_json(answer.raw)
    elif answer.state not in FAILED_STATES:
        text = printable(answer.text) if sys.stdout.isatty() else answer.text
        click.echo(text or f"({agent} answered without text; --json shows what it sent)")
    _judge(agent, answer.state, reason=answer.text, task_id=answer.task_id)


def _judge(agent: str, state: str | None, *, reason: str, task_id: str | None) -> None:
    """Say how to go on with a task that waits. Raises: Failure for one that ended without success."""
    if state in WAITING_STATES:
        click.echo(f"{agent} waits for {WAITING_STATES[state]}: meshway call {agent} TEXT --task {task_id}", err=True)
    if state in FAILED_STATES:
        detail = f"The task {FAILED_STATES[state]}" + (f": {reason}" if reason else ".")
        raise Failure(detail, hint=f"Task id: {task_id}", code=state_code(state))
