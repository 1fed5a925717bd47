"""Client: the Python API that all commands use.

Lives here: the methods, patterns, transfers by the rules of cp.
Lives elsewhere: verbs that only send requests (verbs.py), connecting and the account (base.py),
transferring files (transfer/job.py), the connection (connection/connection.py), printing
(cli/render.py).
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, overload

from ftpclient import verbs
from ftpclient.arguments import (
    AnyPath,
    LocalPath,
    Overwrite,
    Replace,
    absolute,
    as_prefix,
    as_typed,
    named,
    one_or_several,
    overwriting,
    replacing,
    selected,
    target_for,
)
from ftpclient.base import BaseClient
from ftpclient.connection.advice import advised
from ftpclient.guard import local, stream, verb
from ftpclient.transfer.report import Listener, One, Result, Summary
from ftpclient.transfer.resume_notes import Unfinished
from ftpclient.transfer.sources import NoTargetDirectory, Sources, check_name, each_once
from ftpclient.verbs import Conflict, beginning, from_the_top, report_problems, run
from ftpwire import messages, paths
from ftpwire.errors import (
    AlreadyExists,
    CommandError,
    DiskFull,
    Forbidden,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotAtomic,
    NotFound,
    QuotaExceeded,
)
from ftpwire.messages import (
    Copied,
    Entry,
    Hashed,
    InTrash,
    KeptDropped,
    KeptUpload,
    Problem,
    Removed,
    Restored,
    SpaceInfo,
    TrashedOperation,
)
from ftpwire.paths import RemotePath

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

    from ftpclient.files.opening import WriteMode
    from ftpclient.files.reader import Reader
    from ftpclient.files.writer import Writer
    from ftpclient.sync.check import CheckOptions, CheckSummary
    from ftpclient.sync.job import Confirm, SyncSummary
    from ftpclient.sync.job import Options as SyncOptions
    from ftpclient.sync.plan import Route
    from ftpclient.transfer.job import Options
    from ftpclient.transfer.ranges import Piece
    from ftpclient.transfer.trash import Trashed, Version

_AROUND_PATH = 200
"""Estimated bytes of memory for a path besides its own length."""
_MAGIC = (b"*", b"?", b"[")
_TAMED = rb"\[([*?\[])\]"
"""Matches an escaped wildcard in a pattern; the shell escapes quoted ones like this."""


class Client(BaseClient):
    """A client with a session on a server.

    Remote paths are ``str``, ``bytes`` or ``PurePosixPath``, absolute or relative to ``cwd``; local
    paths are ``str``, ``bytes`` or ``os.PathLike``. A parameter that takes several paths also takes
    one.

    Every verb has a parameter ``timeout``: the most seconds for the whole verb, or for each step of
    a listing. After that it raises TimedOut, and the next verb reconnects. The errors are those of
    ``ftpclient.errors``.

    Any number of threads may use a client; it runs one verb at a time. While a listing is open,
    other threads wait until it is exhausted or closed. A function that a verb calls (a listener, or
    one that asks for a password) must not call verbs of the same client: they raise RuntimeError.
    After a fork, the child process makes a connection of its own. Ctrl-C, or an error that a
    listener raises, ends the verb; the client remains usable.

    A client can be pickled: with its arguments except ``ask``, ``ask_takeover``, ``interrupt`` and
    ``remark``, and with ``cwd`` and ``limit_rate``. The copy makes a connection of its own. A
    password that was given as an argument is stored in the pickle in clear text.

        with Client("alice@example.net", password="…") as client:
            client.put(["report.pdf"], "/inbox/")
            for entry in client.list_dir("/inbox"):
                print(entry.path, entry.size)

    Args:
        server: ``[USER@]HOST[:PORT]`` or the name of a saved server; None for FTP_SERVER, else the
            server of the last log-in, else the local machine.
        password: The password, or a function that asks for it. The function is called after the
            server's key was verified, and only if there is no FTP_PASSWORD, no valid token saved by
            `ftp login`, and no entry in netrc.
        password_tries: How often the function is called if the server refuses the password.
        plaintext: True to connect without TLS.
        saved_token: False to ignore the saved token.
        verify: False to accept a whole file that the server sends without a digest, for servers
            that cannot compute one. A digest that is sent is always compared.
        remark: Function to call with texts that the user should see, once for each text.
        accept_new: True to save and trust the key of an unknown server without asking.
        known_hosts: File of the known servers' keys; None for the user's own.
        fingerprint: The required fingerprint of the server's key (``SHA256:…``), which takes
            precedence over the known hosts, and is saved there. None for FTP_SERVER_KEY if the
            server is that of FTP_SERVER.
        ca: File of certificates to trust instead of the system's authorities.
        ask: Function that asks if an unknown key is to be trusted.
        ask_takeover: Function that asks if the certificate of an authority replaces the saved key.
        interrupt: Set it to stop the running verb.
        retry_for: Seconds without progress for which a transfer (`put`, `get`, `sync`, `read`,
            `write`) reconnects and resumes after a lost connection; 0 for never. Each byte that is
            acknowledged or received restarts this time. A first connection that fails is not
            retried. `remove`, `move`, `copy`, `make_dir` and `make_link` retry for the same time if
            the server keeps a trash: such a server does a repeated request only once.
        retries: The most lost connections of one transfer; None for no limit.
    """

    # paths -------------------------------------------------------------------------------

    @verb
    def change_dir(self, path: AnyPath, *, timeout: float | None = None) -> RemotePath:
        """Change the remote directory that relative paths start from. Return its absolute path.

        Raises NotFound, NotADirectory.
        """
        self.cwd = run(verbs.directory(self._ask, self._resolve(path)))
        return self.cwd

    @verb
    def glob(self, pattern: AnyPath, *, timeout: float | None = None) -> list[RemotePath]:
        """Return the remote paths that match a pattern with ``*``, ``?`` or ``[…]``, sorted.

        A path without wildcards, or one that exists literally, is returned unchanged.

        Raises:
            NotFound: Nothing matches.
            TooLong: There are too many matches to keep in memory.
        """
        from ftpclient.transfer.spool import held

        path = self._resolve(pattern)
        if not is_pattern(path):
            return [path]
        if self.find(path, follow=False) is not None:
            return [path]
        if not is_pattern(_untamed(path)):
            return [RemotePath(re.sub(_TAMED, rb"\1", path))]
        found = [paths.ROOT]
        for part in paths.split(path):
            if is_pattern(part):
                matches = (match for base in found for match in self._matches(base, part))
                found = list(held(matches, size_of_path, "name a directory, or fewer files"))
            else:
                found = [paths.child(base, part) for base in found]
        result = [one for one in found if self.find(one, follow=False) is not None]
        if not result:
            raise NotFound(f"{paths.show(path)}: nothing matches", path=path)
        return sorted(result)

    def _matches(self, directory: RemotePath, pattern: bytes) -> Iterator[RemotePath]:
        matcher = re.compile(fnmatch.translate(paths.to_text(pattern)))
        hidden = pattern.startswith(b".")
        try:
            for entry in self.list_dir(directory, prefix=before_wildcards(pattern)):
                if entry.path.startswith(b".") and not hidden:
                    continue
                if entry.path and matcher.match(paths.to_text(entry.path)):
                    yield paths.child(directory, entry.path)
        except (NotFound, NotADirectory):
            return  # an earlier part matched something that is not a directory

    def _resolve_in(self, path: AnyPath, in_trash: InTrash | None) -> RemotePath:
        return self._resolve(path) if in_trash is None else absolute(paths.ROOT, path)

    # reading -----------------------------------------------------------------------------

    @verb
    def whoami(self, *, timeout: float | None = None) -> str:
        """Return the account's name as the server knows it."""
        return run(verbs.whoami(self._ask))

    @verb
    def space(self, *, timeout: float | None = None) -> SpaceInfo:
        """Return the quota, the free space and the usage of the account, in bytes."""
        return run(verbs.space(self._ask))

    @verb
    def kept(self, *, timeout: float | None = None) -> list[KeptUpload]:
        """Return the account's interrupted uploads that the server has kept. ``put`` resumes them.

        Raises:
            ProtocolError: The server is too old to list them.
            TooLong: There are too many to keep in memory.
        """
        from ftpclient.transfer.kept import kept_uploads
        from ftpclient.transfer.spool import held

        uploads = kept_uploads(self.connection)
        advice = "the server's list does not end"
        return list(held(uploads, lambda one: size_of_path(one.path or b""), advice))

    @verb
    def drop_kept(
        self, path: AnyPath | None = None, *, timeout: float | None = None
    ) -> KeptDropped:
        """Discard the interrupted uploads to a path, or all: this frees the space reserved for
        them.

        Returns:
            The number of discarded uploads, and their bytes. Uploads that a session is using are
                not discarded: ``under_way`` counts them, and ``busy`` those that were just resumed.

        Raises:
            NotFound: There is no interrupted upload to the path.
            Busy: None was discarded, because a session is uploading to the path now.
            ProtocolError: As in `kept`.
        """
        from ftpclient.transfer.kept import drop

        return drop(self.connection, None if path is None else self._resolve(path))

    @verb
    def stat(
        self,
        path: AnyPath,
        *,
        follow: bool = False,
        digest: bool = False,
        in_trash: InTrash | None = None,
        timeout: float | None = None,
    ) -> Entry:
        """Return the state of a path. Raises NotFound.

        Args:
            follow: True to follow a link at PATH.
            digest: True to include the stored digest of a file, if it is valid.
            in_trash: An item in the trash, as `versions` and `trash_items` return it. ``path`` is
                relative to the item; ``/`` is the item itself. Other reading verbs have this
                parameter, too.
        """
        resolved = self._resolve_in(path, in_trash)
        verb = verbs.stat(self._ask, resolved, follow=follow, digest=digest, in_trash=in_trash)
        return run(verb)

    def _find_visible(self, path: RemotePath) -> Entry | None:
        """Return the state of a path; None also in a drop box, which reveals nothing."""
        try:
            return self.find(path, follow=True)
        except Forbidden:
            return None

    @verb
    def find(
        self, path: AnyPath, *, follow: bool = False, timeout: float | None = None
    ) -> Entry | None:
        """Return the state of a path; None if it does not exist."""
        return run(verbs.find(self._ask, self._resolve(path), follow=follow))

    @verb
    def exists(self, path: AnyPath, *, follow: bool = True, timeout: float | None = None) -> bool:
        """Return True if a path exists. A dangling link only counts without ``follow``."""
        return run(verbs.exists(self._ask, self._resolve(path), follow=follow))

    @verb
    def is_dir(self, path: AnyPath, *, timeout: float | None = None) -> bool:
        """Return True if there is a directory at a path, or a link to one."""
        return run(verbs.is_dir(self._ask, self._resolve(path)))

    @stream
    def list_dir(
        self,
        path: AnyPath = ".",
        *,
        recursive: bool = False,
        follow: bool = False,
        digest: bool = False,
        on_problem: Callable[[Problem], None] | None = None,
        in_trash: InTrash | None = None,
        prefix: str | bytes = b"",
        timeout: float | None = None,
    ) -> Generator[Entry, None, None]:
        """Yield the entries of a directory, or of the tree below it: all entries of a directory
        come before those of its subdirectories.

        Entries are streamed, not kept. Exhaust or close the listing before calling another verb of
        this client. The paths are relative to ``path``.

        Args:
            recursive: True to list the whole tree.
            follow: True to follow links.
            digest: True to include stored digests.
            on_problem: Function to call for everything that cannot be read; without it the first
                problem is raised.
            prefix: Yield only names in the directory that begin with it; with ``recursive``, also
                everything below them. The server filters, so this is fast in large directories;
                older servers send all names.

        Raises:
            InvalidPath: No name can begin with the prefix: it has a slash or is too long.
        """
        resolved = self._resolve_in(path, in_trash)
        begin = as_prefix(prefix)
        request = messages.List(resolved, recursive, follow, digest, in_trash, begin)
        walk = self._walk(request, on_problem)
        for directory, entries in walk:
            yield from from_the_top(directory, entries)

    @stream
    def walk(
        self,
        path: AnyPath = ".",
        *,
        follow: bool = False,
        digest: bool = False,
        on_problem: Callable[[Problem], None] | None = None,
        in_trash: InTrash | None = None,
        timeout: float | None = None,
    ) -> Generator[tuple[bytes, list[Entry]], None, None]:
        """Yield the tree below a directory, a part of one directory at a time.

        Each item is a directory, relative to ``path``, and some of its entries by their names. All
        entries of a directory come before its subdirectories, and these one after another. The
        parameters are those of ``list_dir``.
        """
        resolved = self._resolve_in(path, in_trash)
        request = messages.List(resolved, True, follow, digest, in_trash)
        yield from self._walk(request, on_problem)

    def _walk(
        self, request: messages.List, on_problem: Callable[[Problem], None] | None
    ) -> Generator[tuple[bytes, list[Entry]], None, None]:
        from ftpclient.transfer.listing import list_pages

        if on_problem is not None:
            on_problem = self._guard.calling(on_problem)
        for page in list_pages(self.connection, request):
            page = beginning(page, request.prefix)
            report_problems(page, on_problem)
            yield page.directory, page.entries

    @verb
    def hash(
        self,
        path: AnyPath,
        *,
        in_trash: InTrash | None = None,
        timeout: float | None = None,
    ) -> Hashed:
        """Return a file's BLAKE3 digest and size."""
        return run(verbs.hashed(self._ask, self._resolve_in(path, in_trash), in_trash))

    # changing ----------------------------------------------------------------------------

    @verb
    def make_dir(
        self,
        path: AnyPath,
        *,
        parents: bool = False,
        mode: int = 0o755,
        timeout: float | None = None,
    ) -> None:
        """Create a directory; with ``parents`` also missing parents, and no error if it exists."""
        run(verbs.make_dir(self._ask, self._resolve(path), parents=parents, mode=mode))

    @verb
    def make_link(
        self,
        path: AnyPath,
        target: AnyPath,
        *,
        overwrite: Replace | bool = "never",
        timeout: float | None = None,
    ) -> None:
        """Create a symbolic link at ``path``; ``target`` is stored as it is given.

        The target is resolved when the link is used, and only inside the home.

        Raises:
            AlreadyExists: The path exists, and ``overwrite`` does not allow replacing it.
            InvalidPath: The target is empty or too long.
        """
        run(verbs.make_link(self._ask, self._resolve(path), target, overwrite))

    @verb
    def set_attributes(
        self,
        path: AnyPath,
        *,
        mode: int | None = None,
        mtime_ns: int | None = None,
        setgid: bool | None = None,
        timeout: float | None = None,
    ) -> None:
        """Set the mode, the mtime, or both, of a file or directory. A link is followed.

        Args:
            mode: Permission bits, 0 to 0o777; None leaves them unchanged.
            mtime_ns: Nanoseconds since 1970; None leaves it unchanged.
            setgid: True if new files in a directory get its group, False if not; None leaves that
                unchanged.

        Raises:
            NotADirectory: ``setgid`` was given for something else.
        """
        run(verbs.set_attributes(self._ask, self._resolve(path), mode, mtime_ns, setgid))

    @verb
    def remove(
        self,
        path: AnyPath,
        *,
        recursive: bool = False,
        final: bool = False,
        file_only: bool = False,
        timeout: float | None = None,
    ) -> Removed:
        """Remove a file, a link, an empty directory, or with ``recursive`` a whole tree.

        It is moved to the server's trash, if the server keeps one. The result says so; it has no
        counts for a tree, which is not counted then.

        Args:
            final: True to purge it.
            file_only: True to raise IsADirectory for a directory, even if it is empty. Earlier
                servers ignore this.
        """
        where = self._resolve(path)
        verb = verbs.remove(self._ask, where, recursive=recursive, final=final, file_only=file_only)
        return run(verb)

    @verb
    def move(
        self,
        source: AnyPath,
        target: AnyPath,
        *,
        overwrite: Replace | bool = "always",
        timeout: float | None = None,
    ) -> None:
        """Rename to exactly ``target``."""
        ends = self._resolve(source), self._resolve(target)
        run(verbs.move(self._ask, *ends, overwrite))

    @verb
    def copy(
        self,
        source: AnyPath,
        target: AnyPath,
        *,
        recursive: bool = False,
        overwrite: Replace | bool = "always",
        links: bool = False,
        timeout: float | None = None,
    ) -> Copied:
        """Copy on the server to exactly ``target``. A link at ``source`` is followed.

        Args:
            links: True to copy ``source`` itself as a link.
        """
        ends = self._resolve(source), self._resolve(target)
        return run(verbs.copy(self._ask, *ends, overwrite, recursive=recursive, links=links))

    @local
    def target_for(self, source: bytes, target: AnyPath, *, into: bool) -> RemotePath:
        """Return the target path of ``source`` when ``target`` was given, by the rules of cp.

        Args:
            into: True if ``target`` is a directory.
        """
        return target_for(source, self._resolve(target), into=into)

    @verb
    def is_directory(self, target: AnyPath, *, timeout: float | None = None) -> bool:
        """Return True if files go into ``target``: it is a directory, or ends with a slash."""
        return run(verbs.is_directory(self._ask, as_typed(target), self._resolve(target)))

    @verb
    def make_target(
        self,
        target: AnyPath,
        *,
        several: bool,
        into: bool | None = None,
        make: bool = True,
        timeout: float | None = None,
    ) -> bool:
        """Return True if files go into the directory ``target``. Create it if it ends with a slash.

        Args:
            several: True if there are several sources.
            into: True if it must be an existing directory; False if it is the exact target path,
                whatever exists there.
            make: False to create nothing.

        Raises:
            NotADirectory: It must be a directory, for several sources or with ``into``, but is not.
        """
        typed, path = as_typed(target), self._resolve(target)
        return run(verbs.make_target(self._ask, typed, path, several=several, into=into, make=make))

    # the trash ---------------------------------------------------------------------------

    @verb
    def trash(
        self,
        *,
        below: AnyPath | None = None,
        since: float | None = None,
        timeout: float | None = None,
    ) -> list[TrashedOperation]:
        """Return the operations whose removed and replaced files are in the trash, newest first.

        An operation is one command. Its ``name`` is the argument of the other verbs.

        Args:
            below: Return only operations that changed something at or below this path.
            since: Return only operations that began after this time, in seconds since 1970.

        Raises:
            ProtocolError: The server keeps no trash.
            TooLong: There are too many to keep in memory.
        """
        from ftpclient.transfer import trash

        path = None if below is None else self._resolve(below)
        return self._query(lambda: trash.operations(self.connection, below=path, since=since))

    @verb
    def trash_items(
        self,
        operation: str | None = None,
        *,
        below: AnyPath | None = None,
        timeout: float | None = None,
    ) -> list[Trashed]:
        """Return the items that an operation has changed, newest first; None for all operations.

        Args:
            below: Return only what was at or below this path.

        Raises:
            Expired: The operation is no longer in the trash.
            NotFound: There never was such an operation.
            ProtocolError, TooLong: As in `trash`.
        """
        from ftpclient.transfer import trash

        if operation is not None:
            verbs.check_operation(operation)
        path = None if below is None else self._resolve(below)
        return self._query(lambda: trash.items(self.connection, operation, below=path))

    @verb
    def versions(self, path: AnyPath, *, timeout: float | None = None) -> list[Version]:
        """Return the earlier versions of a path that can be restored, newest first.

        Raises ProtocolError, TooLong as `trash`.
        """
        from ftpclient.transfer import trash

        resolved = self._resolve(path)
        return self._query(lambda: trash.versions(self.connection, resolved))

    @verb
    def restore(
        self,
        operation: str,
        paths: AnyPath | Iterable[AnyPath] = (),
        *,
        items: Iterable[str] = (),
        target: AnyPath | None = None,
        conflict: Conflict = "skip",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> Restored:
        """Restore what an operation has removed and replaced, at its original paths. Missing parent
        directories are created.

        The restore is an operation itself, whose name is returned. Undoing it removes and replaces
        the files again.

        Args:
            operation: Full name of the operation.
            paths: Restore only what was at or below one of these paths, also parts of a tree; empty
                for everything.
            items: Restore only these items, by their names in the trash; empty for all.
            target: Directory to restore to, instead of the original one. It is created if missing.
            conflict: What to do if something else is at the path: ``skip`` leaves it, ``replace``
                moves it to the trash, ``beside`` restores as ``NAME.restored-1``.
            dry_run: True to change nothing, and only report what would be done.

        Returns:
            The number of restored items; and in ``conflicts``, what was not restored and why.

        Raises:
            Expired: The operation is no longer in the trash.
            NotFound: There never was such an operation.
            Busy: It is still running, or another session is restoring from it.
            Forbidden, QuotaExceeded
            ProtocolError: The server keeps no trash.
        """
        verb = verbs.restore(
            self._ask,
            operation,
            [self._resolve(path) for path in one_or_several(paths)],
            items=list(items),
            target=None if target is None else self._resolve(target),
            conflict=conflict,
            dry_run=dry_run,
        )
        return run(verb)

    @verb
    def undo(
        self,
        operation: str | None = None,
        *,
        conflict: Conflict = "skip",
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> Restored:
        """Undo an operation completely, its last change first; see `restore`.

        Args:
            operation: Name of the operation; None for the newest one of this client program within
                the last hour that was not undone, with all others of the same command. Undoing is
                an operation, too: undoing twice restores the state before. After conflicts, the
                second call tries the rest.

        Raises:
            NotFound: There is no such operation.
            Expired, Busy, …: As in `restore`.
        """
        if operation is not None:
            return self.restore(operation, conflict=conflict, dry_run=dry_run)
        from ftpclient.connection.client_id import client_id
        from ftpclient.transfer import trash

        found = self._query(lambda: trash.operations(self.connection))
        meant = trash.all_of_command(trash.newest(found, client_id()), found)
        return verbs.together(
            [self.restore(one.name, conflict=conflict, dry_run=dry_run) for one in meant]
        )

    @verb
    def purge(
        self,
        operation: str | None = None,
        *,
        items: Iterable[str] = (),
        before: float | None = None,
        timeout: float | None = None,
    ) -> Removed:
        """Purge an operation from the trash; **all** operations if none is given.

        Args:
            operation: Full name of the operation.
            items: Remove only these items of the operation, by their names in the trash.
            before: Remove only operations that began before this time, in seconds since 1970.

        Returns:
            What was freed.

        Raises:
            Expired: The operation is no longer in the trash.
            NotFound, Busy, Forbidden
            ProtocolError: The server keeps no trash.
        """
        return run(verbs.purge(self._ask, operation, list(items), before))

    # transferring files ------------------------------------------------------------------

    @verb
    def put(
        self,
        sources: LocalPath | Iterable[LocalPath],
        target: AnyPath = ".",
        *,
        into: bool | None = None,
        recursive: bool = False,
        copy_links: bool = False,
        overwrite: Overwrite | bool = "always",
        resume: bool = True,
        atomic: bool = False,
        parallel: int | None = None,
        fail_fast: bool = False,
        links: bool = False,
        no_empty: bool = False,
        exclude: Iterable[str] = (),
        ignore_files: bool = False,
        files_from: Iterable[AnyPath] | None = None,
        remove_source: bool = False,
        dry_run: bool = False,
        listener: Listener | None = None,
        timeout: float | None = None,
    ) -> Summary:
        """Upload files, links and trees into the directory ``target``, or as ``target`` (the rules
        of cp).

        A link that is a source is followed, unless it belongs to another user who could have
        planted it. Links inside trees are stored as links. A FIFO, a device or a descriptor
        (/dev/fd/3) that is a source is read to its end.

        Failures of single files are in the summary, and reported to the listener. What the server
        still has from an interrupted upload is compared by digest and not sent again. With
        ``atomic``, a directory replaces its target at once, after all of it is on the server; or
        not at all, if any part of it failed. Its target is then exactly that path, unless it ends
        with a slash. Of two sources with the same base name, the second fails with AlreadyExists;
        the others are sent.

        Args:
            into: True if ``target`` must be an existing directory, and everything goes into it;
                False if ``target`` is the exact path of the only source, whatever exists there;
                None for the rules of cp.
            recursive: True to send directories with their contents.
            copy_links: True to follow all links: those in trees, and those of another user.
            overwrite: ``always``, ``never``, or ``older`` to replace only files with an older
                mtime; True and False mean ``always`` and ``never``.
            resume: False to send everything from the start.
            atomic: True to replace a whole directory at once.
            parallel: Number of connections for the files of a tree, or the pieces of large files;
                None for an automatic choice.
            fail_fast: True to stop at the first failure.
            links: True to store a link that is a source as a link.
            no_empty: True if an empty file or stream is a failure, and is not stored.
            exclude: gitignore patterns of what is left out of trees. One that begins with ``!``
                includes something again; the last one that matches decides.
            ignore_files: True to apply the patterns of .ftpignore files in a tree, too.
            files_from: Paths below the only source, which is a directory. Only these are sent,
                directories with their contents, and missing parent directories are created. A path
                that does not exist is a failure.
            remove_source: True to remove each local file after the server has stored it durably, if
                the file is unchanged; and directories that became empty. If a source is a link, the
                link is removed. Not together with ``atomic`` or ``copy_links``.
            dry_run: True to change nothing: the listener receives results that are ``planned``,
                ``skipped`` or ``failed``.
            listener: Object that receives progress and results.

        Raises:
            QuotaExceeded, DiskFull: The files do not fit. Nothing was sent.
            InvalidPath: A path of ``files_from`` leads out of the source. Nothing was sent.
            ValueError: A pattern of ``exclude`` is invalid, or options exclude each other.
            ConnectionLost, Interrupted, NotADirectory
        """
        from ftpclient.transfer.job import Options

        local = [os.fsencode(source) for source in one_or_several(sources)]
        if atomic and remove_source:
            raise ValueError("remove_source and atomic exclude each other")
        if files_from is not None:
            _check_one_tree(local)
        try:
            with selected(exclude, files_from, ignore_files=ignore_files) as selection:
                options = Options(
                    recursive or files_from is not None,
                    copy_links,
                    overwriting(overwrite),
                    resume and not atomic,
                    fail_fast,
                    links,
                    no_empty,
                    selection,
                    remove_source,
                )
                guarded = self._guard.listener(listener)
                typed = as_typed(target)
                return self._put(local, typed, into, options, guarded, atomic, parallel, dry_run)
        finally:
            if self._connection is not None:
                self._connection.forget_ahead()

    def _put(
        self,
        local: list[bytes],
        target: bytes,
        exists: bool | None,
        options: Options,
        listener: Listener,
        atomic: bool,
        parallel: int | None,
        dry_run: bool,
    ) -> Summary:
        from ftpclient.transfer import preflight, retry
        from ftpclient.transfer.job import JobOver
        from ftpclient.transfer.path_list import choose_here
        from ftpclient.transfer.upload import Upload

        recursive = options.recursive
        size = None
        if options.selection.only is not None:
            choose_here(options.selection.only, local[0], follow=options.copy_links)
        if listener.wants_totals:
            files, size = preflight.measure(local, options)
            listener.totals(files, size)
        elif len(local) == 1 and not recursive:
            _, size = preflight.measure(local, options)
        self.connect()  # a first connection is tried only once

        def prepare() -> bool:
            self._ask_ahead(local, target, options)
            several = len(local) > 1
            return self.make_target(target, several=several, into=exists, make=not dry_run)

        into = retry.query(self, listener, prepare)
        if atomic and exists is None:  # an existing directory is replaced, not added to
            into = os.fsencode(target).endswith(b"/")
        note = None
        tree = len(local) == 1 and recursive and os.path.isdir(local[0])
        if tree and exists is None and not atomic:
            absolute = os.path.abspath(local[0])
            note = Unfinished("put", str(self.address), absolute, self._resolve(target))
            into = into and not note.exists() if dry_run else note.target(into=into)
        if exists is False:
            check_name(os.fsencode(target), all(map(os.path.isdir, local)))
        pairs, refused = self._targets_of(local, target, into, options, listener)
        if recursive or len(pairs) > 1 or dry_run:  # for one file the server checks this
            try:
                retry.query(
                    self,
                    listener,
                    lambda: preflight.check_put(self.connection, pairs, options, atomic=atomic),
                )
            except (QuotaExceeded, DiskFull):
                if note is not None and not dry_run:
                    note.complete()  # nothing was begun
                raise
        if dry_run:
            from ftpclient.transfer.rehearsal import UploadRehearsal

            rehearsal = UploadRehearsal(self.connection, options, listener, whole=atomic)
            rehearsal.made = self._resolve(target) if into and target.endswith(b"/") else None
            upload: Upload = rehearsal
        else:
            upload = Upload(self.connection, options, listener)
        upload.size = size

        def add_all() -> None:
            for source, path in pairs:
                upload.add_named(source, path)
            for source, path, error in refused:
                upload.end(source, path, 0, error=error)

        ending = retry.Ending(upload)

        def replace_all() -> None:
            if ending.was_done():  # only the reply was lost with the connection
                upload.report_held()
                return
            upload.start_over()
            source, path = pairs[0]
            try:
                mode = os.stat(source).st_mode & 0o777
            except OSError:
                mode = 0o700  # the upload reports the error
            try:
                upload.connection.ask(messages.BeginTree(path, mode))
            except NotAtomic as error:
                raise advised(error, " (leave --atomic out)") from None
            try:
                add_all()
                upload.settle()
                upload.check_over()
            except JobOver:
                upload.connection.cancel_all()
                ending.ask(commit=False)
                raise
            complete = not upload.summary.failed
            ending.ask(commit=complete)
            if complete:
                upload.report_held()

        if dry_run:
            return retry.Run(self, upload, add_all, None).persist()
        running = retry.Run(
            self,
            upload,
            replace_all if atomic else add_all,
            note,
            resumes=not atomic,
            many=recursive or len(local) > 1,
        )
        if recursive and not atomic:
            running.share_with(parallel, lambda connection: upload.worker(connection))
        elif not recursive:
            running.split_with(parallel, lambda connection: upload.worker(connection))
        return running.persist()

    def _targets_of(
        self,
        local: list[bytes],
        target: AnyPath,
        into: bool,
        options: Options,
        listener: Listener,
    ) -> tuple[list[tuple[bytes, RemotePath]], list[tuple[bytes, RemotePath, AlreadyExists]]]:
        """Return the target path of each source; and separately the sources that would overwrite
        files of another one."""
        pairs, refused = [], []
        here = self._resolve(target)
        names = Sources[bytes](lambda above, name: os.path.lexists(os.path.join(above, name)))
        several = len(local) > 1 and options.overwrite != "never"
        for source in each_once(local, listener.remark):
            path = self.target_for(source, target, into=into)
            name = paths.name_of(path) if into and path != here else b""
            try:
                if several:
                    names.check(source, name, path)
            except AlreadyExists as error:
                refused.append((source, path, error))
                continue
            pairs.append((source, path))
            if os.path.lexists(source):
                names.add(source, name)
        return pairs, refused

    def _ask_ahead(self, local: list[bytes], target: AnyPath, options: Options) -> None:
        """Before a tree is sent, send at once all requests that will be needed."""
        if len(local) != 1 or not options.recursive:
            return
        path = self._resolve(target)
        inside = self.target_for(local[0], target, into=True)
        self.connection.ask_ahead(
            messages.Stat(path, follow=True),  # is it a directory?
            messages.Space(),  # is there enough free space?
            messages.Stat(inside, digest=True),  # if it is: was some of it sent before?
            messages.Stat(path, digest=True),  # if it is not: the same
        )

    @verb
    def put_file(
        self,
        source: LocalPath,
        target: AnyPath,
        *,
        overwrite: Overwrite | bool = "always",
        resume: bool = True,
        parallel: int | None = None,
        links: bool = False,
        no_empty: bool = False,
        listener: Listener | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Upload one file as exactly ``target``. Like ``put``, but a failure is raised.

        Raises:
            AlreadyExists, NotNewer: The target exists, and ``overwrite`` keeps it.
            IsADirectory: ``source`` or ``target`` is a directory.
            OSError: ``source`` cannot be read.
            QuotaExceeded, DiskFull, ConnectionLost, Interrupted, …
        """
        guarded = One(listener)
        self.put(
            source,
            target,
            into=False,
            overwrite=overwrite,
            resume=resume,
            parallel=parallel,
            links=links,
            no_empty=no_empty,
            listener=guarded,
        )
        return guarded.result()

    @verb
    def put_stream(
        self,
        fd: int,
        target: AnyPath,
        *,
        overwrite: Overwrite | bool = "always",
        no_empty: bool = False,
        listener: Listener | None = None,
        timeout: float | None = None,
    ) -> Summary:
        """Upload everything that can be read from a descriptor as the file ``target``.

        Args:
            no_empty: True if empty input is a failure, and nothing is stored.

        Raises:
            ConnectionLost: After some input was read, because that cannot be read again.
        """
        from ftpclient.transfer import retry
        from ftpclient.transfer.job import Options
        from ftpclient.transfer.upload import Upload

        listener = self._guard.listener(listener)
        self.connect()  # a first connection is tried only once
        if retry.query(self, listener, partial(self.is_directory, target)):
            raise IsADirectory(f"{paths.show(as_typed(target))}: a directory: give a file name")
        options = Options(overwrite=overwriting(overwrite), resume=False, no_empty=no_empty)
        upload = Upload(self.connection, options, listener)
        path = self._resolve(target)
        run = retry.Run(self, upload, lambda: upload.add_stream(fd, path), None)
        run.give_up_if(lambda: upload.took_input)
        return run.persist()

    @verb
    def get(
        self,
        sources: AnyPath | Iterable[AnyPath],
        target: LocalPath = ".",
        *,
        into: bool | None = None,
        recursive: bool = False,
        copy_links: bool = False,
        overwrite: Overwrite | bool = "always",
        resume: bool = True,
        parallel: int | None = None,
        fail_fast: bool = False,
        links: bool = False,
        exclude: Iterable[str] = (),
        files_from: Iterable[AnyPath] | None = None,
        remove_source: bool = False,
        dry_run: bool = False,
        in_trash: InTrash | None = None,
        listener: Listener | None = None,
        timeout: float | None = None,
    ) -> Summary:
        """Download files, links and trees. Sources may be patterns. Like ``put``.

        If the target is a FIFO, a device or a descriptor (/dev/fd/3), the bytes are written into
        it. If it is a link to a file, that file is replaced at its own path. In trees, and under
        names that a pattern matched, nothing is written through links.

        Args:
            copy_links: True to follow all links: those in trees, and at the target those of another
                user.
            links: True to make a link if a source is a link.
            remove_source: True to remove each file from the server after it is durable on the local
                disk, if the file is unchanged. What was written into a FIFO, a device or a
                descriptor is not removed.
            dry_run: True to change nothing, as in ``put``.
            in_trash: See `stat`. Sources are no patterns then.
        """
        from ftpclient.transfer.job import Options

        named = one_or_several(sources)
        if files_from is not None:
            _check_one_tree(named)
        with selected(exclude, files_from) as selection:
            options = Options(
                recursive or files_from is not None,
                copy_links,
                overwriting(overwrite),
                resume,
                fail_fast,
                links,
                selection=selection,
                remove_source=remove_source,
                in_trash=in_trash,
            )
            guarded = self._guard.listener(listener)
            try:
                return self._get(named, target, into, options, guarded, parallel, dry_run=dry_run)
            finally:
                if self._connection is not None:
                    self._connection.forget_ahead()

    def _get(
        self,
        sources: list[AnyPath],
        target: LocalPath,
        into: bool | None,
        options: Options,
        listener: Listener,
        parallel: int | None,
        *,
        literal: bool = False,
        dry_run: bool = False,
    ) -> Summary:
        from ftpclient.transfer import named, retry, tree_download
        from ftpclient.transfer.download import Download

        recursive, copy_links = options.recursive, options.copy_links
        local = os.fsencode(target)
        found: list[RemotePath] = []
        contents: set[RemotePath] = set()  # typed as DIR/. : the contents without the name
        exact: set[RemotePath] = set()  # typed in full, not matched by a pattern
        if dry_run:
            from ftpclient.transfer.rehearsal import DownloadRehearsal

            download: Download = DownloadRehearsal(self.connection, options, listener)
        else:
            download = Download(self.connection, options, listener)
        for source in sources:
            try:
                if literal or options.in_trash is not None:
                    matches = [self._resolve_in(source, options.in_trash)]
                else:
                    matches = retry.query(self, listener, partial(self.glob, source))
                found += matches
                typed = as_typed(source)
                if paths.name_of(typed) in (b".", b".."):
                    contents.update(matches)
                trashed = options.in_trash is not None
                if literal or trashed or not is_pattern(_untamed(typed)):
                    exact.update(matches)
            except NotFound as error:
                download.end(self._resolve(source), local, 0, error=error)
        download.stays = frozenset(contents | _up_from(self.cwd))
        if download.connection is not self.connection:  # the first was lost meanwhile
            download.go_on_with(self.connection)
        exists = into
        into = _make_local_target(local, several=len(found) > 1, into=into, make=not dry_run)
        several = len(found) > 1 and options.overwrite != "never"
        found = each_once(found, listener.remark)
        note = None
        if len(found) == 1 and recursive and exists is None and options.in_trash is None:
            note = Unfinished("get", str(self.address), found[0], os.path.abspath(local))
            into = into and not note.exists() if dry_run else note.target(into=into)

        def holds(directory: RemotePath, name: bytes) -> bool:
            if options.in_trash is not None:
                return True  # what is in the trash cannot be looked up: assume that it does
            return self.find(paths.child(directory, name)) is not None

        targets: dict[RemotePath, tuple[bytes, bytes]] = {}  # target, and the name in it if matched
        there = named.Targets(trust=copy_links)
        for path in found:
            name = b"" if path in contents or not into else paths.name_of(path)
            targets[path] = os.path.join(local, name) if name else local, name
            there.look(targets[path][0], exact=not name or path in exact)

        def add_all() -> None:
            names = Sources[RemotePath](holds)
            for path in found:
                resolved, name = targets[path]
                try:
                    if several:
                        names.check(path, name, resolved)
                    if asks_ahead:
                        tree_download.ask_ahead(self.connection, options, path, resolved)
                    entry = self._to_get(path, options.in_trash, follow=not options.links)
                    if exists is False:
                        check_name(local, entry.type == "dir")
                except CommandError as error:
                    download.end(path, resolved, 0, error=error)
                    continue
                names.add(path, name)
                if len(found) == 1 and entry.type == "file":
                    download.size = entry.size
                if asks_ahead and entry.type != "dir":
                    self.connection.forget_ahead()
                download.add(path, entry, resolved, follow=not name, there=there)

        # with recursive, a source that was typed in full is probably a directory
        asks_ahead = len(found) == 1 and not dry_run and exact.issuperset(found)
        run = retry.Run(self, download, add_all, None if dry_run else note)
        if dry_run:
            pass
        elif recursive and len(found) == 1:
            run.share_with(parallel, lambda connection: download.worker(connection))
        elif not recursive:
            run.split_with(parallel, lambda connection: download.worker(connection))
        return run.persist()

    @verb
    def get_file(
        self,
        source: AnyPath,
        target: LocalPath,
        *,
        overwrite: Overwrite | bool = "always",
        resume: bool = True,
        parallel: int | None = None,
        links: bool = False,
        in_trash: InTrash | None = None,
        listener: Listener | None = None,
        timeout: float | None = None,
    ) -> Result:
        """Download one file as exactly ``target``. Like ``get``, but a failure is raised.

        ``source`` is a path, never a pattern.

        Raises:
            NotFound, Forbidden
            AlreadyExists, NotNewer: The target exists, and ``overwrite`` keeps it.
            IsADirectory: ``source`` or ``target`` is a directory.
            OSError: ``target`` cannot be written.
            ConnectionLost, Interrupted, …
        """
        from ftpclient.transfer.job import Options

        options = Options(
            overwrite=overwriting(overwrite), resume=resume, links=links, in_trash=in_trash
        )
        guarded = One(listener)
        self._get(
            [source], target, False, options, self._guard.listener(guarded), parallel, literal=True
        )
        return guarded.result()

    def _to_get(self, path: RemotePath, in_trash: InTrash | None, *, follow: bool) -> Entry:
        """Return the state of a path to download. Raises Forbidden if a rule forbids reading it."""
        from ftpclient.transfer.listing import to_fetch

        if in_trash is not None:
            return self.stat(path, follow=follow, digest=True, in_trash=in_trash)
        try:
            return self.connection.ask(to_fetch(path, follow)).entry
        except NotFound:
            self.hash(path)  # stat reveals nothing in a drop box; this raises with the rule
            raise

    @verb
    def sync(
        self,
        source: LocalPath,
        target: LocalPath,
        options: SyncOptions | None = None,
        *,
        listener: Listener | None = None,
        confirm: Confirm | None = None,
        timeout: float | None = None,
    ) -> SyncSummary:
        """Make ``target`` a copy of ``source``. Exactly one of them begins with a colon, and is on
        the server.

        Args:
            options: What to compare, delete and leave out; None for the defaults.
            confirm: Function to call before anything is deleted; it returns True to go on.

        Raises:
            SafetyLimit: It would delete more than the options allow. Nothing was changed.
            QuotaExceeded, DiskFull: The files do not fit. Nothing was changed.
            ConnectionLost, Interrupted, NotFound, NotADirectory
        """
        from ftpclient.sync.job import Options, Sync
        from ftpclient.transfer import retry

        route = self._route(source, target)
        guarded = self._guard.listener(listener)
        confirmed = None if confirm is None else self._guard.calling(confirm)
        options = options or Options()
        with selected((), options.files_from) as selection:
            sync = Sync(self.connection, route, options, guarded, confirmed, selection.only)
            run = retry.Run(self, sync, sync.run, None, many=True)
            run.share_with(options.parallel, sync.worker)
            run.persist()
        return sync.totals

    @verb
    def check(
        self,
        source: LocalPath,
        target: LocalPath,
        options: CheckOptions | None = None,
        *,
        listener: Listener | None = None,
        timeout: float | None = None,
    ) -> CheckSummary:
        """Compare ``source`` and ``target``: two directories with their contents, or two files.
        Exactly one of them begins with a colon, and is on the server. Nothing is changed.

        Two entries are equal if type, size, digest and mode are, whatever their times are. If one
        is a directory and the other a file, the file is compared with the file of that name in the
        directory.

        Args:
            listener: Object whose ``found`` is called for each difference.

        Raises:
            NotFound: One of the two is missing.
            CommandError: One of the two cannot be read.
            ConnectionLost, Interrupted
        """
        from ftpclient.sync.check import Check, CheckOptions
        from ftpclient.transfer import retry

        route = self._route(source, target)
        guarded = self._guard.listener(listener)
        check = Check(self.connection, route, options or CheckOptions(), guarded)
        retry.Run(self, check, check.run, None).persist()
        return check.totals

    def _route(self, source: LocalPath, target: LocalPath) -> Route:
        """Return the two sides of a sync. Raises InvalidPath."""
        from ftpclient.sync.plan import Route

        ends = [os.fsencode(path) for path in (source, target)]
        remote = [path.startswith(b":") for path in ends]
        if remote[0] == remote[1]:
            raise InvalidPath("exactly one of the two paths must begin with a colon")
        local, there = ends if remote[1] else ends[::-1]
        if not local:
            raise InvalidPath("an empty path")
        return Route(remote[1], local, self._resolve(there[1:]))

    @verb
    def read(
        self,
        path: AnyPath,
        offset: int = 0,
        length: int | None = None,
        *,
        in_trash: InTrash | None = None,
        timeout: float | None = None,
    ) -> bytes:
        """Return the bytes of a file. A whole file is verified by its digest; a part only by TLS.

        Args:
            offset: Number of bytes to skip from the start. Beyond the end the result is empty.
            length: The most bytes to return; None for all that follow.

        Raises:
            NotFound, IsADirectory, Forbidden, ConnectionLost
            VerificationFailed: The bytes do not match the file's digest.
            ValueError: ``offset`` or ``length`` is negative.
        """
        from ftpclient.transfer import ranges, retry

        if offset < 0 or (length is not None and length < 0):
            raise ValueError("offset and length cannot be negative")
        if offset or length is not None:
            length = ranges.TO_THE_END if length is None else length
            return bytes(self.fetch_range(path, offset, length, in_trash=in_trash).data)
        whole = self._resolve_in(path, in_trash)
        self.connect()  # a first connection is tried only once
        return bytes(
            retry.query(
                self, Listener(), lambda: ranges.fetch_whole(self.connection, whole, in_trash)
            )
        )

    @verb
    def fetch_range(
        self, path: AnyPath, offset: int, length: int, *, in_trash: InTrash | None = None
    ) -> Piece:
        """Return a part of a file, and the file's state; see `read`."""
        from ftpclient.transfer import ranges, retry

        part = self._resolve_in(path, in_trash)
        offset, length = min(offset, ranges.TO_THE_END), min(length, ranges.TO_THE_END)
        self.connect()  # a first connection is tried only once
        return retry.query(
            self,
            Listener(),
            lambda: ranges.fetch_range(self.connection, part, offset, length, in_trash),
        )

    @verb
    def write(
        self,
        path: AnyPath,
        data: ReadableBuffer,
        *,
        overwrite: Replace | bool = "always",
        mode: int | None = None,
        parents: bool = False,
        timeout: float | None = None,
    ) -> int:
        """Store bytes as a file, whole or not at all. Return their number.

        Args:
            overwrite: ``never`` to fail if the path exists.
            mode: Permission bits, 0 to 0o777; None for those of the replaced file, or 0o644.
            parents: True to create missing parent directories.

        Raises:
            NotFound, IsADirectory, NotADirectory, Forbidden, QuotaExceeded, DiskFull,
            ConnectionLost
            AlreadyExists: The path exists, with ``overwrite="never"``.
            ValueError: ``overwrite`` or ``mode`` is invalid.
        """
        from ftpclient.files.opening import check_names_a_file, mode_of
        from ftpclient.transfer import memory_upload, retry
        from ftpclient.transfer.job import Options
        from ftpclient.transfer.upload import Upload

        overwrite = replacing(overwrite)
        if mode is not None and not 0 <= mode <= 0o777:
            raise ValueError(f"mode must be 0 to 0o777, not {mode:#o}")
        check_names_a_file(named(path))
        target = self._resolve(path)
        view = memoryview(data).cast("B")
        outcome = memory_upload.Outcome()
        self.connect()  # a first connection is tried only once
        there = None
        if mode is None and overwrite != "never":
            there = retry.query(self, outcome, partial(self._find_visible, target))
        contents = memory_upload.Contents(view, mode_of(there) if mode is None else mode, parents)
        upload = Upload(self.connection, Options(overwrite=overwrite), outcome)

        def send() -> None:
            memory_upload.send_bytes(upload, contents, target)

        retry.Run(self, upload, send, None).persist()
        return outcome.check().size

    @overload
    def open(
        self, path: AnyPath, mode: Literal["rb"] = "rb", *, timeout: float | None = None
    ) -> Reader: ...

    @overload
    def open(
        self,
        path: AnyPath,
        mode: WriteMode,
        *,
        parents: bool = False,
        autocommit: bool = True,
        timeout: float | None = None,
    ) -> Writer: ...

    def open(
        self,
        path: AnyPath,
        mode: Literal["rb"] | WriteMode = "rb",
        *,
        parents: bool = False,
        autocommit: bool = True,
        timeout: float | None = None,
    ) -> Reader | Writer:
        """Open a remote file as a file object: an `io.BufferedReader`, or an `io.BufferedIOBase`
        for writing. For text, wrap it in an `io.TextIOWrapper`.

        A written file appears at its path, whole, when it is closed. It is discarded if an
        exception leaves its ``with`` block. A file larger than 4 MiB is sent while it is written,
        on a connection of its own.

        Args:
            mode: ``rb`` to read, with seeking; ``wb`` to replace an existing file; ``xb`` to fail
                if it exists; ``ab`` to append: when the file is closed, the existing contents are
                read, and stored again together with the new bytes. Of two programs that append at
                the same time, one fails with SourceChanged, or replaces what the other has
                appended.
            parents: True to create missing parent directories of a file that is written.
            autocommit: False if closing stores nothing; call ``commit()`` afterwards to store the
                file, or ``discard()`` to discard it.
            timeout: The most seconds for opening. Reading and writing have no timeout.

        Raises:
            NotFound, IsADirectory, NotADirectory, AlreadyExists, Forbidden, ConnectionLost
            ValueError: ``mode`` is invalid.
        """
        if mode == "rb":
            return self._open_to_read(path, timeout=timeout)
        if mode not in ("wb", "xb", "ab"):
            raise ValueError(f"mode must be 'rb', 'wb', 'xb' or 'ab', not {mode!r}")
        return self._open_to_write(path, mode, parents, autocommit, timeout=timeout)

    @verb
    def _open_to_read(self, path: AnyPath, *, timeout: float | None) -> Reader:
        from ftpclient.files import opening

        return opening.open_to_read(self, self._resolve(path), named(path))

    @verb
    def _open_to_write(
        self,
        path: AnyPath,
        mode: WriteMode,
        parents: bool,
        autocommit: bool,
        *,
        timeout: float | None,
    ) -> Writer:
        from ftpclient.files import opening

        return opening.open_to_write(
            self,
            self._resolve(path),
            named(path),
            mode,
            parents=parents,
            autocommit=autocommit,
        )

    @verb
    def get_stream(
        self,
        source: AnyPath,
        fd: int,
        *,
        in_trash: InTrash | None = None,
        timeout: float | None = None,
    ) -> tuple[int, bytes]:
        """Write a remote file's bytes to a descriptor. Return the file's size and digest.

        After a lost connection this continues where it stopped, if the file is unchanged.

        Raises:
            VerificationFailed: After the last byte: the bytes do not match the digest, or the file
                changed on the server while the connection was lost.
        """
        from ftpclient.transfer import node, retry

        path, into = self._resolve_in(source, in_trash), node.Node(b"-", fd)
        self.connect()  # a first connection is tried only once
        return retry.query(
            self, Listener(), lambda: node.fetch(self.connection, path, into, in_trash=in_trash)
        )


def first_question(path: RemotePath, follow: bool) -> messages.Stat:
    """Return the first request of `Client.get` for a source, which may be a pattern."""
    from ftpclient.transfer.listing import to_fetch

    return messages.Stat(path) if is_pattern(path) else to_fetch(path, follow)


def _check_one_tree(sources: Sequence[object]) -> None:
    """Raise InvalidPath unless there is exactly one source, for a list of paths below it."""
    if len(sources) != 1:
        raise InvalidPath("paths from a list need exactly one SOURCE directory")


def _up_from(path: RemotePath) -> set[RemotePath]:
    """Return a directory and all of its parents."""
    found = {path}
    while path != paths.ROOT:
        path = paths.parent_of(path)
        found.add(path)
    return found


def size_of_path(path: bytes) -> int:
    """Return an estimate of the memory for an object with this path, in bytes."""
    return len(path) + _AROUND_PATH


def is_pattern(path: bytes) -> bool:
    """Return True if a path contains ``*``, ``?`` or ``[``."""
    return any(one in path for one in _MAGIC)


def before_wildcards(pattern: bytes) -> bytes:
    """Return the beginning of a pattern that has no wildcard: all names that match begin so."""
    return re.split(rb"[*?\[]", pattern, maxsplit=1)[0]


def _untamed(path: bytes) -> bytes:
    """Return a path without its escaped wildcards."""
    return re.sub(_TAMED, b"", path) if b"[" in path else path


def matching(pattern: RemotePath, known: Collection[RemotePath]) -> list[RemotePath]:
    """Return the paths that match a pattern, sorted, by the rules of `Client.glob`.

    A pattern without wildcards, or one that is a known path literally, is returned unchanged.
    """
    if not is_pattern(pattern) or pattern in known:
        return [pattern]
    if not is_pattern(_untamed(pattern)):
        return [RemotePath(re.sub(_TAMED, rb"\1", pattern))]
    parts = paths.split(pattern)
    matchers = [re.compile(fnmatch.translate(paths.to_text(part))) for part in parts]
    hidden = [part.startswith(b".") for part in parts]

    def fits(path: RemotePath) -> bool:
        names = paths.split(path)
        return len(names) == len(parts) and all(
            (show or not name.startswith(b".")) and matcher.match(paths.to_text(name))
            for name, matcher, show in zip(names, matchers, hidden, strict=True)
        )

    return sorted({path for path in known if fits(path)})


def _make_local_target(
    local: bytes, *, several: bool, into: bool | None, make: bool = True
) -> bool:
    """Do the same as `Client.make_target`, for a local target."""
    exists = os.path.isdir(local)
    if into and not exists:
        raise NoTargetDirectory(f"{paths.show(local)}: no such local directory")
    if into is None:
        into = exists
        if local.endswith(b"/") and not into:
            if os.path.lexists(local.rstrip(b"/")):
                raise NotADirectory(f"{paths.show(local)}: not a directory")
            if make:
                os.makedirs(local)
            into = True
    if several and not into:
        raise NotADirectory(
            f"{paths.show(local)}: not a directory, so several files cannot go there "
            "(add / to create it)"
        )
    return into
