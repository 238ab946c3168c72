"""`meshway up`: settings, then a hub that serves until it is told to stop."""

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import click
import msgspec

# First, because it decides what structlog loads, and everything below imports structlog.
import meshway.observability.light_structlog  # noqa: F401

# isort: split
from meshway import __version__
from meshway.assembly.run import run_hub
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
@click.option("--workers", type=int, metavar="N", help="Hub processes on one port; more than one needs a NATS engine.")
@click.option("--demo", is_flag=True, help="Bring agents along: echo, countdown, shout, storyteller.")
@click.option(
    "--insecure", is_flag=True, help="Listen beyond this machine without API keys. Everybody may then do everything."
)
def command(
    *,
    host: str | None,
    port: int | None,
    data: str | None,
    config: Path | None,
    engine: str | None,
    workers: int | None,
    demo: bool,
    insecure: bool,
) -> None:
    """Start a hub; it serves until Ctrl-C or SIGTERM, and then lets running calls finish.

    Settings come from the file, then MESHWAY_... variables, then these options; later ones win, and
    `meshway config show` prints the outcome.

    \b
    Examples:
      meshway up --demo
      meshway up --port 8080 --data /var/lib/meshway
      meshway keys create ops --scope admin && meshway up --host 0.0.0.0
      MESHWAY_PORT=8080 meshway up --config meshway.toml
    """
    flags = {
        "host": host,
        "port": port,
        "data": data,
        "engine": engine,
        "workers": workers,
        "demo": demo or None,
        "insecure": insecure or None,
    }
    with kernel_failures():
        file = find_settings_file(config, environ=os.environ, folder=Path.cwd())
        settings = load_settings(file=file, environ=os.environ, flags=flags).settings
        _check_offered(settings)
        with ExitStack() as stack:
            if settings.demo:
                settings = _with_agents(settings, stack.enter_context(demo_process()))
            code = run_hub(settings, on_ready=lambda url: _begin(url, settings, stack))
    sys.exit(code)


def _check_offered(settings: Settings) -> None:
    """Raises: Failure for what the command line knows and this version of the hub does not."""
    if settings.workers != 1:
        hint = "Leave workers out."
        raise Failure("This version runs one process a hub.", hint=hint, exit_code=2)


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


def _greet(url: str, settings: Settings) -> None:
    """For a person at a terminal; programs read the log."""
    if not sys.stdout.isatty():
        return
    lines = [
        f"Meshway {__version__} is up: {click.style(url, bold=True)}",
        f"  data    {Path(settings.data).resolve()}",
    ]
    lines += [f"  docs    {url}/docs", f"  agents  {url}/a2a/AGENT"]
    if settings.demo:
        lines.append('  try     meshway call countdown "from 5" --stream')
        lines.append('          meshway tasks submit storyteller "a small duck" --follow')
    click.echo("\n".join([*lines, "Ctrl-C stops it; running calls may finish."]))
