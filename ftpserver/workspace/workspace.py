"""The workspace: the operations on files that a logged-in user can request.

Lives here: every verb that concerns an account's files. Each checks the permissions first.
Lives elsewhere: the frames of requests and bytes (serving/exchange.py), storing files and counting
quota (storage/), log-in (accounts/authenticator.py).

The handlers of requests use it, and so can gateways for other protocols.
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
from ftpserver.storage.trash.evicting_store import EvictingLeaseStore
from ftpserver.storage.trash.index import Item as TrashedItem
from ftpserver.storage.trash.policy import NO_TRASH, Policy
from ftpserver.storage.upload import Receiving
from ftpserver.storage.walk import Usage
from ftpserver.workspace import needs
from ftpserver.workspace.copying import Copying
from ftpserver.workspace.keeping import Keeping
from ftpserver.workspace.moving import MovingByCopy, remove_in_place
from ftpserver.workspace.observer import Observer, SilentObserver, ticker, ticker_on
from ftpserver.workspace.reading import OpenFile
from ftpserver.workspace.reading_many import FilesRead, read_many
from ftpserver.workspace.scope import Scope
from ftpserver.workspace.trashing import Trash
from ftpserver.workspace.writer import Writer
from ftpwire import paths
from ftpwire.errors import (
    BadRequest,
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
    Sent,
    SetAttributes,
    Space,
    SpaceInfo,
    Stat,
    TrashPage,
)
from ftpwire.pieces import Piece
from ftpwire.units import human

logger = logging.getLogger("ftpd.workspace")

NOT_KEPT = "it could not be moved to the trash, so it was purged"


class Workspace:
    """The files of one account, for one thread at a time.

    Every verb takes a request of `ftpwire.messages` and checks the account's current permissions. A
    refused request raises CommandError or OSError, and has changed nothing unless the verb says so.

    **Durability.** `move`, `copy`, `remove`, `end_tree` and `drop_kept` are durable when they
    return. Uploads (`stage`, `stage_files`, `receive`), `change` and `remove_later` join a batch:
    nothing of them is visible or durable before `commit` returns their outcomes. The other verbs
    see only what is committed: call `commit` before them.

    Args:
        account: The account. Another thread may assign a changed account to this attribute at any
            time.
        quota_store: The quota store.
        durable: True to sync changes before they are reported as done.
        syncs: The syncs that the sessions of this process share; None: this session has its own.
        observer: Receives the progress of long work, and may cancel it.
        policy: A function that returns the present policy of the account's trash; without it there
            is no trash.
        patience: Seconds to wait for the home's lock; None: no limit.
        cut: A function that aborts the connection of this session. It is called with the path of an
            upload when the account resumes that upload over another connection.
        check_client: A function that raises if the client of this session is gone.

    Attributes:
        tree: The atomic tree that was begun and not ended.
        keeping: The client's command that the session works for.
        batch: What waits for `commit`; None before the first change.
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
        self._evicting_store = EvictingLeaseStore(
            quota_store, lambda: self.home, account.id, self._evicted, on_measured=self._measured
        )
        self._shortened = False
        """True if the user was informed that this command has purged trash."""
        self.keeping = Keeping(
            quota_store, account.id, account.name, self._evicting_store.free_space
        )
        self.tree: AtomicTree | None = None
        self._quota_store = quota_store
        self._durable = durable
        self._syncs = Syncs() if syncs is None else syncs
        self._observer = SilentObserver() if observer is None else observer
        self._cut = cut
        self._check_client = check_client
        self._writers: set[Writer] = set()
        """The open writers."""
        self._home: Home | None = None
        self.batch: Uploads | None = None

    # home, batch and trash ---------------------------------------------------------------

    @property
    def home(self) -> Home:
        """The account's home, opened at first use. Raises Internal if that fails."""
        if self._home is None:
            try:
                self._home = Home(
                    self.account.home,
                    durable=self._durable,
                    incarnation=self._quota_store.incarnation,
                    patience=self._patience,
                )
            except OSError as error:
                logger.error("%s: the home cannot be opened: %s", self, error)
                raise Internal("your home directory cannot be opened on the server") from None
            self._home.set_permissions(self.account.rights)
            self._home.take_turn = self._observer.take_turn
            self._home.will_block = self._observer.will_block
        return self._home

    @property
    def _uploads(self) -> Uploads:
        """The batch, made at first use. Raises Forbidden, DiskFull if nothing may be changed."""
        return self._open_batch() if self.batch is None else self.batch

    def _open_batch(self) -> Uploads:
        self.batch = self._new_uploads()
        return self.batch

    def begin_operation(self, request: Operation) -> None:
        """Begin another operation: what the following requests remove and replace is kept together
        in the trash. Call `commit` before."""
        self.keeping.begin(request)
        self._shortened = False

    def _evicted(self, size: int, operations: list[str]) -> None:
        self._observer.evicted(size, operations)
        if not self._shortened:
            self._shortened = True
            self._observer.remark(f"{human(size)} of the trash were purged to free space")

    def _measured(self, operation: str, item: TrashedItem, usage: Usage) -> None:
        self._observer.measured(operation, item.path.value, usage.size, usage.files)

    def _keep(self) -> None:
        """Make the home keep what is removed and replaced from now on, by the account's present
        policy."""
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
            self._evicting_store,
            self.account.id,
            durable=self._durable,
            syncs=self._syncs,
            cut=self._cut,
            check_client=self._check_client,
            keep=self._keep,
        )

    @property
    def _scope(self) -> Scope:
        return Scope(
            self.home, self._uploads, self._evicting_store, self.account.id, self._observer
        )

    def require(self, request: Message) -> None:
        """Raise Forbidden unless the account's current permissions allow a request."""
        permissions = self.account.rights
        if self._home is not None and self._home.permissions is not permissions:
            self._home.set_permissions(permissions)
        if not permissions.unlimited:
            needs.require(permissions, request)

    # reading -----------------------------------------------------------------------------

    def stat(self, request: Stat) -> Entry:
        """Describe what is at a path.

        If the account may not list the path, existing and missing files raise the same error, so
        that it cannot find out what exists. An upload is what shows whether a name is taken.
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
        """List like `list`, in parts; see `Home.list_parts`.

        Raises:
            BadRequest: No name can begin with its prefix.
        """
        if not paths.is_prefix(request.prefix):
            raise BadRequest("list: prefix must have no slash and no NUL byte")
        self.require(request)
        if request.in_trash is not None:
            return self._trash.listing(request, request.in_trash)
        return self.home.list_parts(
            request.path,
            recursive=request.recursive,
            follow=request.follow,
            digest=request.digest,
            prefix=request.prefix,
        )

    def hash(self, request: Hash) -> Hashed:
        """Return a file's digest: the stored one if it is current, else a new one, which is stored.

        If the file grows meanwhile, this is the digest of the bytes that it had when it was opened.
        If it changes in another way, it is read once more.

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
        """Open a file for reading. The caller uses it as a context manager, which closes it."""
        self.require(request)
        return self._open(request)

    def _open(self, request: Get | Hash) -> OpenFile:
        if request.in_trash is not None:
            return self._trash.open(request, request.in_trash)
        fd, info = self.home.tree.open_file(paths.split(request.path))
        return OpenFile(fd, info, request.path, self._observer)

    def get_files(self, request: GetFiles) -> FilesRead:
        """Read many small files. A file that isn't as requested, or may not be read, is left out
        without an error.

        Raises:
            BadRequest: It asks for too many files or bytes.
        """
        self.require(request)
        return read_many(self.home, request, self._observer)

    def space(self, request: Space) -> SpaceInfo:
        """Return the total, used, reserved and free bytes and files, and the free space of the
        disk.

        The trash counts as free: it is purged when space is needed.
        """
        self.require(request)
        if not self.home.read_only:
            self._evicting_store.measure(ticker(self._observer))
        space = self._quota_store.space(self.account.id)
        kept = self.home.kept_times(request.times) if request.times else None
        disk_free = self.home.disk_free()
        if disk_free is not None:
            disk_free += self._quota_store.trash_of_all(self.account.id)
        return replace(space, disk_free=disk_free, kept_times=kept)

    # uploads -----------------------------------------------------------------------------

    def expect(self, request: Put) -> None:
        """Refuse an upload before its bytes are received, if it is known by then that it cannot
        succeed.

        Raises:
            Forbidden, DiskFull, Internal: Nothing can be stored there, or in the home at all.
        """
        self.require(request)
        if self.batch is None:
            self._open_batch()

    def check(self, request: Put) -> None:
        """Raise the errors that the commit would raise, for uploads that ask before they send."""
        self.expect(request)
        self._uploads.check(request)

    def stage(
        self, request: Put, data: bytes | bytearray, sent: Sent, *, request_id: int = 0
    ) -> None:
        """Stage an upload of at most `SMALL` bytes that was received as a whole. `commit` makes it
        visible.

        Args:
            data: Its bytes.
            sent: The size and digest that the client has sent.
            request_id: The id of its outcome.

        Raises:
            VerificationFailed: The bytes don't match ``sent``.
        """
        self.require(request)
        self._uploads.stage_small(request_id, request, data, sent)

    def expect_files(self, request: PutFiles) -> int:
        """Refuse a run of files before their bytes are received, if it is known by then that it
        cannot succeed.

        Returns:
            The bytes that the files have together.

        Raises:
            BadRequest: It has too many files or bytes.
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
        """Stage many small files, and make directories for them. `commit` makes them visible.

        The effect is that of one request per file. The outcome, a `FilesOutcome`, names the files
        that were refused here or by the commit; the others are stored.

        Args:
            data: The bytes of all files, one after another: as many as `expect_files` has returned.
            request_id: The id of the outcome.

        Raises:
            BadRequest, Forbidden, DiskFull, Internal: See `expect_files`.
            VerificationFailed: There are more or fewer bytes.
        """
        size = self.expect_files(request)
        if len(data) != size:
            raise VerificationFailed(f"{len(data)} bytes arrived, {size} announced")
        self._uploads.stage_files(request_id, request, data)

    def receive(self, request: Put, *, request_id: int = 0) -> AbstractContextManager[Receiving]:
        """Return a context in which an upload's bytes are written one piece after another.

        If the context is left without an error, the next `commit` makes the upload visible. If it
        is left by a lost connection or a cancel, the bytes may be kept for a resume; after other
        errors they are discarded.
        """
        self.require(request)
        return self._uploads.receiving(request_id, request)

    def write(self, request: Put, *, keep_content: bool = False, resume: bool = False) -> Writer:
        """Open a file for writing at any offset. `Writer.publish` makes it visible as a whole.

        It doesn't wait for `commit`. For bytes that are written in order, `receive` costs less.

        Args:
            keep_content: True to begin with the bytes of the present file, if there is one.
            resume: True to begin with what an earlier `Writer.keep` has kept, if it exists.
        """
        self.expect(request)
        self._uploads.check(request)
        # a batch of its own, because the writer may be open for longer than directories that a
        # batch holds open stay valid
        uploads = self._new_uploads()
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
        """Begin a piece of a file that another session of the account uploads."""
        self.require(request)
        return self._uploads.open_piece(request)

    def kept(self, request: ListKept) -> Iterator[KeptUpload]:
        """Yield the account's interrupted uploads."""
        self.require(request)
        return self._kept.uploads()

    def drop_kept(self, request: DropKept) -> KeptDropped:
        """Discard interrupted uploads of the account, which frees their quota."""
        self.require(request)
        return self._kept.drop(request.upload, request.size, request.mtime_ns)

    @property
    def _kept(self) -> KeptStaging:
        return KeptStaging(self.home, self._quota_store, self.account.id)

    # changing ----------------------------------------------------------------------------

    def change(self, request: MakeDir | MakeLink | SetAttributes, *, request_id: int = 0) -> None:
        """Add a change to the batch: making a directory or a link, or setting attributes."""
        self.require(request)
        self._uploads.add_change(request_id, request)

    def remove_later(self, request: Remove, *, request_id: int = 0) -> bool:
        """Add removing a file or a link to the batch. Return False if only `remove` can do it.

        This way, removing many files needs no sync and no database statement for each of them.
        """
        self.require(request)
        if request.recursive or not self._is_no_directory(request.path):
            return False
        # DiskFull: the database cannot be written. `remove` works all the same, and frees space
        with suppress(DiskFull):
            self._uploads.add_change(request_id, request)
            return True
        return False

    def remove(self, request: Remove) -> Removed:
        """Remove a file, a directory or a tree at once, which frees its quota.

        Raises:
            Cancelled, CommandError: The text says how much of a tree was removed, if its file
                system cannot move it away at once.
            CommandError: The session's atomic tree is going to appear in it.
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
                    file_only=request.file_only,
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
        """Return whether a file or link is at a path now, not counting what is in the batch."""
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
        """Rename a file or tree; to another file system, copy it and remove the source. Replacing a
        file frees its quota.

        Raises:
            CommandError: The session has begun an atomic tree, which would replace the target, or
                whose parent directory would be moved.
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
        """Begin an atomic tree: from now on, changes at or below the path go to a hidden tree."""
        self.require(request)
        if self.tree is not None:
            raise CommandError("an atomic tree has been begun already: end it first")
        self.tree = AtomicTree(
            self.home, self._evicting_store, self.account.id, request.path, mode=request.mode
        )
        if request.mode & ~MODE_BITS:
            self._observer.remark(DROPPED_BITS)

    def end_tree(self, request: EndTree) -> None:
        """Make the atomic tree appear at once, or discard it.

        What a `Writer` in it has not published is discarded, because its directory is gone.
        """
        self.require(request)
        tree, self.tree = self.tree, None
        if tree is None:
            raise CommandError("no atomic tree has been begun")
        for writer in tuple(self._writers):
            if writer.is_in_tree:
                with suppress(OSError):  # this must not keep the tree from ending
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
        return Trash(
            self.home, self._quota_store, self._evicting_store, self.account.id, self._observer
        )

    def list_trash(self, request: ListTrash) -> Iterator[TrashPage]:
        """List the trash, the newest first: the items whose former paths the account may list."""
        self.require(request)
        return self._trash.pages(self.policy(), request)

    def restore(self, request: Restore) -> Restored:
        """Undo an operation, durably. The reply names what cannot be undone. Call `commit` before.

        Raises:
            CommandError: The session has begun an atomic tree, which it could restore into.
            Cancelled: What was restored by then stays.
        """
        self.require(request)
        if self.tree is not None:
            raise CommandError("an atomic tree has been begun: end it before restoring")
        return self._trash.restore(self.keeping, request)

    def purge(self, request: Purge) -> Removed:
        """Purge items of the trash: those that the account may delete at their former
        paths.

        Raises:
            Busy: Another session holds an operation; all others were purged.
        """
        self.require(request)
        return self._trash.purge(request)

    # the batch ---------------------------------------------------------------------------

    def commit(self, *, late: bool = False) -> Sequence[Outcome]:
        """Make everything in the batch durable and visible, in order.

        Args:
            late: True if the connection is lost. The client may have connected again already.

        Returns:
            The outcomes: for each request, its ``request_id``, and its reply or `Failed`.
        """
        if self.batch is None:
            return ()
        return self.batch.commit(late=late)

    def abandon(self) -> None:
        """Discard what is in the batch and wasn't committed."""
        if self.batch is not None:
            self.batch.abandon()

    def _finish_batch(self) -> None:
        if self.batch is not None:
            self.batch.finish()

    # going idle and closing --------------------------------------------------------------

    def release_reservations(self) -> None:
        """Release quota that was reserved in advance, because no request has come for a while."""
        if self.batch is not None:
            self.batch.go_idle()

    def go_idle(self) -> None:
        """Close the home and the batch; they are opened again when needed. What wasn't committed is
        discarded.

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
        """Close the workspace. What wasn't committed is discarded, an atomic tree included."""
        tree, self.tree = self.tree, None
        with ExitStack() as stack:  # runs every callback even if some fail, the last one first
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
    """Raise InvalidPath, with the path that is invalid."""
    for path in both:
        try:
            paths.split(path)
        except InvalidPath as error:
            error.path = path
            raise
