"""The current operation of a session: what the session removes and replaces is moved to it.

Lives here: making it when the first item is moved there, announcing items, taking them.
Lives elsewhere: removing and replacing (home.py, commit.py, atomic_tree.py), the name of an
operation (ledger.py).

If the disk has no space for a line (`NoSpace`), the caller purges, because the request
may have been sent to free space.

The order ensures that a crash at any point loses nothing that a removal without a trash would keep:
append the item's line and sync it → rename the item into the operation's directory → sync that
directory and the one that it came from → settle with the quota store. A line without an item is
skipped. For a replaced file, the line comes after the exchange and before the old file leaves
staging: a crash between the two loses that version.
"""

from __future__ import annotations

import errno
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from ftpserver.storage.home_staging import rename_closed
from ftpserver.storage.open_home import OpenHome
from ftpserver.storage.trash.directory import PATIENCE, Opened, open_operation, open_trash
from ftpserver.storage.trash.index import Begin, Bytes, Item, Line, State, What
from ftpwire import beneath, paths
from ftpwire.errors import Busy, DiskFull, from_oserror
from ftpwire.paths import Parts

logger = logging.getLogger("ftpd.trash")

_Result = TypeVar("_Result")

NO_SPACE = "the disk had no space to keep it in the trash: it was purged"
"""The remark for a user whose file was purged after `NoSpace`."""
_MOST_TRIES = 4
"""How often a line, a name or a directory is tried, with something purged between two tries. The
limit that was hit may be another one than disk space, for example a quota of the system; then
purging doesn't help."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class NoSpace(Exception):
    """The disk has no space for the lines, names and directories that the trash needs."""


@dataclass(frozen=True)
class Command:
    """The owner of an operation, and the command that it belongs to.

    Attributes:
        account_id: The account's id.
        user: The account's name.
        words: The client's description of the command.
        key, client: See `ftpwire.messages.Operation`.
        undoes: The operation that it restores from.
    """

    account_id: int
    user: str
    words: str = ""
    key: bytes | None = None
    client: bytes | None = None
    undoes: str | None = None


class Operation:
    """The operation that one session adds to, for one command of its client. For one thread.

    Nothing is made before the first item is added.

    Args:
        name: A function that returns the operation's name. It is called once, when needed.
        another: A function that returns another name. It is called when the operation was undone,
            is full, or is held by other sessions that cannot be waited for. Its argument is True if
            no other session may use the new name. None: no other name is ever needed.
        keep_replaced: True to keep replaced files, too.

    Attributes:
        free_space: A function that is called when the disk has no space. It purges something older,
            and returns whether it did.
    """

    free_space: Callable[[], bool] = staticmethod(lambda: False)

    def __init__(
        self,
        home: OpenHome,
        command: Command,
        name: Callable[[], str],
        *,
        another: Callable[[bool], str] | None = None,
        keep_replaced: bool = True,
    ) -> None:
        self.command = command
        self.keep_replaced = keep_replaced
        self._home = home
        self._ask_name = name
        self._ask_another = another
        self._name: str | None = None
        self._trash = -1
        self._opened: Opened | None = None
        self._is_durable = False
        self._seen = 0
        """The number of bytes at the start of the index that don't say that it was undone."""
        self._session = secrets.token_hex(4)
        self._count = 0

    @property
    def name(self) -> str | None:
        """Its name; None until something was added."""
        return self._name

    @property
    def is_there(self) -> bool:
        """True if something was added, and the operation wasn't purged since."""
        if self._name is None or self._trash < 0:
            return False
        try:
            os.stat(self._name, dir_fd=self._trash, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        """Close the descriptors. Can be called twice."""
        if self._trash >= 0:
            os.close(self._trash)
            self._trash = -1

    @contextmanager
    def writing(self, *, waiting: bool = True) -> Iterator[Operation]:
        """Open the operation within the context, and hold it shared, so that it cannot be purged.
        The contexts can be nested.

        Args:
            waiting: True to wait for sessions that hold it exclusively; False to use another
                operation instead. Pass False while the home's lock is held: a session that holds
                the operation may be waiting for that lock.

        Raises:
            NoSpace: The disk is full.
            Busy: Other sessions held it for too long.
            CommandError: It cannot be made; the class depends on the error of the disk.
        """
        if self._opened is not None:
            yield self
            return
        self._home.check_writable()
        opened = self._opened = self._with_space(lambda: self._open(waiting=waiting))
        self._is_durable = False  # it may have been purged and made again since the last time
        try:
            yield self
            self._seen = opened.size  # still under the lock, so no session can have undone it
        finally:
            self._opened = None
            opened.close()

    def _open(self, *, waiting: bool) -> Opened:
        if self._trash >= 0:
            try:
                return self._open_there(waiting)
            except FileNotFoundError:  # another program has removed the whole trash
                self.close()
        return self._open_there(waiting)

    def _open_there(self, waiting: bool) -> Opened:
        if self._trash < 0:
            trash = open_trash(self._home, make=True)
            if trash is None:  # just removed by another program
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            self._trash = trash
        if self._name is None:
            self._name = self._ask_name()
        another = self._ask_another
        if another is None:
            return self._open_named(self._name)
        is_held = False
        try:
            opened = self._open_named(self._name, PATIENCE if waiting else 0)
        except Busy:
            if waiting:
                raise
            is_held = True
        else:
            # under the lock: a session that undoes the operation holds it exclusively
            if not (opened.is_full or opened.is_undone(self._seen)):
                return opened
            opened.close()
        self._name, self._seen = another(is_held), 0
        return self._open_named(self._name)

    def _open_named(self, name: str, patience: float = PATIENCE) -> Opened:
        home, trash = self._home, self._trash
        return open_operation(home, trash, name, make=True, shared=True, patience=patience)

    def _with_space(self, step: Callable[[], _Result]) -> _Result:
        """Run a step that needs a little disk space.

        Raises:
            NoSpace: The disk is full.
            CommandError: It failed for another reason; the class depends on the error of the disk.
        """
        try:
            return self._until_it_fits(step)
        except OSError as error:
            failed = from_oserror(error, "")
            raise failed.with_text(f"the trash cannot be written to: {failed}") from error

    def _until_it_fits(self, step: Callable[[], _Result]) -> _Result:
        """Run a step as `_with_space` does. Raises NoSpace, and other errors of the step."""
        left = _MOST_TRIES
        while True:
            try:
                return step()
            except DiskFull as error:  # the quota store has no space to record its name
                raise NoSpace from error
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                left -= 1
                if left <= 0 or not self.free_space():
                    raise NoSpace from error

    @property
    def _held(self) -> Opened:
        assert self._opened is not None, "within `writing` only"
        return self._opened

    def item(
        self,
        what: What,
        path: Parts,
        *,
        target: Parts | None = None,
        after: State | None = None,
        number: int = 0,
        source: str | None = None,
    ) -> Item:
        """Make a line for an item, with a new name if the item is going to be kept."""
        name = ""
        if what not in ("moved", "restored"):
            name = f"{self._session}-{self._count}"
            self._count += 1
        return Item(
            name=name,
            what=what,
            path=Bytes.of(paths.join(*path)),
            time=time.time_ns(),
            target=None if target is None else Bytes.of(paths.join(*target)),
            after=after,
            number=number,
            source=source,
        )

    def announce(self, items: Sequence[Item], *, sync: bool = True) -> None:
        """Append lines to the index. Call this before any of the items is renamed.

        Args:
            sync: True to make the lines durable. False for lines about what isn't kept: without
                them nothing else is lost.

        Raises:
            NoSpace: The disk is full.
            CommandError: They cannot be written; the class depends on the error of the disk.
        """
        held, lines = self._held, self._lines(items)
        self._with_space(lambda: held.append(lines, sync=sync))
        # another session may have made the operation without syncing its directories
        if sync and not self._is_durable:
            self._home.sync_dir(held.fd)
            self._home.sync_dir(self._trash)
            self._is_durable = True

    def note(self, item: Item) -> None:
        """Append a line about something that was done and of which nothing is kept. If the disk has
        no space for it, nothing is purged: this then cannot be undone, but nothing is lost."""
        try:
            self._held.append(self._lines([item]), sync=False)
        except OSError as error:
            logger.error("%s: cannot be recorded, so it cannot be undone: %s", self._name, error)

    def _lines(self, items: Sequence[Item]) -> list[Line]:
        """Return the lines to append: these items, after a `Begin` line if the index is empty."""
        if self._held.size:
            return [*items]
        command = self.command
        begin = Begin(
            account=command.account_id,
            user=command.user,
            time=time.time_ns(),
            words=command.words,
            key=None if command.key is None else command.key.hex(),
            client=None if command.client is None else command.client.hex(),
            undoes=command.undoes,
        )
        return [begin, *items]

    def take(self, directory: int, name: bytes, item: Item) -> os.stat_result:
        """Rename a file or tree into the operation, as an announced item. Return its state.

        Raises:
            NoSpace: The disk has no space for another name in the operation's directory.
            OSError: It stays where it is. EXDEV: its file system cannot move it here.
        """
        # the line was synced by `announce`: after a crash, each item here has a line
        held, new = self._held, item.name.encode()
        self._until_it_fits(lambda: rename_closed(directory, name, held.fd, new, new=True))
        return os.stat(item.name, dir_fd=held.fd, follow_symlinks=False)

    def take_file(self, directory: int, name: bytes, item: Item) -> None:
        """Rename a file or link into the operation as `take` does, when no other session can have
        changed it: its state is known already."""
        held, new = self._held, item.name.encode()
        self._until_it_fits(lambda: beneath.rename_new(directory, name, held.fd, new))

    def give_back(self, item: Item, directory: int, name: bytes) -> None:
        """Rename an item that was taken back to its old path, because it cannot be removed after
        all.

        Raises:
            FileExistsError: Its old name is in use again; it stays in the trash.
        """
        rename_closed(self._held.fd, item.name.encode(), directory, name, new=True)

    def link(self, directory: int, name: bytes, item: Item) -> None:
        """Give a file a second name in the operation, before it is replaced by one rename.

        Raises:
            NoSpace: See `take`.
            OSError: The file system has no hard links, or cannot make one here.
        """
        held = self._held

        def link() -> None:
            os.link(
                *(name, item.name),
                src_dir_fd=directory,
                dst_dir_fd=held.fd,
                follow_symlinks=False,
            )

        self._until_it_fits(link)

    def unlink(self, item: Item) -> None:
        """Remove the second name again, because the file was not replaced."""
        os.unlink(item.name, dir_fd=self._held.fd)

    def sync(self) -> None:
        """Make the names of the taken items durable."""
        self._home.sync_dir(self._held.fd)


def state_of(info: os.stat_result, digest: bytes | None = None) -> State:
    """Return the state by which a file or directory is recognized later."""
    size = info.st_size if not stat.S_ISDIR(info.st_mode) else 0
    return State(info.st_ino, size, info.st_mtime_ns, None if digest is None else digest.hex())
