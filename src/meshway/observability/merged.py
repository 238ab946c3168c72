"""Several expositions in the Prometheus text format as one: the processes of one hub on one port, scraped together."""

from collections.abc import Callable, Iterable, Sequence

__all__ = ["merge_expositions"]

# What each process knows of the same thing; everything else adds up.
_SAME: dict[str, Callable[[float, float], float]] = {
    "meshway_agents": max,
    "meshway_process_start_time_seconds": min,
    "meshway_process_max_fds": max,
}


def merge_expositions(texts: Sequence[bytes]) -> bytes:
    """Each series once, in order of first mention. The texts are of one form, as one version renders them."""
    if len(texts) == 1:
        return texts[0]
    heads: dict[str, list[str]] = {}
    values: dict[str, dict[str, float]] = {}
    for text in texts:
        # Not splitlines: a value of a label may hold what ends a line elsewhere.
        _add(text.decode().split("\n"), heads, values)
    lines: list[str] = []
    for family, head in heads.items():
        lines += head
        lines += (f"{series} {_shown(value)}" for series, value in values[family].items())
    return ("\n".join(lines) + "\n").encode()


def _add(lines: Iterable[str], heads: dict[str, list[str]], values: dict[str, dict[str, float]]) -> None:
    family = ""
    for line in lines:
        if line.startswith("#"):
            words = line.split(" ", 3)
            family = words[2]
            head = heads.setdefault(family, [])
            values.setdefault(family, {})
            if line not in head and len(head) < 2:
                head.append(line)
            continue
        series, _, number = line.rpartition(" ")
        if not series:
            continue
        known = values[family]
        value = float(number)
        known[series] = _SAME.get(series, _sum)(known[series], value) if series in known else value


def _sum(one: float, other: float) -> float:
    return one + other


def _shown(value: float) -> str:
    return f"{int(value)}.0" if value.is_integer() and abs(value) < 1e15 else repr(value)
