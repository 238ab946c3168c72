"""`meshway agents`: the registry from the command line."""

import json
import os
import sys
from collections.abc import Sequence
from typing import BinaryIO

import click
from rich.text import Text

from meshway.cli.agent_work import inbox, resume, stop
from meshway.cli.failure import Failure
from meshway.cli.hub import HubOptions, connect, hub_options, run
from meshway.cli.output import STATE_STYLES, console, print_json, print_table, shown, table
from meshway.client import Page, RegisteredAgent

__all__ = ["command"]

_DESCRIPTION_WIDTH = 60


@click.group("agents", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Who can be called: list, show, add, remove, drain and stop agents, and see what waits for them.

    \b
    Examples:
      meshway agents list
      meshway agents add billing http://127.0.0.1:9000
      meshway agents show billing
    """


for _each in (inbox, stop, resume):
    command.add_command(_each)


@command.command("list")
@click.option("-q", "--query", metavar="TEXT", help="Search names, descriptions and skills; best match first.")
@click.option("--tag", help="Only agents with a skill that has this tag.")
@click.option("--skill", help="Only agents with this skill (its id).")
@click.option("--label", metavar="KEY=VALUE", help="Only agents with an instance that has this label.")
@click.option("--state", type=click.Choice(list(STATE_STYLES)), help="Only agents in this state.")
@click.option("--limit", type=click.IntRange(1, 500), default=100, show_default=True, help="How many at most.")
@click.option("--cursor", help="Go on where the page before ended.")
@hub_options
def _list_agents(
    query: str | None,
    tag: str | None,
    skill: str | None,
    label: str | None,
    state: str | None,
    limit: int,
    cursor: str | None,
    hub: HubOptions,
) -> None:
    """List agents, with their state and skills.

    \b
    Examples:
      meshway agents list --state online
      meshway agents list -q "translate german"
      meshway agents list --label zone=eu --json | jq -r '.items[].id'
    """

    async def work() -> Page[RegisteredAgent]:
        async with connect(hub) as client:
            return await client.agents.list(
                q=query, tag=tag, skill=skill, label=label, state=state, limit=limit, cursor=cursor
            )

    page = run(work())
    if hub.as_json:
        print_json(page)
        return
    _print_agents(page.items)
    if page.next_cursor is not None:
        click.echo(f"More: repeat with --cursor {page.next_cursor}", err=True)


@command.command("show")
@click.argument("agent")
@hub_options
def _show_agent(agent: str, hub: HubOptions) -> None:
    """Show one agent: its skills, its instances, and how to call it.

    \b
    Example:
      meshway agents show countdown
    """

    async def work() -> tuple[RegisteredAgent, str]:
        async with connect(hub) as client:
            return await client.agents.get(agent), client.url

    found, hub_url = run(work())
    if hub.as_json:
        print_json(found)
    else:
        _print_agent(found, hub_url)


@command.command("add")
@click.argument("agent")
@click.argument("agent_url", metavar="[URL]", required=False)
@click.option(
    "--card",
    "card_file",
    type=click.File("rb"),
    help="Register by this card instead of a URL; `-` reads it from standard input.",
)
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="For example zone=eu; repeat for more.")
@click.option("--capacity", type=click.IntRange(min=1), help="Calls at once; default: no limit of its own.")
@click.option("--weight", type=click.IntRange(min=1), help="Share of traffic relative to other instances; default 1.")
@click.option(
    "--timeout-ms", type=click.IntRange(min=1), help="Bound of a call when the caller gives none; default 60000."
)
@click.option(
    "--credential-env",
    metavar="VAR",
    help="Environment variable that holds the token the agent demands; stored encrypted.",
)
@hub_options
def _add_agent(  # noqa: PLR0913 (one per option)
    agent: str,
    agent_url: str | None,
    card_file: BinaryIO | None,
    labels: Sequence[str],
    capacity: int | None,
    weight: int | None,
    timeout_ms: int | None,
    credential_env: str | None,
    hub: HubOptions,
) -> None:
    """Register AGENT by its URL, whose card the hub fetches, or by --card. Registering again replaces.

    \b
    Examples:
      meshway agents add billing http://127.0.0.1:9000
      meshway agents add billing https://billing.example --label zone=eu --capacity 20
      meshway agents add billing --card billing-card.json
      BILLING_TOKEN=... meshway agents add billing https://billing.example --credential-env BILLING_TOKEN
    """
    if (agent_url is None) == (card_file is None):
        raise click.UsageError("Give either the agent's URL or --card FILE.")
    card = None if card_file is None else _read_card(card_file.read())
    credential = None if credential_env is None else _read_credential(credential_env)

    async def work() -> RegisteredAgent:
        async with connect(hub) as client:
            return await client.agents.register(
                agent,
                url=agent_url,
                card=card,
                labels=_read_labels(labels) or None,
                capacity=capacity,
                weight=weight,
                settings=None if timeout_ms is None else {"timeout_ms": timeout_ms},
                credential=credential,
            )

    registered = run(work())
    if hub.as_json:
        print_json(registered)
    else:
        click.echo(f"{registered.id} is registered and {registered.state}. Call it: meshway call {registered.id} TEXT")


@command.command("remove")
@click.argument("agent")
@click.option("--yes", is_flag=True, help="Do not ask.")
@hub_options
def _remove_agent(agent: str, *, yes: bool, hub: HubOptions) -> None:
    """Forget AGENT and all its instances. Running calls finish; the agent itself is not stopped.

    \b
    Example:
      meshway agents remove billing
    """
    if not yes and sys.stdin.isatty():
        click.confirm(f"Forget agent {agent} and all its instances?", abort=True)

    async def work() -> None:
        async with connect(hub) as client:
            await client.agents.remove(agent)

    run(work())
    if hub.as_json:
        print_json({"id": agent, "removed": True})
    else:
        click.echo(f"{agent} is forgotten.")


@command.command("drain")
@click.argument("agent")
@click.option("--instance", metavar="ID", help="Only this instance.")
@click.option("--undo", is_flag=True, help="Take new calls again.")
@hub_options
def _drain_agent(
    *,
    agent: str,
    instance: str | None,
    undo: bool,
    hub: HubOptions,
) -> None:
    """Send AGENT no new calls, so that it can be stopped; messages to tasks it is working on still arrive.

    \b
    Examples:
      meshway agents drain billing
      meshway agents drain billing --instance 1
      meshway agents drain billing --undo
    """

    async def work() -> RegisteredAgent:
        async with connect(hub) as client:
            change = client.agents.resume if undo else client.agents.drain
            return await change(agent, instance=instance)

    changed = run(work())
    if hub.as_json:
        print_json(changed)
        return
    in_flight = sum(each.in_flight for each in changed.instances if instance in {None, each.id})
    what = agent if instance is None else f"instance {instance} of {agent}"
    click.echo(f"{what} takes new calls again." if undo else f"{what} is draining; {in_flight} calls still run.")


def _print_agents(agents: Sequence[RegisteredAgent]) -> None:
    if not agents:
        click.echo("No agents. Register one: meshway agents add ID URL", err=True)
        return
    rows = table("AGENT", "STATE", "INSTANCES", "IN FLIGHT", "SKILLS", "DESCRIPTION")
    for agent in agents:
        rows.add_row(
            Text(agent.id),
            _state(agent.state),
            str(len(agent.instances)),
            str(sum(each.in_flight for each in agent.instances)),
            shown(", ".join(skill.id for skill in agent.skills)),
            shown(_short(agent.description)),
        )
    print_table(rows)


def _print_agent(agent: RegisteredAgent, hub_url: str) -> None:
    facts = table("", "")
    facts.show_header = False
    facts.add_row("agent", shown(f"{agent.id} ({agent.name})"))
    facts.add_row("state", _state(agent.state))
    facts.add_row("description", shown(agent.description))
    facts.add_row("A2A address", Text(f"{hub_url}/a2a/{agent.id}"))
    facts.add_row(
        "registered", Text(f"{agent.registered_at}" + (f" by {agent.registered_by}" if agent.registered_by else ""))
    )
    facts.add_row("last seen", agent.last_seen or "never")
    for skill in agent.skills:
        facts.add_row(
            "skill", shown(f"{skill.id}: {skill.description}" + (f" [{', '.join(skill.tags)}]" if skill.tags else ""))
        )
    print_table(facts)
    console().print()
    rows = table("INSTANCE", "STATE", "URL", "IN FLIGHT", "CAPACITY", "WEIGHT", "LABELS", "LAST SEEN")
    for each in agent.instances:
        rows.add_row(
            Text(each.id),
            _state(each.state),
            Text(each.url or "-"),
            str(each.in_flight),
            "-" if each.capacity is None else str(each.capacity),
            str(each.weight),
            Text(" ".join(f"{key}={value}" for key, value in sorted(each.labels.items())) or "-"),
            each.last_seen or "never",
        )
    print_table(rows)


def _state(state: str) -> Text:
    return Text(state, style=STATE_STYLES.get(state, ""))


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _DESCRIPTION_WIDTH else line[: _DESCRIPTION_WIDTH - 1] + "…"


def _read_labels(labels: Sequence[str]) -> dict[str, str]:
    pairs = [label.partition("=") for label in labels]
    if wrong := [label for label, (_, separator, _) in zip(labels, pairs, strict=True) if not separator]:
        raise click.UsageError(f"--label {wrong[0]}: write it as key=value, for example zone=eu.")
    return {key: value for key, _, value in pairs}


def _read_card(document: bytes) -> dict[str, object]:
    try:
        card = json.loads(document)
    except ValueError as error:
        raise Failure(f"The card is not JSON: {error}", exit_code=2) from error
    if not isinstance(card, dict):
        raise Failure("The card is not a JSON object.", hint="Expected an A2A agent card, 1.0 or 0.3.", exit_code=2)
    return card


def _read_credential(variable: str) -> str:
    if not (value := os.environ.get(variable, "")):
        raise Failure(
            f"The environment variable {variable} is not set.", hint=f"export {variable}=... first.", exit_code=2
        )
    return value
