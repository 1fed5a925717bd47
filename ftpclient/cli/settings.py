"""The settings of a shell, which `set` changes.

Lives here: the settings, their values and their effect on options. Lives elsewhere: the command
(commands/comfort.py), the settings of the prompt (shell/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ftpwire import likeness
from ftpwire.units import parse_size

_NONE = "none"
_AUTO = "auto"


def _one_of(*values: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value not in values:
            raise ValueError(f"use one of {', '.join(values)}")
        return value

    return check


def _connections(value: str) -> str:
    if value != _AUTO and not (value.isascii() and value.isdigit() and 1 <= int(value) <= 32):
        raise ValueError("use auto or a number from 1 to 32")
    return value


def _jobs(value: str) -> str:
    if not (value.isascii() and value.isdigit() and 1 <= int(value) <= 32):
        raise ValueError("use a number from 1 to 32")
    return value


def _rate(value: str) -> str:
    if value != _NONE:
        parse_size(value)
    return value


_TABLE: dict[str, tuple[str, Callable[[str], str]]] = {
    "bell": ("off", _one_of("on", "off")),
    "color": (_AUTO, _one_of(_AUTO, "always", "never")),
    "jobs": ("4", _jobs),
    "limit-rate": (_NONE, _rate),
    "pager": ("", str),
    "parallel": (_AUTO, _connections),
    "prompt": ("short", _one_of("short", "full")),
    "suggestions": ("on", _one_of("on", "off")),
}
"""Each setting's default, and the function that checks a value and raises ValueError."""
_TRANSFERS = ("get", "put", "sync")


class Settings:
    """The settings of one shell."""

    def __init__(self) -> None:
        self._values = {name: default for name, (default, _) in _TABLE.items()}

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._values.items())

    def __getitem__(self, name: str) -> str:
        """Return the value of a setting. Raises ValueError for an unknown name."""
        if name not in self._values:
            known = ", ".join(self._values)
            raise ValueError(
                f"unknown setting {name}{likeness.hint(name, self._values)} (settings: {known})"
            )
        return self._values[name]

    def set(self, name: str, value: str) -> None:
        """Change a setting. Raises ValueError."""
        self[name]  # checks the name
        try:
            self._values[name] = _TABLE[name][1](value)
        except ValueError as error:
            raise ValueError(f"{name} cannot be {value!r}: {error}") from None

    def is_on(self, name: str) -> bool:
        """Return whether a setting that is on or off is on."""
        return self[name] == "on"

    @property
    def defaults(self) -> dict[str, dict[str, Any]]:
        """The defaults of the commands' options, for click."""
        transfers = {
            option: self[name]
            for name, option in (("parallel", "parallel"), ("limit-rate", "limit_rate"))
            if self[name] not in (_AUTO, _NONE)
        }
        return {"ls": {"color": self["color"]}} | dict.fromkeys(_TRANSFERS, transfers)
