"""Client: the Python API that every command is written with.

Lives here: the methods, patterns, transfers with the rules of cp.
Lives elsewhere: verbs that only ask the server (verbs.py), connecting and the account (base.py),
moving bytes (transfer/job.py), the connection (connection/connection.py), printing (cli/render.py).
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
    as_typed,
    named,
    one_or_several,
    overwriting,
    place_for,
    replacing,
    selected,
)
from ftpclient.base import BaseClient
from ftpclient.connection.advice import advised
from ftpclient.guard import local, stream, verb
from ftpclient.transfer.report import Listener, One, Result, Summary
from ftpclient.transfer.resume_notes import Unfinished
from ftpclient.transfer.sources import NoTargetDirectory, Sources, check_name, each_once
from ftpclient.verbs import Conflict, from_the_top, run, tell_problems
from ftpwire import messages, paths
from ftpwire.errors import (
    AlreadyExists,
    CommandError,
    DiskFull,
    Forbidden,
    InvalidPath,
    IsADirectory,
    NotADirectory,
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
    Room,
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
"""Bytes of memory that are kept with a path, about."""
_MAGIC = (b"*", b"?", b"[")
_TAMED = rb"\[([*?\[])\]"
"""How a pattern writes one of these as such: what was quoted in the shell comes so."""


class Client(BaseClient):
    """A logged-in user's view of a server.

    Remote paths are ``str``, ``bytes`` or ``PurePosixPath``, absolute or relative to ``cwd``; local
    ones are ``str``, ``bytes`` or ``os.PathLike``. Where several are taken, one is taken as well.

    Every verb takes ``timeout``, the most seconds for all of it, or for each step of a listing; it
    raises TimedOut then, and the next verb connects anew. Errors are those of ``ftpclient.errors``.

    Any number of threads may use it, one verb at a time. A listing keeps other threads waiting
    until it is used up or closed. A function that a verb calls (a listener, who asks for a
    password) can't call verbs of the same client: RuntimeError. After a fork, the child connects
    anew. Ctrl-C, or what a listener raises, ends the verb, and the next one is right.

    It can be pickled by its arguments, but for ``ask``, ``ask_takeover``, ``interrupt`` and
    ``remark``. The copy has the same ``cwd`` and ``limit_rate``, and connects by itself. A password
    that was given is in the pickle as it is.

        with Client("alice@example.net", password="…") as client:
            client.put(["report.pdf"], "/inbox/")
            for entry in client.list_dir("/inbox"):
                print(entry.path, entry.size)

    Args:
        server: ``[USER@]HOST[:PORT]`` or a saved name; None for FTP_SERVER, else the server that
            was logged in to last, else the local machine.
        password: Or something that asks for it, called when nothing else is there: FTP_PASSWORD,
            the token that `ftp login` saved, netrc; and once the server is trusted.
        password_tries: How often it is called, when the server refuses what it returned.
        plaintext: Speak without TLS.
        saved_token: Use the saved token, if there is one.
        verify: Refuse a whole file that the server sends without a digest. False is for servers
            that can't make one; a digest that is sent is always compared.
        remark: Told what the user should know, once for each text.
        accept_new: Pin the key of a server that was never seen before.
        known_hosts: The file of the pins; None for the user's own.
        fingerprint: What the key of the server has to be (``SHA256:…``), whatever known hosts say;
            it is pinned. None for FTP_SERVER_KEY if the server is that of FTP_SERVER.
        ca: A file of certificates to trust instead of the system's authorities.
        ask: Asks about a server's key that was never seen before.
        ask_takeover: Asks whether a certificate of an authority replaces the key that is pinned.
        interrupt: Set it to stop what is going on.
        retry_for: Seconds without progress for which transfers (`put`, `get`, `sync`, `read`,
            `write`) make a lost connection again and go on; 0 for never. Each byte that is
            acknowledged or received begins them anew. A first connection that fails is not tried
            again. For so long `remove`, `move`, `copy`, `make_dir` and `make_link` wait as well for
            a server that keeps a trash, which does once what it is asked for again.
        retries: The most losses of the connection that one transfer may meet; None for no bound.
    """

    # paths -------------------------------------------------------------------------------

    @verb
    def change_dir(self, path: AnyPath, *, timeout: float | None = None) -> RemotePath:
        """Make a remote directory the one that relative paths start at."""
        self.cwd = run(verbs.directory(self._ask, self._resolve(path)))
        return self.cwd

    @verb
    def glob(self, pattern: AnyPath, *, timeout: float | None = None) -> list[RemotePath]:
        """The remote paths that a pattern with ``*``, ``?`` or ``[…]`` matches, sorted.

        A path without these is returned as it is; so is one that exists to the letter.

        Raises:
            NotFound: Nothing matches.
            TooLong: So much matches that it can't be kept in memory.
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
            for entry in self.list_dir(directory):
                if entry.path.startswith(b".") and not hidden:
                    continue
                if entry.path and matcher.match(paths.to_text(entry.path)):
                    yield paths.child(directory, entry.path)
        except (NotFound, NotADirectory):
            return  # an earlier part matched something that is no directory

    def _resolve_in(self, path: AnyPath, in_trash: InTrash | None) -> RemotePath:
        return self._resolve(path) if in_trash is None else absolute(paths.ROOT, path)

    # looking -----------------------------------------------------------------------------

    @verb
    def whoami(self, *, timeout: float | None = None) -> str:
        """The account's name, as the server knows it."""
        return run(verbs.whoami(self._ask))

    @verb
    def space(self, *, timeout: float | None = None) -> Room:
        """Total, used, held and free bytes."""
        return run(verbs.space(self._ask))

    @verb
    def kept(self, *, timeout: float | None = None) -> list[KeptUpload]:
        """The account's uploads that were interrupted, and that the server keeps: ``put`` goes on
        with them.

        Raises:
            ProtocolError: The server is of a version that can't list them.
            TooLong: They are so many that they can't be kept in memory.
        """
        from ftpclient.transfer.kept import kept_uploads
        from ftpclient.transfer.spool import held

        uploads = kept_uploads(self.connection)
        advice = "the server lists kept uploads without end"
        return list(held(uploads, lambda one: size_of_path(one.path or b""), advice))

    @verb
    def drop_kept(
        self, path: AnyPath | None = None, *, timeout: float | None = None
    ) -> KeptDropped:
        """Drop the kept uploads to a path, or all of them: the room that they hold is free then.

        Returns:
            How many were dropped, and their bytes. Uploads that a session is at are not dropped:
            ``under_way`` counts them, and ``busy`` those that one took up just then.

        Raises:
            NotFound: None is kept for the path.
            Busy: None was dropped, since a session is uploading it just now.
            ProtocolError: As `kept`.
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
        """What is at a path. Raises NotFound.

        Args:
            in_trash: Of what lies in the trash, as `versions` and `trash_items` tell it: ``path``
                is below that, and ``/`` is itself. Other verbs that read take it, too.
        """
        place = self._resolve_in(path, in_trash)
        verb = verbs.stat(self._ask, place, follow=follow, digest=digest, in_trash=in_trash)
        return run(verb)

    def _find_visible(self, path: RemotePath) -> Entry | None:
        """What a path leads to; None also where a drop box tells nothing."""
        try:
            return self.find(path, follow=True)
        except Forbidden:
            return None

    @verb
    def find(
        self, path: AnyPath, *, follow: bool = False, timeout: float | None = None
    ) -> Entry | None:
        """What is at a path; None when nothing is."""
        return run(verbs.find(self._ask, self._resolve(path), follow=follow))

    @verb
    def exists(self, path: AnyPath, *, follow: bool = True, timeout: float | None = None) -> bool:
        """Whether something is at a path; a link that leads nowhere counts without ``follow``."""
        return run(verbs.exists(self._ask, self._resolve(path), follow=follow))

    @verb
    def is_dir(self, path: AnyPath, *, timeout: float | None = None) -> bool:
        """Whether a directory is at a path, or a link that leads to one."""
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
        timeout: float | None = None,
    ) -> Generator[Entry, None, None]:
        """The entries of a directory, or of the tree below it: each directory, then those in it.

        Streams: nothing is kept. Take them all, or none of the client's other verbs meanwhile.
        Their paths are relative to ``path``.

        Args:
            on_problem: Hears of what could not be read; without it the first one is raised.
        """
        place = self._resolve_in(path, in_trash)
        request = messages.List(place, recursive, follow, digest, in_trash)
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
        """The tree below a directory, a part of one directory at a time.

        Yields the directory, relative to ``path``, and entries by their names in it. All of a
        directory comes before those in it, and these one after another. As ``list_dir``.
        """
        place = self._resolve_in(path, in_trash)
        request = messages.List(place, True, follow, digest, in_trash)
        yield from self._walk(request, on_problem)

    def _walk(
        self, request: messages.List, on_problem: Callable[[Problem], None] | None
    ) -> Generator[tuple[bytes, list[Entry]], None, None]:
        from ftpclient.transfer.listing import list_pages

        if on_problem is not None:
            on_problem = self._guard.calling(on_problem)
        for page in list_pages(self.connection, request):
            tell_problems(page, on_problem)
            yield page.directory, page.entries

    @verb
    def hash(
        self,
        path: AnyPath,
        *,
        in_trash: InTrash | None = None,
        timeout: float | None = None,
    ) -> Hashed:
        """A file's BLAKE3 digest and size."""
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
        """Make a directory; with ``parents`` also those above, and it may exist."""
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
        """Make a symbolic link at ``path``; ``target`` is stored as it is given.

        Where it leads is found out when it is used, inside the home only.

        Raises:
            AlreadyExists: Something is there, and may not be replaced.
            InvalidPath: No link can have such a target.
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
        """Set the mode of a file or directory, its mtime, or both. A link is followed.

        Args:
            mode: Permission bits, 0 to 0o777; None leaves them.
            mtime_ns: Nanoseconds since 1970; None leaves it.
            setgid: Of a directory: whether what is made in it gets its group; None leaves that.

        Raises:
            NotADirectory: Something else was to have setgid.
        """
        run(verbs.set_attributes(self._ask, self._resolve(path), mode, mtime_ns, setgid))

    @verb
    def remove(
        self,
        path: AnyPath,
        *,
        recursive: bool = False,
        final: bool = False,
        timeout: float | None = None,
    ) -> Removed:
        """Remove a file, a link, an empty directory, or a whole tree.

        It goes to the trash of the server, if that keeps one: the answer tells, and has no numbers
        of a tree, which isn't counted then.

        Args:
            final: It is gone for good.
        """
        where = self._resolve(path)
        return run(verbs.remove(self._ask, where, recursive=recursive, final=final))

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
        """Copy on the server to exactly ``target``. A link that is named is followed.

        Args:
            links: Copy ``source`` itself where it is a link.
        """
        ends = self._resolve(source), self._resolve(target)
        return run(verbs.copy(self._ask, *ends, overwrite, recursive=recursive, links=links))

    @local
    def place_for(self, source: bytes, target: AnyPath, *, into: bool) -> RemotePath:
        """Where something named like ``source`` goes when ``target`` was given, as cp has it.

        Args:
            into: ``target`` is known to be a directory.
        """
        return place_for(source, self._resolve(target), into=into)

    @verb
    def is_directory(self, target: AnyPath, *, timeout: float | None = None) -> bool:
        """Whether things go into ``target``: a directory, or a path that ends with a slash."""
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
        """Whether ``target`` is a directory to put things into; made if it ends with a slash.

        Args:
            into: True: it has to be one that exists; False: it is a name, whatever is there.
            make: False: nothing is made.

        Raises:
            NotADirectory: It has to be one, for several sources or with ``into``, and isn't.
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
        """What commands have removed and replaced, and the server keeps: the newest first.

        An operation is one command. Its ``name`` is what the other verbs take.

        Args:
            below: Only those that have changed something at this path or below it.
            since: Only those that began after this moment, in seconds since 1970.

        Raises:
            ProtocolError: The server keeps no trash.
            TooLong: They are so many that they can't be kept in memory.
        """
        from ftpclient.transfer import trash

        path = None if below is None else self._resolve(below)
        return self._asked(lambda: trash.operations(self.connection, below=path, since=since))

    @verb
    def trash_items(
        self,
        operation: str | None = None,
        *,
        below: AnyPath | None = None,
        timeout: float | None = None,
    ) -> list[Trashed]:
        """What an operation has changed, thing by thing, the newest first; None: all of them.

        Args:
            below: Only what was at this path or below it.

        Raises:
            Expired: It isn't in the trash any more.
            NotFound: It never was.
            ProtocolError, TooLong: As `trash`.
        """
        from ftpclient.transfer import trash

        if operation is not None:
            verbs.check_operation(operation)
        path = None if below is None else self._resolve(below)
        return self._asked(lambda: trash.items(self.connection, operation, below=path))

    @verb
    def versions(self, path: AnyPath, *, timeout: float | None = None) -> list[Version]:
        """What was at a path before and can be put back, the newest first; none: an empty list.

        Raises ProtocolError, TooLong as `trash`.
        """
        from ftpclient.transfer import trash

        place = self._resolve(path)
        return self._asked(lambda: trash.versions(self.connection, place))

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
        """Put back what an operation has removed and replaced, where it was. Missing directories
        above it are made.

        That is an operation itself, whose name is returned with what was done: to undo it is to
        remove and replace again.

        Args:
            paths: Only what was at or below one of these, also a part of a tree; none: all.
            items: Only these, by their names in the trash; none: all.
            target: A directory to put it into, instead of where it was. It is made when missing.
            conflict: What to do where something else is in the way. ``skip``: leave that alone.
                ``replace``: that goes to the trash. ``beside``: restore as ``NAME.restored-1``.
            dry_run: Change nothing, and tell what would be done.

        Returns:
            What is back; and ``conflicts``, what isn't and why.

        Raises:
            Expired: It isn't in the trash any more.
            NotFound: It never was.
            Busy: It is still being written, or somebody restores from it just now.
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
        """Take back all that an operation has done, the last first: as `restore`.

        Args:
            operation: None: the newest one of this client program in the last hour, which was not
                undone, with all others of the same command. Undoing is an operation, too: to undo
                twice is to do it again; after conflicts, the second time is for the rest.

        Raises:
            NotFound: There is none.
            Expired, Busy, …: As `restore`.
        """
        if operation is not None:
            return self.restore(operation, conflict=conflict, dry_run=dry_run)
        from ftpclient.connection.client_id import client_id
        from ftpclient.transfer import trash

        found = self._asked(lambda: trash.operations(self.connection))
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
        """Remove from the trash for good: an operation, or **all** without one.

        Args:
            items: Of the operation, only these, by their names in the trash.
            before: Only operations that began before this moment, in seconds since 1970.

        Returns:
            What became free.

        Raises:
            Expired: It isn't in the trash any more.
            NotFound, Busy, Forbidden
            ProtocolError: The server keeps no trash.
        """
        return run(verbs.purge(self._ask, operation, list(items), before))

    # moving bytes ------------------------------------------------------------------------

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
        """Upload files, links and trees, into ``target`` or as it (the rules of cp).

        A link that is named is followed, unless it is another user's who may have put it there for
        that; links inside trees are stored as links. A FIFO, a device and a descriptor (/dev/fd/3)
        that are named are read to their end.

        Failures of single files are in the summary, and told to the listener. What an earlier
        try has stored, and the server still has, is compared by digest and not sent again.
        With ``atomic`` a directory appears at its target all at once, in the place of what is
        there, once all of it is on the server; or not at all, when any of it failed. Its
        target is that name exactly, unless it ends with a slash. Of two sources with one base
        name, the second is refused: it fails with AlreadyExists, and the others are done.

        Args:
            copy_links: Follow all links: in trees, and another user's.
            into: True: ``target`` has to be a directory that exists, and everything goes into it.
                False: ``target`` is the name of the one source, whatever is there. None: as in cp.
            parallel: Connections for the files of a tree, or the pieces of large files; None
                chooses.
            links: Store a link that is named itself.
            no_empty: A file or stream without a byte fails, and is not stored.
            exclude: gitignore patterns of what is left out of trees; one that begins with ``!``
                takes something back in, and the last that matches decides.
            ignore_files: The patterns of .ftpignore files in a tree hold as well.
            files_from: Paths below the one source, which is a directory: only these are sent, and
                the directories above them made; directories with all that is in them. One that
                doesn't exist is a failure.
            remove_source: Remove each file here once the server has it for good, if it still is
                what was sent, and directories that became empty. Of a link that is named, the link
                goes. Not together with ``atomic`` or ``copy_links``.
            dry_run: Change nothing: the listener is told of what would be done, by results that
                are ``planned``, or ``skipped`` or ``failed``.

        Raises:
            QuotaExceeded, DiskFull: It can't fit. Nothing was sent.
            InvalidPath: One of ``files_from`` leads out of the source. Nothing was sent.
            ValueError: One of ``exclude`` is no pattern; or options exclude each other.
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
                told = self._guard.listener(listener)
                typed = as_typed(target)
                return self._put(local, typed, into, options, told, atomic, parallel, dry_run)
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
        self.connect()  # for the first time, maybe: that is tried once

        def prepare() -> bool:
            self._ask_ahead(local, target, options)
            several = len(local) > 1
            return self.make_target(target, several=several, into=exists, make=not dry_run)

        into = retry.asked(self, listener, prepare)
        if atomic and exists is None:  # what is there is to be replaced, not added to
            into = os.fsencode(target).endswith(b"/")
        note = None
        tree = len(local) == 1 and recursive and os.path.isdir(local[0])
        if tree and exists is None and not atomic:
            absolute = os.path.abspath(local[0])
            note = Unfinished("put", str(self.address), absolute, self._resolve(target))
            into = into and not note.exists() if dry_run else note.target(into=into)
        if exists is False:
            check_name(os.fsencode(target), all(map(os.path.isdir, local)))
        placed, refused = self._place(local, target, into, options, listener)
        if recursive or len(placed) > 1 or dry_run:  # one file: the server says so
            try:
                retry.asked(
                    self,
                    listener,
                    lambda: preflight.check_put(self.connection, placed, options, atomic=atomic),
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
            for source, path in placed:
                upload.add_named(source, path)
            for source, path, error in refused:
                upload.end(source, path, 0, error=error)

        ending = retry.Ending(upload)

        def replace_all() -> None:
            if ending.was_done():  # all but the answer had come before the connection was lost
                upload.tell_held()
                return
            upload.start_over()
            source, path = placed[0]
            try:
                mode = os.stat(source).st_mode & 0o777
            except OSError:
                mode = 0o700  # the upload says what is wrong with it
            try:
                upload.connection.ask(messages.BeginTree(path, mode))
            except InvalidPath as error:
                if not str(error).endswith("at once"):
                    raise  # no server could store it there
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
                upload.tell_held()

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

    def _place(
        self,
        local: list[bytes],
        target: AnyPath,
        into: bool,
        options: Options,
        listener: Listener,
    ) -> tuple[list[tuple[bytes, RemotePath]], list[tuple[bytes, RemotePath, AlreadyExists]]]:
        """Where each source goes; apart from them, those that would replace what others make."""
        placed, refused = [], []
        here = self._resolve(target)
        names = Sources[bytes](lambda above, name: os.path.lexists(os.path.join(above, name)))
        several = len(local) > 1 and options.overwrite != "never"
        for source in each_once(local, listener.remark):
            path = self.place_for(source, target, into=into)
            name = paths.name_of(path) if into and path != here else b""
            try:
                if several:
                    names.check(source, name, path)
            except AlreadyExists as error:
                refused.append((source, path, error))
                continue
            placed.append((source, path))
            if os.path.lexists(source):
                names.add(source, name)
        return placed, refused

    def _ask_ahead(self, local: list[bytes], target: AnyPath, options: Options) -> None:
        """Of a tree that is put: ask at once for all that is going to be asked before it."""
        if len(local) != 1 or not options.recursive:
            return
        path = self._resolve(target)
        inside = self.place_for(local[0], target, into=True)
        self.connection.ask_ahead(
            messages.Stat(path, follow=True),  # is it a directory?
            messages.Space(),  # is there room?
            messages.Stat(inside, digest=True),  # then, was some of it sent before?
            messages.Stat(path, digest=True),  # or, where it isn't a directory
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
        """Upload one file as exactly ``target``. As ``put``, but what went wrong is raised.

        Raises:
            AlreadyExists, NotNewer: Something is there that ``overwrite`` keeps.
            IsADirectory: ``source`` is one, or ``target`` is.
            OSError: ``source`` can't be read.
            QuotaExceeded, DiskFull, ConnectionLost, Interrupted, …
        """
        told = One(listener)
        self.put(
            source,
            target,
            into=False,
            overwrite=overwrite,
            resume=resume,
            parallel=parallel,
            links=links,
            no_empty=no_empty,
            listener=told,
        )
        return told.result()

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
        """Upload what can be read from a descriptor until its end, as the file ``target``.

        Args:
            no_empty: Without a byte it fails, and nothing is stored.

        Raises:
            ConnectionLost: Once it was read from: what was read can't be read again.
        """
        from ftpclient.transfer import retry
        from ftpclient.transfer.job import Options
        from ftpclient.transfer.upload import Upload

        listener = self._guard.listener(listener)
        self.connect()  # for the first time, maybe: that is tried once
        if retry.asked(self, listener, partial(self.is_directory, target)):
            raise IsADirectory(f"{paths.show(as_typed(target))}: a directory: name the file")
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
        """Download files, links and trees; sources may be patterns. As ``put``.

        Bytes go into a FIFO, a device or a descriptor (/dev/fd/3) that is named as the target, and
        through a link to a file, which is replaced where it lies. In trees, and where a pattern
        chose the name, nothing is written through links.

        Args:
            copy_links: Follow all links: in trees, and at the target another user's.
            links: Make a link where a link is named.
            remove_source: Have the server remove each file once it is on the disk here, if it
                still is what came. What went into a FIFO, a device or a descriptor stays.
            dry_run: Change nothing, as with ``put``.
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
            told = self._guard.listener(listener)
            try:
                return self._get(named, target, into, options, told, parallel, dry_run=dry_run)
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
        contents: set[RemotePath] = set()  # typed as DIR/. : what is inside, without its name
        exact: set[RemotePath] = set()  # typed in full: no pattern chose their names
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
                    matches = retry.asked(self, listener, partial(self.glob, source))
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
        if download.connection is not self.connection:  # lost meanwhile, and made again
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
                return True  # no home is asked about what lies in the trash: be careful
            return self.find(paths.child(directory, name)) is not None

        places: dict[RemotePath, tuple[bytes, bytes]] = {}  # and the name that a server chose
        there = named.Targets(trust=copy_links)
        for path in found:
            name = b"" if path in contents or not into else paths.name_of(path)
            places[path] = os.path.join(local, name) if name else local, name
            there.look(places[path][0], exact=not name or path in exact)

        def add_all() -> None:
            names = Sources[RemotePath](holds)
            for path in found:
                place, name = places[path]
                try:
                    if several:
                        names.check(path, name, place)
                    if asks_ahead:
                        tree_download.ask_ahead(self.connection, options, path, place)
                    entry = self._to_get(path, options.in_trash, follow=not options.links)
                    if exists is False:
                        check_name(local, entry.type == "dir")
                except CommandError as error:
                    download.end(path, place, 0, error=error)
                    continue
                names.add(path, name)
                if len(found) == 1 and entry.type == "file":
                    download.size = entry.size
                if asks_ahead and entry.type != "dir":
                    self.connection.forget_ahead()
                download.add(path, entry, place, follow=not name, there=there)

        # with -r, what was named in full is a directory most likely
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
        """Download one file as exactly ``target``. As ``get``, but what went wrong is raised.

        ``source`` is a name and never a pattern.

        Raises:
            NotFound, Forbidden
            AlreadyExists, NotNewer: Something is there that ``overwrite`` keeps.
            IsADirectory: ``source`` is one, or ``target`` is.
            OSError: ``target`` can't be written.
            ConnectionLost, Interrupted, …
        """
        from ftpclient.transfer.job import Options

        options = Options(
            overwrite=overwriting(overwrite), resume=resume, links=links, in_trash=in_trash
        )
        told = One(listener)
        self._get(
            [source], target, False, options, self._guard.listener(told), parallel, literal=True
        )
        return told.result()

    def _to_get(self, path: RemotePath, in_trash: InTrash | None, *, follow: bool) -> Entry:
        """What is at a path that is to be fetched. Raises Forbidden where a rule forbids that."""
        from ftpclient.transfer.listing import to_fetch

        if in_trash is not None:
            return self.stat(path, follow=follow, digest=True, in_trash=in_trash)
        try:
            return self.connection.ask(to_fetch(path, follow)).entry
        except NotFound:
            self.hash(path)  # of a drop box, stat says nothing; what reads is told the rule
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
        """Make ``target`` have what ``source`` has; exactly one of them begins with a colon, and
        is on the server.

        Args:
            confirm: Asked before anything is deleted.

        Raises:
            SafetyLimit: It would delete more than it may. Nothing was changed.
            QuotaExceeded, DiskFull: It can't fit. Nothing was changed.
            ConnectionLost, Interrupted, NotFound, NotADirectory
        """
        from ftpclient.sync.job import Options, Sync
        from ftpclient.transfer import retry

        route = self._route(source, target)
        told = self._guard.listener(listener)
        confirmed = None if confirm is None else self._guard.calling(confirm)
        options = options or Options()
        with selected((), options.files_from) as selection:
            sync = Sync(self.connection, route, options, told, confirmed, selection.only)
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
        """Compare ``source`` and ``target``: two directories with all that is in them, or two
        files. Exactly one of them begins with a colon, and is on the server. Nothing is changed.

        What both have is the same when type, size, digest and mode are, whatever its time is. Of a
        directory and a file, the file is compared with what has its name in the directory.

        Args:
            listener: Its ``found`` hears of each difference.

        Raises:
            NotFound: One of the two is missing.
            CommandError: One of the two can't be read.
            ConnectionLost, Interrupted
        """
        from ftpclient.sync.check import Check, CheckOptions
        from ftpclient.transfer import retry

        route = self._route(source, target)
        told = self._guard.listener(listener)
        check = Check(self.connection, route, options or CheckOptions(), told)
        retry.Run(self, check, check.run, None).persist()
        return check.totals

    def _route(self, source: LocalPath, target: LocalPath) -> Route:
        """The two ends of a sync. Raises InvalidPath."""
        from ftpclient.sync.plan import Route

        ends = [os.fsencode(path) for path in (source, target)]
        remote = [path.startswith(b":") for path in ends]
        if remote[0] == remote[1]:
            raise InvalidPath("one path, and not the other, has to begin with a colon")
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
        """The bytes of a file. All of them are verified; of a part, TLS alone vouches.

        Args:
            offset: Bytes to skip from the start; beyond the end there are none.
            length: The most bytes to return; None for all that follow.

        Raises:
            NotFound, IsADirectory, Forbidden, ConnectionLost
            VerificationFailed: They are not what was stored.
            ValueError: ``offset`` or ``length`` is negative.
        """
        from ftpclient.transfer import ranges, retry

        if offset < 0 or (length is not None and length < 0):
            raise ValueError("offset and length can't be negative")
        if offset or length is not None:
            length = ranges.TO_THE_END if length is None else length
            return bytes(self.fetch_range(path, offset, length, in_trash=in_trash).data)
        whole = self._resolve_in(path, in_trash)
        self.connect()  # for the first time, maybe: that is tried once
        return bytes(
            retry.asked(
                self, Listener(), lambda: ranges.fetch_whole(self.connection, whole, in_trash)
            )
        )

    @verb
    def fetch_range(
        self, path: AnyPath, offset: int, length: int, *, in_trash: InTrash | None = None
    ) -> Piece:
        """Some bytes of a file, and what it is; see `read`."""
        from ftpclient.transfer import ranges, retry

        part = self._resolve_in(path, in_trash)
        offset, length = min(offset, ranges.TO_THE_END), min(length, ranges.TO_THE_END)
        self.connect()  # for the first time, maybe: that is tried once
        return retry.asked(
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
        """Store bytes as a file, whole or not at all; returns how many.

        Args:
            overwrite: ``never``: refuse to replace what is there.
            mode: Permission bits, 0 to 0o777; None for those of what is replaced, or 0o644.
            parents: Make missing directories above it.

        Raises:
            NotFound, IsADirectory, NotADirectory, Forbidden, QuotaExceeded, DiskFull,
            ConnectionLost
            AlreadyExists: Something is there, with ``overwrite="never"``.
            ValueError: There is no such ``overwrite``, or ``mode``.
        """
        from ftpclient.files.opening import check_names_a_file, mode_of
        from ftpclient.transfer import memory_upload, retry
        from ftpclient.transfer.job import Options
        from ftpclient.transfer.upload import Upload

        overwrite = replacing(overwrite)
        if mode is not None and not 0 <= mode <= 0o777:
            raise ValueError(f"mode is 0 to 0o777, not {mode:#o}")
        check_names_a_file(named(path))
        target = self._resolve(path)
        view = memoryview(data).cast("B")
        outcome = memory_upload.Outcome()
        self.connect()  # for the first time, maybe: that is tried once
        there = None
        if mode is None and overwrite != "never":
            there = retry.asked(self, outcome, partial(self._find_visible, target))
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
        """A remote file as a file object: an `io.BufferedReader`, or an `io.BufferedIOBase` to
        write to. For text, wrap it in an `io.TextIOWrapper`.

        What is written appears under its name, whole, when the file is closed. It goes when a
        ``with`` block is left by an exception. A file of more than 4 MiB is sent while it is
        written, on a connection of its own.

        Args:
            mode: ``rb`` reads, and can seek. ``wb`` replaces what is there. ``xb`` never does.
                ``ab`` adds to what is there: when the file is closed that is read, and stored anew
                together with what was written. Of two who do so at the same time, one is refused
                with SourceChanged, or replaces what the other has added.
            parents: Make missing directories above a file that is written.
            autocommit: False: closing stores nothing; ``commit()`` does afterwards, or
                ``discard()`` gives it up.
            timeout: Seconds that opening may take. Reading and writing have none of their own.

        Raises:
            NotFound, IsADirectory, NotADirectory, AlreadyExists, Forbidden, ConnectionLost
            ValueError: There is no such mode.
        """
        if mode == "rb":
            return self._open_to_read(path, timeout=timeout)
        if mode not in ("wb", "xb", "ab"):
            raise ValueError(f"mode is 'rb', 'wb', 'xb' or 'ab', not {mode!r}")
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
        """Write a remote file's bytes to a descriptor; returns size and digest.

        After a lost connection they go on where they stopped, if the file is still the same.

        Raises:
            VerificationFailed: After the last byte: it was damaged on the way. Or it changed on the
                server while the connection was lost.
        """
        from ftpclient.transfer import node, retry

        path, into = self._resolve_in(source, in_trash), node.Node(b"-", fd)
        self.connect()  # for the first time, maybe: that is tried once
        return retry.asked(
            self, Listener(), lambda: node.fetch(self.connection, path, into, in_trash=in_trash)
        )


def first_question(path: RemotePath, follow: bool) -> messages.Stat:
    """What `Client.get` asks first about a source, which may be a pattern."""
    from ftpclient.transfer.listing import to_fetch

    return messages.Stat(path) if is_pattern(path) else to_fetch(path, follow)


def _check_one_tree(sources: Sequence[object]) -> None:
    """Raises InvalidPath unless there is one source, which a list of paths is below."""
    if len(sources) != 1:
        raise InvalidPath("the paths of a list are below one SOURCE: give one")


def _up_from(path: RemotePath) -> set[RemotePath]:
    """A directory, and those that it is in."""
    found = {path}
    while path != paths.ROOT:
        path = paths.parent_of(path)
        found.add(path)
    return found


def size_of_path(path: bytes) -> int:
    """About the memory that something with this path takes, in bytes."""
    return len(path) + _AROUND_PATH


def is_pattern(path: bytes) -> bool:
    """Whether a path has ``*``, ``?`` or ``[``."""
    return any(one in path for one in _MAGIC)


def _untamed(path: bytes) -> bytes:
    """A path without those of these that stand in brackets, for themselves."""
    return re.sub(_TAMED, b"", path) if b"[" in path else path


def matching(pattern: RemotePath, known: Collection[RemotePath]) -> list[RemotePath]:
    """Those of some paths that a pattern matches, sorted, by the rules of `Client.glob`.

    A path without wildcards is returned as it is; so is one that is known to the letter.
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
    """As `Client.make_target`, on this side; without ``make`` nothing is made."""
    exists = os.path.isdir(local)
    if into and not exists:
        raise NoTargetDirectory(f"{paths.show(local)}: no directory here")
    if into is None:
        into = exists
        if local.endswith(b"/") and not into:
            if os.path.lexists(local.rstrip(b"/")):
                raise NotADirectory(f"{paths.show(local)}: not a directory")
            if make:
                os.makedirs(local)
            into = True
    if several and not into:
        raise NotADirectory(f"{paths.show(local)}: not a directory (end it with / to make one)")
    return into
