"""Commands that need no hub: keys on a data directory, the settings, the doctor, and help for everything."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from meshway.cli.main import cli, main
from meshway.engine.embedded import hold_data_dir


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """An empty folder, no hub, and no settings of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    for name in ("MESHWAY_API_KEY", "MESHWAY_CONFIG", "MESHWAY_PORT"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MESHWAY_URL", f"http://127.0.0.1:{unused.getsockname()[1]}")
        yield


def meshway(*arguments: str):
    return CliRunner().invoke(cli, list(arguments), catch_exceptions=False)


def test_a_key_made_in_a_data_directory_is_listed_there_without_its_secret():
    made = meshway("keys", "create", "shop", "--scope", "call", "--scope", "serve:shop-*", "--data", "d", "--json")
    key = json.loads(made.stdout)
    assert (key["name"], key["scopes"]) == ("shop", ["call", "serve:shop-*"])
    assert set(key) == {"id", "name", "scopes", "key"}
    listed = meshway("keys", "list", "--data", "d", "--json").stdout
    assert json.loads(listed)["items"][0]["id"] == key["id"]
    assert key["key"] not in listed


def test_creating_a_key_prints_it_alone_on_standard_output():
    made = meshway("keys", "create", "shop", "--scope", "call", "--expires-in", "90d", "--data", "d")
    assert made.stdout.startswith("mw_")
    assert len(made.stdout.split()) == 1
    assert "not shown again" in made.stderr


def test_a_key_is_revoked_by_name_and_a_second_time_is_exit_code_5():
    meshway("keys", "create", "shop", "--scope", "call", "--data", "d")
    assert meshway("keys", "revoke", "shop", "--data", "d").exit_code == 0
    assert json.loads(meshway("keys", "list", "--data", "d", "--json").stdout)["items"][0]["revoked_at"] is not None
    assert meshway("keys", "revoke", "shop", "--data", "d").exit_code == 5


def test_two_keys_of_one_name_are_revoked_only_by_id():
    for _ in range(2):
        meshway("keys", "create", "shop", "--scope", "call", "--data", "d")
    result = meshway("keys", "revoke", "shop", "--data", "d")
    assert result.exit_code == 2
    assert "by its id" in result.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--scope", "everything"], "serve:<agent pattern>"),
        (["--scope", "call", "--expires-in", "soon"], "90d"),
        ([], "--scope"),
    ],
)
def test_a_key_that_cannot_be_is_refused_with_what_would_do(options, complaint):
    result = meshway("keys", "create", "shop", *options, "--data", "d")
    assert result.exit_code == 2
    assert complaint in result.output


def test_keys_of_a_directory_whose_hub_does_not_answer_here_say_where_to_look():
    with hold_data_dir(Path("d")):
        result = meshway("keys", "list", "--data", "d")
    assert result.exit_code == 3
    assert "MESHWAY_URL" in result.stderr


def test_config_show_says_where_each_value_came_from(monkeypatch):
    Path("meshway.toml").write_text("port = 8081\n\n[auth]\nrequired = true\n")
    monkeypatch.setenv("MESHWAY_HOST", "127.0.0.2")
    shown = json.loads(meshway("config", "show", "--changed", "--json").stdout)["items"]
    origins = {each["key"]: (each["value"], each["origin"]) for each in shown}
    assert origins["port"][0] == 8081
    assert origins["port"][1].endswith("meshway.toml line 1")
    assert origins["auth.required"][1].endswith("meshway.toml line 4")
    assert origins["host"] == ("127.0.0.2", "MESHWAY_HOST")
    assert "http.body_bytes_max" in meshway("config", "show").stdout


def test_an_unknown_setting_is_exit_code_2_with_a_suggestion(monkeypatch):
    monkeypatch.setenv("MESHWAY_PRT", "1")
    result = meshway("config", "show")
    assert result.exit_code == 2
    assert "MESHWAY_PORT" in result.stderr


def test_doctor_is_content_with_a_fresh_machine_and_says_how_to_start_a_hub():
    result = meshway("doctor", "--data", "d")
    assert result.exit_code == 0
    assert "meshway up" in result.stdout


def test_doctor_looks_at_the_directory_the_lock_and_the_disk():
    meshway("keys", "create", "shop", "--scope", "call", "--data", "d")
    with hold_data_dir(Path("d")):
        found = {each["check"]: each for each in json.loads(meshway("doctor", "--data", "d", "--json").stdout)["items"]}
    assert "held by a running hub" in found["lock"]["detail"]
    assert {"data directory", "disk space", "fsync", "open files", "software", "hub"} <= set(found)


def test_doctor_fails_on_a_secret_key_that_others_may_read():
    Path("d").mkdir()
    Path("d/secret.key").write_text("x")
    Path("d/secret.key").chmod(0o644)
    result = meshway("doctor", "--data", "d")
    assert result.exit_code == 1
    assert "chmod 600" in result.stdout


def test_doctor_reports_settings_that_stop_a_hub_from_starting(monkeypatch):
    monkeypatch.setenv("MESHWAY_PORT", "many")
    result = meshway("doctor", "--data", "d", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["items"][0]["state"] == "failed"


@pytest.mark.parametrize("options", [["--workers", "4"]])
def test_up_refuses_what_this_version_does_not_have(options):
    result = meshway("up", *options)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error:")
    assert "--workers: workers" not in result.stderr


def every_command(command: click.Command, path: tuple[str, ...] = ()):
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from every_command(child, (*path, name))
    yield path, command


@pytest.mark.parametrize("path", [path for path, _ in every_command(cli)], ids=" ".join)
def test_every_command_has_help_with_an_example(path):
    result = meshway(*path, "--help")
    assert result.exit_code == 0
    assert "  meshway " in result.stdout
    groups = {"up", "config", "keys", "agents"}
    if (
        path
        and path[0] not in groups
        and path
        not in {("events",), ("streams",), ("queues",), ("channels",), ("tasks",), ("push",), ("mesh",), ("engine",)}
    ):
        assert "--json" in result.stdout


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_the_command_line_itself_imports_nothing_that_costs_time():
    assert loaded_by("meshway.cli.main") & {"httpx", "rich", "uvicorn", "starlette", "sqlite3", "msgspec"} == set()


def test_up_does_without_the_client_and_the_tables():
    assert loaded_by("meshway.cli.up") & {"httpx", "meshway.client", "meshway.cli.output"} == set()


def test_an_unknown_command_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fly"])
    assert ended.value.code == 2
    assert "No such command" in capsys.readouterr().err
