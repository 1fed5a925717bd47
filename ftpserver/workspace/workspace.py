"""Workspace: what a logged-in user may do with files, without a socket.

Lives here: every verb that concerns an account's files, its permissions checked first.
Lives elsewhere: the frames that requests and bytes come in (serving/exchange.py), how files and
room are kept (storage/), who may log in (accounts/authenticator.py).

It is what handlers of requests, and gateways for other protocols, stand on.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress

from msgspec.structs import replace

from ftpserver.accounts.account import Account
from ftpserver.storage.atomic_tree import AtomicTree
from ftpserver.storage.batch import Outcome, Uploads
from ftpserver.storage.file_run import size_of
from ftpserver.storage.group_sync import Syncs
from ftpserver.storage.home import Home
from ftpserver.storage.home_staging import same_as
from ftpserver.storage.kept import KeptStaging
from ftpserver.storage.listing import Item, Part
from ftpserver.storage.permissions import Action
from ftpserver.storage.quota import QuotaStore
from ftpserver.storage.staging import DROPPED_BITS, MODE_BITS
from ftpserver.storage.trash.index import Item as TrashedItem
from ftpserver.storage.trash.making_room import MakingRoom
from ftpserver.storage.trash.policy import NO_TRASH, Policy
from ftpserver.storage.upload import Receiving
from ftpserver.storage.walk import Usage
from ftpserver.workspace import needs
from ftpserver.workspace.copying import Copying
from ftpserver.workspace.keeping import Keeping
from ftpserver.workspace.moving import MovingByCopy, remove_in_place
from ftpserver.workspace.observer import Observer, Unobserved, ticker, ticker_on
from ftpserver.workspace.reading import OpenFile
from ftpserver.workspace.reading_many import FilesRead, read_many
from ftpserver.workspace.scope import Scope
from ftpserver.workspace.trashing import Trash
from ftpserver.workspace.writer import Writer
from ftpwire import paths
from ftpwire.errors import (
    CommandError,
    DiskFull,
    Forbidden,
    Internal,
    InvalidPath,
    NotFound,
    SourceChanged,
    VerificationFailed,
    from_oserror,
)
from ftpwire.messages import (
    BeginTree,
    Copied,
    Copy,
    DropKept,
    EndTree,
    Entry,
    Get,
    GetFiles,
    Hash,
    Hashed,
    KeptDropped,
    KeptUpload,
    List,
    ListKept,
    ListTrash,
    MakeDir,
    MakeLink,
    Message,
    Move,
    Operation,
    Purge,
    Put,
    PutFiles,
    PutPiece,
    Remove,
    Removed,
    Restore,
    Restored,
    Room,
    Sent,
    SetAttributes,
    Space,
    Stat,
    TrashPage,
)
from ftpwire.pieces import Piece
from ftpwire.units import human

logger = logging.getLogger("ftpd.workspace")

NOT_KEPT = "it could not be put into the trash: it is gone for good"


class Workspace:
    """The files of one account, for one thread at a time.

    Every verb takes a request of `ftpwire.messages` and checks the account's permissions, as they
    are at that moment. What is refused raises CommandError or OSError, and has changed nothing
    unless the verb says so.

    **What is durable when.** `move`, `copy`, `remove` of a tree, `end_tree` and `drop_kept` are
    durable when they return. Uploads (`stage`, `receive`), `change` and `remove` of a file join a
    batch: nothing of them is visible, or durable, before `commit` returns their outcomes. The verbs
    that don't join it see what is committed only: call `commit` before them.

    Args:
        account: Whose files. Another thread may put a changed account there at any time.
        quota_store: Where room is kept.
        durable: Sync before anything is called done.
        syncs: What the sessions of this process sync together; None: this one has its own.
        observer: Told how far long work is; may cancel it.
        policy: What holds for the account's trash at the moment; without it there is none.
        patience: Seconds to wait for the home's lock; None: as long as it takes.
        cut: Ends whoever uses the workspace, when the account has come again over another
            connection and needs an upload that this one writes to. Called with that one's path.
        check_client: Raises when whoever uses the workspace has gone.

    Attributes:
        tree: The atomic tree that is under way.
        keeping: Which command of the client it works for.
        batch: What waits for `commit`; None before there was anything.
    """

    def __init__(
        self,
        account: Account,
        quota_store: QuotaStore,
        *,
        durable: bool = True,
        syncs: Syncs | None = None,
        observer: Observer | None = None,
        policy: Callable[[], Policy] = lambda: NO_TRASH,
        patience: float | None = None,
        cut: Callable[[bytes], None] = lambda path: None,
        check_client: Callable[[], None] = lambda: None,
    ) -> None:
        self.account = account
        self._patience = patience
        self.policy = policy
        self._room = MakingRoom(
            quota_store, lambda: self.home, account.id, self._gave_up, on_measured=self._measured
        )
        self._shortened = False
        """Whether the user knows that this command takes room from the trash."""
        self.keeping = Keeping(quota_store, account.id, account.name, self._room.make_room)
        self.tree: AtomicTree | None = None
        self._quota_store = quota_store
        self._durable = durable
        self._syncs = Syncs() if syncs is None else syncs
        self._observer = Unobserved() if observer is None else observer
        self._cut = cut
        self._check_client = check_client
        self._writers: set[Writer] = set()
        """Those that are open."""
        self._home: Home | None = None
        self.batch: Uploads | None = None

    # its parts ---------------------------------------------------------------------------

    @property
    def home(self) -> Home:
        """The account's home, opened at first use. Raises Internal when that fails."""
        if self._home is None:
            try:
                self._home = Home(
                    self.account.home,
                    durable=self._durable,
                    incarnation=self._quota_store.incarnation,
                    patience=self._patience,
                )
            except OSError as error:
                logger.error("%s: the home can't be opened: %s", self, error)
                raise Internal("your home directory can't be opened on the server") from None
            self._home.set_permissions(self.account.rights)
            self._home.take_turn = self._observer.take_turn
            self._home.will_block = self._observer.will_block
        return self._home

    @property
    def _uploads(self) -> Uploads:
        """The batch of changes, made at first use. Raises Forbidden, DiskFull when none may be."""
        return self._open_batch() if self.batch is None else self.batch

    def _open_batch(self) -> Uploads:
        self.batch = self._new_uploads()
        return self.batch

    def begin_operation(self, request: Operation) -> None:
        """What follows is another command of the client: what it removes and replaces is kept
        together. Call `commit` before."""
        self.keeping.begin(request)
        self._shortened = False

    def _gave_up(self, size: int, operations: list[str]) -> None:
        self._observer.gave_up(size, operations)
        if not self._shortened:
            self._shortened = True
            self._observer.remark(f"the trash was shortened by {human(size)} to make room")

    def _measured(self, operation: str, item: TrashedItem, usage: Usage) -> None:
        self._observer.measured(operation, item.path.value, usage.size, usage.files)

    def _keep(self) -> None:
        """Have what goes from here on kept, as the account's settings are now."""
        home = self.home
        operation = self.keeping.open(home, self.policy())
        if operation is not home.operation:
            if home.operation is not None:
                home.operation.close()
            home.operation = operation

    def _new_uploads(self) -> Uploads:
        self.home.check_writable()
        return Uploads(
            self.home,
            self._room,
            self.account.id,
            durable=self._durable,
            syncs=self._syncs,
            cut=self._cut,
            check_client=self._check_client,
            keep=self._keep,
        )

    @property
    def _scope(self) -> Scope:
        return Scope(self.home, self._uploads, self._room, self.account.id, self._observer)

    def require(self, request: Message) -> None:
        """Raise Forbidden unless the account, as it is now, may ask for that."""
        permissions = self.account.rights
        if self._home is not None and self._home.permissions is not permissions:
            self._home.set_permissions(permissions)
        if not permissions.unlimited:
            needs.require(permissions, request)

    # looking -----------------------------------------------------------------------------

    def stat(self, request: Stat) -> Entry:
        """What is told about one path.

        Where nothing may be listed, a file that is there is not found either, and with the same
        words: what puts something there says whether a name is taken.
        """
        self.require(request)
        if request.in_trash is not None:
            return self._trash.stat(request, request.in_trash)
        home, parts = self.home, paths.split(request.path)
        listed = home.permits(Action.LIST, parts)
        try:
            entry = home.entry(request.path, follow=request.follow, digest=request.digest)
            if listed or entry.type == "dir":
                return entry
        except FileNotFoundError:
            if listed:
                raise
        try:
            home.require(Action.LIST, parts)
        except Forbidden as refused:
            raise NotFound(str(refused)) from None
        raise NotFound(f"{paths.show(request.path)}: no such file or directory")

    def list(self, request: List) -> Iterator[Item]:
        """List a directory, or the tree below it; see `Home.list`."""
        parts = self.list_parts(request)
        return (item for part in parts for item in part.items())

    def list_parts(self, request: List) -> Iterator[Part]:
        """What `list` tells, in parts; see `Home.list_parts`."""
        self.require(request)
        if request.in_trash is not None:
            return self._trash.listing(request, request.in_trash)
        return self.home.list_parts(
            request.path,
            recursive=request.recursive,
            follow=request.follow,
            digest=request.digest,
        )

    def hash(self, request: Hash) -> Hashed:
        """A file's digest: the kept one while it is true, else computed and kept.

        Of a file that grows meanwhile it is the digest of what was there when it was opened. One
        that changes in another way is read once more.

        Raises:
            SourceChanged: It changed again.
        """
        self.require(request)
        try:
            return self._hash(request)
        except SourceChanged:
            return self._hash(request)

    def _hash(self, request: Hash) -> Hashed:
        with self._open(request) as file:
            return file.hash()

    def open(self, request: Get) -> OpenFile:
        """Open a file to be read. The caller closes it, as a context manager."""
        self.require(request)
        return self._open(request)

    def _open(self, request: Get | Hash) -> OpenFile:
        if request.in_trash is not None:
            return self._trash.open(request, request.in_trash)
        fd, info = self.home.tree.open_file(paths.split(request.path))
        return OpenFile(fd, info, request.path, self._observer)

    def get_files(self, request: GetFiles) -> FilesRead:
        """Read many small files. What isn't so, or may not be read, is left out, not refused.

        Raises:
            BadRequest: It asks for more than one request may.
        """
        self.require(request)
        return read_many(self.home, request, self._observer)

    def space(self, request: Space) -> Room:
        """Total, used, held and free bytes and files, and what the disk has and keeps.

        What is in the trash counts as free: it is given up when room is needed.
        """
        self.require(request)
        if not self.home.read_only:
            self._room.measure(ticker(self._observer))
        room = self._quota_store.room(self.account.id)
        kept = self.home.kept_times(request.times) if request.times else None
        disk_free = self.home.disk_free()
        if disk_free is not None:
            disk_free += self._quota_store.trash_of_all(self.account.id)
        return replace(room, disk_free=disk_free, kept_times=kept)

    # uploads -----------------------------------------------------------------------------

    def expect(self, request: Put) -> None:
        """Refuse an upload before its bytes are received, where that can be known by then.

        Raises:
            Forbidden, DiskFull, Internal: Nothing can be stored there, or in the home at all.
        """
        self.require(request)
        if self.batch is None:
            self._open_batch()

    def check(self, request: Put) -> None:
        """Refuse early what a commit would refuse late: for uploads that ask first."""
        self.expect(request)
        self._uploads.check(request)

    def stage(
        self, request: Put, data: bytes | bytearray, sent: Sent, *, request_id: int = 0
    ) -> None:
        """Stage an upload that came in whole, of at most `SMALL` bytes; `commit` places it.

        Args:
            sent: What the sender says of it.
            request_id: To know its outcome by.

        Raises:
            VerificationFailed: It isn't what was sent.
        """
        self.require(request)
        self._uploads.stage_small(request_id, request, data, sent)

    def expect_files(self, request: PutFiles) -> int:
        """Refuse many files before their bytes are received, where that can be known by then.

        Returns:
            How many bytes they have.

        Raises:
            BadRequest: It is about too much.
            Forbidden, DiskFull, Internal: Nothing can be stored in the home at all.
        """
        self.require(request)
        size = size_of(request)
        if self.batch is None:
            self._open_batch()
        return size

    def stage_files(
        self, request: PutFiles, data: bytes | bytearray, *, request_id: int = 0
    ) -> None:
        """Stage many small files, and make directories for them; `commit` places them.

        What is refused of it is told by the outcome, a `FilesOutcome`, with what the commit
        refuses: the rest is stored. It is the same as its parts one after another.

        Args:
            data: The bytes of all files, one after another: as many as `expect_files` has said.
            request_id: To know its outcome by.

        Raises:
            BadRequest, Forbidden, DiskFull, Internal: As by `expect_files`.
            VerificationFailed: There are more or fewer bytes.
        """
        size = self.expect_files(request)
        if len(data) != size:
            raise VerificationFailed(f"{len(data)} bytes arrived, {size} announced")
        self._uploads.stage_files(request_id, request, data)

    def receive(self, request: Put, *, request_id: int = 0) -> AbstractContextManager[Receiving]:
        """Receive an upload bit by bit: a context in which its bytes are written.

        Left without an error, the next `commit` places it. Left by a cut or a cancel, what is
        worth it is kept for a resume; else nothing of it stays.
        """
        self.require(request)
        return self._uploads.receiving(request_id, request)

    def write(self, request: Put, *, keep_content: bool = False, resume: bool = False) -> Writer:
        """Open a file to be written at any offset; it appears whole, by `Writer.publish`.

        Nothing of it waits for `commit`. An upload that comes from its first byte to its last
        costs less by `receive`.

        Args:
            keep_content: Begin with the bytes that are there, if there is a file.
            resume: Begin with what an earlier `Writer.keep` has left, if there is something.
        """
        self.expect(request)
        self._uploads.check(request)
        uploads = self._new_uploads()  # its own: what it holds open of directories grows old
        uploads.remarks = self._uploads.remarks
        with ExitStack() as stack:
            content = None
            if keep_content:
                with suppress(FileNotFoundError):
                    content = stack.enter_context(self.open(Get(request.path))).fd
            writer = Writer(
                uploads,
                request,
                content=content,
                resume=resume,
                require=self.require,
                before_commit=self._finish_batch,
                on_end=self._writers.discard,
            )
        self._writers.add(writer)
        return writer

    def receive_piece(self, request: PutPiece) -> Piece:
        """Begin a piece of what another session of the account uploads."""
        self.require(request)
        return self._uploads.open_piece(request)

    def kept(self, request: ListKept) -> Iterator[KeptUpload]:
        """The account's interrupted uploads."""
        self.require(request)
        return self._kept.uploads()

    def drop_kept(self, request: DropKept) -> KeptDropped:
        """Drop interrupted uploads of the account; their room is free then."""
        self.require(request)
        return self._kept.drop(request.upload, request.size, request.mtime_ns)

    @property
    def _kept(self) -> KeptStaging:
        return KeptStaging(self.home, self._quota_store, self.account.id)

    # changing ----------------------------------------------------------------------------

    def change(self, request: MakeDir | MakeLink | SetAttributes, *, request_id: int = 0) -> None:
        """Have the next `commit` make a directory or a link, or set attributes."""
        self.require(request)
        self._uploads.add_change(request_id, request)

    def remove_later(self, request: Remove, *, request_id: int = 0) -> bool:
        """Have the next `commit` remove a file or a link; False where `remove` has to do it.

        Removing many of them so costs no sync, and no statement, each.
        """
        self.require(request)
        if request.recursive or not self._is_no_directory(request.path):
            return False
        with suppress(DiskFull):  # the books can't be written to: removing is what mends it
            self._uploads.add_change(request_id, request)
            return True
        return False

    def remove(self, request: Remove) -> Removed:
        """Remove a file, a directory or a tree at once; what became free is the account's again.

        Raises:
            Cancelled, CommandError: The text says how much of a tree was removed, where its file
                system can't move it away at once.
            CommandError: An atomic tree is to appear in it.
        """
        self.require(request)
        if self.tree is not None:
            self.tree.refuse_to_take(request.path)
        self._keep()
        try:
            with self._quota_store.freeing(self.account.id) as settle:
                tally = self.home.remove(
                    request.path,
                    recursive=request.recursive,
                    tick=ticker_on(self._observer),
                    settle=settle,
                    check=same_as(request),
                    final=request.final,
                    number=request.number,
                )
        except OSError as error:
            if error.errno != errno.EXDEV or request.only_if_same:
                raise
            tally = remove_in_place(self._scope, request.path)
        size = tally.size + tally.staged
        if not tally.trashed:
            if self.home.operation is not None and not request.final:
                self._observer.remark(f"{paths.show(request.path)}: {NOT_KEPT}")
            return Removed(tally.files, tally.directories, size)
        if request.recursive:
            self._quota_store.measure_soon(self.account.id)
        return Removed(tally.files, tally.directories, size, self.keeping.name, trashed=True)

    def _is_no_directory(self, path: bytes) -> bool:
        """Whether a file or link is there now; what the batch is going to put there doesn't
        count."""
        parts = paths.split(path)
        if not parts:
            return False
        try:
            directory, name = self.home.tree.parent(parts)
            try:
                info = os.stat(name, dir_fd=directory, follow_symlinks=False)
            finally:
                os.close(directory)
        except FileNotFoundError:
            return False
        return not stat.S_ISDIR(info.st_mode)

    def move(self, request: Move) -> None:
        """Rename; a file that is replaced gives its room back. To another file system it copies,
        and removes the source.

        Raises:
            CommandError: An atomic tree is on its way, and it would be lost with what that
                replaces, or take away the directory that the tree is to appear in.
        """
        _check_paths(request.source, request.target)
        self.require(request)
        if self.tree is not None:
            self.tree.refuse_to_move(request.source, request.target)
        replaces = request.overwrite == "always"
        self._keep()
        try:
            with self._quota_store.freeing(self.account.id) as settle:
                self.home.move(
                    request.source,
                    request.target,
                    replace=replaces,
                    settle=settle,
                    number=request.number,
                )
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            MovingByCopy(self._scope, request, in_tree=self.tree is not None).run()

    def copy(self, request: Copy) -> Copied:
        """Copy a file or a tree inside the home, through staging like any upload."""
        _check_paths(request.source, request.target)
        self.require(request)
        return Copying(self._scope, request).run()

    def begin_tree(self, request: BeginTree) -> None:
        """From here on, what is put at or below the path goes to a hidden tree."""
        self.require(request)
        if self.tree is not None:
            raise CommandError("a tree is under way already")
        self.tree = AtomicTree(
            self.home, self._room, self.account.id, request.path, mode=request.mode
        )
        if request.mode & ~MODE_BITS:
            self._observer.remark(DROPPED_BITS)

    def end_tree(self, request: EndTree) -> None:
        """Put the tree in its place at once, or drop it.

        What a `Writer` has not published in it is gone: its place is.
        """
        self.require(request)
        tree, self.tree = self.tree, None
        if tree is None:
            raise CommandError("no tree is under way")
        for writer in tuple(self._writers):
            if writer.is_in_tree:
                with suppress(OSError):  # the tree ends all the same
                    writer.drop()
        tick = ticker_on(self._observer)
        if not request.commit:
            tree.abort(tick)
            return
        self._keep()
        try:
            tree.commit(tick)
        except (OSError, CommandError) as error:
            tree.abort(tick)
            path = paths.join(*tree.target)
            if isinstance(error, OSError):  # the request names no path
                raise from_oserror(error, paths.show(path), path) from None
            error.path = error.path or path
            raise
        if tree.trashed:
            self._quota_store.measure_soon(self.account.id)
        where = paths.show(paths.join(*tree.target))
        if tree.is_lost:
            self._observer.remark(f"{where}: {NOT_KEPT}")
        if tree.fresh:
            self._observer.remark(
                f"{where}: files that were stored or changed there since the new tree was begun, "
                f"and were removed with the old one: {tree.fresh}"
            )

    # the trash ---------------------------------------------------------------------------

    @property
    def _trash(self) -> Trash:
        return Trash(self.home, self._quota_store, self._room, self.account.id, self._observer)

    def list_trash(self, request: ListTrash) -> Iterator[TrashPage]:
        """What is in the trash, newest first, as far as the account may list where it was."""
        self.require(request)
        return self._trash.pages(self.policy(), request)

    def restore(self, request: Restore) -> Restored:
        """Take back what an operation has done. What can't be is told in the answer; the rest is
        durable. Call `commit` before.

        Raises:
            CommandError: An atomic tree is under way, in which it could end.
            Cancelled: What is back by then stays.
        """
        self.require(request)
        if self.tree is not None:
            raise CommandError("a tree is under way: restore when it is done")
        return self._trash.restore(self.keeping, request)

    def purge(self, request: Purge) -> Removed:
        """Remove from the trash for good: what the account may remove where it was.

        Raises:
            Busy: Others are at an operation; those besides it are gone.
        """
        self.require(request)
        return self._trash.purge(request)

    # the batch ---------------------------------------------------------------------------

    def commit(self, *, late: bool = False) -> Sequence[Outcome]:
        """Make all that has joined the batch durable and visible, in order.

        Args:
            late: The client is gone, and may be back over another connection already.

        Returns:
            What became of each: its ``request_id``, and its reply or `Failed`.
        """
        if self.batch is None:
            return ()
        return self.batch.commit(late=late)

    def abandon(self) -> None:
        """Drop what has joined the batch and wasn't committed."""
        if self.batch is not None:
            self.batch.abandon()

    def _finish_batch(self) -> None:
        if self.batch is not None:
            self.batch.finish()

    # its end -----------------------------------------------------------------------------

    def give_back_room(self) -> None:
        """Nothing is under way for a while: give back room that was taken in advance."""
        if self.batch is not None:
            self.batch.go_idle()

    def go_idle(self) -> None:
        """Close what is open; it is opened again when it is needed. Drops an uncommitted batch.

        While a `Writer` is open, nothing is closed.
        """
        if self._writers:
            return
        batch, self.batch = self.batch, None
        home, self._home = self._home, None
        try:
            if batch is not None:
                batch.abandon()
        finally:
            if home is not None:
                home.close()

    def close(self) -> None:
        """End it: what wasn't committed is dropped, an atomic tree as well."""
        tree, self.tree = self.tree, None
        with ExitStack() as stack:  # all of it, whatever fails of it; the last first
            stack.callback(self.go_idle)
            if tree is not None:
                stack.callback(tree.abort, lambda: None)
            stack.callback(self.abandon)
            for writer in tuple(self._writers):
                stack.callback(writer.drop)

    def __enter__(self) -> Workspace:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __str__(self) -> str:
        return self.account.name


def _check_paths(*both: bytes) -> None:
    """Raise InvalidPath, with the path that is none."""
    for path in both:
        try:
            paths.split(path)
        except InvalidPath as error:
            error.path = path
            raise
