"""Run benchmarks and print one table each. Results also go to benchmarks/results/, one JSON file a name."""

import argparse
import importlib
import json
import platform
import time
from pathlib import Path
from typing import Protocol, cast

from benchmarks.table import Row, render

_NAMES = ("relay", "engine", "queues", "tasks", "mesh", "scale")
_RESULTS = Path(__file__).parent / "results"


class Benchmark(Protocol):
    NAME: str

    def run(self, quick: bool) -> list[Row]: ...  # noqa: FBT001 (every benchmark has this one form)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which: {', '.join(_NAMES)}; default: all")
    parser.add_argument(
        "--quick", action="store_true", help="seconds instead of minutes; shows that it runs, not how fast"
    )
    options = parser.parse_args()
    if unknown := set(options.names) - set(_NAMES):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(_NAMES)}")
    print(f"{platform.platform()}, {_processor()}, Python {platform.python_version()}")
    for name in options.names or _NAMES:
        benchmark = cast("Benchmark", importlib.import_module(f"benchmarks.{name}"))
        started = time.monotonic()
        rows = benchmark.run(options.quick)
        print(
            f"\n== {name} ({time.monotonic() - started:.0f} s{', quick: not for comparison' if options.quick else ''})"
        )
        print(render(rows), flush=True)
        _keep(name, rows)


def _keep(name: str, rows: list[Row]) -> None:
    _RESULTS.mkdir(exist_ok=True)
    (_RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1, default=str) + "\n")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(models)} x {models[0]}" if models else platform.processor()


if __name__ == "__main__":
    main()
