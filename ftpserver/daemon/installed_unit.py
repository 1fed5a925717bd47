"""Comparing an installed unit with the one that the settings require.

Lives here: finding the drop-ins of a unit, as systemd.unit(5) says, and parsing their settings.
Lives elsewhere: the text of the units (systemd.py), options (cli/systemd.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ftpserver.errors import StateError

DIRECTORIES = tuple(
    Path(one)
    for one in (
        *("/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient"),
        *("/run/systemd/generator.early", "/etc/systemd/system", "/run/systemd/system"),
        *("/run/systemd/generator", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"),
        "/run/systemd/generator.late",
    )
)
"""The directories where systemd looks for units and drop-ins, in order of precedence."""
_ADDED_TO = frozenset(
    {
        *("After", "Wants", "WantedBy", "Documentation", "ExecStart", "ExecReload", "ListenStream"),
        *("ReadWritePaths", "RuntimeDirectory", "CapabilityBoundingSet", "AmbientCapabilities"),
        *("RestrictAddressFamilies", "RestrictNamespaces"),
        *("SystemCallArchitectures", "SystemCallFilter"),
    }
)
"""Settings whose lines add up. For others, the last line counts."""


def differences(unit: Path, wanted: str, directories: tuple[Path, ...] = DIRECTORIES) -> list[str]:
    """Compare an installed unit and its drop-ins with the unit that the settings require.

    Settings that only the installed unit has are ignored: they are up to the administrator.

    Args:
        unit: The installed unit.
        wanted: The text of the unit that the settings require.
        directories: The directories where systemd looks.

    Returns:
        One line for each difference.

    Raises:
        StateError: A file cannot be read.
    """
    files = [unit, *drop_ins(unit, directories)]
    found = _settings_in((path, _text_of(path)) for path in files)
    lines = []
    for key, expected in _settings_in([(unit, wanted)]).items():
        there, values = found.get(key, []), [value for value, _ in expected]
        if [value for value, _ in there] != values:
            had = [value if path == unit else f"{value} ({path})" for value, path in there]
            shown = ", ".join(had) or "nothing"
            lines.append(f"{key}: the unit has {shown}, the settings require {', '.join(values)}")
    return lines


def drop_ins(unit: Path, directories: tuple[Path, ...] = DIRECTORIES) -> list[Path]:
    """Return the drop-ins of a unit, in the order in which systemd reads them.

    Of files with the same name, one is read: that in the first directory, and of several there,
    that with the most specific directory name. Drop-ins for all units of the type have the lowest
    precedence.

    Args:
        unit: The unit.
        directories: The directories where systemd looks. If the unit is in none of them, only the
            unit's own directory is searched.

    Raises:
        StateError: A directory cannot be read.
    """
    parent = unit.parent.resolve()
    where = directories if any(one.resolve() == parent for one in directories) else (unit.parent,)
    found: dict[str, Path] = {}
    for names in ([*_names_of(unit)], [unit.suffix.removeprefix(".")]):
        for directory in where:
            for name in names:
                for path in _drop_ins_in(directory / f"{name}.d"):
                    found.setdefault(path.name, path)
    return [found[name] for name in sorted(found, key=os.fsencode)]


def _names_of(unit: Path) -> Iterator[str]:
    """Yield the names by which drop-ins can refer to a unit: ``ftpd-a.service``, then
    ``ftpd-.service``; for an instance, the template's name, too."""
    yield unit.name
    prefix, at, _ = unit.stem.partition("@")
    if at:
        yield f"{prefix}@{unit.suffix}"
    while prefix := prefix[: prefix.rstrip("-").rfind("-") + 1]:
        yield f"{prefix}{unit.suffix}"


def _drop_ins_in(directory: Path) -> list[Path]:
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unreadable(directory, error) from error
    return [directory / one for one in names if one.endswith(".conf") and not one.startswith(".")]


def _text_of(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError | UnicodeDecodeError) -> StateError:
    reason = getattr(error, "strerror", None) or "not text"
    return StateError(f"{path}: cannot be read: {reason.lower()}")


def _settings_in(files: Iterable[tuple[Path, str]]) -> dict[str, list[tuple[str, Path]]]:
    """Return the values of each setting, each with its file. An empty value resets a setting."""
    found: dict[str, list[tuple[str, Path]]] = {}
    for path, text in files:
        for line in text.replace("\\\n", " ").splitlines():
            key, equals, value = (part.strip() for part in line.strip().partition("="))
            if not equals or key.startswith(("#", ";")):
                continue
            values = found.setdefault(key, [])
            if not value or key not in _ADDED_TO:
                values.clear()
            if value:
                values.append((value, path))
    return found
