"""The checks of `meshway doctor`, one function each. They look; they change nothing."""

import enum
import fcntl
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import httpx
import msgspec

from meshway import __version__
from meshway.cli.hub import HubOptions
from meshway.client import ClientError, MeshwayClient

__all__ = ["CheckState", "Finding", "check_hub", "check_local"]

_LOCK_FILE = "hub.lock"
_SECRET_FILE = "secret.key"  # noqa: S105 (a file's name)
# Below this a busy hub is full within hours.
_FREE_BYTES_MIN = 1_000_000_000
# Past this, durable calls are slow enough to feel; a laptop's SSD takes 0.1 to 5 ms.
_FSYNC_MS_MAX = 10.0
_FSYNC_ROUNDS = 15
# Each stream through the hub holds two descriptors.
_FILES_MIN = 4_096
_HUB_TIMEOUT_S = 3.0


class CheckState(enum.Enum):
    OK = "ok"
    # Nothing is broken, but somebody should know.
    NOTE = "note"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the doctor's report."""

    check: str
    state: CheckState
    detail: str
    hint: str = ""


class _Readiness(msgspec.Struct):
    ready: bool = False
    reason: str | None = None
    version: str = "unknown"
    engine: str = "unknown"
    durability: str = "not stated"
    agents: int = 0


def check_local(data: Path) -> list[Finding]:
    """This machine and the data directory."""
    findings = [_check_versions(), _check_open_files(), _check_directory(data)]
    if data.is_dir() and os.access(data, os.W_OK):
        findings += [_check_lock(data), _check_disk_space(data), _check_fsync(data), _check_secret(data)]
    return findings


async def check_hub(hub: HubOptions) -> list[Finding]:
    """Is one there, does it serve, and what does an acknowledged write survive?"""
    try:
        async with MeshwayClient(hub.url, hub.api_key) as client:
            url = client.url
    except (ClientError, ValueError) as error:
        return [
            Finding("hub", CheckState.FAILED, str(error), "Set MESHWAY_URL to something like http://127.0.0.1:7070.")
        ]
    try:
        async with httpx.AsyncClient(timeout=_HUB_TIMEOUT_S, trust_env=False) as http:
            answer = await http.get(f"{url}/readyz")
        seen = msgspec.json.decode(answer.content, type=_Readiness)
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        return [Finding("hub", CheckState.NOTE, f"none answers at {url} ({reason})", "Start one: meshway up")]
    except msgspec.MsgspecError:
        hint = "Set MESHWAY_URL to the hub, or start it on another port."
        return [Finding("hub", CheckState.FAILED, f"something else than a hub answers at {url}", hint)]
    return _read_hub(url, seen)


def _read_hub(url: str, seen: _Readiness) -> list[Finding]:
    serves = f"{url} serves {seen.agents} agents, version {seen.version}, {seen.engine} engine"
    findings = [
        Finding("hub", CheckState.OK, serves)
        if seen.ready
        else Finding("hub", CheckState.FAILED, f"{url} is not ready: {seen.reason}", "Its log says more.")
    ]
    if seen.version != __version__:
        detail = f"the hub is {seen.version}, this command {__version__}"
        findings.append(Finding("version", CheckState.NOTE, detail, "Restart the hub after an upgrade."))
    findings.append(Finding("durability", CheckState.OK, seen.durability))
    return findings


def _check_versions() -> Finding:
    names = ("uvloop", "httptools", "uvicorn", "msgspec")
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    detail = f"meshway {__version__}, Python {platform.python_version()}, {versions}"
    if missing := [name for name in names if _version(name) == "missing"]:
        hint = f"Install them: pip install {' '.join(missing)}"
        return Finding("software", CheckState.FAILED, detail, hint)
    return Finding("software", CheckState.OK, detail)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "missing"


def _check_open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    detail = f"{soft} open files allowed (at most {hard})"
    if soft < _FILES_MIN:
        hint = f"Enough for some {soft // 2} streams; for more: ulimit -n {_FILES_MIN * 4}"
        return Finding("open files", CheckState.NOTE, detail, hint)
    return Finding("open files", CheckState.OK, detail)


def _check_directory(data: Path) -> Finding:
    shown = data.resolve()
    if not data.exists():
        parent = next(each for each in shown.parents if each.exists())
        if os.access(parent, os.W_OK):
            return Finding("data directory", CheckState.OK, f"{shown} is not there yet; meshway up makes it")
        return Finding("data directory", CheckState.FAILED, f"{shown} cannot be made", "Choose another with --data.")
    if not data.is_dir() or not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        return Finding("data directory", CheckState.FAILED, f"{shown} cannot be written", "Choose another with --data.")
    return Finding("data directory", CheckState.OK, str(shown))


def _check_lock(data: Path) -> Finding:
    """Tried without taking it for longer than the question."""
    path = data / _LOCK_FILE
    if not path.exists():
        return Finding("lock", CheckState.OK, "no hub has used this directory yet")
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return Finding("lock", CheckState.OK, f"held by a running hub: {path.read_text(errors='replace').strip()}")
    return Finding("lock", CheckState.OK, "free; no hub runs on this directory")


def _check_disk_space(data: Path) -> Finding:
    usage = shutil.disk_usage(data)
    detail = f"{usage.free / 1e9:.1f} GB free of {usage.total / 1e9:.1f} GB"
    if usage.free < _FREE_BYTES_MIN:
        return Finding("disk space", CheckState.FAILED, detail, "A full disk refuses writes; reading goes on.")
    return Finding("disk space", CheckState.OK, detail)


def _check_fsync(data: Path) -> Finding:
    with tempfile.NamedTemporaryFile(dir=data, prefix=".doctor-") as file:
        median_ms = statistics.median(_timed_ms(lambda: _write_durably(file.fileno())) for _ in range(_FSYNC_ROUNDS))
    detail = f"{median_ms:.2f} ms for 1 KiB (median of {_FSYNC_ROUNDS})"
    if median_ms > _FSYNC_MS_MAX:
        hint = "Every durable call waits for it; calls at the same moment share one. A local SSD is faster."
        return Finding("fsync", CheckState.NOTE, detail, hint)
    return Finding("fsync", CheckState.OK, detail)


def _write_durably(file_descriptor: int) -> None:
    os.write(file_descriptor, b"\0" * 1024)
    os.fsync(file_descriptor)


def _timed_ms(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def _check_secret(data: Path) -> Finding:
    path = data / _SECRET_FILE
    if not path.exists():
        return Finding("secret key", CheckState.OK, "not there yet; made when the first hub starts here")
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        return Finding("secret key", CheckState.FAILED, f"others may read {path} ({mode:o})", f"chmod 600 {path}")
    return Finding("secret key", CheckState.OK, f"{path} is readable by its owner only; keep a copy elsewhere")
