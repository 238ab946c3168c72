"""wrk as the load generator: one thread, N connections, one JSON-RPC call posted again and again."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import LOAD_CORE, CoreLoad, pinned

__all__ = ["CALL", "Load", "run_wrk", "run_wrk_post"]

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
    script = folder / "call.lua"
    lua_key = f'wrk.headers["Authorization"] = "Bearer {key}"' if key else ""
    script.write_text(_SCRIPT % {"body": f"[==[{json.dumps(body)}]==]", "key": lua_key})
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(script), url]
    with CoreLoad(LOAD_CORE) as load:
        output = subprocess.run(pinned(LOAD_CORE, command), capture_output=True, text=True, check=True).stdout
    seen = json.loads(output.strip().splitlines()[-1])
    return Load(
        requests=seen["requests"],
        seconds=seen["duration_us"] / 1e6,
        failed=seen["failed"],
        p50_ms=seen["p50_us"] / 1000,
        p99_ms=seen["p99_us"] / 1000,
        is_load_core_full=load.is_saturated,
    )
