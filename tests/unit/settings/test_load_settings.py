"""Where settings come from, which of them win, and what a person is told who got one wrong."""

import base64
from pathlib import Path

import msgspec
import pytest

from meshway.settings.load import Effective, load_settings
from meshway.settings.model import Settings
from meshway.settings.problems import SettingsError
from meshway.settings.reference import render_reference
from meshway.settings.schema import setting_keys
from meshway.settings.show import MASK, describe
from meshway.settings.sources import find_settings_file

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "settings.md"


def load(folder: Path | None = None, text: str | None = None, *, environ=None, flags=None) -> Effective:
    file = None
    if text is not None:
        assert folder is not None
        file = folder / "meshway.toml"
        file.write_text(text)
    return load_settings(file=file, environ=environ or {}, flags=flags or {})


def problems(folder: Path | None = None, text: str | None = None, *, environ=None, flags=None) -> str:
    with pytest.raises(SettingsError) as refusal:
        load(folder, text, environ=environ, flags=flags)
    return refusal.value.detail.replace(f"{folder}/", "")


def test_without_anything_set_the_defaults_hold():
    effective = load()
    assert effective.settings == Settings()
    assert set(effective.origins.values()) == {"default"}
    assert (effective.settings.host, effective.settings.port) == ("127.0.0.1", 7070)


def test_flags_win_over_the_environment_that_over_the_file_that_over_the_defaults(tmp_path):
    text = "port = 1\nhost = '127.0.0.2'\n[log]\nlevel = 'debug'\n"
    environ = {"MESHWAY_PORT": "2", "MESHWAY_HOST": "127.0.0.3"}
    effective = load(tmp_path, text, environ=environ, flags={"port": 3, "host": None})
    settings = effective.settings
    assert (settings.port, settings.host, settings.log.level, settings.log.format) == (3, "127.0.0.3", "debug", "auto")
    assert effective.origins["port"] == "--port"
    assert effective.origins["host"] == "MESHWAY_HOST"
    assert effective.origins["log.level"] == f"{tmp_path}/meshway.toml line 4"
    assert effective.origins["log.format"] == "default"


def test_every_setting_can_be_set_by_its_variable_and_names_do_not_clash():
    keys = setting_keys(Settings)
    variables = [setting.environment for setting in keys.values()]
    doubled = [f"MESHWAY_{key.replace('.', '__').upper()}" for key in keys]
    assert len(set(variables)) == len(variables)
    assert len(set(doubled)) == len(doubled)
    for setting in keys.values():
        if isinstance(setting.default, bool | int | str) and setting.key not in {"engine", "secret_key"}:
            effective = load(environ={setting.environment: str(setting.default)})
            assert effective.origins[setting.key] == setting.environment
            assert effective.settings == Settings()


@pytest.mark.parametrize("name", ["MESHWAY_AUTH_REQUIRED", "MESHWAY_AUTH__REQUIRED"])
@pytest.mark.parametrize(("text", "value"), [("true", True), ("YES", True), ("1", True), ("off", False), ("0", False)])
def test_variables_say_yes_and_no_in_the_usual_words(name, text, value):
    assert load(environ={name: text}).settings.auth.required is value


def test_lists_and_tables_fit_into_variables():
    environ = {
        "MESHWAY_HOSTS_ALLOW": "hub.lan, *.corp.example,",
        "MESHWAY_EGRESS_ALLOW": '["10.0.0.0/8"]',
        "MESHWAY_AGENTS": '[{"id":"echo","url":"http://127.0.0.1:9000","labels":{"zone":"eu"}}]',
        "MESHWAY_EGRESS_ALLOW_PRIVATE": "no",
    }
    settings = load(environ=environ).settings
    assert settings.hosts.allow == ("hub.lan", "*.corp.example")
    assert settings.egress.allow == ("10.0.0.0/8",)
    assert settings.egress.allow_private is False
    assert settings.agents[0].labels == {"zone": "eu"}


def test_an_empty_variable_is_not_set():
    assert load(environ={"MESHWAY_PUBLIC_URL": "", "MESHWAY_PORT": ""}).settings == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MESHWAY_PORT", "tcp://10.0.0.1:7070"),
        ("MESHWAY_SERVICE_HOST", "10.0.0.1"),
        ("MESHWAY_SERVICE_PORT", "7070"),
        ("MESHWAY_SERVICE_PORT_HTTP", "7070"),
        ("MESHWAY_PORT_7070_TCP", "tcp://10.0.0.1:7070"),
        ("MESHWAY_PORT_7070_TCP_ADDR", "10.0.0.1"),
        ("MESHWAY_NATS_PORT", "tcp://10.0.0.2:4222"),
        ("MESHWAY_NATS_SERVICE_HOST", "10.0.0.2"),
        ("MESHWAY_URL", "http://127.0.0.1:7070"),
        ("MESHWAY_API_KEY", "mw_x_y"),
        ("MESHWAY_CONFIG", "/etc/meshway.toml"),
        ("MESHWAYS", "someone else's"),
    ],
)
def test_variables_of_kubernetes_and_of_the_client_are_left_alone(name, value):
    assert load(environ={name: value}).settings == Settings()


