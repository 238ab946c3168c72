"""wrk as the load generator: one thread, N connections, one JSON-RPC call posted again and again."""

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import LOAD_CORE, CoreLoad, pinned

__all__ = ["CALL", "Load", "run_wrk", "run_wrk_each", "run_wrk_post"]

CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "SendMessage",
    "params": {
        "message": {
            "messageId": "6c5c2c1b-4c0e-4b0b-8a53-3f0a8e1f7f00",
            "role": "ROLE_USER",
            "parts": [{"text": "When was the invoice for October paid, and from which account?"}],
        }
    },
}

_PATIENCE_S = 10
_ENDS_WITHIN_S = 30.0
_SCRIPT = """
wrk.method = "POST"
wrk.body = %(body)s
wrk.headers["Content-Type"] = "application/json"
wrk.headers["A2A-Version"] = "1.0"
%(key)s
done = function(summary, latency, requests)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.status + summary.errors.timeout
  io.write(string.format(
    '\\n{"requests": %%d, "duration_us": %%d, "failed": %%d, "p50_us": %%d, "p99_us": %%d}\\n',
    summary.requests, summary.duration, failed, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk saw."""

    requests: int
    seconds: float
    failed: int
    p50_ms: float
    p99_ms: float
    is_load_core_full: bool

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds


def run_wrk(url: str, *, connections: int, seconds: float, key: str | None, folder: Path) -> Load:
    """Load `url` with the one call for whole seconds, at least one: wrk knows no shorter."""
    return run_wrk_post(url, CALL, connections=connections, seconds=seconds, key=key, folder=folder)


def run_wrk_post(url: str, body: object, *, connections: int, seconds: float, key: str | None, folder: Path) -> Load:
    """The same with any JSON body."""
    command = [*_command(body, connections=connections, seconds=seconds, key=key, folder=folder), url]
    with CoreLoad(LOAD_CORE) as load:
        output = subprocess.run(pinned(LOAD_CORE, command), capture_output=True, text=True, check=True).stdout
    return _seen(output, is_load_core_full=load.is_saturated)


def run_wrk_each(
    urls: Sequence[str], body: object, *, connections: int, seconds: float, key: str | None, folder: Path
) -> list[Load]:
    """One wrk for each of `urls`, all at once and on any core, so many connections each. Raises: CalledProcessError."""
    command = _command(body, connections=connections, seconds=seconds, key=key, folder=folder)
    running = [subprocess.Popen([*command, url], stdout=subprocess.PIPE, text=True) for url in urls]
    outputs = [process.communicate(timeout=seconds + _ENDS_WITHIN_S)[0] for process in running]
    for process in running:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return [_seen(output, is_load_core_full=False) for output in outputs]


def _command(body: object, *, connections: int, seconds: float, key: str | None, folder: Path) -> list[str]:
    script = folder / "call.lua"
    lua_key = f'wrk.headers["Authorization"] = "Bearer {key}"' if key else ""
    script.write_text(_SCRIPT % {"body": f"[==[{json.dumps(body)}]==]", "key": lua_key})
    # Its own 2 s would count the slow calls of a full store as failed.
    patience = ["--timeout", f"{_PATIENCE_S}s"]
    return ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", *patience, "-s", str(script)]


def _seen(output: str, *, is_load_core_full: bool) -> Load:
    seen = json.loads(output.strip().splitlines()[-1])
    return Load(
        requests=seen["requests"],
        seconds=seen["duration_us"] / 1e6,
        failed=seen["failed"],
        p50_ms=seen["p50_us"] / 1000,
        p99_ms=seen["p99_us"] / 1000,
        is_load_core_full=is_load_core_full,
    )
