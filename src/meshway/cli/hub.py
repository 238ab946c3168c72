"""How commands reach the hub: the shared options, and the SDK's errors turned into failures that say what to do."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import click

from meshway.cli.failure import EXIT_DENIED, EXIT_FAILED, EXIT_NOT_FOUND, EXIT_UNREACHABLE, JSON_KEY, Failure
from meshway.client import CallError, ClientError, HubError, HubUnreachable, MeshwayClient

__all__ = ["HubOptions", "connect", "failure_of", "hub_options", "json_option", "reach", "run"]

Result = TypeVar("Result")
Command = TypeVar("Command", bound=Callable[..., object])

_HINTS = {
    "unauthenticated": "Set MESHWAY_API_KEY; a key is made with: meshway keys create NAME --scope call",
    "forbidden": "Use a key with the right scope; `meshway keys list` shows them.",
    "agent_not_found": "`meshway agents list` shows who is there; `meshway agents add ID URL` registers one.",
    "task_not_found": "Tasks are only shown to the key that started them, for as long as the agent keeps them.",
    "channel_not_found": "`meshway channels list` shows those that are there; the first message makes one.",
    "reader_not_found": "`meshway streams readers STREAM` shows those there are; `meshway streams seek` makes one.",
    "task_not_cancelable": "`meshway tasks show ID` says how it ended.",
    "agent_stopped": "Somebody stopped it: meshway agents resume ID, or --all, lets it go on.",
    "inbox_full": "Start more instances of the agent, or wait: meshway agents inbox ID shows what it has.",
    "idempotency_key_reused": "Use another --key for other content.",
    "channel_full": "Wait until it is worked off, or raise its limit: meshway channels set KIND NAME max_messages=...",
    "too_many_in_flight": "Try again in a moment.",
    "draining": "The hub is shutting down; try again when it is back.",
    "upstream_unreachable": "Is the agent running? `meshway agents show ID` says when it was last seen.",
    "egress_denied": "The hub may not connect there; see [egress] in the settings (meshway config show).",
    "storage_full": "Free disk space where the hub's data directory is; `meshway doctor` shows it.",
}


def json_option(command: Command) -> Command:
    """`--json`: the answer as JSON on standard output, failures as JSON on standard error."""

    def remember(ctx: click.Context, _parameter: click.Parameter, value: bool) -> bool:  # noqa: FBT001 (click's order)
        ctx.meta[JSON_KEY] = value
        return value

    return click.option(
        "--json", "as_json", is_flag=True, is_eager=True, callback=remember, help="Print JSON; its shape is stable."
    )(command)


@dataclass(frozen=True, slots=True)
class HubOptions:
    """Where the hub is, and how to answer; None means what the environment says."""

    url: str | None
    api_key: str | None
    as_json: bool


def hub_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add `--url`, `--api-key` and `--json`; the command gets them as one parameter, `hub`."""

    @functools.wraps(command)
    def with_hub(url: str | None, api_key: str | None, as_json: bool, **options: object) -> None:  # noqa: FBT001 (click's)
        command(hub=HubOptions(url, api_key, as_json), **options)

    add_url = click.option(
        "--url", metavar="URL", help="The hub's address; default: MESHWAY_URL, else http://127.0.0.1:7070."
    )
    add_key = click.option(
        "--api-key", metavar="KEY", help="Default: MESHWAY_API_KEY, which other users of this machine cannot see."
    )
    return add_url(add_key(json_option(with_hub)))


def run(work: Coroutine[object, object, Result]) -> Result:
    """Run one command's work on an event loop of its own."""
    return asyncio.run(work)


@asynccontextmanager
async def connect(hub: HubOptions) -> AsyncIterator[MeshwayClient]:
    """A client for one command. Raises: Failure for everything the SDK raises inside the block."""
    try:
        client = MeshwayClient(hub.url, hub.api_key)
    except ValueError as error:
        raise Failure(str(error), exit_code=2) from error
    try:
        async with client:
            yield client
    except ClientError as error:
        raise failure_of(error) from error


async def reach(client: MeshwayClient) -> None:
    """Ask the hub something small: what waits for a hub that restarts would wait for one that was never there, too.

    Raises: HubUnreachable, HubError for a wrong key.
    """
    await client.list_channels("queues", limit=1)


def failure_of(error: ClientError) -> Failure:
    """What the command line says about an error of the SDK."""
    match error:
        case HubUnreachable():
            return Failure(error.detail, exit_code=EXIT_UNREACHABLE, code="hub_unreachable")
        case CallError() | HubError():
            wrong = "".join(
                f"\n  {field.field}: {field.message}" for field in error.fields if field.message not in error.detail
            )
            hint = _HINTS.get(error.code, "")
            return Failure(error.detail + wrong, hint=hint, exit_code=_exit_code(error), code=error.code)
    return Failure(error.detail, code="unexpected_answer")


def _exit_code(error: HubError) -> int:
    if error.code in {"unauthenticated", "forbidden"} or error.status in {401, 403}:
        return EXIT_DENIED
    if error.code.endswith("not_found"):
        return EXIT_NOT_FOUND
    return EXIT_FAILED
