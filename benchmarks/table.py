"""Rows of a benchmark as text: dicts; those with the same `table` stand together, columns in first-seen order."""

from collections.abc import Iterable, Mapping

__all__ = ["Row", "render"]

Row = dict[str, object]


def render(rows: Iterable[Mapping[str, object]]) -> str:
    """All tables, each under its heading; a row with only a `note` is a line of its own below its table."""
    tables: dict[str, list[Mapping[str, object]]] = {}
    for row in rows:
        tables.setdefault(str(row.get("table", "")), []).append(row)
    return "\n".join(_render_one(heading, members) for heading, members in tables.items())


def _render_one(heading: str, rows: list[Mapping[str, object]]) -> str:
    notes = [str(row["note"]) for row in rows if set(row) <= {"table", "note"} and "note" in row]
    figures = [row for row in rows if not set(row) <= {"table", "note"}]
    columns = list(dict.fromkeys(key for row in figures for key in row if key != "table"))
    cells = [columns, *([_cell(row.get(column)) for column in columns] for row in figures)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    numeric = [all(isinstance(row.get(column), int | float | None) for row in figures) for column in columns]
    lines = [f"\n{heading}"] if heading else []
    for line in cells if figures else []:
        aligned = (
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, is_number in zip(line, widths, numeric, strict=True)
        )
        lines.append("  ".join(aligned).rstrip())
    return "\n".join([*lines, *(f"note: {note}" for note in notes)])


def _cell(value: object) -> str:
    """Three significant digits, thousands grouped."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
