"""`meshway keys`: who may come in."""

import re
from collections.abc import Sequence

import click
from rich.text import Text

from meshway.cli.failure import EXIT_NOT_FOUND, Failure
from meshway.cli.hub import HubOptions, hub_options, run
from meshway.cli.kernel_errors import kernel_failures
from meshway.cli.key_places import KeyPlace, open_key_place
from meshway.cli.output import print_json, print_table, table
from meshway.client import ApiKeyInfo, NewApiKey
from meshway.kernel.clock import SystemClock, rfc3339_ms

__all__ = ["command"]

_UNIT_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d{1,6})([mhd])")
_DATA = click.option(
    "--data",
    metavar="DIR",
    help="Work on this data directory while no hub runs on it; default: the hub, else ./meshway-data.",
)


@click.group("keys", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """API keys: create, list and revoke them.

    From the first key on, a hub asks everybody for one. Scopes: `call` may call agents, `serve:PATTERN` may register
    agents whose id matches, `admin` may do everything. Works on the data directory while no hub runs, else through the
    running hub (which then wants an admin key).

    \b
    Examples:
      meshway keys create ops --scope admin
      meshway keys create shop --scope call --expires-in 90d
      meshway keys create billing-team --scope call --scope "serve:billing-*"
    """


@command.command("create")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    metavar="SCOPE",
    help="call, serve:<agent pattern> or admin; repeat for more.",
)
@click.option("--expires-in", metavar="TIME", help="For example 90d, 12h or 30m; default: never.")
@_DATA
@hub_options
def _create_key(name: str, scopes: Sequence[str], expires_in: str | None, data: str | None, hub: HubOptions) -> None:
    """Make a key called NAME and print it. It is shown this once; the hub keeps only its hash.

    \b
    Examples:
      meshway keys create ops --scope admin
      export MESHWAY_API_KEY=$(meshway keys create me --scope call --json | jq -r .key)
    """
    expires_at = None if expires_in is None else _moment_after(expires_in)

    async def work() -> tuple[NewApiKey, str]:
        async with open_key_place(hub, data) as place:
            return await place.create(name, scopes, expires_at=expires_at), place.name

    with kernel_failures():
        created, place_name = run(work())
    if hub.as_json:
        shown: dict[str, object] = {
            "id": created.id,
            "name": created.name,
            "scopes": created.scopes,
            "key": created.key,
        }
        print_json(shown if created.expires_at is None else {**shown, "expires_at": created.expires_at})
        return
    click.echo(created.key)
    until = f", until {created.expires_at}" if created.expires_at else ""
    click.echo(f"Key {created.name} ({', '.join(created.scopes)}{until}) is in {place_name}.", err=True)
    click.echo("It is not shown again. Use it: export MESHWAY_API_KEY=<the key>", err=True)


@command.command("list")
@_DATA
@hub_options
def _list_keys(data: str | None, hub: HubOptions) -> None:
    """List keys, revoked and expired ones too; never the keys themselves.

    \b
    Example:
      meshway keys list --json | jq -r '.items[] | select(.revoked_at == null) | .name'
    """

    async def work() -> Sequence[ApiKeyInfo]:
        async with open_key_place(hub, data) as place:
            return await place.list_keys()

    with kernel_failures():
        keys = run(work())
    if hub.as_json:
        print_json({"items": keys, "next_cursor": None})
        return
    if not keys:
        click.echo(
            "No keys: on loopback everybody may do everything. Make one: meshway keys create NAME --scope admin",
            err=True,
        )
        return
    now = rfc3339_ms(SystemClock().now_ms())
    rows = table("ID", "NAME", "SCOPES", "STATE", "CREATED", "EXPIRES")
    for key in keys:
        rows.add_row(
            Text(key.id),
            Text(key.name),
            ", ".join(key.scopes),
            _state(key, now),
            key.created_at,
            key.expires_at or "never",
        )
    print_table(rows)


@command.command("revoke")
@click.argument("key")
@_DATA
@hub_options
def _revoke_key(key: str, data: str | None, hub: HubOptions) -> None:
    """End KEY (its id or its name), at once and for good.

    \b
    Examples:
      meshway keys revoke shop
      meshway keys revoke 3fK9aQ
    """

    async def work() -> ApiKeyInfo:
        async with open_key_place(hub, data) as place:
            found = await _find(place, key)
            await place.revoke(found.id)
            return found

    with kernel_failures():
        revoked = run(work())
    if hub.as_json:
        print_json({"id": revoked.id, "name": revoked.name, "revoked": True})
    else:
        click.echo(f"Key {revoked.name} ({revoked.id}) is revoked.")


async def _find(place: KeyPlace, wanted: str) -> ApiKeyInfo:
    """By id, else by the name of exactly one key in force. Raises: Failure."""
    keys = await place.list_keys()
    if by_id := [key for key in keys if key.id == wanted]:
        return by_id[0]
    by_name = [key for key in keys if key.name == wanted and key.revoked_at is None]
    if len(by_name) == 1:
        return by_name[0]
    if by_name:
        ids = ", ".join(key.id for key in by_name)
        raise Failure(f"{len(by_name)} keys are called {wanted}.", hint=f"Name one by its id: {ids}", exit_code=2)
    hint = "`meshway keys list` shows them all."
    raise Failure(f"No key {wanted} in {place.name}.", hint=hint, exit_code=EXIT_NOT_FOUND, code="key_not_found")


def _state(key: ApiKeyInfo, now: str) -> Text:
    """RFC 3339 times of one form compare as text."""
    if key.revoked_at is not None:
        return Text("revoked", style="red")
    if key.expires_at is not None and key.expires_at <= now:
        return Text("expired", style="yellow")
    return Text("valid", style="green")


def _moment_after(duration: str) -> str:
    if not (match := _DURATION.fullmatch(duration)):
        raise click.BadParameter("write it as 90d, 12h or 30m.", param_hint="--expires-in")
    return rfc3339_ms(SystemClock().now_ms() + int(match[1]) * _UNIT_MS[match[2]])
