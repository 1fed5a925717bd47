"""``python -m benchmarks``: options, and running the measurements.

Lives here: the command line. Nothing in this module measures; see docs/benchmarks.md.
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
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--only", nargs="+", metavar="NAME", default=[], help="run only these (see --list)")
    add("--list", action="store_true", help="print the names of all measurements")
    add("--profile", choices=profiles.PROFILES, help="profile one transfer of our own programs")
    add("--profiler", choices=["cprofile", "py-spy"], default="cprofile")
    add("--peers", nargs="+", choices=[*FAMILIES, "all", "none"], default=["all"])
    add("--rounds", type=int, metavar="N", help="number of rounds after the warm-up (5)")
    add("--quick", action="store_true", help="small sizes and 3 rounds, to test the benchmarks")
    add("--size", type=workloads.parse_size, metavar="SIZE", help="size of the large file (1GiB)")
    add("--files", type=int, metavar="N", help="number of small files (10000)")
    add("--sync-files", type=int, metavar="N", help="number of files of the second sync (100000)")
    add("--files-each", type=int, metavar="N", help="files of each of several clients (2000)")
    add("--dir", type=Path, metavar="DIR", help="directory for the data, a tmpfs (/dev/shm)")
    add("--calm", type=float, default=0.0, metavar="SECONDS", help="max. wait for an idle machine")
    add("--json", type=Path, metavar="FILE", help="also write the values of every round to FILE")
    add("--update", type=Path, metavar="FILE", help="replace the figures in docs/benchmarks.md")
    return parser


def scale_of(given: argparse.Namespace) -> Scale:
    """Return the amounts to measure with."""
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
    """Return the amounts that these measurements need."""

    def any_begins(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    return dataclasses.replace(
        scale,
        sync_files=scale.sync_files if any_begins("sync", "trash") else 0,
        files_each=scale.files_each if any_begins("clients", "stat-beside") else 0,
        memory_files=scale.memory_files if any_begins("memory") else (),
    )


def families_of(given: argparse.Namespace) -> frozenset[str]:
    """Return the families of peers that may take part."""
    if "none" in given.peers:
        return frozenset()
    return frozenset(FAMILIES if "all" in given.peers else given.peers)


def measure(bench: Bench, names: list[str], given: argparse.Namespace) -> int:
    """Run measurements, printing each table when it is ready. Return the exit status."""
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
    """Create and warm the directory, measure or profile, and remove the directory."""
    scale = scale_of(given)
    parent = (given.dir or workloads.default_directory()).resolve()
    place = Path(tempfile.mkdtemp(prefix="benchmarks-", dir=parent))
    place.chmod(0o755)
    try:
        if workloads.file_system(place) != "tmpfs":
            print(f"{parent} is no tmpfs: the disk will affect the figures", file=sys.stderr)
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
    """Run the benchmarks. Return the exit status."""
    parser = options()
    given = parser.parse_args()
    try:
        names = suite.chosen(given.only)
    except KeyError as unknown:
        parser.error(f"unknown measurement: {unknown} (see --list)")
    if given.list:
        print("\n".join(suite.WORKS))
        return 0
    signal.signal(signal.SIGTERM, _terminated)  # so that servers are stopped, too
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