def test_all_problems_are_told_at_once_each_with_its_place_and_what_is_expected(tmp_path):
    text = """\
prot = 1
required = true
port = "7070"
log = "debug"

[auth]
requird = true

[http]
headers_max = 0

[[agents]]
id = "a"
url = "http://127.0.0.1:1"

[[agents]]
id = "b"
weight = "heavy"
[agents.settings]
timeut_ms = 5
"""
    told = problems(tmp_path, text, environ={"MESHWAY_PROT": "1", "MESHWAY_LOG_LEVEL": "loud"}, flags={"demmo": True})
    assert told.splitlines() == [
        "meshway.toml line 1: prot: there is no such setting. Did you mean port?",
        "meshway.toml line 2: required: there is no such setting. Did you mean auth.required?",
        "meshway.toml line 4: log: is a section; write it as [log] with its settings below",
        "meshway.toml line 7: auth.requird: there is no such setting. Did you mean auth.required?",
        "MESHWAY_PROT: there is no such setting. Did you mean MESHWAY_PORT?",
        "--demmo: there is no such setting. Did you mean demo?",
        "meshway.toml line 3: port: expected a whole number from 0 to 65535, got '7070'",
        "meshway.toml line 10: http.headers_max: expected a whole number, at least 1, got 0",
        "meshway.toml line 18: agents.1.weight: expected a whole number from 1 to 1000, got 'heavy'",
        "meshway.toml line 20: agents.1.settings.timeut_ms: there is no such setting. Did you mean timeout_ms?",
        "MESHWAY_LOG_LEVEL: log.level: expected one of debug, error, info, warning, got 'loud'",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = 1.5", "port: expected a whole number"),
        ("port = true", "port: expected a whole number"),
        ("demo = 1", "demo: expected true or false, got 1"),
        ("host = 7", "host: expected text, got 7"),
        ("agents = 3", "agents: expected a list of tables ([[agents]]), got 3"),
        ("agents = ['a']", "agents.0: expected a table, got 'a'"),
        ("[[agents]]\nurl = 'http://a'", "line 1: agents.0.id: is missing"),
        ("[[agents]]\nid = 'a'", "line 1: agents.0: give either url or card"),
        ("[[agents]]\nid = 'a'\nurl = 'http://a'\ncard = 'c.json'", "agents.0: give either url or card"),
        ("[[agents]]\nid = 'A'\nurl = 'http://a'", "line 2: agents.0.id: use 1 to 63 characters"),
        ("[[agents]]\nid = 'a'\nurl = 'http://a'\nlabels = {zone = 1}", "agents.0.labels: expected a table, each"),
        ("[[keys]]\nname = 'ci'", "line 1: keys.0: give either key or key_sha256"),
        ("[[keys]]\nname='ci'\nkey='" + "k" * 24 + "'\nscopes = ['root']", "line 4: keys.0.scopes: 'root' is no scope"),
        ("[egress]\nallow = ['10.0.0.1/8']", "line 2: egress.allow: '10.0.0.1/8' is no network"),
        ("[hosts]\norigins = ['app.example']", "line 2: hosts.origins: 'app.example' is no origin"),
        ("public_url = 'hub.example'", "line 1: public_url: 'hub.example' is no base URL"),
        ("engine = 'redis://x'", "line 1: engine: expected embedded, or an address"),
        ("[nats]\nuser = 'a'", "line 2: nats: user and password belong together"),
        ("engine = 'nats://a/b'", "line 1: engine: expected servers such as nats://a:4222,b:4222, got 'nats://a/b'"),
        ("engine = 'nats://a,,b'", "line 1: engine: expected servers such as"),
        ("secret_key = 'hunter2'", "line 1: secret_key: must be 32 random bytes"),
        ("port = ]", "is no TOML: Invalid value (at line 1"),
        ("port = 1\nport = 2", "is no TOML: Cannot overwrite a value"),
    ],
)
def test_each_kind_of_mistake_is_named(tmp_path, text, told):
    assert told in problems(tmp_path, text)


