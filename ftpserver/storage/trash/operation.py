"""The operation that a session is at: where what it removes and replaces goes.

Lives here: having it ready when the first thing goes there, announcing things, taking them.
Lives elsewhere: who removes and replaces (home.py, commit.py, atomic_tree.py), which name an
operation has (ledger.py).

Who finds that the disk has no room for a line (`NoRoom`) removes for good: it is asked for room.

The order, in which a crash at any point loses nothing that a removal without a trash keeps: the
line about a thing is appended and synced → the thing is renamed into the operation's directory →
that directory and the one that it came from are synced → the books are settled. A line without a
thing is passed over. Of what was replaced, the line comes after the exchange, and before the old
file leaves staging: a crash between the two loses that version.
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

NO_ROOM = "the disk had no room to keep it in the trash: it is gone for good"
"""What a user is told then."""
_MOST_TRIES = 4
"""So often room is made for a line, a name or a directory: what is full may be something else than
the space that the disk tells of, as a quota of the system, which giving up trash doesn't mend."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class NoRoom(Exception):
    """The disk has no room for what the trash needs beside the thing itself."""


@dataclass(frozen=True)
class Command:
    """Whose operation it is, and what its user has asked for.

    Attributes:
        user: The account's name.
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
    """Where one session puts things, for one command of its client. For one thread.

    Nothing is made before the first thing comes.

    Args:
        name: Returns its name; asked once, when it is needed.
        another: Returns another name, for what comes when that one was undone, is full, or is held
            by others who can't be waited for. It is given whether nobody else may have the new one.
            None: it isn't needed.
        keep_replaced: Whether what is replaced is kept, too.

    Attributes:
        make_room: Called where the disk has no room for its directory: gives up what is older, and
            says whether it has.
    """

    make_room: Callable[[], bool] = staticmethod(lambda: False)

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
        """Bytes of its index in which nobody says that it was undone."""
        self._session = secrets.token_hex(4)
        self._count = 0

    @property
    def name(self) -> str | None:
        """Its name, once something was put into it."""
        return self._name

    @property
    def is_there(self) -> bool:
        """Whether something was put into it, and not all of it was given up since."""
        if self._name is None or self._trash < 0:
            return False
        try:
            os.stat(self._name, dir_fd=self._trash, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        """Give the descriptors back. Can be called twice."""
        if self._trash >= 0:
            os.close(self._trash)
            self._trash = -1

    @contextmanager
    def writing(self, *, waiting: bool = True) -> Iterator[Operation]:
        """Have it ready, and keep others from giving it up. Can be entered once more inside.

        Args:
            waiting: Wait for others who hold it. Not while the home's lock is held, for which those
                may wait: what comes is another operation then.

        Raises:
            NoRoom: The disk is full.
            Busy: Others hold it for too long.
            CommandError: It can't be made: of the kind that the disk's error is.
        """
        if self._opened is not None:
            yield self
            return
        self._home.check_writable()
        opened = self._opened = self._with_room(lambda: self._open(waiting=waiting))
        self._is_durable = False  # it may be another directory of this name than the last time
        try:
            yield self
            self._seen = opened.size  # while nobody can undo it
        finally:
            self._opened = None
            opened.close()

    def _open(self, *, waiting: bool) -> Opened:
        if self._trash >= 0:
            try:
                return self._open_there(waiting)
            except FileNotFoundError:  # somebody who isn't ours has removed the whole trash
                self.close()
        return self._open_there(waiting)

    def _open_there(self, waiting: bool) -> Opened:
        if self._trash < 0:
            trash = open_trash(self._home, make=True)
            if trash is None:  # removed just now, by somebody who isn't ours
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
            if not (opened.is_full or opened.is_undone(self._seen)):
                return opened
            opened.close()
        self._name, self._seen = another(is_held), 0
        return self._open_named(self._name)

    def _open_named(self, name: str, patience: float = PATIENCE) -> Opened:
        home, trash = self._home, self._trash
        return open_operation(home, trash, name, make=True, shared=True, patience=patience)

    def _with_room(self, step: Callable[[], _Result]) -> _Result:
        """Do something that needs a little room on the disk.

        Raises:
            NoRoom: The disk is full.
            CommandError: It failed in another way: of the kind that the disk's error is.
        """
        try:
            return self._until_it_fits(step)
        except OSError as error:
            failed = from_oserror(error, "")
            raise failed.with_text(f"the trash can't be written to: {failed}") from error

    def _until_it_fits(self, step: Callable[[], _Result]) -> _Result:
        """The same. Raises NoRoom, and the other errors of the step as they are."""
        left = _MOST_TRIES
        while True:
            try:
                return step()
            except DiskFull as error:  # of the books, which have no room for its name
                raise NoRoom from error
            except OSError as error:
                if error.errno not in _FULL:
                    raise
                left -= 1
                if left <= 0 or not self.make_room():
                    raise NoRoom from error

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
        """A line about something, with a new name for it if it is going to be kept."""
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
        """Write lines: durably, before any of the things is renamed.

        Args:
            sync: Not for lines about what isn't kept: losing them loses nothing else.

        Raises:
            NoRoom: The disk is full.
            CommandError: They can't be written: of the kind that the disk's error is.
        """
        held, lines = self._held, self._lines(items)
        self._with_room(lambda: held.append(lines, sync=sync))
        if sync and not self._is_durable:  # whoever made them may not have needed it
            self._home.sync_dir(held.fd)
            self._home.sync_dir(self._trash)
            self._is_durable = True

    def note(self, item: Item) -> None:
        """Write a line about what was done, and of which nothing is kept. No room is made for it:
        without it this can't be undone, and that is all."""
        try:
            self._held.append(self._lines([item]), sync=False)
        except OSError as error:
            logger.error("%s: what was done can't be noted: %s", self._name, error)

    def _lines(self, items: Sequence[Item]) -> list[Line]:
        """What is to be appended, so that these are in the index."""
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
        """Rename something into the operation, as an item that was announced; returns what it is.

        Raises:
            NoRoom: The disk has none for one more name here.
            OSError: It stays where it is. EXDEV: its file system can't move it here.
        """
        held, new = self._held, item.name.encode()
        self._until_it_fits(lambda: rename_closed(directory, name, held.fd, new, new=True))
        return os.stat(item.name, dir_fd=held.fd, follow_symlinks=False)

    def take_file(self, directory: int, name: bytes, item: Item) -> None:
        """As `take`, of a file or link that nobody else has a name of: it is what it was."""
        held, new = self._held, item.name.encode()
        self._until_it_fits(lambda: beneath.rename_new(directory, name, held.fd, new))

    def give_back(self, item: Item, directory: int, name: bytes) -> None:
        """Rename something that was taken to where it was, because it may not go after all.

        Raises:
            FileExistsError: Its name was taken; it stays in the trash.
        """
        rename_closed(self._held.fd, item.name.encode(), directory, name, new=True)

    def link(self, directory: int, name: bytes, item: Item) -> None:
        """Give a file a second name in the operation: it is going to be replaced by one rename.

        Raises:
            NoRoom: As of `take`.
            OSError: The file system has no hard links, or can't make one here.
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
        """Take the second name away again: it was not replaced."""
        os.unlink(item.name, dir_fd=self._held.fd)

    def sync(self) -> None:
        """Make the names of what was taken durable."""
        self._home.sync_dir(self._held.fd)


def state_of(info: os.stat_result, digest: bytes | None = None) -> State:
    """What something is, to know it again by."""
    size = info.st_size if not stat.S_ISDIR(info.st_mode) else 0
    return State(info.st_ino, size, info.st_mtime_ns, None if digest is None else digest.hex())
