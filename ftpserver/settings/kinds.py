"""Kinds of settings: how values are written on a command line, in a variable, in a file.

Lives here: the kinds. Lives elsewhere: the settings themselves (table.py), where their values come
from (cli/config.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any

from ftpwire.units import parse_duration, parse_size

NONE = "none"
"""The text for no limit, where the default or another source sets one."""
DURATION = "DURATION"
"""The placeholder in help for seconds, or a number with a unit: 90, 90s, 10m, 12h."""
_DAY = 24 * 3600
_UNITS = ((3600, "h"), (60, "m"), (1, "s"))
_LONGEST = 10**9
"""The longest duration, in seconds, that `parse_duration` accepts with a unit."""
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True)
class Kind:
    """How values of one kind are written and read.

    Attributes:
        parse: Reads a value from text or from a TOML value. Raises ValueError with a readable text.
        metavar: The placeholder in help.
        show: Converts a value to what the file would contain.
        to_text: Converts a value to text that ``parse`` accepts.
        flag: True if it needs no value on a command line.
        path: True if it is a path; in a file, it is relative to that file.
    """

    parse: Callable[[object], Any]
    metavar: str
    show: Callable[[Any], Any] = lambda value: value
    to_text: Callable[[Any], str] = str
    flag: bool = False
    path: bool = False


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is not text")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is not a number")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a finite number")
    return number


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower() if isinstance(value, str) else ""
    if text in _TRUE | _FALSE:
        return text in _TRUE
    raise ValueError(f"{value!r} is neither true nor false")


def whole(least: int, most: int | None = None) -> Kind:
    """Make a kind for whole numbers in a range."""

    def parse(value: object) -> int:
        if isinstance(value, (bool, float)):
            raise ValueError(f"{value!r} is not a whole number")
        try:
            number = int(value)  # type: ignore[call-overload]
        except (TypeError, ValueError):
            raise ValueError(f"{value!r} is not a whole number") from None
        if number < least or (most is not None and number > most):
            limits = f"at least {least}" if most is None else f"{least} to {most}"
            raise ValueError(f"{number} is out of range: must be {limits}")
        return int(number)

    return Kind(parse, "N")


def seconds(least: float = 0.0, *, above: bool = False) -> Kind:
    """Make a kind for seconds, written as a number or with a unit.

    Args:
        above: True if values must be greater than ``least``.
    """

    def parse(value: object) -> float:
        number = _seconds(value)
        if number < least or (above and number == least):
            limit = "above" if above else "at least"
            raise ValueError(f"{value} is out of range: must be {limit} {least:g}")
        return number

    return Kind(parse, DURATION, to_text=_seconds_text)


def _seconds(value: object) -> float:
    if not isinstance(value, str):
        return _number(value)
    try:
        return _number(value)
    except ValueError:
        return float(parse_duration(value))


def _seconds_text(number: float) -> str:
    for size, letter in _UNITS:
        if 0 < number < _LONGEST and number % size == 0:
            return f"{int(number) // size}{letter}"
    return _number_text(number)


def _number_text(number: float) -> str:
    """Write a number, without a needless ``.0``."""
    return str(int(number) if number.is_integer() else number)


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a size: use bytes, or KiB, MiB, GiB, TiB")
    return parse_size(value)


def _size_text(size: int) -> str:
    for exponent, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size and size % 2**exponent == 0:
            return f"{size >> exponent}{unit}"
    return str(size)


def _days(value: object) -> int:
    days = _number(value)
    if days < 0:
        raise ValueError(f"{value} is out of range: must be at least 0")
    return int(days * _DAY)


def choice(words: Mapping[str, Any]) -> Kind:
    """Make a kind for one of some words, each with its value."""

    def parse(value: object) -> Any:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"{value!r} is not one of {', '.join(words)}")
        return words[value]

    def show(value: object) -> str:
        return next(word for word, meaning in words.items() if meaning == value)

    return Kind(parse, "|".join(words), show, show)


def optional(kind: Kind) -> Kind:
    """Make a kind that also allows no value."""

    def parse(value: object) -> Any:
        return None if value == NONE else kind.parse(value)

    def show(value: Any) -> Any:
        return None if value is None else kind.show(value)

    def to_text(value: Any) -> str:
        return NONE if value is None else kind.to_text(value)

    return Kind(parse, kind.metavar, show, to_text, path=kind.path)


def _path(value: object) -> Path:
    return Path(_text(value))


TEXT = Kind(_text, "TEXT")
FLAG = Kind(_flag, "", to_text=lambda value: "true" if value else "false", flag=True)
SIZE = Kind(_size, "SIZE", to_text=_size_text)
DAYS = Kind(_days, "DAYS", lambda value: value / _DAY, lambda value: _number_text(value / _DAY))
PATH = Kind(_path, "FILE", str, path=True)


@dataclass(frozen=True)
class Setting:
    """The description of a setting.

    Attributes:
        name: The name of the option (``--name``), the file's key, and the variable (``FTPD_NAME``).
        kind: How its values are written.
        help: One line of help.
        live: True if a reload applies a change; otherwise it takes a restart.
    """

    name: str
    kind: Kind
    help: str
    live: bool = False

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "FTPD_" + self.name.upper().replace("-", "_")


_KEY = "setting"


def setting(
    default: Any, kind: Kind, help: str, *, name: str | None = None, live: bool = False
) -> Any:
    """Make a dataclass field for a setting. ``name`` is None if it is the field's own."""
    return field(default=default, metadata={_KEY: Setting(name or "", kind, help, live)})


def described(one: Field[Any]) -> Setting:
    """Return the description of a field that `setting` has made."""
    known: Setting = one.metadata[_KEY]
    if known.name:
        return known
    return Setting(one.name.replace("_", "-"), known.kind, known.help, known.live)
