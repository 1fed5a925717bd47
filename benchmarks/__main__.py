"""``python -m benchmarks``: options, and the order of things.

Lives here: nothing that measures. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shutil
import signal
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import NoReturn

from benchmarks import profiles, report, suite, workloads
from benchmarks.bench import Bench
from benchmarks.peers import FAMILIES
from benchmarks.processes import Unavailable
from benchmarks.workloads import QUICK, Scale


def options() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--only", nargs="+", metavar="NAME", default=[], help="these measurements (see --list)")
    add("--list", action="store_true", help="print the names of all measurements")
    add("--profile", choices=profiles.PROFILES, help="where our own time goes in one transfer")
    add("--profiler", choices=["cprofile", "py-spy"], default="cprofile")
    add("--peers", nargs="+", choices=[*FAMILIES, "all", "none"], default=["all"])
    add("--rounds", type=int, metavar="N", help="counted rounds after the warm-up (5)")
    add("--quick", action="store_true", help="small sizes and 3 rounds: whether it all works")
    add("--size", type=workloads.parse_size, metavar="SIZE", help="of the large file (1GiB)")
    add("--files", type=int, metavar="N", help="small files (10000)")
    add("--sync-files", type=int, metavar="N", help="files of the second sync (100000)")
    add("--files-each", type=int, metavar="N", help="files of each of several clients (2000)")
    add("--dir", type=Path, metavar="DIR", help="where the data goes: a tmpfs (/dev/shm)")
    add("--calm", type=float, default=0.0, metavar="SECONDS", help="wait so long for quiet moments")
    add("--json", type=Path, metavar="FILE", help="write every round's figures there too")
    add("--update", type=Path, metavar="FILE", help="replace the figures of docs/benchmarks.md")
    return parser


def scale_of(given: argparse.Namespace) -> Scale:
    """How much to measure."""
    scale = QUICK if given.quick else Scale()
    if given.files is not None:
        scale = dataclasses.replace(scale, files=given.files, directories=max(1, given.files // 10))
    changes = {
        name: value
        for name in ("rounds", "size", "sync_files", "files_each")
        if (value := getattr(given, name)) is not None
    }
    return dataclasses.replace(scale, **changes)


def needed(scale: Scale, names: list[str]) -> Scale:
    """What of it these measurements come to."""

    def any_begins(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    return dataclasses.replace(
        scale,
        sync_files=scale.sync_files if any_begins("sync", "trash") else 0,
        files_each=scale.files_each if any_begins("clients", "stat-beside") else 0,
        memory_files=scale.memory_files if any_begins("memory") else (),
    )


def families_of(given: argparse.Namespace) -> frozenset[str]:
    """Who may take part besides ours."""
    if "none" in given.peers:
        return frozenset()
    return frozenset(FAMILIES if "all" in given.peers else given.peers)


def measure(bench: Bench, names: list[str], given: argparse.Namespace) -> int:
    """Run measurements, printing each table as it is ready. Returns the exit status."""
    kind = workloads.file_system(bench.place)
    machine = report.Machine.here(kind, bench.scale.rounds)
    tables = []
    for name in names:
        table = suite.WORKS[name](bench, name)
        tables.append(table)
        print(report.markdown(table), flush=True)
    machine.load_after = os.getloadavg()[0]
    machine.versions = list(dict.fromkeys(bench.versions))
    print("\n".join(machine.lines))
    if given.json:
        report.write_json(given.json, machine, tables)
    if given.update:
        report.update_document(given.update, machine, tables)
    ours_failed = any(note.startswith("ours") for table in tables for note in table.notes)
    return 1 if ours_failed else 0


def run(given: argparse.Namespace, names: list[str]) -> int:
    """Make the directory, warm it, measure or profile, and leave nothing behind."""
    scale = scale_of(given)
    parent = (given.dir or workloads.default_directory()).resolve()
    place = Path(tempfile.mkdtemp(prefix="benchmarks-", dir=parent))
    place.chmod(0o755)
    try:
        if workloads.file_system(place) != "tmpfs":
            print(f"{parent} is no tmpfs: the disk's noise will be in the figures", file=sys.stderr)
        workloads.warm(place, needed(scale, [] if given.profile else names).stored)
        with closing(Bench(place, scale, families_of(given), given.calm)) as bench:
            if given.profile:
                print(profiles.profile(bench, given.profile, given.profiler))
                return 0
            return measure(bench, names, given)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Entry point."""
    parser = options()
    given = parser.parse_args()
    try:
        names = suite.chosen(given.only)
    except KeyError as unknown:
        parser.error(f"no measurement is called {unknown}: see --list")
    if given.list:
        print("\n".join(suite.WORKS))
        return 0
    signal.signal(signal.SIGTERM, _terminated)  # servers are stopped then too
    try:
        return run(given, names)
    except Unavailable as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
