"""`meshway engine`: where state lives, and moving it."""

import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import msgspec

from meshway.assembly.engine_copy import Compared, CopyOutcome, copy_to_nats, plan_copy, verify_copy
from meshway.cli.failure import EXIT_FAILED, Failure
from meshway.cli.hub import json_option, run
from meshway.cli.kernel_errors import kernel_failures
from meshway.cli.output import print_json, print_table, table
from meshway.engine.nats.settings import NatsSettings, is_nats_engine, settings_of_engine
from meshway.kernel.clock import SystemClock
from meshway.security.secret_box import KEY_FILE_NAME
from meshway.settings.load import load_settings
from meshway.settings.model import Settings
from meshway.settings.sources import find_settings_file

__all__ = ["command"]

# Where there is no terminal, a line at most so often.
_LINE_EVERY_S = 5.0
_LABEL_WIDTH = 30


@click.group("engine", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Where state lives, and moving it.

    \b
    Example:
      meshway engine copy --from meshway-data --to nats://10.0.0.1,10.0.0.2,10.0.0.3
    """


@command.command("copy", short_help="Move a data directory to a NATS cluster.")
@click.option(
    "--from", "data", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The data directory."
)
@click.option("--to", "to", required=True, metavar="ADDRESSES", help="The cluster: nats://a,b,c. Ports are optional.")
@click.option("--verify-only", is_flag=True, help="Copy nothing; compare what is there.")
@click.option("--show-secret-key", is_flag=True, help="Print the secret key that every hub of the mesh needs.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings with [nats]: user, TLS, prefix; default ./meshway.toml if there is one.",
)
@json_option
def _copy(*, data: Path, to: str, verify_only: bool, show_secret_key: bool, config: Path | None, as_json: bool) -> None:
    """Copy all that a stopped hub has in DIR to an empty mesh on NATS, and compare both sides.

    DIR is locked and only read. Interrupted, also by kill -9, the same command goes on where it was, and nothing is
    there twice. Hubs start on the cluster once it has finished. Exit code 1 when the two sides differ.

    \b
    Examples:
      meshway engine copy --from meshway-data --to nats://10.0.0.1,10.0.0.2,10.0.0.3
      meshway engine copy --from meshway-data --to nats://10.0.0.1 --verify-only --json
    """
    shown = _Shown(as_json=as_json)
    with kernel_failures(), _only_errors_logged():
        settings, clock = _read_settings(config), SystemClock()
        plan = plan_copy(data, _nats_settings(settings, to), secret_key=settings.secret_key)
        if verify_only:
            outcome = run(verify_copy(plan, clock=clock, progress=shown.progress))
        else:
            outcome = run(copy_to_nats(plan, clock=clock, progress=shown.progress))
    shown.end()
    key_file = data / KEY_FILE_NAME
    if as_json:
        found = _as_json(outcome, key_file)
        print_json({**found, "secret_key": _read_key(settings, key_file)} if show_secret_key else found)
    else:
        _print(outcome, verify_only=verify_only)
        if not outcome.differences and not verify_only:
            _print_next(_shown_key(settings, key_file, is_asked=show_secret_key), to)
    if outcome.differences:
        raise click.exceptions.Exit(EXIT_FAILED)


@contextmanager
def _only_errors_logged() -> Iterator[None]:
    """That a connection broke and is tried again is for the log of a hub; here the outcome says all there is to do."""
    logger = logging.getLogger("meshway")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _read_settings(config: Path | None) -> Settings:
    """Raises: InvalidRequest."""
    file = find_settings_file(config, environ=os.environ, folder=Path.cwd())
    return load_settings(file=file, environ=os.environ, flags={}).settings


def _nats_settings(settings: Settings, to: str) -> NatsSettings:
    """Raises: Failure, InvalidRequest."""
    if not is_nats_engine(to) or "://" not in to:
        raise Failure(f"{to!r} is no NATS cluster.", hint="Write --to nats://host1,host2,host3.", exit_code=2)
    return settings_of_engine(to, settings.nats)


class _Shown:
    """Progress on standard error: a bar on a terminal, lines elsewhere, nothing beside JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self._is_quiet = as_json
        self._label = ""
        self._done = 0
        self._told_s = 0.0
        self._left = 0
        self._bar = ExitStack()
        self._advance: Callable[[int], None] | None = None

    def progress(self, label: str, done: int, total: int) -> None:
        if self._is_quiet:
            return
        if label != self._label:
            self.end()
            self._label, self._done, self._told_s = label, 0, time.monotonic()
            if sys.stderr.isatty():
                bar = click.progressbar(length=max(total, 1), label=label.ljust(_LABEL_WIDTH), file=sys.stderr)
                self._advance = self._bar.enter_context(bar).update
        if self._advance is not None:
            self._advance(done - self._done)
        elif time.monotonic() - self._told_s > _LINE_EVERY_S:
            self._told_s = time.monotonic()
            click.echo(f"{label}: {done:,} of about {total:,}", err=True)
        self._done, self._left = done, max(total, 1) - done

    def end(self) -> None:
        """Of what was under way."""
        if self._advance is not None:
            # What has expired is counted, and not copied.
            self._advance(max(self._left, 0))
        elif self._label:
            click.echo(f"{self._label}: {self._done:,}", err=True)
        self._bar.close()
        self._label, self._advance = "", None


def _as_json(outcome: CopyOutcome, key_file: Path) -> dict[str, object]:
    groups = [{**msgspec.to_builtins(group), "equal": group.is_equal} for group in outcome.compared]
    return {
        "complete": outcome.was_done or not outcome.differences,
        "was_complete": outcome.was_done,
        "copied": outcome.copied,
        "compared": groups,
        "differences": len(outcome.differences),
        "secret_key_file": str(key_file.absolute()) if key_file.exists() else None,
    }


def _print(outcome: CopyOutcome, *, verify_only: bool) -> None:
    if outcome.was_done:
        click.echo("This copy was finished by an earlier run; nothing was done. --verify-only compares both sides.")
        return
    records = sum(group.source_count for group in outcome.compared)
    if not outcome.differences:
        click.echo(f"Both sides are the same: {records:,} records in {len(outcome.compared)} groups, by SHA-256.")
        return
    _print_differences(outcome.differences)
    hint = "Hubs do not start there until a copy has finished without any."
    click.echo("The two sides differ." if verify_only else f"The two sides differ. {hint}", err=True)


def _print_differences(differences: Sequence[Compared]) -> None:
    rows = table("DIFFERENT", "SOURCE", "TARGET", "SHA-256 OF THE SOURCE", "OF THE TARGET")
    for group in differences:
        hashes = group.source_sha256[:16], group.target_sha256[:16]
        rows.add_row(group.name, f"{group.source_count:,}", f"{group.target_count:,}", *hashes)
    print_table(rows)


def _print_next(key: str, to: str) -> None:
    """What to do now."""
    lines = [
        "",
        "Every hub of the mesh needs the same secret key, for stored credentials are sealed with it:",
        f"  {key}",
        "Start as many as you like:",
        f"  meshway up --engine {to}",
    ]
    click.echo("\n".join(lines), err=True)


def _shown_key(settings: Settings, key_file: Path, *, is_asked: bool) -> str:
    """How to set it; the key itself only if it is asked for."""
    if is_asked:
        return f"export MESHWAY_SECRET_KEY={_read_key(settings, key_file)}"
    if settings.secret_key is None and key_file.exists():
        return f'export MESHWAY_SECRET_KEY="$(cat {shlex.quote(str(key_file.absolute()))})"'
    return "the secret_key (MESHWAY_SECRET_KEY) of the hub before"


def _read_key(settings: Settings, key_file: Path) -> str | None:
    """The setting comes before the file, as in a hub. Raises: Failure."""
    try:
        return settings.secret_key or (key_file.read_text().strip() if key_file.exists() else None)
    except OSError as error:
        raise Failure(f"{key_file} cannot be read: {error.strerror}.") from error
