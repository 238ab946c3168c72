"""`meshway up`: settings, then a hub that serves until it is told to stop."""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import click
import msgspec

# First, because it decides what structlog loads, and everything below imports structlog.
import meshway.observability.light_structlog  # noqa: F401

# isort: split
from meshway import __version__
from meshway.assembly.run import run_hub
from meshway.assembly.workers import needs_workers, run_workers
from meshway.cli.demo import demo_process, storyteller_process
from meshway.cli.failure import Failure
from meshway.cli.kernel_errors import kernel_failures
from meshway.settings.load import load_settings
from meshway.settings.model import AgentEntry, Settings
from meshway.settings.sources import find_settings_file

__all__ = ["command"]


@click.command("up")
@click.option("--host", metavar="ADDRESS", help="Address to listen on; default 127.0.0.1, this machine only.")
@click.option("--port", type=int, metavar="N", help="Port for everything; default 7070, 0 takes a free one.")
@click.option("--data", metavar="DIR", help="Where the hub keeps its state; default ./meshway-data, made if missing.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings; default ./meshway.toml if there is one.",
)
@click.option("--engine", metavar="ENGINE", help="Where state lives: embedded (default), or nats://... for many hubs.")
@click.option(
    "--workers", type=int, metavar="N", help="Hub processes on one port, one a core; they share a nats-server."
)
@click.option(
    "--nats-server", metavar="FILE", help="The nats-server to start for several workers; default: the one on the PATH."
)
@click.option("--demo", is_flag=True, help="Bring agents along: echo, countdown, shout, storyteller.")
@click.option(
    "--insecure", is_flag=True, help="Listen beyond this machine without API keys. Everybody may then do everything."
)
def command(*, config: Path | None, **options: object) -> None:
    """Start a hub; it serves until Ctrl-C or SIGTERM, and then lets running calls finish.

    Settings come from the file, then MESHWAY_... variables, then these options; later ones win, and
    `meshway config show` prints the outcome.

    \b
    Examples:
      meshway up --demo
      meshway up --port 8080 --data /var/lib/meshway
      meshway keys create ops --scope admin && meshway up --host 0.0.0.0
      meshway up --workers 4
      meshway up --engine nats://n1,n2,n3
      MESHWAY_PORT=8080 meshway up --config meshway.toml
    """
    # A switch that was not given says nothing.
    flags = {name: None if value is False else value for name, value in options.items()}
    with kernel_failures():
        file = find_settings_file(config, environ=os.environ, folder=Path.cwd())
        settings = load_settings(file=file, environ=os.environ, flags=flags).settings
        with ExitStack() as stack:
            if settings.demo:
                settings = _with_agents(settings, stack.enter_context(demo_process()))
            begin = partial(_begin, settings=settings, stack=stack)
            if needs_workers(settings):
                code = run_workers(settings, _serve, on_ready=begin)
            else:
                code = run_hub(settings, on_ready=begin)
    sys.exit(code)


def _serve(settings: Settings, on_ready: Callable[[], None], group: str) -> int:
    """One of several processes; what keeps it from starting is said by itself."""
    try:
        with kernel_failures():
            return run_hub(settings, on_ready=lambda url: on_ready(), shares_port=True, group=group)
    except Failure as failure:
        failure.show()
        return failure.exit_code


def _with_agents(settings: Settings, urls: Mapping[str, str]) -> Settings:
    """The demo agents join those of the configuration, which keep their names."""
    taken = {entry.id for entry in settings.agents}
    demo = tuple(AgentEntry(id=id_, url=url) for id_, url in urls.items() if id_ not in taken)
    return msgspec.structs.replace(settings, agents=settings.agents + demo)


def _begin(url: str, settings: Settings, stack: ExitStack) -> None:
    """Calls are served: what connects out can come."""
    if settings.demo:
        stack.enter_context(storyteller_process(url))
    _greet(url, settings)


def _engine_line(settings: Settings) -> list[str]:
    if settings.engine != "embedded":
        return [f"  engine  {settings.engine}"]
    if settings.workers > 1:
        return [f"  engine  a nats-server of its own, for {settings.workers} workers"]
    return []


def _greet(url: str, settings: Settings) -> None:
    """For a person at a terminal; programs read the log."""
    if not sys.stdout.isatty():
        return
    lines = [
        f"Meshway {__version__} is up: {click.style(url, bold=True)}",
        f"  data    {Path(settings.data).resolve()}",
        *_engine_line(settings),
    ]
    lines += [f"  docs    {url}/docs", f"  agents  {url}/a2a/AGENT"]
    if settings.demo:
        lines.append('  try     meshway call countdown "from 5" --stream')
        lines.append('          meshway tasks submit storyteller "a small duck" --follow')
    click.echo("\n".join([*lines, "Ctrl-C stops it; running calls may finish."]))
