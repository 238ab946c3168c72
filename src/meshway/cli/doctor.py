"""`meshway doctor`: everything that keeps a hub from starting or running well, checked in one go."""

import os
from pathlib import Path

import click
from rich.text import Text

from meshway.cli.doctor_checks import CheckState, Finding, check_hub, check_local
from meshway.cli.failure import EXIT_FAILED
from meshway.cli.hub import HubOptions, hub_options, run
from meshway.cli.output import console, print_json
from meshway.kernel.errors import MeshwayError
from meshway.settings.load import load_settings
from meshway.settings.model import Settings
from meshway.settings.sources import find_settings_file

__all__ = ["command"]

_MARKS = {
    CheckState.OK: Text("ok  ", style="green"),
    CheckState.NOTE: Text("note", style="yellow"),
    CheckState.FAILED: Text("FAIL", style="bold red"),
}


@click.command("doctor")
@click.option("--data", metavar="DIR", help="The data directory to look at; default: that of the settings.")
@hub_options
def command(data: str | None, hub: HubOptions) -> None:
    """Check this machine, the data directory and the hub; say what to do about what is wrong.

    Looks at the settings, the data directory and who holds it, disk space, how long an fsync takes, open-file limits,
    versions, and whether the hub answers and can write. Changes nothing. Exit code 1 when a check fails.

    \b
    Examples:
      meshway doctor
      meshway doctor --data /var/lib/meshway --json
    """
    settings, findings = _read_settings(data)
    findings += check_local(Path(settings.data))
    findings += run(check_hub(hub))
    if hub.as_json:
        items = [
            {"check": each.check, "state": each.state.value, "detail": each.detail, "hint": each.hint}
            for each in findings
        ]
        print_json({"items": items, "next_cursor": None})
    else:
        _print(findings)
    if any(each.state is CheckState.FAILED for each in findings):
        raise click.exceptions.Exit(EXIT_FAILED)


def _read_settings(data: str | None) -> tuple[Settings, list[Finding]]:
    """The settings, or the defaults with a finding that says what is wrong with them."""
    try:
        file = find_settings_file(None, environ=os.environ, folder=Path.cwd())
        settings = load_settings(file=file, environ=os.environ, flags={"data": data}).settings
    except MeshwayError as error:
        wrong = Finding(
            "settings", CheckState.FAILED, error.detail, "`meshway up` will not start until this is mended."
        )
        return Settings(data=data or Settings().data), [wrong]
    return settings, [Finding("settings", CheckState.OK, f"read; file: {file or 'none'}")]


def _print(findings: list[Finding]) -> None:
    out = console()
    width = max(len(each.check) for each in findings)
    for each in findings:
        out.print(Text.assemble(_MARKS[each.state], "  ", each.check.ljust(width), "  ", each.detail))
        if each.hint:
            out.print(Text(" " * (width + 8) + each.hint, style="dim"))
