"""Where the values of settings come from: flags > FTPD_* variables > ftpd.toml > defaults.

Lives here: reading the file, putting the four together, telling what is wrong and in which line.
Lives elsewhere: the settings (table.py), how values are written (kinds.py), output
(cli/config.py).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftpserver.settings.kinds import NONE
from ftpserver.settings.table import DEFAULT_ROOT, TABLE, Settings, cautions, state_of

FILE_NAME = "ftpd.toml"
_ROOT = "root"
_OTHER_VARIABLES = frozenset({"FTPD_ROOT", "FTPD_CONFIG", "FTPD_PASSWORD"})


class ConfigError(Exception):
    """The settings can't be used. ``problems``: a line each, for people."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Origin:
    """Where a value comes from: ``flag``, ``variable``, ``file`` or ``default``, and which."""

    kind: str
    where: str = ""

    def __str__(self) -> str:
        return self.where or self.kind


@dataclass
class Loaded:
    """All settings, and where each of them comes from, by the name of its field."""

    settings: Settings
    origins: dict[str, Origin]
    file: Path | None = None
    warnings: list[str] = field(default_factory=list)

    def shown(self, name: str) -> Any:
        """A value as the file would have it; None where there is none."""
        value = getattr(self.settings, name)
        return str(value) if name == _ROOT else TABLE[name].kind.show(value)


def load(
    flags: Mapping[str, Any],
    *,
    root: Path | None = None,
    config: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Loaded:
    """Put all four sources together.

    Args:
        flags: What the command line says, by field, parsed already; None: it doesn't say.
        root, config: What the command line or a variable says.

    Raises:
        ConfigError: With everything that is wrong, not only the first.
    """
    problems: list[str] = []
    found = _File.read(config, problems) if config is not None else None
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {}
    if root is not None:
        where = "FTPD_ROOT" if environment.get("FTPD_ROOT") == str(root) else ""
        values[_ROOT], origins[_ROOT] = root, Origin("variable" if where else "flag", where)
    elif found is not None and found.root is not None:
        values[_ROOT], origins[_ROOT] = found.root, Origin("file", found.place(_ROOT))
    else:
        values[_ROOT], origins[_ROOT] = DEFAULT_ROOT, Origin("default")
    values[_ROOT] = values[_ROOT].absolute()
    if config is None:
        there = state_of(values[_ROOT]) / FILE_NAME
        if _is_there(there):
            found = _File.read(there, problems)
            if found.root is not None:
                problems.append(f"{found.place(_ROOT)}: the root can't be set in its own file")
    for one in dataclasses.fields(Settings):
        if one.name == _ROOT:
            continue
        known = TABLE[one.name]
        values[one.name], origins[one.name] = one.default, Origin("default")
        if found is not None and known.name in found.values:
            values[one.name] = found.values[known.name]
            origins[one.name] = Origin("file", found.place(known.name))
        text = environment.get(known.variable, "")
        if text:
            try:
                values[one.name] = known.kind.parse(text)
                origins[one.name] = Origin("variable", known.variable)
            except ValueError as error:
                problems.append(f"{known.variable}: {error}")
        if flags.get(one.name) is not None:
            given = flags[one.name]
            values[one.name] = None if given == NONE else given
            origins[one.name] = Origin("flag", f"--{known.name}")
    if (values["certificate"] is None) != (values["key"] is None):
        lacking = "key" if values["key"] is None else "certificate"
        problems.append(f"certificate and key belong together: the {lacking} is not given")
    if values["workers"] > 1 and values["isolation"] == "process":
        problems.append("workers is for sessions in threads: isolation = process needs none")
    if values["no_tcp"] and values["unix"] is None and "LISTEN_FDS" not in environment:
        problems.append("no-tcp: give unix a PATH, or nobody can connect (--unix PATH)")
    if problems:
        raise ConfigError(problems)
    settings = Settings(**values)
    warnings = _strays(environment) + cautions(settings)
    return Loaded(settings, origins, None if found is None else found.path, warnings)


def _is_there(path: Path) -> bool:
    """Whether there is a file, or whether nobody can tell: reading it says why then."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def _strays(environment: Mapping[str, str]) -> list[str]:
    """Variables that mean nothing, with what may have been meant."""
    known = {setting.variable for setting in TABLE.values()} | _OTHER_VARIABLES
    return [
        f"{name}: means nothing{_meant(name, known)}"
        for name in sorted(environment)
        if name.startswith("FTPD_") and name not in known
    ]


def _meant(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, sorted(known), 3)
    if not near:
        return ""
    swapped = [one for one in near if sorted(one) == sorted(word)]  # prot is port, not root
    return f": did you mean {(swapped or near)[0]}?"


_AT_LINE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)")


class _File:
    """An ftpd.toml: keys as the options are called, at its top.

    Attributes:
        values: What it sets, parsed, by the name of the setting.
        root: Of the homes, where it says so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        self.root: Path | None = None
        self._lines: dict[str, int] = {}

    @classmethod
    def read(cls, path: Path, problems: list[str]) -> _File:
        """Read a file; what is wrong with it is added to the problems."""
        found = cls(path.absolute())
        try:
            text = path.read_bytes().decode()
            content = tomllib.loads(text)
        except OSError as error:
            problems.append(f"{path}: can't be read: {(error.strerror or '').lower()}")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            problems.append(f"{path}:{line}: not UTF-8")
        except tomllib.TOMLDecodeError as error:
            told = str(error)
            match = _AT_LINE.search(told)
            line = int(match[1]) if match and match[1] else text.count("\n") + 1
            problems.append(f"{path}:{line}: {_AT_LINE.sub('', told).lower()}")
        else:
            found._lines = _lines_of(text)
            for key, value in content.items():
                found._take(key, value, problems)
        return found

    def place(self, key: str) -> str:
        """The file and the line of a key."""
        line = self._lines.get(key, self._lines.get(key.replace("-", "_")))
        return f"{self.path}:{line}" if line else str(self.path)

    def _take(self, key: str, value: object, problems: list[str]) -> None:
        name = key.replace("_", "-")
        by_name = {setting.name: setting for setting in TABLE.values()}
        where = f"{self.path}:{self._lines[key]}" if key in self._lines else str(self.path)
        if name in self.values or (name == _ROOT and self.root is not None):
            problems.append(f"{where}: {key}: set twice")
            return
        try:
            if name == _ROOT:
                if not isinstance(value, str) or not value:
                    raise ValueError(f"{value!r} is not a path")
                self.root = self.path.parent / value
            elif name in by_name:
                kind = by_name[name].kind
                parsed = kind.parse(value)
                self.values[name] = self.path.parent / parsed if kind.path and parsed else parsed
            else:
                what = "table" if isinstance(value, dict) else "key"
                meant = _meant(name, {*by_name, _ROOT})
                problems.append(f"{where}: unknown {what} {key}{meant}")
        except ValueError as error:
            problems.append(f"{where}: {key}: {error}")


_KEY_LINE = re.compile(r"""\s*\[*\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(?:=|\.|\])""")


def _lines_of(text: str) -> dict[str, int]:
    """The line that each key is first set in; tomllib doesn't tell."""
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if match := _KEY_LINE.match(line):
            lines.setdefault(match[1] or match[2] or match[3], number)
    return lines
