"""Homes that lie in others: who has the outer one could remove the inner one.

Lives here: finding them. Lives elsewhere: refusing a new one (accounts.py), closing the inner home
to the outer account (storage/permissions.py), telling of them (admin/verify.py).

A home that several accounts have together is no such thing. Only homes that somebody has named can
lie in others: ROOT/NAME lies beside ROOT/OTHER.
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
    """A home in another one.

    Attributes:
        outer, inner: Names of accounts.
        parts: Where the inner home lies in the outer one.
    """

    outer: str
    inner: str
    parts: Parts


class Homes:
    """The homes of a root's accounts.

    Args:
        resolve: Resolve links. Without, no disk is touched: one that hangs stops nobody.
        root: The directory of the homes.
        is_plain: Whether there is an account of a name, whose home is ROOT/NAME.
        named: Names and homes of the others.
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
        """One more."""
        real = self._real(home)
        if real not in self._names:
            bisect.insort(self._sorted, real)
        self._names.setdefault(real, []).append(name)

    def outer(self, home: Path) -> str | None:
        """An account in whose home a directory lies; not one that has just that directory."""
        return next((name for name, _ in self._around(self._real(home))), None)

    def inner(self, home: Path) -> str | None:
        """An account whose home lies in a directory."""
        within = self._real(home).rstrip("/") + "/"
        at = bisect.bisect_left(self._sorted, within)
        if at < len(self._sorted) and self._sorted[at].startswith(within):
            return self._names[self._sorted[at]][0]
        return None

    def nests(self) -> Iterator[Nest]:
        """Every home that lies in another one."""
        for real, names in self._names.items():
            for outer, above in self._around(real):
                parts = tuple(os.fsencode(os.path.relpath(real, above)).split(b"/"))
                for inner in names:
                    yield Nest(outer, inner, parts)

    def _around(self, real: str) -> Iterator[tuple[str, str]]:
        """The accounts whose homes a directory lies in, and these homes."""
        above = os.path.dirname(real)
        while above != real:
            for name in self._names.get(above, ()):
                yield name, above
            name = os.path.basename(above)
            if os.path.dirname(above) == self._root and self._is_plain(name):
                yield name, above
            real, above = above, os.path.dirname(above)
