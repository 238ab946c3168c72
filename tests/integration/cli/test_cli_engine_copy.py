"""`meshway engine copy` as a person and a program see it; what is copied is tested with the engines."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from meshway.cli.main import cli
from meshway.engine.nats.link import Ask, Link
from meshway.engine.nats.measures import Measures
from meshway.engine.nats.settings import NatsSettings
from meshway.engine.ports import KvPut
from meshway.kernel.metrics import NullMetrics
from support.copied_hub import opened_directory
from support.nats_process import NatsProcess, running_nats

_KEY = "bm90IGEgcmVhbCBzZWNyZXQga2V5LCBidXQgYnl0ZXM="


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsProcess]:
    with running_nats(tmp_path_factory.mktemp("nats")) as process:
        yield process


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "the hub"

    async def fill() -> None:
        async with opened_directory(folder) as engine:
            await engine.key_value.write([KvPut(key="agents.echo", value=b"card")])

    asyncio.run(fill())
    (folder / "secret.key").write_text(f"{_KEY}\n")
    (folder / "secret.key").chmod(0o600)
    return folder


def _run(directory: Path, server: NatsProcess, prefix: str, *options: str) -> Result:
    Path("meshway.toml").write_text(f'[nats]\nprefix = "{prefix}"\n')
    arguments = ["engine", "copy", "--from", str(directory), "--to", f"{server.url},127.0.0.1:{server.port}", *options]
    return CliRunner().invoke(cli, arguments)


def _change(server: NatsProcess, prefix: str) -> None:
    async def publish() -> None:
        link = await Link.open(NatsSettings(servers=(server.url,)), Measures(NullMetrics()))
        await link.ask(Ask(f"{prefix}.kv.agents.echo", b"another card"))
        await link.close()

    asyncio.run(publish())


def test_a_person_is_told_how_far_it_is_and_what_to_do_next(directory: Path, server: NatsProcess) -> None:
    done = _run(directory, server, "person")
    assert done.exit_code == 0, done.output
    assert "Both sides are the same: 2 records in 1 groups, by SHA-256." in done.stdout
    assert "copying keys: 2" in done.stderr
    assert f"export MESHWAY_SECRET_KEY=\"$(cat '{directory}/secret.key')\"" in done.stderr
    assert f"meshway up --engine {server.url}," in done.stderr
    assert _KEY not in done.output
    again = _run(directory, server, "person", "--show-secret-key")
    assert "finished by an earlier run" in again.stdout
    assert f"export MESHWAY_SECRET_KEY={_KEY}" in again.stderr


def test_a_program_reads_json_and_an_exit_code(directory: Path, server: NatsProcess) -> None:
    done = _run(directory, server, "program", "--json")
    found = json.loads(done.stdout)
    assert (done.exit_code, found["complete"], found["copied"]["keys"], found["differences"]) == (0, True, 2, 0)
    assert "secret_key" not in found
    assert done.stderr == ""
    _change(server, "program")
    differs = _run(directory, server, "program", "--verify-only", "--json")
    (group,) = json.loads(differs.stdout)["compared"]
    assert (differs.exit_code, group["name"], group["equal"]) == (1, "keys", False)


def test_differences_are_listed(directory: Path, server: NatsProcess) -> None:
    _run(directory, server, "listed")
    _change(server, "listed")
    differs = _run(directory, server, "listed", "--verify-only")
    assert differs.exit_code == 1
    assert "keys" in differs.stdout
    assert "The two sides differ." in differs.stderr


def test_what_is_no_cluster_and_what_is_no_directory_are_refused(directory: Path, server: NatsProcess) -> None:
    wrong = CliRunner().invoke(cli, ["engine", "copy", "--from", str(directory), "--to", "embedded"])
    assert wrong.exit_code == 2
    assert "nats://host1,host2,host3" in wrong.stderr
    missing = _run(directory / "nothing", server, "missing")
    assert missing.exit_code == 1
    assert "is no data directory of a hub" in missing.stderr
    assert not (directory / "nothing").exists()
