"""How a command fails: one line saying what happened, one saying what to do, and an exit code scripts can rely on."""

import json
from typing import IO

import click

from meshway.cli.printable import printable

__all__ = [
    "EXIT_CODES",
    "EXIT_DENIED",
    "EXIT_FAILED",
    "EXIT_NOT_FOUND",
    "EXIT_UNREACHABLE",
    "EXIT_WAITING",
    "JSON_KEY",
    "Failure",
]

EXIT_FAILED = 1
EXIT_UNREACHABLE = 3
EXIT_DENIED = 4
EXIT_NOT_FOUND = 5
EXIT_WAITING = 6
EXIT_CODES = {
    0: "done",
    EXIT_FAILED: "refused or failed: by the hub, the agent or a check",
    2: "wrong usage or configuration",
    EXIT_UNREACHABLE: "no hub answered",
    EXIT_DENIED: "the API key is missing, wrong, or may not do this",
    EXIT_NOT_FOUND: "no such agent, instance, task, key or channel",
    EXIT_WAITING: "the followed task waits for input or authorisation",
    130: "interrupted",
}
# Where `--json` leaves its mark in the context, so that failures are printed in kind.
JSON_KEY = "meshway.json"


class Failure(click.ClickException):
    """`detail` is what happened, `hint` what to do about it; `code` is the stable code of the hub's error tree."""

    def __init__(self, detail: str, *, hint: str = "", exit_code: int = EXIT_FAILED, code: str = "failed") -> None:
        super().__init__(detail)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for the class, and reads it from the instance
        self.hint = hint
        self.code = code
        context = click.get_current_context(silent=True)
        self._as_json = context is not None and bool(context.meta.get(JSON_KEY))

    def show(self, file: IO[str] | None = None) -> None:
        """On standard error; with `--json` as `{"error": {"code", "detail", "hint"}}`."""
        if self._as_json:
            error = {"code": self.code, "detail": self.message, "hint": self.hint}
            click.echo(json.dumps({"error": error}), err=True)
            return
        click.echo(f"{click.style('Error:', fg='red', bold=True)} {printable(self.message)}", err=True)
        if self.hint:
            click.echo(f"  {self.hint}", err=True)