def test_secrets_are_not_repeated_in_errors(tmp_path):
    told = problems(tmp_path, "[[keys]]\nname = 'ci'\nkey = 'hunter2'\n")
    assert "keys.0.key: expected text of 24 to 256 characters" in told
    assert "hunter2" not in told


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a = '\xe9'", b"x" * (4 * 1024 * 1024 + 1), b"[" * 5_000])
def test_a_file_that_is_something_else_is_refused_by_name(tmp_path, content):
    file = tmp_path / "x.toml"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match=r"x\.toml"):
        load_settings(file=file, environ={}, flags={})


def test_a_file_that_was_named_must_be_there(tmp_path):
    with pytest.raises(SettingsError, match=r"nowhere\.toml: cannot be read: No such file"):
        load_settings(file=tmp_path / "nowhere.toml", environ={}, flags={})


def test_a_byte_order_mark_of_a_windows_editor_is_no_problem(tmp_path):
    assert load(tmp_path, "\ufeffport = 1\n").settings.port == 1


def test_paths_in_a_file_are_relative_to_it_and_elsewhere_to_the_working_directory(tmp_path):
    text = "data = 'd'\n[[agents]]\nid = 'a'\ncard = 'cards/a.json'\n"
    settings = load(tmp_path, text).settings
    assert settings.data == str(tmp_path / "d")
    assert settings.agents[0].card == str(tmp_path / "cards" / "a.json")
    assert load(tmp_path, "data = '/srv/hub'").settings.data == "/srv/hub"
    assert load(tmp_path, "data = '~/hub'").settings.data == str(Path("~/hub").expanduser())
    assert load(environ={"MESHWAY_DATA": "d"}).settings.data == "d"


def test_the_file_is_looked_for_in_the_stated_order(tmp_path):
    named = {"MESHWAY_CONFIG": "/etc/hub.toml"}
    assert find_settings_file(None, environ={}, folder=tmp_path) is None
    (tmp_path / "meshway.toml").write_text("")
    assert find_settings_file(None, environ={}, folder=tmp_path) == tmp_path / "meshway.toml"
    assert find_settings_file(None, environ=named, folder=tmp_path) == Path("/etc/hub.toml")
    assert find_settings_file(Path("x"), environ=named, folder=tmp_path) == Path("x")


def test_several_agents_with_one_id_are_its_instances(tmp_path):
    text = "[[agents]]\nid = 'a'\nurl = 'http://h:1'\n[[agents]]\nid = 'a'\nurl = 'http://h:2'\n"
    assert [agent.url for agent in load(tmp_path, text).settings.agents] == ["http://h:1", "http://h:2"]


def test_a_variable_given_in_both_spellings_is_a_contradiction():
    environ = {"MESHWAY_AUTH_REQUIRED": "1", "MESHWAY_AUTH__REQUIRED": "0"}
    assert "is set twice" in problems(environ=environ)


def test_what_is_shown_names_every_value_and_its_origin_but_no_secret(tmp_path):
    secret = base64.b64encode(bytes(range(32))).decode()
    text = f"""\
secret_key = "{secret}"
engine = "nats://user:hunter2@nats.lan:4222"
[[keys]]
name = "ci"
key = "hunter2hunter2hunter2hunter2"
[[agents]]
id = "a"
url = "http://h:1"
credential = "hunter2"
[agents.settings]
timeout_ms = 5
"""
    rows = {row.key: row for row in describe(load(tmp_path, text, flags={"port": 1}))}
    assert not any("hunter2" in str(row) or secret in str(row) for row in rows.values())
    assert rows["secret_key"].value == rows["keys.0.key"].value == rows["agents.0.credential"].value == MASK
    assert rows["engine"].value == f"nats://{MASK}@nats.lan:4222"
    assert rows["port"].origin == "--port"
    assert rows["agents.0.settings.timeout_ms"].value == 5
    assert rows["agents.0.settings.timeout_ms"].origin.endswith("line 11")
    assert rows["agents.0.weight"].origin == "default"
    assert rows["keys.0.key_sha256"].value is None
    assert msgspec.json.encode([msgspec.to_builtins(row.value) for row in rows.values()])


def test_the_reference_page_is_in_step_with_the_models():
    hint = "run: .venv/bin/python -m meshway.settings.reference > docs/reference/settings.md"
    assert REFERENCE.read_text() == render_reference(), hint


def test_the_reference_explains_every_setting():
    page = render_reference()
    for key, setting in setting_keys(Settings).items():
        if setting.key not in {"keys", "agents"}:
            (row,) = [line for line in page.splitlines() if line.startswith(f"| `{key}` |")]
            assert len(row.rsplit("|", 2)[1].strip()) > 10, row


def test_there_are_few_enough_settings_to_know_them_all():
    keys = setting_keys(Settings)
    assert len(keys) < 150
