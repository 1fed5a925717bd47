"""Arguments of the public methods: paths, and what to do if a target exists.

Lives here: the types, converting them into one form, the rules of cp about a target.
Lives elsewhere: how a path is split into names (ftpwire/paths.py), local files that were named
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
"""The values of `Overwrite` for requests that have no mtime to compare."""

Path = TypeVar("Path", bound=AnyPath | LocalPath)


def as_typed(path: AnyPath) -> bytes:
    """Return the bytes of a remote path as it was given. Raises TypeError."""
    if isinstance(path, PurePosixPath):
        path = str(path)
    if isinstance(path, str):
        return paths.from_text(path)
    if isinstance(path, bytes):
        return path
    raise TypeError(f"a remote path is str, bytes or PurePosixPath, not {type(path).__name__}")


def as_prefix(prefix: str | bytes) -> bytes:
    """Return the bytes that names must begin with. Raises InvalidPath, TypeError."""
    begin = as_typed(prefix)
    if not paths.is_prefix(begin):
        raise InvalidPath(
            f"{paths.show(begin[:40])}: no name begins with this (a prefix has no slash, no NUL "
            f"byte, and at most {paths.MAX_NAME} bytes)"
        )
    return begin


def named(path: AnyPath) -> str | bytes:
    """Return a remote path in the form for the ``name`` of a file object."""
    return str(path) if isinstance(path, PurePosixPath) else path


def one_or_several(given: Path | Iterable[Path]) -> list[Path]:
    """Return a list of the given paths. A string is one path, not a sequence of letters."""
    if isinstance(given, (str, bytes, os.PathLike)):
        return [given]
    return list(given)


def overwriting(word: Overwrite | bool) -> Overwrite:
    """Return what to do if a target exists; True means ``always``, False ``never``.

    Raises ValueError.
    """
    if isinstance(word, bool):
        return "always" if word else "never"
    if word not in ("always", "never", "older"):
        raise ValueError(f"overwrite must be 'always', 'never' or 'older', not {word!r}")
    return word


def replacing(word: Replace | bool) -> Replace:
    """Return the same as `overwriting`, for links, moves and copies."""
    if isinstance(word, bool):
        return "always" if word else "never"
    if word not in ("always", "never"):
        raise ValueError(f"overwrite must be 'always' or 'never' here, not {word!r}")
    return word


def absolute(cwd: RemotePath, path: AnyPath) -> RemotePath:
    """Return the absolute remote path for an argument. Raises InvalidPath."""
    typed = as_typed(path)
    if not typed:  # probably an unset variable: it must not mean the current directory
        raise InvalidPath("an empty path")
    return paths.resolve(cwd, typed)


def target_for(source: bytes, target: RemotePath, *, into: bool) -> RemotePath:
    """Return the target path of ``source`` when ``target`` was given, by the rules of cp.

    Args:
        into: True if ``target`` is a directory.
    """
    name = paths.name_of(source)
    if into and name not in (b"", b".", b".."):
        return paths.child(target, name)
    return target


@contextmanager
def selected(
    exclude: Iterable[str], files_from: Iterable[AnyPath] | None, *, ignore_files: bool = False
) -> Iterator[Selection]:
    """Yield the selection of files of a tree.

    Args:
        exclude: gitignore patterns, in order; the last one that matches decides.
        files_from: Paths below the source; None for everything.
        ignore_files: True to apply the .ftpignore files of the tree, too.

    Raises:
        ValueError: A pattern is invalid.
        InvalidPath: A path leads out of the source.
    """
    from ftpclient.transfer.patterns import option_rules
    from ftpclient.transfer.selection import Selection

    if isinstance(exclude, str):
        raise TypeError("exclude must be a list of patterns, not one string")
    patterns = tuple((True, pattern) for pattern in exclude)
    option_rules(patterns)
    if files_from is None:
        yield Selection(patterns, ignore_files)
        return
    from ftpclient.transfer.path_list import PathList

    if isinstance(files_from, (str, bytes)):
        raise TypeError("files_from must be a list of paths, not one path")
    with closing(PathList(map(as_typed, files_from))) as only:
        yield Selection(patterns, ignore_files, only=only)
