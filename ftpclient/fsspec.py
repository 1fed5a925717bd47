"""The files of a server for fsspec, and thus for pandas, dask, pyarrow, zarr and others.

Lives here: fsspec's methods, implemented with `Client`.
Lives elsewhere: the verbs (client.py), the file objects (files/).

This needs the extra ``ftpd[fsspec]``, which registers the protocol ``ftpd``:

    import pandas

    frame = pandas.read_csv(
        "ftpd://alice@files.example.net/data.csv", storage_options={"password": "…"}
    )
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from glob import has_magic
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from fsspec.callbacks import DEFAULT_CALLBACK, Callback
from fsspec.compression import compr
from fsspec.core import get_compression
from fsspec.spec import AbstractFileSystem
from fsspec.utils import isfilelike, stringify_path

from ftpclient.arguments import Replace
from ftpclient.client import Client, before_wildcards
from ftpclient.errors import public
from ftpclient.files.opening import WriteMode
from ftpclient.files.reader import Reader
from ftpclient.files.writer import HELD, Writer
from ftpclient.transfer.report import Listener
from ftpclient.transfer.spool import held
from ftpwire import paths
from ftpwire.errors import FtpError
from ftpwire.messages import Entry

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Info = dict[str, Any]

_AROUND_ENTRY = 1500
"""Estimated bytes of memory for the information about one entry."""
_ADVICE = "Client.walk returns it in parts"
_SCHEME = "ftpd://"
_OF_FSSPEC = ("use_listings_cache", "listings_expiry_time", "max_paths", "asynchronous", "loop")
_WRITES: dict[str, WriteMode] = {"wb": "wb", "xb": "xb", "ab": "ab"}
_TYPES = {"dir": "directory", "file": "file", "link": "link"}


class FtpFileSystem(AbstractFileSystem):
    """The files of one account, for fsspec.

    Paths are those of the account: ``/data.csv``, or ``ftpd://USER@HOST:PORT/data.csv``. Missing
    parent directories of a written file are created. A file appears as a whole when it is closed,
    in a transaction when that ends. Listings are not cached.

    Errors are those of `Client`; a `NotFound` is a FileNotFoundError, and so on. A pickled file
    system makes a connection of its own. The pickle contains ``storage_options``, including a
    password.

    Args:
        server: As in `Client`.
        options: ``password``, ``fingerprint``, ``known_hosts``, ``ca``, … as in `Client`; and
            fsspec's own.
    """

    protocol = "ftpd"
    root_marker = "/"

    def __init__(self, server: str | None = None, **options: Any) -> None:
        if self._cached:
            return
        super().__init__(**{name: options.pop(name) for name in _OF_FSSPEC if name in options})
        self.client = Client(server, **options)

    def close(self) -> None:
        """Close the connection. The next method reconnects."""
        self.client.close()

    # paths -------------------------------------------------------------------------------

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(one) for one in path]
        text = str(stringify_path(path))
        if text.startswith(_SCHEME):
            text = text.removeprefix(_SCHEME).partition("/")[2]
        return "/" + text.strip("/")

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        if not path.startswith(_SCHEME):
            return {}
        server = path.removeprefix(_SCHEME).partition("/")[0]
        return {"server": server} if server else {}

    def unstrip_protocol(self, name: str) -> str:
        """Return the URL of a path."""
        address = self.client.address
        where = "" if address.path is not None else str(address)
        return f"{_SCHEME}{where}{self._strip_protocol(name)}"

    @property
    def fsid(self) -> str:
        """The identity of this account's files."""
        return f"{_SCHEME}{self.client.address}"

    # reading -----------------------------------------------------------------------------

    def ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        """List a directory; for a file, return the file itself.

        Args:
            kwargs: ``prefix`` lists only names that begin with it, as in `Client.list_dir`.
        """
        path = self._strip_protocol(path)
        prefix = kwargs.get("prefix", b"")
        entries = list(_held(self.client.list_dir(path, prefix=prefix)))
        targets: dict[bytes, Entry] = {}
        if any(entry.type == "link" for entry in entries):
            followed = self.client.list_dir(
                path, follow=True, on_problem=lambda problem: None, prefix=prefix
            )
            links = {entry.path for entry in entries if entry.type == "link"}
            targets = {
                entry.path: entry
                for entry in followed
                if entry.type == "file" and entry.path in links
            }
        infos = [
            _info(_below(path, entry.path), entry, targets.get(entry.path)) for entry in entries
        ]
        infos.sort(key=lambda info: str(info["name"]))
        return infos if detail else [info["name"] for info in infos]

    def info(self, path: str, **kwargs: Any) -> Info:
        """Return the state of a path. Links are followed; a dangling link is described itself."""
        path = self._strip_protocol(path)
        entry = self.client.stat(path)
        target = self.client.find(path, follow=True) if entry.type == "link" else None
        return _info(path, entry, target)

    def exists(self, path: str, **kwargs: Any) -> bool:
        """Return True if a path exists. Raises the error if that cannot be found out."""
        return self.client.exists(self._strip_protocol(path))

    def lexists(self, path: str, **kwargs: Any) -> bool:
        """Return True if a path exists, even as a dangling link."""
        return self.client.exists(self._strip_protocol(path), follow=False)

    def isdir(self, path: str) -> bool:
        """Return True if there is a directory, or a link to one."""
        return self.client.is_dir(self._strip_protocol(path))

    def isfile(self, path: str) -> bool:
        """Return True if there is a file, or a link to one."""
        entry = self.client.find(self._strip_protocol(path), follow=True)
        return entry is not None and entry.type == "file"

    def find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        detail: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Find all files below a path: one request, where fsspec itself needs one per directory."""
        path = self._strip_protocol(path)
        found: dict[str, Info] | None = None
        if maxdepth is None and self.isdir(path):
            found = self._find_all(path, withdirs)
        if found is None:
            return super().find(path, maxdepth, withdirs, detail, **kwargs)
        names = sorted(found)
        return {name: found[name] for name in names} if detail else names

    def glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        """Find the paths that match a pattern.

        If only the last name is a pattern, the server sends only names that begin like it.
        """
        directory, _, last = self._strip_protocol(path).rpartition("/")
        if has_magic(last) and "**" not in last and not has_magic(directory):
            begin = before_wildcards(paths.from_text(last))
            if paths.is_prefix(begin):
                kwargs["prefix"] = begin
        return super().glob(path, maxdepth, **kwargs)

    def _find_all(self, path: str, withdirs: bool) -> dict[str, Info] | None:
        """Return everything below a path; None if there are links, which must be followed."""
        found = {path: self.info(path)} if withdirs else {}
        everything = self.client.list_dir(path, recursive=True, on_problem=lambda problem: None)
        for entry in _held(everything):
            if entry.type == "link":
                return None
            if withdirs or entry.type != "dir":
                name = _below(path, entry.path)
                found[name] = _info(name, entry)
        return found

    def checksum(self, path: str) -> int:
        """Return a number that changes when the file's contents change."""
        return int.from_bytes(self.client.hash(self._strip_protocol(path)).digest)

    def modified(self, path: str) -> datetime:
        """Return the time of a file's last change."""
        return datetime.fromtimestamp(self.info(path)["mtime"], UTC)

    # contents ----------------------------------------------------------------------------

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: dict[str, Any] | None = None,
        compression: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """Open a file object. A written file is stored, as a whole, when it is closed.

        It is discarded if an exception leaves its ``with`` block. This also works for text and
        compressed files, unlike with fsspec's own wrappers.
        """
        if "b" not in mode:
            names = ("encoding", "errors", "newline")
            of_text = {name: kwargs.pop(name) for name in names if name in kwargs}
            binary = self.open(path, mode.replace("t", "") + "b", compression=compression, **kwargs)
            return _Text(binary, **of_text)
        file = super().open(path, mode, **kwargs)
        name = get_compression(path, compression)
        if name is None:
            return file
        packed = compr[name](file, mode=mode[0])
        return _Packed(file, packed) if isinstance(file, Writer) else packed

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Reader | Writer:
        if mode == "rb":
            return self.client.open(path)
        if mode not in _WRITES:
            raise ValueError("mode must be 'rb', 'wb', 'xb' or 'ab', or one of them for text")
        return self.client.open(path, _WRITES[mode], parents=True, autocommit=autocommit)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        """Return the bytes of a file, or those from ``start`` to ``end``, as in a slice."""
        path = self._strip_protocol(path)
        if start is None and end is None:
            return self.client.read(path)
        if (start or 0) < 0 or (end or 0) < 0:
            start, end, _ = slice(start, end).indices(int(self.info(path)["size"]))
        length = None if end is None else max(0, end - (start or 0))
        return self.client.read(path, start or 0, length)

    def pipe_file(
        self, path: str, value: ReadableBuffer, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        """Store bytes as a file. Raises AlreadyExists with ``mode="create"``."""
        overwrite: Replace = "never" if mode == "create" else "always"
        self.client.write(self._strip_protocol(path), value, overwrite=overwrite, parents=True)

    def get_file(
        self,
        rpath: str,
        lpath: Any,
        callback: Callback = DEFAULT_CALLBACK,
        outfile: IO[bytes] | None = None,
        **kwargs: Any,
    ) -> None:
        """Download a file, verified, and whole or not at all. For a directory, create one.

        Args:
            lpath: A path, or a file object to write to.
        """
        source = self._strip_protocol(rpath)
        into = lpath if outfile is None and isfilelike(lpath) else outfile
        if into is None and self.isdir(source):
            os.makedirs(lpath, exist_ok=True)
            return
        listener = _ProgressListener(callback)
        if callback is not DEFAULT_CALLBACK:
            callback.set_size(self.size(source))
        if into is None:
            os.makedirs(os.path.dirname(os.path.abspath(lpath)), exist_ok=True)
            self.client.get_file(source, lpath, listener=listener)
            return
        with self.client.open(source) as file:
            while data := file.read(self.blocksize):
                into.write(data)
                listener.advanced(len(data))

    def put_file(
        self,
        lpath: str | os.PathLike[str],
        rpath: str,
        callback: Callback = DEFAULT_CALLBACK,
        mode: str = "overwrite",
        **kwargs: Any,
    ) -> None:
        """Upload a file; for a directory, create one. Raises AlreadyExists with
        ``mode="create"``."""
        target = self._strip_protocol(rpath)
        if os.path.isdir(lpath):
            self.makedirs(target, exist_ok=True)
            return
        overwrite: Replace = "never" if mode == "create" else "always"
        size = os.stat(lpath).st_size
        callback.set_size(size)
        if size > HELD:
            self.client.make_dir(self._parent(target), parents=True)
            self.client.put_file(
                lpath,
                target,
                overwrite=overwrite,
                resume=mode != "create",  # then it is an error even if the same file exists
                listener=_ProgressListener(callback),
            )
            return
        data = Path(lpath).read_bytes()
        self.client.write(target, data, overwrite=overwrite, parents=True)
        callback.relative_update(len(data))

    def touch(self, path: str, truncate: bool = True, **kwargs: Any) -> None:
        """Create an empty file. Without ``truncate``, an existing file only gets a new mtime."""
        path = self._strip_protocol(path)
        if truncate or not self.exists(path):
            self.pipe_file(path, b"")
        else:
            self.client.set_attributes(path, mtime_ns=time.time_ns())

    # changing ----------------------------------------------------------------------------

    def mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        """Create a directory. Raises AlreadyExists."""
        path = self._strip_protocol(path)
        if create_parents and self._parent(path) != path:
            self.client.make_dir(self._parent(path), parents=True)
        self.client.make_dir(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Create a directory and its parents. Raises AlreadyExists without ``exist_ok``."""
        if not exist_ok:
            self.mkdir(path)
        elif self._strip_protocol(path) != "/":
            self.client.make_dir(self._strip_protocol(path), parents=True)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory. Raises NotADirectory, NotEmpty."""
        path = self._strip_protocol(path)
        if self.client.stat(path).type != "dir":
            raise NotADirectoryError(path)
        self.client.remove(path)

    def rm_file(self, path: str) -> None:
        """Remove a file, a link or an empty directory."""
        self.client.remove(self._strip_protocol(path))

    def rm(self, path: Any, recursive: bool = False, maxdepth: int | None = None) -> None:
        """Remove files; with ``recursive`` also directories with their contents."""
        if maxdepth is not None:
            super().rm(path, recursive=recursive, maxdepth=maxdepth)
            return
        found = self.expand_path(path)
        with self.client.operation(" ".join(["fsspec rm", *found])):
            for one in found:
                if not recursive and self.client.stat(one).type == "dir":
                    raise IsADirectoryError(f"{one}: a directory: set recursive=True")
                self.client.remove(one, recursive=recursive)

    def cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        """Copy a file on the server; of a directory, only the directory itself."""
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if self.isdir(source):
            self.makedirs(target, exist_ok=True)
            return
        self._with_parents(target, lambda: self.client.copy(source, target))

    def mv(
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        maxdepth: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Rename a file, or with ``recursive`` a directory; into ``path2`` if that is one."""
        simple = isinstance(path1, str) and isinstance(path2, str) and not has_magic(path1)
        if not simple or maxdepth is not None:
            super().mv(path1, path2, recursive=recursive, maxdepth=maxdepth, **kwargs)
            return
        source, target = self._strip_protocol(path1), self._strip_protocol(path2)
        if not recursive and self.client.stat(source).type == "dir":
            raise IsADirectoryError(f"{source}: a directory: set recursive=True")
        if path2.endswith("/") or self.isdir(target):
            target = _below(target, os.fsencode(source.rpartition("/")[2]))
        if source != target:
            self._with_parents(target, lambda: self.client.move(source, target))

    def _with_parents(self, target: str, change: Callable[[], object]) -> None:
        """Do ``change``; if a parent directory of its target is missing, create it and retry."""
        try:
            change()
        except FileNotFoundError:
            above = self._parent(target)
            if self.exists(above):
                raise
            self.makedirs(above, exist_ok=True)
            change()


class _ProgressListener(Listener):
    """Reports progress to fsspec's callback."""

    def __init__(self, callback: Callback) -> None:
        self._callback = callback

    def advanced(self, count: int) -> None:
        self._callback.relative_update(count)


class _Text(io.TextIOWrapper):
    """A text file that is discarded if an exception leaves its ``with`` block."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and isinstance(self.buffer, (Writer, _Packed)):
            self.buffer.discard()
        self.close()

    def __del__(self) -> None:
        if isinstance(self.buffer, (Writer, _Packed)) and not self.closed:
            self.buffer.discard()


class _Packed(io.BufferedIOBase):
    """A compressed file on top of another one. Both are closed or discarded together."""

    def __init__(self, file: Writer, packed: IO[bytes]) -> None:
        self._file = file
        self._packed = packed
        self._is_gone = False

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        return self._packed.write(data)

    def flush(self) -> None:
        if not self._is_gone:
            self._packed.flush()

    def close(self) -> None:
        if self.closed:
            return
        self._is_gone = True  # the compressor flushes this object while it is closed
        try:
            self._packed.close()
            self._file.close()
        except BaseException:
            self.discard()
            raise
        super().close()

    def discard(self) -> None:
        """Discard the file."""
        self._is_gone = True
        self._file.discard()
        super().close()

    def __del__(self) -> None:
        self._is_gone = True
        super().close()  # the file below warns that it was not closed

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def _held(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Yield entries of a listing that fsspec needs as a whole, unless there are too many.

    Raises TooLong.
    """
    try:
        yield from held(entries, lambda entry: len(entry.path) + _AROUND_ENTRY, _ADVICE)
    except FtpError as error:
        raise public(error) from None


def _below(directory: str, name: bytes) -> str:
    """Return the path of a name in the listing of a directory; of a file, the file's path."""
    return f"{directory.rstrip('/')}/{os.fsdecode(name)}" if name else directory


def _info(path: str, entry: Entry, target: Entry | None = None) -> Info:
    """Return fsspec's description of an entry.

    Args:
        target: What a link leads to; None for a dangling link.
    """
    shown = entry if target is None else target
    info: Info = {
        "name": path,
        "size": 0 if shown.type == "dir" else shown.size,
        "type": _TYPES.get(shown.type, "other"),
        "mode": shown.mode,
        "mtime": shown.mtime_ns / 1e9,
        "islink": entry.type == "link",
    }
    if entry.target is not None:
        info["destination"] = os.fsdecode(entry.target)
    return info
