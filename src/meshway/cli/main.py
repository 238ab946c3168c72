"""The entry point: which commands there are, and where each lives. Imports click and nothing else that costs time."""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence

import click

import meshway
from meshway.cli.failure import EXIT_CODES

__all__ = ["LazyGroup", "cli", "main"]


class LazyGroup(click.Group):
    """A group that knows its commands' names and summaries, and imports a command only to run it."""

    def __init__(self, *, lazy: Mapping[str, tuple[str, str]], name: str, help: str, epilog: str) -> None:  # noqa: A002 (click's word)
        super().__init__(name=name, help=help, epilog=epilog, context_settings={"help_option_names": ["-h", "--help"]})
        self._lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._lazy:
            return None
        module = importlib.import_module(self._lazy[cmd_name][0])
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # `meshway agents list | head`: whoever read us has seen enough. Click would call it a failure.
            _silence_output()
            return 0

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._lazy.items()])


_COMMANDS = {
    "up": ("meshway.cli.up", "Start a hub."),
    "call": ("meshway.cli.call", "Send a message to an agent and print its answer."),
    "agents": ("meshway.cli.agents", "List, show, add, remove, drain and stop agents; see their inboxes."),
    "tasks": ("meshway.cli.tasks", "Submit work that is kept until it is done; list, follow and cancel it."),
    "events": ("meshway.cli.events", "Publish to whoever listens now; listen."),
    "streams": ("meshway.cli.streams", "Append to, read and follow what is kept and numbered."),
    "queues": ("meshway.cli.queues", "Send and receive work; see to what failed."),
    "push": ("meshway.cli.push", "See push notifications that could not be delivered; send them again."),
    "command": ("meshway.cli.command", "Have one responder do something."),
    "query": ("meshway.cli.query", "Ask one responder."),
    "channels": ("meshway.cli.channels", "List, show, configure and delete channels of every kind."),
    "mesh": ("meshway.cli.mesh", "Show the hubs that share an engine, and the engine's nodes."),
    "keys": ("meshway.cli.keys", "Create, list and revoke API keys."),
    "engine": ("meshway.cli.engine", "Move a data directory to a NATS cluster."),
    "doctor": ("meshway.cli.doctor", "Check this machine, the data directory and the hub."),
    "config": ("meshway.cli.config", "Show the settings in effect and where each came from."),
}

_EXIT_CODE_HELP = "\n".join(f"  {code}  {meaning}" for code, meaning in EXIT_CODES.items())

cli = LazyGroup(
    lazy=_COMMANDS,
    name="meshway",
    help="""One hub that AI agents, tools and their clients connect to.

    \b
    Try it:
      meshway up --demo                          a hub with three agents to play with
      meshway call echo "good morning"           in a second terminal
      meshway call countdown "from 5" --stream
      meshway agents list
      meshway queues send work '{"n": 1}' && meshway queues receive work

    The other commands find the hub by MESHWAY_URL (default http://127.0.0.1:7070) and show MESHWAY_API_KEY.
    """,
    epilog=f"\b\nExit codes:\n{_EXIT_CODE_HELP}",
)
cli = click.version_option(meshway.__version__, prog_name="meshway", message="%(prog)s %(version)s")(cli)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    try:
        result = cli.main(
            args=None if arguments is None else list(arguments), prog_name="meshway", standalone_mode=False
        )
    except click.ClickException as failure:
        failure.show()
        sys.exit(failure.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    sys.exit(result if isinstance(result, int) else 0)


def _silence_output() -> None:
    """What is left in the buffer of a pipe that nobody reads must not fail once more when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
