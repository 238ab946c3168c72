"""nginx in its two parts: the agent that always answers the same, and the reverse proxy to compare with."""

import json
import os
from pathlib import Path

__all__ = ["ANSWERS", "agent_configuration", "nginx_command", "proxy_configuration"]

_MESSAGE = {
    "messageId": "5a9f3c1e-6f57-4a86-9a53-0f8a3e1f7f11",
    "contextId": "0c7a7f4e-1c9b-4e63-8a3a-7b1f5f0f6d52",
    "role": "ROLE_AGENT",
    "parts": [{"text": "The invoice for October was paid on the ninth, in full, from the usual account."}],
}


def _task(task_id: str) -> dict[str, object]:
    return {
        "id": task_id,
        "contextId": "0c7a7f4e-1c9b-4e63-8a3a-7b1f5f0f6d52",
        "status": {"state": "TASK_STATE_COMPLETED", "timestamp": "2026-11-22T07:00:00.000Z"},
        "artifacts": [{"artifactId": "a1", "parts": [{"text": "Paid on the ninth, in full, from the usual account."}]}],
    }


# What the agent answers, by the name of its path. `new-task` has another task id in every answer, so the hub records
# an owner each time; `task` repeats one id.
ANSWERS: dict[str, dict[str, object]] = {
    "message": {"message": _MESSAGE},
    "task": {"task": _task("7d3f1d58-2b8e-4c1a-9a53-1d8f0e3a7c44")},
    "new-task": {"task": _task("$request_id")},
}


def nginx_command(configuration: str, folder: Path) -> list[str]:
    """Write the configuration below `folder` and say how to run it."""
    path = folder / "nginx.conf"
    path.write_text(configuration)
    return ["nginx", "-p", str(folder), "-c", str(path), "-e", "stderr"]


def agent_configuration(folder: Path, port: int) -> str:
    """One path per kind of answer, each with its card, so that each can be registered as an agent of its own."""
    locations = []
    for name, result in ANSWERS.items():
        answer = json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}, separators=(",", ":"))
        card = json.dumps(_card(name, f"http://127.0.0.1:{port}/{name}"))
        locations.append(f"location = /{name} {{ return 200 '{answer}'; }}")
        locations.append(f"location = /{name}/.well-known/agent-card.json {{ return 200 '{card}'; }}")
    server = f"server {{ listen 127.0.0.1:{port} backlog=4096; {' '.join(locations)} }}"
    return _configuration(folder, server)


def proxy_configuration(folder: Path, port: int, agent_port: int) -> str:
    """A plain reverse proxy: keep-alive to the agent, nothing buffered."""
    upstream = f"upstream agent {{ server 127.0.0.1:{agent_port}; keepalive 512; keepalive_requests 1000000000; }}"
    location = (
        "location / { proxy_pass http://agent; proxy_http_version 1.1; proxy_set_header Connection ''; "
        "proxy_buffering off; proxy_read_timeout 300s; }"
    )
    return _configuration(folder, f"{upstream} server {{ listen 127.0.0.1:{port} backlog=4096; {location} }}")


def _configuration(folder: Path, servers: str) -> str:
    user = "user root;" if os.geteuid() == 0 else ""
    scratch = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return (
        f"{user} daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid {folder}/nginx.pid;\n"
        "events { worker_connections 20000; }\n"
        f"http {{ {scratch} access_log off; default_type application/json; keepalive_requests 1000000000;\n"
        f"{servers} }}\n"
    )


def _card(name: str, url: str) -> dict[str, object]:
    return {
        "name": name,
        "description": "Answers every call alike.",
        "version": "1.0.0",
        "supportedInterfaces": [{"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}],
        "capabilities": {"streaming": False, "pushNotifications": False},
        "defaultInputModes": ["text/plain"],
        "defaultOutputModes": ["text/plain"],
        "skills": [{"id": "answer", "name": "Answer", "description": "Answer", "tags": ["bench"]}],
    }
