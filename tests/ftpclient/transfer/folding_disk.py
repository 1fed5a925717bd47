"""A disk that takes several names for one, as those of macOS and Windows do, on one that doesn't.

Below one directory, every name that is asked for is found under what is there already if both are
the same without regard to case and Unicode form. New names are spelled as they were given.
"""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ftpwire import beneath

FOLDS: dict[str, Callable[[str], str]] = {
    "case": str.casefold,
    "form": lambda name: unicodedata.normalize("NFD", name),
    "both": lambda name: unicodedata.normalize("NFD", name).casefold(),
}

_ONE_PATH = ("open", "stat", "lstat", "mkdir", "rmdir", "unlink", "utime", "chmod", "scandir")
_TWO_PATHS = ("rename", "replace", "link")


class _Disk:
    def __init__(self, root: Path, fold: Callable[[str], str]) -> None:
        self.root = os.fsencode(root)
        self.fold = fold
        self.listdir, self.readlink = os.listdir, os.readlink

    def there(self, path: Any, directory: int | None = None) -> Any:
        """The path under which the real disk has what ``path`` names."""
        if isinstance(path, int):
            return path
        above = os.getcwdb() if directory is None else self._path_of(directory)
        whole = os.path.normpath(os.path.join(above, os.fsencode(path)))
        if not whole.startswith(self.root + b"/"):
            return path
        found = self.root
        for name in whole[len(self.root) + 1 :].split(b"/"):
            found = os.path.join(found, self._spelled(found, name))
        if directory is not None:
            found = found[len(above) + 1 :] if found != above else b"."
        return found if isinstance(os.fspath(path), bytes) else os.fsdecode(found)

    def _path_of(self, directory: int) -> bytes:
        return self.readlink(b"/proc/self/fd/%d" % directory)

    def _spelled(self, directory: bytes, name: bytes) -> bytes:
        try:
            names = self.listdir(directory)
        except OSError:
            return name
        if name in names:
            return name
        wanted = self.fold(os.fsdecode(name))
        return next((one for one in names if self.fold(os.fsdecode(one)) == wanted), name)


@contextmanager
def folding(root: Path, kind: str) -> Iterator[None]:
    """Have a directory, which has to exist, and all below it take names as a kind of disk does."""
    disk = _Disk(root, FOLDS[kind])
    with pytest.MonkeyPatch.context() as patch:
        for name in _ONE_PATH:
            patch.setattr(os, name, _of_one(getattr(os, name), disk))
        for name in _TWO_PATHS:
            patch.setattr(os, name, _of_two(getattr(os, name), disk))
        real_link, real_rename, real_open = os.symlink, beneath._rename, beneath.Tree.open

        def symlink(target: Any, path: Any, *ignored: Any, dir_fd: int | None = None) -> None:
            real_link(target, disk.there(path, dir_fd), dir_fd=dir_fd)

        def rename(above: int, source: bytes, to: int, target: bytes, flags: int) -> None:
            real_rename(above, disk.there(source, above), to, disk.there(target, to), flags)

        def opened(self: Any, parts: Any, flags: int, mode: int = 0) -> int:
            path = disk.there(b"/".join(parts), self.fd) if parts else b""
            return real_open(self, path.split(b"/") if path else (), flags, mode)

        patch.setattr(os, "symlink", symlink)
        patch.setattr(beneath, "_rename", rename)
        patch.setattr(beneath.Tree, "open", opened)
        yield


def _of_one(real: Callable[..., Any], disk: _Disk) -> Callable[..., Any]:
    @functools.wraps(real)
    def call(path: Any = ".", *args: Any, **options: Any) -> Any:
        return real(disk.there(path, options.get("dir_fd")), *args, **options)

    return call


def _of_two(real: Callable[..., Any], disk: _Disk) -> Callable[..., Any]:
    @functools.wraps(real)
    def call(source: Any, target: Any, **options: Any) -> Any:
        return real(
            disk.there(source, options.get("src_dir_fd")),
            disk.there(target, options.get("dst_dir_fd")),
            **options,
        )

    return call
