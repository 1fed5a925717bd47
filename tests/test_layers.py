"""Imports run downward: a table of floors, and every import in the packages held against it.

Lives here: the table. Imports under TYPE_CHECKING and inside functions count as well: a type that
runs up is a circle for a reader.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FLOORS = {
    "ftpwire": (
        ("units", "digests", "errors", "peers", "likeness", "unloaded", "cells", "foreground"),
        ("paths", "pacing", "frames", "holes", "trash_names", "openssl"),
        ("decoding",),
        ("messages", "discovery", "standard", "job_end", "completion", "command_help"),
        ("tls", "beneath"),
        ("channel", "streams"),
        ("frame_stream", "growing", "pieces"),
    ),
    "ftpserver": (
        ("errors", "logs", "clock", "cpus", "light_sqlalchemy"),
        ("settings",),
        ("ballast", "snapshot", "modes", "schema", "root_lock"),
        ("migration",),
        ("database",),
        ("net",),
        ("interfaces",),
        ("storage",),
        ("accounts",),
        ("workspace",),
        ("audit",),
        ("serving",),
        ("processes",),
        ("isolation",),
        ("admin",),
        ("daemon",),
        ("cli", "testing"),
    ),
    "ftpclient": (
        ("light_imports",),
        ("connection",),
        ("transfer",),
        ("sync",),
        ("errors", "arguments", "turns"),
        ("files", "guard", "verbs"),
        ("base",),
        ("client",),
        ("aio", "fsspec"),
        ("cli",),
        ("shell",),
    ),
    "benchmarks": (
        ("processes", "coroutines", "sessions", "unauthenticated", "peak"),
        ("measure", "greenlets", "delay"),
        ("workloads", "report", "crowd"),
        ("peers", "raw"),
        ("bench",),
        ("engines", "timed"),
        ("several", "trash", "durable", "clients", "stat_beside", "memory"),
        ("suite",),
        ("profiles",),
    ),
}
"""Of each package, its folders and modules from the lowest floor to the highest. Those of one floor
don't import each other."""

PACKAGES = {
    "ftpwire": frozenset({"ftpwire"}),
    "ftpserver": frozenset({"ftpserver", "ftpwire"}),
    "ftpclient": frozenset({"ftpclient", "ftpwire"}),
    "benchmarks": frozenset({"benchmarks", "ftpserver", "ftpclient", "ftpwire"}),
}
"""What each package may import of the project."""


def modules() -> dict[str, Path]:
    """Every module of the packages, by its dotted name."""
    found = {}
    for package in FLOORS:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(source: str, known: frozenset[str]) -> Iterator[str]:
    """The project's modules that a module imports, wherever in it that stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole module"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                name = whole if whole in known else str(node.module)
                if name in known:
                    yield name
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)


def arrows(found: dict[str, Path]) -> dict[str, frozenset[str]]:
    """For each module, what it imports."""
    known = frozenset(found)
    return {
        name: frozenset(imports_of(path.read_text(), known)) - {name}
        for name, path in found.items()
    }


@functools.cache
def all_arrows() -> dict[str, frozenset[str]]:
    """What each module of the packages imports; read by the first test that asks."""
    return arrows(modules())


def folder_of(module: str) -> str:
    """The folder or module that the table of floors names; empty for a package's own front."""
    return module.split(".")[1] if "." in module else ""


def floor_of(module: str) -> int:
    """The number of a module's floor. A package's front and its ``__main__`` are above all."""
    package, folder = module.split(".")[0], folder_of(module)
    floors = FLOORS[package]
    if folder in ("", "__main__"):
        return len(floors)
    return next(
        number for number, folders_of_floor in enumerate(floors) if folder in folders_of_floor
    )


def runs_up(importing: str, imported: str) -> bool:
    """Whether an import is not allowed by the floors."""
    if importing.split(".")[0] != imported.split(".")[0]:
        return False
    if folder_of(importing) == folder_of(imported):
        return False
    if not folder_of(imported):  # the package's front: its version
        return False
    return floor_of(imported) >= floor_of(importing)


def circles(graph: dict[str, frozenset[str]]) -> set[frozenset[str]]:
    """Modules that reach each other, in groups of two and more."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for name in graph[waiting.pop()] & graph.keys():
                if name not in seen:
                    seen.add(name)
                    waiting.append(name)
        return seen

    below = {name: reached(name) for name in graph}
    groups = {frozenset(other for other in below[name] if name in below[other]) for name in graph}
    return {group for group in groups if len(group) > 1}


def test_every_folder_has_a_floor():
    unknown = {
        f"{module.split('.')[0]}.{folder}"
        for module in all_arrows()
        if (folder := folder_of(module)) and folder != "__main__"
        if not any(folder in folders_of_floor for folders_of_floor in FLOORS[module.split(".")[0]])
    }
    assert not unknown


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_they_may(package):
    foreign = {
        f"{importing} -> {imported}"
        for importing, all_imported in all_arrows().items()
        if importing.split(".")[0] == package
        for imported in all_imported
        if imported.split(".")[0] not in PACKAGES[package]
    }
    assert not foreign


def test_imports_run_downward():
    up = {
        f"{importing} -> {imported}"
        for importing, all_imported in all_arrows().items()
        for imported in all_imported
        if runs_up(importing, imported)
    }
    assert not up


def test_files_of_one_folder_import_each_other_in_no_circle():
    folders: dict[tuple[str, str], dict[str, frozenset[str]]] = {}
    for importing, imported in all_arrows().items():
        folders.setdefault((importing.split(".")[0], folder_of(importing)), {})[importing] = (
            imported
        )
    found = set().union(*(circles(folder) for folder in folders.values()))
    assert not found


# the test's own eyes -------------------------------------------------------------------------


def test_an_import_anywhere_is_seen():
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from ftpserver.daemon.server import FtpServer\n"
        "def later():\n    from ftpserver.daemon import control\n    import ftpserver.errors\n"
    )
    known = frozenset({"ftpserver.daemon.server", "ftpserver.daemon.control", "ftpserver.errors"})
    assert set(imports_of(source, known)) == known


def test_an_import_that_runs_up_is_seen():
    assert runs_up("ftpserver.storage.home", "ftpserver.serving.session")
    assert not runs_up("ftpserver.serving.session", "ftpserver.storage.home")
    assert runs_up("ftpwire.errors", "ftpwire.units"), "neighbours on one floor"


def test_a_circle_is_seen():
    graph = {"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("b"), "d": frozenset("a")}
    assert circles(graph) == {frozenset("bc")}
