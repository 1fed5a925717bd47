"""Measuring: one command with its resources, interleaved rounds, medians and ratios.

Lives here: everything that is independent of what is measured.
Lives elsewhere: the measurements (suite.py), servers' resources (processes.py), showing figures
(report.py).
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from benchmarks.processes import Unavailable, clean_environment, last_line

SLOW_SECONDS = 15.0
"""A peer that takes longer than this for the warm-up round is measured only once."""

Figures = Mapping[str, float]
"""The result of one round: a value for each column."""


class Failed(Unavailable):
    """A command failed, took too long, or had a wrong result."""


@dataclass(frozen=True)
class Command:
    """One command line of a client. ``env`` is added to a clean environment."""

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ran:
    """One run of a command: wall and CPU seconds (with its children), peak resident bytes."""

    seconds: float
    cpu: float
    peak: int


def run(command: Command, log: Path, patience: float) -> Ran:
    """Run a command to its end. Its output goes to ``log``.

    Raises:
        Failed: It took longer than ``patience`` seconds, or its status is not 0.
    """
    with _Running(command, log, patience) as one:
        return one.wait()


def run_together(
    commands: Sequence[Command], logs: Sequence[Path], patience: float
) -> tuple[float, list[Ran]]:
    """Run commands at the same time, each with a log of its own.

    Returns:
        Wall seconds from starting the first to the end of the last, and the resources of each. The
            wall seconds of a command include waiting for the end of those before it in the list.

    Raises:
        Failed: As in ``run``, for the first command in the list that failed. The others are
            stopped.
    """
    with ExitStack() as stack:
        began = time.perf_counter()
        running = [
            stack.enter_context(_Running(command, log, patience))
            for command, log in zip(commands, logs, strict=True)
        ]
        rans = [one.wait() for one in running]
        return time.perf_counter() - began, rans


class _Running:
    """A running command. After the end of the context it has ended in any case."""

    def __init__(self, command: Command, log: Path, patience: float) -> None:
        self._log = log
        self._patience = patience
        self._late = threading.Event()
        with open(log, "wb") as out:
            self._began = time.perf_counter()
            self._process = start(command, stdout=out, stderr=subprocess.STDOUT)
        self._watch = threading.Timer(patience, _too_late, (self._late, self._process))
        self._watch.daemon = True
        self._watch.start()

    def wait(self) -> Ran:
        """Wait until it has ended. Raises Failed."""
        _, status, usage = os.wait4(self._process.pid, 0)
        seconds = time.perf_counter() - self._began
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._late.is_set():
            raise Failed(f"took more than {self._patience:.0f} s, stopped")
        if self._process.returncode:
            raise Failed(f"ended with status {self._process.returncode}: {last_line(self._log)}")
        return Ran(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._watch.cancel()
        if self._process.returncode is None:
            kill_group(self._process)
            self._process.wait()


def _too_late(late: threading.Event, process: subprocess.Popen[bytes]) -> None:
    late.set()
    kill_group(process)


def start(command: Command, **streams: object) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        command.argv,
        stdin=subprocess.DEVNULL,
        env=clean_environment(command.env),
        start_new_session=True,
        **streams,
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a command that was started here, and its descendants."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it has just ended


# rounds --------------------------------------------------------------------------------------


@dataclass
class Entry:
    """A participant in a measurement.

    Attributes:
        attempt: Function for one round: prepares, measures, checks; returns the figures.
        ours: True for the product.
        limit: True if it transfers no files: shown for comparison, but never the best peer.
    """

    name: str
    attempt: Callable[[], Figures]
    ours: bool = False
    limit: bool = False


@dataclass
class Row:
    """The results of one entry: for each column, the values of all rounds."""

    name: str
    ours: bool = False
    limit: bool = False
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, figures: Figures) -> None:
        """Add the figures of one round."""
        for column, value in figures.items():
            self.values.setdefault(column, []).append(value)

    def median(self, column: str) -> float | None:
        """Return the median of a column; None if it was not measured."""
        values = self.values.get(column)
        return statistics.median(values) if values else None


def interleave(
    entries: Sequence[Entry], rounds: int, say: Callable[[str], None]
) -> tuple[list[Row], list[str]]:
    """Run an uncounted warm-up round, then ``rounds`` rounds, each with one turn of every entry.

    Returns:
        The rows of the entries that succeeded, and a note for each of the others.
    """
    rows = {entry.name: Row(entry.name, entry.ours, entry.limit) for entry in entries}
    notes: list[str] = []
    slow: set[str] = set()
    running = list(entries)
    for number in range(rounds + 1):
        for entry in list(running):
            if number > 1 and entry.name in slow:
                continue
            say(f"{f'round {number}' if number else 'warm-up'}: {entry.name}")
            began = time.monotonic()
            try:
                figures = entry.attempt()
            except (Unavailable, OSError) as error:
                notes.append(f"{entry.name}: {error}")
                running.remove(entry)
                continue
            if number:
                rows[entry.name].add(figures)
            elif rounds > 1 and time.monotonic() - began > SLOW_SECONDS:
                slow.add(entry.name)
                notes.append(f"{entry.name}: slow, so measured once")
    return [row for row in rows.values() if row.values], notes


# results -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """One column of a table, and how many digits its values need."""

    key: str
    heading: str
    digits: int = 2


@dataclass
class Table:
    """The results of one measurement.

    Attributes:
        columns: The first one decides the comparison.
        more_is_better: True if larger values of the first column are better.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    more_is_better: bool = False

    def advantage(self, ours: Row, peer: Row) -> float | None:
        """Return how many times better ours is than a peer: above 1 is ahead, below 1 behind."""
        key = self.columns[0].key
        mine, theirs = ours.median(key), peer.median(key)
        if mine is None or theirs is None or mine <= 0 or theirs <= 0:
            return None
        return mine / theirs if self.more_is_better else theirs / mine

    def our_row(self) -> Row | None:
        """Return the first row of the product."""
        return next((row for row in self.rows if row.ours), None)

    def best_peer(self) -> Row | None:
        """Return the best row of the others."""
        key = self.columns[0].key
        peers = [row for row in self.rows if not row.ours and not row.limit and row.median(key)]
        pick = max if self.more_is_better else min
        return pick(peers, key=lambda row: row.median(key) or 0.0) if peers else None


def say_to_stderr(prefix: str) -> Callable[[str], None]:
    """Return a function that prints progress to standard error."""

    def say(text: str) -> None:
        print(f"{prefix}: {text}", file=sys.stderr, flush=True)

    return say
