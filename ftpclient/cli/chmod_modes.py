"""Modes as chmod takes them: octal, or symbolic as ``u+x,go-w``.

Lives here: reading them, and what becomes of a mode. Lives elsewhere: setting it (client.py).
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
    """One step: for whom, what to do (one of ``+-=``), and which rights."""

    who: str
    sign: str
    rights: str
    spared: int

    def apply(self, mode: int, *, is_dir: bool) -> int:
        change = stat.S_ISGID if "s" in self.rights else 0  # g alone may have it
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
        for letter in self.rights.replace("s", ""):
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
        keeps_setgid: Of an octal one: a directory keeps the setgid bit that it has.
    """

    octal: int | None
    actions: tuple[_Action, ...] = ()
    keeps_setgid: bool = False

    @classmethod
    def parse(cls, text: str) -> ModeChange:
        """Read ``644``, ``u+x``, ``go-w,a+X``, ``g=u``, and of directories ``2775``, ``g+s``.

        Who is meant by nobody (``+x``) is everybody, less what this process's umask spares.

        Raises:
            ValueError: It is neither; or setuid or sticky, which a server doesn't set.
        """
        if _OCTAL.fullmatch(text):
            bits = int(text, 8)
            if bits & ~(0o777 | stat.S_ISGID):
                raise ValueError(f"{text}: {_NO_SPECIAL}")
            # as GNU chmod: up to four digits leave a directory's setgid on, 00755 clears it
            return cls(bits, keeps_setgid=len(text) < 5)
        actions: list[_Action] = []
        for clause in text.split(","):
            match = _CLAUSE.fullmatch(clause)
            if match is None:
                raise ValueError(f"{text!r} is not a mode: write 644, u+x or go-w")
            who, rest = match.groups()
            spared = 0 if who else umask()
            for sign, rights in _ACTION.findall(rest):
                everybody = "ugo" if not who or "a" in who else who
                if "t" in rights or ("s" in rights and "g" not in who):
                    raise ValueError(f"{text}: {_NO_SPECIAL}")
                if "s" in rights and "u" in who and sign != "-":
                    raise ValueError(f"{text}: {_NO_SPECIAL}")
                actions.append(_Action(everybody, sign, rights, spared))
        return cls(None, tuple(actions))

    def apply(self, mode: int, *, is_dir: bool) -> int:
        """The mode that is to be set where ``mode`` is: of a directory, with its setgid bit."""
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
        """Whether it sets setgid: only a directory can have that."""
        if self.octal is not None:
            return bool(self.octal & stat.S_ISGID)
        return any("s" in one.rights and one.sign != "-" for one in self.actions)

    @property
    def setgid(self) -> bool | None:
        """Of an octal one: whether a directory has setgid afterwards; None: as it was."""
        return True if self.sets_setgid else None if self.keeps_setgid else False


_NO_SPECIAL = "the server keeps no setuid or sticky bit (g+s is for directories)"


def umask() -> int:
    """It can't be read without being set."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask
