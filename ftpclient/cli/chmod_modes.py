"""Modes as chmod takes them: octal, or symbolic as ``u+x,go-w``.

Lives here: reading them, and what becomes of a mode. Lives elsewhere: setting it (client.py).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_OCTAL = re.compile(r"[0-7]{1,5}")
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}


@dataclass(frozen=True)
class _Action:
    """One step: for whom, what to do (one of ``+-=``), and which rights."""

    who: str
    sign: str
    rights: str
    spared: int

    def apply(self, mode: int, *, is_dir: bool) -> int:
        change = 0
        for one in self.who:
            change |= self._rights(mode, is_dir) << _SHIFTS[one]
        change &= ~self.spared
        if self.sign == "+":
            return mode | change
        if self.sign == "-":
            return mode & ~change
        for one in self.who:
            mode &= ~(7 << _SHIFTS[one])
        return mode | change

    def _rights(self, mode: int, is_dir: bool) -> int:
        """As three bits."""
        if self.rights in _SHIFTS:
            return mode >> _SHIFTS[self.rights] & 7
        bits = 0
        for letter in self.rights:
            if letter != "X":
                bits |= _BITS[letter]
            elif is_dir or mode & 0o111:
                bits |= 1
        return bits


@dataclass(frozen=True)
class ModeChange:
    """What a mode becomes.

    Attributes:
        octal: All of it; None when it follows from the old one.
    """

    octal: int | None
    actions: tuple[_Action, ...] = ()

    @classmethod
    def parse(cls, text: str) -> ModeChange:
        """Read ``644``, ``u+x``, ``go-w,a+X``, ``g=u``.

        Who is meant by nobody (``+x``) is everybody, less what this process's umask spares.

        Raises:
            ValueError: It is neither; or setuid, setgid or sticky, which a server drops.
        """
        if _OCTAL.fullmatch(text):
            bits = int(text, 8)
            if bits > 0o777:
                raise ValueError(f"{text}: {_NO_SPECIAL}")
            return cls(bits)
        actions: list[_Action] = []
        for clause in text.split(","):
            match = _CLAUSE.fullmatch(clause)
            if match is None:
                raise ValueError(f"{text!r} is not a mode: write 644, u+x or go-w")
            who, rest = match.groups()
            spared = 0 if who else _umask()
            for sign, rights in _ACTION.findall(rest):
                if set(rights) & set("st"):
                    raise ValueError(f"{text}: {_NO_SPECIAL}")
                everybody = "ugo" if not who or "a" in who else who
                actions.append(_Action(everybody, sign, rights, spared))
        return cls(None, tuple(actions))

    def apply(self, mode: int, *, is_dir: bool) -> int:
        """The permission bits that are to be set where ``mode`` is."""
        if self.octal is not None:
            return self.octal
        mode &= 0o777
        for action in self.actions:
            mode = action.apply(mode, is_dir=is_dir)
        return mode


_NO_SPECIAL = "the server keeps no setuid, setgid or sticky bit"


def _umask() -> int:
    """It can't be read without being set."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
