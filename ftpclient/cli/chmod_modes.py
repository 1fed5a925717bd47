"""Modes as chmod takes them: octal, or symbolic, e.g. ``u+x,go-w``.

Lives here: parsing them and computing a new mode. Lives elsewhere: setting it (client.py).
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass

_OCTAL = re.compile(r"[0-7]{1,5}")
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_BITS = {"r": 4, "w": 2, "x": 1}


@dataclass(frozen=True)
class _Action:
    """One step: for whom, the operator (one of ``+-=``), and which permissions."""

    who: str
    sign: str
    rights: str
    masked: int

    def apply(self, mode: int, *, is_dir: bool) -> int:
        change = stat.S_ISGID if "s" in self.rights else 0  # only g may have it
        for one in self.who:
            change |= self._rights(mode, is_dir) << _SHIFTS[one]
        change &= ~self.masked
        if self.sign == "+":
            return mode | change
        if self.sign == "-":
            return mode & ~change
        for one in self.who:
            mode &= ~(7 << _SHIFTS[one])
        return mode | change

    def _rights(self, mode: int, is_dir: bool) -> int:
        """Return the permissions as three bits."""
        if self.rights in _SHIFTS:
            return mode >> _SHIFTS[self.rights] & 7
        bits = 0
        for letter in self.rights.replace("s", ""):
            if letter != "X":
                bits |= _BITS[letter]
            elif is_dir or mode & 0o111:
                bits |= 1
        return bits


@dataclass(frozen=True)
class ModeChange:
    """A change of a mode.

    Attributes:
        octal: The new mode; None if it depends on the old one.
        keeps_setgid: True if, with an octal mode, a directory keeps its setgid bit.
    """

    octal: int | None
    actions: tuple[_Action, ...] = ()
    keeps_setgid: bool = False

    @classmethod
    def parse(cls, text: str) -> ModeChange:
        """Parse ``644``, ``u+x``, ``go-w,a+X``, ``g=u``; for directories also ``2775``, ``g+s``.

        Without u, g, o or a (``+x``), all three are meant, except bits set in the umask.

        Raises:
            ValueError: It is not a mode, or sets setuid or sticky, which a server doesn't set.
        """
        if _OCTAL.fullmatch(text):
            bits = int(text, 8)
            if bits & ~(0o777 | stat.S_ISGID):
                raise ValueError(f"{text}: {_NO_SPECIAL}")
            # as in GNU chmod, up to four digits leave a directory's setgid on; 00755 clears it
            return cls(bits, keeps_setgid=len(text) < 5)
        actions: list[_Action] = []
        for clause in text.split(","):
            match = _CLAUSE.fullmatch(clause)
            if match is None:
                raise ValueError(f"{text!r} is not a mode: write 644, u+x or go-w")
            who, rest = match.groups()
            masked = 0 if who else umask()
            for sign, rights in _ACTION.findall(rest):
                everybody = "ugo" if not who or "a" in who else who
                if "t" in rights or ("s" in rights and "g" not in who):
                    raise ValueError(f"{text}: {_NO_SPECIAL}")
                if "s" in rights and "u" in who and sign != "-":
                    raise ValueError(f"{text}: {_NO_SPECIAL}")
                actions.append(_Action(everybody, sign, rights, masked))
        return cls(None, tuple(actions))

    def apply(self, mode: int, *, is_dir: bool) -> int:
        """Return the new mode of an entry that has ``mode``; for a directory, with setgid."""
        setgid = mode & stat.S_ISGID
        if self.octal is not None:
            changed = self.octal | (setgid if self.keeps_setgid else 0)
        else:
            changed = mode & 0o777 | setgid
            for action in self.actions:
                changed = action.apply(changed, is_dir=is_dir)
        return changed if is_dir else changed & 0o777

    @property
    def sets_setgid(self) -> bool:
        """True if it sets setgid, which only a directory can have."""
        if self.octal is not None:
            return bool(self.octal & stat.S_ISGID)
        return any("s" in one.rights and one.sign != "-" for one in self.actions)

    @property
    def setgid(self) -> bool | None:
        """True if an octal mode sets a directory's setgid, False if it clears it, else None."""
        return True if self.sets_setgid else None if self.keeps_setgid else False


_NO_SPECIAL = "the server keeps no setuid or sticky bit (g+s is for directories)"


def umask() -> int:
    """Return the process's umask. It cannot be read without setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
