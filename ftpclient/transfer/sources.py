"""The named sources of one command: none replaces what another one has just made.

Lives here: which of several sources with the same name is transferred, and the error for a missing
target.
Lives elsewhere: what a target means (client.py), different names that a file system treats as the
same (folding.py).

As in GNU cp and mv, the second source with the same base name is refused, with everything in it. So
only the names of sources have to be remembered, not those of entries in trees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from ftpwire import paths
from ftpwire.errors import AlreadyExists, NotADirectory

Source = TypeVar("Source", bound=bytes)


class NoTargetDirectory(NotADirectory):
    """The directory into which the sources should go does not exist."""

    code = "usage"
    exit_code = 2


class Sources(Generic[Source]):
    """The sources that one command puts into one directory, in their order.

    Args:
        holds: Returns whether a source directory has an entry with a given name. Called only for
            a source whose contents go directly into the target (``DIR/.``).
    """

    def __init__(self, holds: Callable[[Source, bytes], bool]) -> None:
        self._holds = holds
        self._taken: dict[bytes, Source] = {}

    def check(self, source: Source, name: bytes, target: bytes) -> None:
        """Refuse a source whose target was made by another source of this command.

        Args:
            name: The source's name in the target directory; empty if its contents go there
                directly.

        Raises:
            AlreadyExists: With the text that GNU cp uses.
        """
        if self._clashes(source, name):
            raise AlreadyExists(
                f"will not overwrite just-created '{paths.show(target)}' "
                f"with '{paths.show(source)}'"
            )

    def add(self, source: Source, name: bytes) -> None:
        """Note that a source exists and is transferred."""
        self._taken[name] = source

    def _clashes(self, source: Source, name: bytes) -> bool:
        if name in self._taken:
            return True
        if not name:
            return any(self._holds(source, other) for other in self._taken)
        whole = self._taken.get(b"")
        return whole is not None and self._holds(whole, name)


def check_name(target: bytes, is_directory: bool) -> None:
    """Refuse to give a file a directory's name, one that ends with a slash.

    Raises:
        NotADirectory
    """
    if target.endswith(b"/") and not is_directory:
        raise NotADirectory(f"{paths.show(target)}: a file name cannot end with a slash")


def each_once(sources: list[Source], remark: Callable[[str], None]) -> list[Source]:
    """Return the sources without repetitions; each repetition is mentioned in a remark."""
    once: dict[Source, None] = {}
    for source in sources:
        if source in once:
            remark(f"{paths.show(source)}: named more than once")
        once[source] = None
    return list(once)
