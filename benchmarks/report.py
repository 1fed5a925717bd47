"""Showing figures: Markdown for the terminal and docs/benchmarks.md, JSON for programs.

Lives here: the formats.
Lives elsewhere: measuring (measure.py, suite.py).
"""

from __future__ import annotations

import datetime
import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measure import Column, Row, Table

BEGIN = "<!-- figures: begin -->"
END = "<!-- figures: end -->"


@dataclass
class Machine:
    """The machine and the time of a run."""

    date: str
    cores: int
    processor: str
    system: str
    python: str
    directory: str
    rounds: int
    load_before: float
    load_after: float = 0.0
    versions: list[str] = field(default_factory=list)

    @classmethod
    def here(cls, directory: str, rounds: int) -> Machine:
        """Return a description of this machine, now."""
        return cls(
            date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            cores=len(os.sched_getaffinity(0)),
            processor=_processor(),
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            directory=directory,
            rounds=rounds,
            load_before=os.getloadavg()[0],
        )

    @property
    def lines(self) -> list[str]:
        """The description as a few lines of Markdown."""
        return [
            f"{self.date} · {self.cores} cores ({self.processor}), loopback, {self.directory} · "
            f"{self.system}, Python {self.python} · medians of {self.rounds} interleaved rounds "
            f"(min–max) · load before {self.load_before:.2f}, after {self.load_after:.2f}",
            "",
            "Measured against: " + (" · ".join(self.versions) or "no other server"),
        ]


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.machine()
    for line in text.splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def number(value: float, digits: int) -> str:
    """Return a figure with the digits of its column."""
    return f"{value:,.{digits}f}"


def cell(row: Row, column: Column, with_range: bool) -> str:
    """Return the median, and optionally the range of all rounds."""
    values = row.values.get(column.key)
    if not values:
        return "–"
    median = row.median(column.key)
    assert median is not None
    text = number(median, column.digits)
    if not with_range or len(values) == 1:
        return text
    low, high = number(min(values), column.digits), number(max(values), column.digits)
    return f"{text} ({low}–{high})"


def verdict(table: Table) -> str | None:
    """Return one line that compares ours with the best peer."""
    ours, best = table.our_row(), table.best_peer()
    if ours is None or best is None or (times := table.advantage(ours, best)) is None:
        return None
    side = "ahead of" if times >= 1 else "behind"
    return f"{ours.name} is {side} the best peer, {best.name}: **{times:.2f} ×**"


def markdown(table: Table) -> str:
    """Return a table with its comparison and notes."""
    lines = [f"### {table.name}: {table.title}", ""]
    if table.rows:
        lines += _grid(table) + [""]
    if (line := verdict(table)) is not None:
        lines += [line, ""]
    lines += [f"- {note}" for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


def _grid(table: Table) -> list[str]:
    heads = ["", *(column.heading for column in table.columns), "ours is"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    ours = table.our_row()
    for row in table.rows:
        cells = [cell(row, column, not index) for index, column in enumerate(table.columns)]
        times = None if ours is None or row is ours else table.advantage(ours, row)
        name = f"**{row.name}**" if row.ours else row.name
        lines.append(
            f"| {name} | " + " | ".join(cells) + f" | {f'{times:.2f} ×' if times else ''} |"
        )
    return lines


def record(machine: Machine, tables: list[Table]) -> dict[str, Any]:
    """Return everything for JSON, including the values of every round."""
    return {
        "machine": asdict(machine),
        "tables": [
            {
                **{key: value for key, value in asdict(table).items() if key != "columns"},
                "columns": [column.key for column in table.columns],
                "medians": {
                    row.name: {column.key: row.median(column.key) for column in table.columns}
                    for row in table.rows
                },
                "ahead": _ahead(table),
            }
            for table in tables
        ],
    }


def _ahead(table: Table) -> float | None:
    ours, best = table.our_row(), table.best_peer()
    return table.advantage(ours, best) if ours and best else None


def write_json(path: Path, machine: Machine, tables: list[Table]) -> None:
    """Write everything to a file."""
    path.write_text(json.dumps(record(machine, tables), indent=1) + "\n")


def whole(machine: Machine, tables: list[Table]) -> str:
    """Return everything as Markdown."""
    return "\n".join([*machine.lines, "", *(markdown(table) for table in tables)])


def replace_between(text: str, figures: str) -> str:
    """Return a document with the part between its two marks replaced. Raises ValueError."""
    if BEGIN not in text or END not in text:
        raise ValueError(f"the document needs the lines {BEGIN} and {END}")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{figures.strip()}\n{END}{rest.split(END, 1)[1]}"


def update_document(path: Path, machine: Machine, tables: list[Table]) -> None:
    """Replace the figures of docs/benchmarks.md."""
    path.write_text(replace_between(path.read_text(), whole(machine, tables)))
