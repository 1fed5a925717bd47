"""The settings file, ftpd.toml: the values in it, and their lines.

Lives here: reading the file, and finding all errors in it.
Lives elsewhere: the settings (table.py), how values are written (kinds.py), options, variables, and
which source takes precedence (cli/config.py).

click takes the values as a `default_map` and cannot check them: it knows no line numbers, stops at
the first error, and ignores unknown keys.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from ftpserver.settings.kinds import NONE
from ftpserver.settings.table import EVERY
from ftpwire import likeness

FILE_NAME = "ftpd.toml"
_FIELDS = {setting.name: field for field, setting in EVERY.items()}
_AT_LINE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)")
_KEY_LINE = re.compile(r"""\s*\[*\s*(?:"([^"]*)"|'([^']*)'|([A-Za-z0-9_-]+))\s*(?:=|\.|\])""")


class SettingsFile:
    """An ftpd.toml: keys named like the options, all at the top level.

    Attributes:
        path: The file that was read; None if there is none.
        values: The parsed values, by field name; NONE for an explicit absence of a value.
        problems: The errors, as human-readable lines.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []
        self._lines: dict[str, int] = {}

    def location(self, key: str) -> str:
        """Return the file and the line of a key."""
        line = self._lines.get(key, self._lines.get(key.replace("-", "_")))
        return f"{self.path}:{line}" if line else str(self.path)

    def read(self, path: Path, *, or_none: bool = False) -> None:
        """Read the file, and add its errors to ``problems``.

        Args:
            or_none: True if the file need not exist.
        """
        try:
            self.path = path.absolute()
            text = path.read_bytes().decode()
            content = tomllib.loads(text)
        except OSError as error:
            missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
            if or_none and missing and not path.is_symlink():
                self.path = None
                return
            self.problems.append(f"{path}: cannot be read: {(error.strerror or '').lower()}")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            self.problems.append(f"{path}:{line}: not UTF-8")
        except tomllib.TOMLDecodeError as error:
            text_of_error = str(error)
            match = _AT_LINE.search(text_of_error)
            line = int(match[1]) if match and match[1] else text.count("\n") + 1
            self.problems.append(f"{path}:{line}: {_AT_LINE.sub('', text_of_error).lower()}")
        else:
            self._lines = _lines_of(text)
            for key, value in content.items():
                try:
                    self._take(key, value, self.path.parent)
                except ValueError as error:
                    self.problems.append(f"{self.location(key)}: {error}")

    def _take(self, key: str, value: object, directory: Path) -> None:
        field = _FIELDS.get(key.replace("_", "-"))
        if field is None:
            what = "table" if isinstance(value, dict) else "key"
            raise ValueError(f"unknown {what} {key}{likeness.hint(key.replace('_', '-'), _FIELDS)}")
        if field in self.values:
            raise ValueError(f"{key}: set twice")
        kind = EVERY[field].kind
        try:
            parsed = kind.parse(value)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
        if kind.path and parsed is not None:
            parsed = directory / parsed
        self.values[field] = NONE if parsed is None else parsed


def _lines_of(text: str) -> dict[str, int]:
    """Find the line in which each key is first set, as tomllib doesn't report it."""
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if match := _KEY_LINE.match(line):
            lines.setdefault(match[1] or match[2] or match[3], number)
    return lines
