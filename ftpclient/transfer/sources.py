"""The named sources of one command: none replaces what another one has just made.

Lives here: which of several sources of one name is done, and the error for a missing target.
Lives elsewhere: what a target means (client.py), names that one file system takes for the same
(folding.py).

As in GNU cp and mv, the second source of one base name is refused. It is refused whole, with all
that is inside: so a name is kept for each source that was named, and none for what is in a tree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from ftpwire import paths
from ftpwire.errors import AlreadyExists, NotADirectory

Source = TypeVar("Source", bound=bytes)


class NoTargetDirectory(NotADirectory):
    """The directory that things are to go into has to exist, and doesn't."""

    code = "usage"
    exit_code = 2


class Sources(Generic[Source]):
    """The sources that one command puts into one directory, in their order.

    Args:
        holds: Whether a source directory has something of a name. Asked only of one whose contents
            go into the target without a directory of their own (``DIR/.``).
    """

    def __init__(self, holds: Callable[[Source, bytes], bool]) -> None:
        self._holds = holds
        self._taken: dict[bytes, Source] = {}

    def check(self, source: Source, name: bytes, target: bytes) -> None:
        """Refuse a source whose target another source of this command has made.

        Args:
            name: What the source is called in the target directory; empty when its contents go
                there without a directory of their own.

        Raises:
            AlreadyExists: As GNU cp says it.
        """
        if self._clashes(source, name):
            raise AlreadyExists(
                f"will not overwrite just-created '{paths.show(target)}' "
                f"with '{paths.show(source)}'"
            )

    def add(self, source: Source, name: bytes) -> None:
        """The source is there, and is done."""
        self._taken[name] = source

    def _clashes(self, source: Source, name: bytes) -> bool:
        if name in self._taken:
            return True
        if not name:
            return any(self._holds(source, other) for other in self._taken)
        whole = self._taken.get(b"")
        return whole is not None and self._holds(whole, name)


def check_name(target: bytes, is_directory: bool) -> None:
    """Refuse to give a file the name of a directory: one that ends with a slash.

    Raises NotADirectory.
    """
    if target.endswith(b"/") and not is_directory:
        raise NotADirectory(f"{paths.show(target)}: not the name of a file: it ends with a slash")


def each_once(sources: list[Source], remark: Callable[[str], None]) -> list[Source]:
    """The sources without those that were named before, of which a remark tells."""
    once: dict[Source, None] = {}
    for source in sources:
        if source in once:
            remark(f"{paths.show(source)}: named more than once")
        once[source] = None
    return list(once)
