"""Nested homes: the account with the outer home could remove the inner one.

Lives here: finding them. Lives elsewhere: refusing new ones (accounts.py), denying the outer
account access to the inner home (storage/permissions.py), reporting them (admin/verify.py).

Accounts that share one home are not nested. Only homes with a directory of their own can be nested:
ROOT/NAME and ROOT/OTHER are side by side.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ftpwire.paths import Parts


@dataclass(frozen=True)
class Nest:
    """A home inside another one.

    Attributes:
        outer, inner: Names of accounts.
        parts: The path of the inner home in the outer one.
    """

    outer: str
    inner: str
    parts: Parts


class Homes:
    """The homes of a root's accounts.

    Args:
        resolve: True to resolve links. False touches no disk, so one that hangs blocks no caller.
        root: The directory of the homes.
        is_plain: Returns True if an account has that name and the home ROOT/NAME.
        named: The names and homes of all other accounts.
    """

    def __init__(
        self,
        root: Path,
        is_plain: Callable[[str], bool],
        named: Iterable[tuple[str, Path]],
        *,
        resolve: bool = True,
    ) -> None:
        self._real = os.path.realpath if resolve else os.path.normpath
        self._root = self._real(root)
        self._is_plain = is_plain
        self._names: dict[str, list[str]] = {}
        for name, home in named:
            self._names.setdefault(self._real(home), []).append(name)
        self._sorted = sorted(self._names)

    def add(self, name: str, home: Path) -> None:
        """Add one more home."""
        real = self._real(home)
        if real not in self._names:
            bisect.insort(self._sorted, real)
        self._names.setdefault(real, []).append(name)

    def outer(self, home: Path) -> str | None:
        """Return an account whose home contains a directory; that very directory doesn't count."""
        return next((name for name, _ in self._around(self._real(home))), None)

    def inner(self, home: Path) -> str | None:
        """Return an account whose home is inside a directory."""
        within = self._real(home).rstrip("/") + "/"
        at = bisect.bisect_left(self._sorted, within)
        if at < len(self._sorted) and self._sorted[at].startswith(within):
            return self._names[self._sorted[at]][0]
        return None

    def nests(self) -> Iterator[Nest]:
        """Find all homes inside other homes."""
        for real, names in self._names.items():
            for outer, above in self._around(real):
                parts = tuple(os.fsencode(os.path.relpath(real, above)).split(b"/"))
                for inner in names:
                    yield Nest(outer, inner, parts)

    def _around(self, real: str) -> Iterator[tuple[str, str]]:
        """Yield the accounts whose homes contain a directory, with these homes."""
        above = os.path.dirname(real)
        while above != real:
            for name in self._names.get(above, ()):
                yield name, above
            name = os.path.basename(above)
            if os.path.dirname(above) == self._root and self._is_plain(name):
                yield name, above
            real, above = above, os.path.dirname(above)
