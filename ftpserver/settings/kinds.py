"""What a setting is: how its value is written, on a command line, in a variable, in a file.

Lives here: kinds of values. Lives elsewhere: the settings themselves (table.py), where their
values come from (cli/config.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any

from ftpwire.units import parse_duration, parse_size

NONE = "none"
"""How the absence of a limit is written, where something else is the default or stands below."""
DURATION = "DURATION"
"""In help, what stands for seconds, or a number with a unit: 90, 90s, 10m, 12h."""
_DAY = 24 * 3600
_UNITS = ((3600, "h"), (60, "m"), (1, "s"))
_LONGEST = 10**9
"""Seconds. More are no duration with a unit for `parse_duration`."""
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True)
class Kind:
    """How values of one kind are written and read.

    Attributes:
        parse: From text, or from what TOML has. Raises ValueError with a text for people.
        metavar: What stands for it in help.
        show: A value as it would be written in the file.
        tell: A value as people write it; what ``parse`` takes.
        flag: Needs no value on a command line.
        path: Names something on the disk; in a file, relative to that file.
    """

    parse: Callable[[object], Any]
    metavar: str
    show: Callable[[Any], Any] = lambda value: value
    tell: Callable[[Any], str] = str
    flag: bool = False
    path: bool = False


def _text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{value!r} is not a text")
    return value


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"{value!r} is not a number")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{value!r} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not a number of this world")
    return number


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower() if isinstance(value, str) else ""
    if text in _TRUE | _FALSE:
        return text in _TRUE
    raise ValueError(f"{value!r} is neither true nor false")


def whole(least: int, most: int | None = None) -> Kind:
    """A whole number in a range."""

    def parse(value: object) -> int:
        if isinstance(value, (bool, float)):
            raise ValueError(f"{value!r} is not a whole number")
        try:
            number = int(value)  # type: ignore[call-overload]
        except (TypeError, ValueError):
            raise ValueError(f"{value!r} is not a whole number") from None
        if number < least or (most is not None and number > most):
            upper = "" if most is None else f" to {most}"
            raise ValueError(f"{number} is out of range: {least}{upper or ' or more'}")
        return int(number)

    return Kind(parse, "N")


def seconds(least: float = 0.0, *, above: bool = False) -> Kind:
    """Seconds, as a number or with a unit.

    Args:
        above: They have to be more than ``least``.
    """

    def parse(value: object) -> float:
        number = _seconds(value)
        if number < least or (above and number == least):
            raise ValueError(f"{value} is out of range: {'more than' if above else 'from'} {least}")
        return number

    return Kind(parse, DURATION, tell=_tell_seconds)


def _seconds(value: object) -> float:
    if not isinstance(value, str):
        return _number(value)
    try:
        return _number(value)
    except ValueError:
        return float(parse_duration(value))


def _tell_seconds(number: float) -> str:
    for size, letter in _UNITS:
        if 0 < number < _LONGEST and number % size == 0:
            return f"{int(number) // size}{letter}"
    return _tell_number(number)


def _tell_number(number: float) -> str:
    """Without a decimal point that says nothing."""
    return str(int(number) if number.is_integer() else number)


def _size(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        value = str(value)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a size: use bytes, or KiB, MiB, GiB, TiB")
    return parse_size(value)


def _tell_size(size: int) -> str:
    for exponent, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size and size % 2**exponent == 0:
            return f"{size >> exponent}{unit}"
    return str(size)


def _days(value: object) -> int:
    days = _number(value)
    if days < 0:
        raise ValueError(f"{value} is out of range: 0 or more")
    return int(days * _DAY)


def choice(words: Mapping[str, Any]) -> Kind:
    """One of some words, and what each means."""

    def parse(value: object) -> Any:
        if not isinstance(value, str) or value not in words:
            raise ValueError(f"{value!r} is not one of {', '.join(words)}")
        return words[value]

    def show(value: object) -> str:
        return next(word for word, meaning in words.items() if meaning == value)

    return Kind(parse, "|".join(words), show, show)


def optional(kind: Kind) -> Kind:
    """The same, or none at all."""

    def parse(value: object) -> Any:
        return None if value == NONE else kind.parse(value)

    def show(value: Any) -> Any:
        return None if value is None else kind.show(value)

    def tell(value: Any) -> str:
        return NONE if value is None else kind.tell(value)

    return Kind(parse, kind.metavar, show, tell, path=kind.path)


def _path(value: object) -> Path:
    return Path(_text(value))


TEXT = Kind(_text, "TEXT")
FLAG = Kind(_flag, "", tell=lambda value: "true" if value else "false", flag=True)
SIZE = Kind(_size, "SIZE", tell=_tell_size)
DAYS = Kind(_days, "DAYS", lambda value: value / _DAY, lambda value: _tell_number(value / _DAY))
PATH = Kind(_path, "FILE", str, path=True)


@dataclass(frozen=True)
class Setting:
    """What is known of a setting besides its value.

    Attributes:
        name: Of the option (``--name``), the key in the file, and the variable (``FTPD_NAME``).
        kind: How it is written.
        help: One line for people.
        live: A reload takes it over; else it takes a restart.
    """

    name: str
    kind: Kind
    help: str
    live: bool = False

    @property
    def variable(self) -> str:
        """The variable of the environment."""
        return "FTPD_" + self.name.upper().replace("-", "_")


_KEY = "setting"


def setting(
    default: Any, kind: Kind, help: str, *, name: str | None = None, live: bool = False
) -> Any:
    """A field of a dataclass of settings. ``name``: where it isn't the field's own."""
    return field(default=default, metadata={_KEY: Setting(name or "", kind, help, live)})


def described(one: Field[Any]) -> Setting:
    """What `setting` said about a field."""
    known: Setting = one.metadata[_KEY]
    if known.name:
        return known
    return Setting(one.name.replace("_", "-"), known.kind, known.help, known.live)
