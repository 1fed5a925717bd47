"""What callers may write for paths and for what happens to a target that is there.

Lives here: the types, making one kind of them, the rules of cp about a target.
Lives elsewhere: how a path is cut into names (ftpwire/paths.py), local paths that were named
(transfer/named.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, TypeVar

from ftpwire import messages, paths
from ftpwire.errors import InvalidPath
from ftpwire.paths import RemotePath

if TYPE_CHECKING:
    from ftpclient.transfer.selection import Selection

AnyPath = str | bytes | PurePosixPath
"""A remote path."""
LocalPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Overwrite = messages.Overwrite
Replace = Literal["always", "never"]
"""Of the words in `Overwrite` those for what has no time of its own to compare."""

Path = TypeVar("Path", bound=AnyPath | LocalPath)


def as_typed(path: AnyPath) -> bytes:
    """The bytes of a remote path, as it was written. Raises TypeError."""
    if isinstance(path, PurePosixPath):
        path = str(path)
    if isinstance(path, str):
        return paths.from_text(path)
    if isinstance(path, bytes):
        return path
    raise TypeError(f"a remote path is str, bytes or PurePosixPath, not {type(path).__name__}")


def named(path: AnyPath) -> str | bytes:
    """A remote path as the name of a file object."""
    return str(path) if isinstance(path, PurePosixPath) else path


def one_or_several(given: Path | Iterable[Path]) -> list[Path]:
    """The paths that were given: one, or several. A string is one path, never its letters."""
    if isinstance(given, (str, bytes, os.PathLike)):
        return [given]
    return list(given)


def overwriting(word: Overwrite | bool) -> Overwrite:
    """What to do with a target that is there; True and False are ``always`` and ``never``.

    Raises ValueError.
    """
    if isinstance(word, bool):
        return "always" if word else "never"
    if word not in ("always", "never", "older"):
        raise ValueError(f"overwrite is 'always', 'never' or 'older', not {word!r}")
    return word


def replacing(word: Replace | bool) -> Replace:
    """As `overwriting`, for links, moves and copies."""
    if isinstance(word, bool):
        return "always" if word else "never"
    if word not in ("always", "never"):
        raise ValueError(f"overwrite is 'always' or 'never' here, not {word!r}")
    return word


def absolute(cwd: RemotePath, path: AnyPath) -> RemotePath:
    """The absolute remote path for what was given. Raises InvalidPath."""
    typed = as_typed(path)
    if not typed:  # a variable that was not set, most likely: never the current directory
        raise InvalidPath("an empty path")
    return paths.resolve(cwd, typed)


def place_for(source: bytes, target: RemotePath, *, into: bool) -> RemotePath:
    """Where something named like ``source`` goes when ``target`` was given, as cp has it.

    Args:
        into: ``target`` is known to be a directory.
    """
    name = paths.name_of(source)
    if into and name not in (b"", b".", b".."):
        return paths.child(target, name)
    return target


@contextmanager
def selected(
    exclude: Iterable[str], files_from: Iterable[AnyPath] | None, *, ignore_files: bool = False
) -> Iterator[Selection]:
    """What of a tree is meant.

    Args:
        exclude: gitignore patterns, in order: the last that matches decides.
        files_from: Paths below the source; None: all of it.
        ignore_files: The .ftpignore files of the tree hold as well.

    Raises:
        ValueError: One is no pattern.
        InvalidPath: A path leads out of the source.
    """
    from ftpclient.transfer.patterns import option_rules
    from ftpclient.transfer.selection import Selection

    if isinstance(exclude, str):
        raise TypeError("exclude takes several patterns: a list of them, not one string")
    patterns = tuple((True, pattern) for pattern in exclude)
    option_rules(patterns)
    if files_from is None:
        yield Selection(patterns, ignore_files)
        return
    from ftpclient.transfer.path_list import PathList

    if isinstance(files_from, (str, bytes)):
        raise TypeError("files_from takes several paths: a list of them, not one")
    with closing(PathList(map(as_typed, files_from))) as only:
        yield Selection(patterns, ignore_files, only=only)
