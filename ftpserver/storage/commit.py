"""The visible part of a commit: renames and changes under the home's lock.

Lives here: giving staged files their names, making directories and links, setting attributes,
removing files, and syncing the directories that this touched.
Lives elsewhere: what is committed when (batch.py), bytes before that (staging.py), what is kept of
what goes (trash/).
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from ftpserver.storage.digest_xattr import digest_by_name, fresh_digest, keep_digest
from ftpserver.storage.file_systems import acl_limits
from ftpserver.storage.group_sync import SYNC_EACH, Syncs
from ftpserver.storage.home import Home
from ftpserver.storage.home_staging import same_as
from ftpserver.storage.open_home import TURN_FILES
from ftpserver.storage.permissions import Action
from ftpserver.storage.places import Place, Places
from ftpserver.storage.resumable import ResumableStaging
from ftpserver.storage.staging import DROPPED_BITS, MODE_BITS
from ftpserver.storage.trash.index import Item, State
from ftpserver.storage.trash.operation import NO_ROOM, NoRoom, Operation, state_of
from ftpserver.storage.walk import counted_size
from ftpwire import beneath, paths
from ftpwire.errors import (
    AlreadyExists,
    CommandError,
    Forbidden,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotNewer,
)
from ftpwire.messages import MakeDir, MakeLink, Overwrite, Remove, Removed, SetAttributes
from ftpwire.paths import Parts

logger = logging.getLogger("ftpd.uploads")

_OPEN_DIRECTORIES = 32
_OPENS = 0o500
"""The bits of a mode by which its owner may open a directory."""
_WORTH_A_LOOK = 64 * 1024
_NO_VERSIONS = "what was replaced could not be put into the trash: it is gone for good"
_KEPT_MODES = "directories of other owners or groups keep their modes and times"


class Staged(msgspec.Struct):  # one for each of many small files: a dataclass takes longer
    """A verified file in staging, waiting for its batch.

    Attributes:
        name: In staging.
        parent, leaf: The directory that it goes to, and its name there.
        fd: Open while there are few, to be synced one by one; else -1.
        place: Where it is staged.
        parents: Make the directories that it goes into when they are missing.
        digest: Of its bytes; None for a link.
        keep_replaced: Keep what it replaces, if the trash is used.
        resumable: What holds it against other sessions, if it has a name that they find.
    """

    name: bytes
    parent: Parts
    leaf: bytes
    size: int
    mtime_ns: int | None
    overwrite: Overwrite
    place: Place
    fd: int = -1
    resumable: ResumableStaging | None = None
    parents: bool = False
    digest: bytes | None = None
    keep_replaced: bool = True

    @property
    def target(self) -> Parts:
        """Where it goes."""
        return (*self.parent, self.leaf)

    def close(self) -> None:
        """Give its descriptor back, and let other sessions have its name. Can be called twice."""
        if self.resumable is not None:
            self.resumable.close()
            self.resumable = None
        elif self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@dataclass(frozen=True, slots=True)
class _Replaced:
    """What came out of an exchange, and waits in staging to go to the trash."""

    name: bytes
    path: Parts
    info: os.stat_result
    after: State


class Commit:
    """One batch becoming visible. Use it while holding the home's lock shared.

    Directory handles live as long as this, and no longer: a directory that was moved or
    discarded meanwhile would swallow what is put into it.

    Args:
        places: Where the batch's files are staged.
        syncs: What the sessions of this process sync together.
        keep_times: Leave directories with the times that they had. For what comes late: whoever
            sent it may have come again, filled them, and set their times.
        operation: Where what is removed and replaced goes; None: it is gone for good.

    Attributes:
        change: Bytes that are stored more (or fewer) than before.
        files: Files, directories and links that are there more (or fewer).
        trash, trash_files: Of these, what is in the trash more.
        remarks: What the user should know, each once.
    """

    def __init__(
        self,
        home: Home,
        places: Places,
        syncs: Syncs,
        *,
        keep_times: bool = False,
        operation: Operation | None = None,
    ) -> None:
        self.change = 0
        self.files = 0
        self.trash = 0
        self.trash_files = 0
        self.remarks: set[str] = set()
        self._home = home
        self._places = places
        self._syncs = syncs
        self._operation = operation
        self._announced: dict[int, Item] = {}
        """Lines about what is going to be removed, by the requests' identities."""
        self._replaced: list[_Replaced] = []
        self._took = False
        """Whether something was renamed into the trash."""
        self._limits: dict[Parts, int] = {}
        self._elsewhere: set[Parts] = set()
        """Directories on other file systems than the home's."""
        self._open: OrderedDict[Parts, int] = OrderedDict()
        self._here: Parts | None = None
        """The one of these that was asked for last: most files go where the one before them went,
        with the same tuple, and need not be looked up."""
        self._here_fd = -1
        self._touched: set[Parts] = set()
        self._put_to: Parts | None = None
        """The one of these where a file was put last."""
        self._times: dict[Parts, tuple[int, int]] | None = {} if keep_times else None

    def close(self) -> None:
        self._here = None
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def _directory(self, parts: Parts) -> int:
        if parts is self._here:
            return self._here_fd
        fd = self._open.get(parts)
        if fd is not None:
            self._open.move_to_end(parts)
        else:
            fd = self._home.tree.open_dir(parts)
            self._opened(parts, fd)
        self._here, self._here_fd = parts, fd
        return fd

    def _opened(self, parts: Parts, fd: int, info: os.stat_result | None = None) -> None:
        """Keep the handle of a directory, as long as there aren't many newer ones.

        Args:
            info: Its state, where that is known.
        """
        self._here = None  # it may be the one that is closed
        before = self._open.pop(parts, None)
        if before is not None:  # somebody else has removed that directory meanwhile
            os.close(before)
        elif len(self._open) >= _OPEN_DIRECTORIES:
            os.close(self._open.popitem(last=False)[1])
        self._open[parts] = fd
        place = self._places.get(parts)
        if place is not None:
            elsewhere = place.above is not None
        else:
            info = info or os.fstat(fd)
            elsewhere = info.st_dev != self._home.device
        if elsewhere:
            self._elsewhere.add(parts)
        if self._times is not None and parts not in self._times:
            info = info or os.fstat(fd)
            self._times[parts] = info.st_atime_ns, info.st_mtime_ns

    def announce(self, requests: Sequence[Remove]) -> None:
        """Write down what is going to be removed, before anything is: in one step for the batch."""
        operation = self._operation
        if operation is None:
            return
        items = {}
        for request in requests:
            try:
                parts = target_of(request.path)
            except CommandError:
                continue  # its turn will tell
            items[id(request)] = operation.item("removed", parts, number=request.number)
        if not items:
            return
        try:
            operation.announce(list(items.values()))
        except NoRoom:
            self.remarks.add(NO_ROOM)
            return
        self._announced = items

    def finish(self) -> None:
        """All changes are made: put what was replaced into the trash, and give directories their
        times back, where that was asked for."""
        self._keep_replaced()
        for parts, times in (self._times or {}).items():
            if parts not in self._touched:
                continue
            try:
                os.utime(self._directory(parts), ns=times)
            except (FileNotFoundError, PermissionError):
                pass  # a later change of this batch made it go, or its mode forbids to open it

    def _keep_replaced(self) -> None:
        """Put what came out of exchanges into the trash. Whatever fails of it, what was put in its
        place is stored."""
        replaced, self._replaced = self._replaced, []
        operation = self._operation
        if not replaced or operation is None:
            return
        left = replaced
        try:
            with operation.writing(waiting=False):
                items = [operation.item("replaced", one.path, after=one.after) for one in replaced]
                operation.announce(items)
                left = self._not_taken(operation, list(zip(replaced, items, strict=True)))
                self._home.will_block()
                operation.sync()
        except NoRoom:
            pass  # the remark tells it
        except Exception as error:  # whatever it is, the batch is visible, and is settled
            logger.error("what was replaced can't be put into the trash: %s", error)
        if left:
            self.remarks.add(_NO_VERSIONS)
        for one in left:
            try:
                self.change -= self._home.drop_staged(one.name)
                self.files -= 1
            except OSError as error:
                logger.error("what was replaced can't be removed: %s", error)

    def _not_taken(
        self, operation: Operation, replaced: list[tuple[_Replaced, Item]]
    ) -> list[_Replaced]:
        """Put what was replaced into the trash; returns those things with which that fails."""
        failed = []
        for number, (one, item) in enumerate(replaced):
            if not number % TURN_FILES:
                self._home.take_turn()
            if not self._is_taken(operation, one, item):
                failed.append(one)
        return failed

    def _is_taken(self, operation: Operation, one: _Replaced, item: Item) -> bool:
        """Put one thing that was replaced into the trash; False where that fails."""
        try:
            operation.take_file(self._home.staging_fd, one.name, item)
        except NoRoom:
            return False
        except OSError as error:
            logger.error("what was replaced can't be put into the trash: %s", error)
            return False
        self.trash += counted_size(one.info)
        self.trash_files += 1
        return True

    def sync(self) -> None:
        """Make the names durable: of few directories together with what other sessions sync, of
        many by themselves, with their file system. The home's lock is held meanwhile: those who are
        waited for wait for no lock."""
        if self._took and self._operation is not None:
            self._home.will_block()
            self._operation.sync()
        one_by_one = self._touched
        if len(self._touched) > SYNC_EACH:
            self._home.will_block()
            try:
                beneath.sync_file_system(self._home.fd)
                one_by_one = self._touched & self._elsewhere
            except beneath.Unsupported:
                pass
        few: list[int] = []
        for parts in one_by_one:
            if len(few) >= SYNC_EACH:  # more of them aren't open at the same time
                self._syncs.sync(few)
                few = []
            try:
                few.append(self._directory(parts))
            except FileNotFoundError:
                pass  # a later change of this batch made it go
            except PermissionError:  # its mode forbids to open it
                self._home.will_block()
                beneath.sync_file_system(self._home.fd)
        self._syncs.sync(few)

    def place(self, staged: Staged) -> None:
        """Give a staged file its name."""
        if staged.parents and staged.parent is not self._here:
            self._make_parents(staged.parent)
        try:
            if self._put_in_place(staged):
                self.change += staged.size
        except PermissionError:
            if not staged.parents:
                raise
            # of a tree over several connections: what opens the directory may come later
            parent = staged.parent
            self._make_writable(parent, self._home.stat(parent, follow=True).st_mode)
            if self._put_in_place(staged):
                self.change += staged.size

    def _put_in_place(self, staged: Staged) -> bool:
        """Whether it has its name; else just the same is there, and may not be replaced."""
        parent, name, staging = staged.parent, staged.leaf, staged.place.fd
        directory = self._here_fd if parent is self._here else self._directory(parent)
        while True:
            try:
                beneath.rename_new(staging, staged.name, directory, name)
                self.files += 1
                break
            except FileExistsError:
                there = lstat(directory, name)
                if there is None:
                    continue  # it went away just now
                may_replace(there, staged.overwrite, staged.mtime_ns)
                try:
                    self._home.require(Action.REPLACE, (*parent, name))
                except Forbidden:
                    if self._is_the_same(directory, name, there, staging, staged.name):
                        self._home.drop_staged(staged.name, staging)
                        return False
                    raise
                if stat.S_ISLNK(there.st_mode):
                    self._forget((*parent, name))
                if self._replace(staged, directory):
                    break
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                raise InvalidPath(
                    f"{paths.show(paths.join(*parent, name))} lies on another file system than "
                    f"{paths.show(paths.join(paths.STAGING))}, which was mounted or moved meanwhile"
                ) from None
        if parent is not self._put_to:  # else it is known: to look it up takes longer
            self._put_to = parent
            self._touched.add(parent)
        return True

    def _is_the_same(
        self, directory: int, name: bytes, there: os.stat_result, staging: int, staged: bytes
    ) -> bool:
        """Whether what is there is just what is staged: from an earlier try, of which the answer
        was lost maybe. Of a file the digest has to be kept, or it can't be told."""
        mine = os.stat(staged, dir_fd=staging, follow_symlinks=False)
        if (stat.S_IFMT(mine.st_mode), mine.st_size, mine.st_mtime_ns) != (
            stat.S_IFMT(there.st_mode),
            there.st_size,
            there.st_mtime_ns,
        ):
            return False
        if stat.S_ISLNK(mine.st_mode):
            return os.readlink(staged, dir_fd=staging) == os.readlink(name, dir_fd=directory)
        digest = digest_by_name(directory, name, there)
        return digest is not None and digest == digest_by_name(staging, staged, mine)

    def _forget(self, link: Parts) -> None:
        """A link is going to be replaced or removed: what was done through it must not go on
        through it. Of what is no link, nothing is open below."""
        if not self._open_through(link):
            return
        if self._home.durable:
            self.sync()
        self._touched.clear()
        self._put_to = None
        self._here = None
        for parts in self._open_through(link):  # the sync may have opened and closed some
            os.close(self._open.pop(parts))

    def _open_through(self, link: Parts) -> list[Parts]:
        return [parts for parts in self._open if parts[: len(link)] == link]

    def _replace(self, staged: Staged, directory: int) -> bool:
        """Swap, then measure what came out: what was measured is what went away, or to the trash.

        Where names can't be swapped it is measured first, and the batch holds the home's lock
        alone: nobody else of ours replaces it in between.

        Returns False when nothing is there any more.
        """
        staging, name = staged.place.fd, staged.leaf
        try:
            beneath.exchange(staging, staged.name, directory, name)
        except beneath.Unsupported:
            self._home.cannot_exchange(staging)  # from the next batch on, if this one didn't know
            self._replace_by_rename(staged, directory)
            return True
        except FileNotFoundError:
            if lstat(staging, staged.name) is None:
                raise
            return False
        came_out = os.stat(staged.name, dir_fd=staging, follow_symlinks=False)
        if stat.S_ISDIR(came_out.st_mode):  # put there since we looked: give it back
            beneath.exchange(staging, staged.name, directory, name)
            raise IsADirectory("a directory is there")
        if self._is_kept(staged, staging, staged.name, came_out):
            after = self._state_of(staged, directory)
            self._replaced.append(_Replaced(staged.name, staged.target, came_out, after))
            self.files += 1  # both are there
        else:
            self.change -= self._home.drop_staged(staged.name, staging)
        return True

    def _replace_by_rename(self, staged: Staged, directory: int) -> None:
        """Replace it where names can't be exchanged: what is kept gets its second name before."""
        staging, name = staged.place.fd, staged.leaf
        there = lstat(directory, name)
        kept = there is not None and self._link_to_trash(staged, directory, there)
        os.rename(staged.name, name, src_dir_fd=staging, dst_dir_fd=directory)
        if there is None or kept:
            self.files += 1
        else:
            self.change -= counted_size(there)
        if there is not None and kept:
            self.trash += counted_size(there)
            self.trash_files += 1

    def _link_to_trash(self, staged: Staged, directory: int, there: os.stat_result) -> bool:
        """Whether what is going to be replaced has a name in the trash by now."""
        name, operation = staged.leaf, self._operation
        if operation is None or not self._is_kept(staged, directory, name, there):
            return False
        try:
            with operation.writing(waiting=False):
                after = self._state_of(staged, staged.place.fd, staged.name)
                item = operation.item("replaced", staged.target, after=after)
                operation.announce([item])
                operation.link(directory, name, item)
                operation.sync()
        except (NoRoom, CommandError, OSError):
            self.remarks.add(_NO_VERSIONS)
            return False
        return True

    def _is_kept(self, staged: Staged, directory: int, name: bytes, info: os.stat_result) -> bool:
        """Whether what is replaced goes to the trash: unless it has the same contents, or lies on
        another file system.

        Of a small file that has another time its digest isn't read: that would cost more than to
        keep it until the trash is thinned, which gives up what equals its successor.
        """
        operation = self._operation
        if operation is None or not operation.keep_replaced or not staged.keep_replaced:
            return False
        if staged.place.above is not None:
            return False
        if staged.digest is None or info.st_size != staged.size:
            return True
        if info.st_mtime_ns != staged.mtime_ns and info.st_size < _WORTH_A_LOOK:
            return True
        return digest_by_name(directory, name, info) != staged.digest

    def _state_of(self, staged: Staged, directory: int, name: bytes | None = None) -> State:
        """What is put there, to know it again by: by its digest, if it has one."""
        if staged.digest is not None and staged.mtime_ns is not None:
            return State(0, staged.size, staged.mtime_ns, staged.digest.hex())
        info = os.stat(name or staged.leaf, dir_fd=directory, follow_symlinks=False)
        return state_of(info, staged.digest)

    def make_dir(self, request: MakeDir) -> None:
        parts = self._home.network_of(paths.split(request.path))
        self.make_directory(parts, request.mode, parents=request.parents, fill=request.fill)

    def make_directory(self, parts: Parts, mode: int, *, parents: bool, fill: bool) -> None:
        """As `make_dir`, of a path that was split, and is known to lead there."""
        if not parts:
            if parents:
                return
            raise AlreadyExists("the home itself exists")
        try:
            self._make_one(parts, mode)
        except FileExistsError:
            if not parents:
                raise
            self._must_be_dir(parts, writable=fill)
        except FileNotFoundError:
            if not parents:
                raise
            self._make_parents(parts[:-1])
            self._make_one(parts, mode)

    def _make_parents(self, parts: Parts) -> None:
        try:
            self._directory(parts)
            return
        except FileNotFoundError:
            pass
        for count in range(1, len(parts) + 1):
            try:
                self._make_one(parts[:count], 0o755)
            except FileExistsError:
                pass

    def _make_one(self, parts: Parts, mode: int) -> None:
        directory = self._directory(parts[:-1])
        if not self._home.permits(Action.CREATE, parts):
            if lstat(directory, parts[-1]) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            self._home.require(Action.CREATE, parts)
        # 0700: its contents come next. Group, setgid and ACL are what the kernel hands down here
        os.mkdir(parts[-1], mode & MODE_BITS | 0o700, dir_fd=directory)
        self.files += 1
        fd = os.open(parts[-1], beneath.OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            info = os.fstat(fd)
            bits = self._bits_for(parts, info, mode)
            if bits is not None:  # the exact mode despite the umask
                os.chmod(fd, bits)
        except BaseException:
            os.close(fd)
            raise
        bits = stat.S_IMODE(info.st_mode) if bits is None else bits
        # what comes next goes into it. By its name it is opened where its mode may forbid that, and
        # where the account's rules have to be asked where the links above it lead
        if bits & _OPENS == _OPENS and self._home.tree.on_link is None:
            self._opened(parts, fd, info)
        else:
            os.close(fd)
        self._touched.add(parts[:-1])
        self._touched.add(parts)

    def _bits_for(
        self,
        parts: Parts,
        info: os.stat_result,
        mode: int | None,
        *,
        exact: bool = False,
        setgid: bool | None = None,
    ) -> int | None:
        """What to set so that something in state ``info`` has a mode; None: leave it.

        Of directories sticky stays, and setgid unless something else is asked for. Other programs
        rely on these to share a directory, and the kernel has handed setgid down.

        Raises:
            Forbidden: The kernel would clear the setgid bit.
            NotADirectory: Something else can't have it.
        """
        there = stat.S_IMODE(info.st_mode)
        bits = there & MODE_BITS
        if mode is not None:
            limits = MODE_BITS if exact else self._limits_in(self._home.parent_of(parts))
            bits = mode & MODE_BITS & limits
        if stat.S_ISDIR(info.st_mode):
            bits |= beneath.kept_bits(info)
            if setgid is not None:
                bits = bits & ~stat.S_ISGID | (stat.S_ISGID if setgid else 0)
        elif setgid:
            raise NotADirectory("only a directory can have setgid")
        if mode is not None and mode & ~MODE_BITS & ~bits:
            self.remarks.add(DROPPED_BITS)
        if bits == there or (mode is None and setgid is None):
            return None
        if bits & stat.S_ISGID and not beneath.in_group(info.st_gid):
            if exact:
                raise Forbidden(
                    f"{paths.show(paths.join(*parts))}: the server is not in its group "
                    f"({info.st_gid}), and the setgid bit would be lost"
                )
            self.remarks.add(_KEPT_MODES)
            return None
        return bits

    def _limits_in(self, parent: Parts) -> int:
        """The permission bits that a directory's default ACL leaves to what is in it."""
        limits = self._limits.get(parent)
        if limits is None:
            place = self._places.get(parent)
            if place is not None:
                limits = place.limits
            else:
                try:
                    found = acl_limits(self._directory(parent))
                except PermissionError:
                    found = None  # its mode forbids to open it
                limits = MODE_BITS if found is None else found
            self._limits[parent] = limits
        return limits

    def _must_be_dir(self, parts: Parts, *, writable: bool) -> None:
        mode = self._home.stat(parts, follow=True).st_mode
        if not stat.S_ISDIR(mode):
            raise NotADirectory("a file is there")
        if writable and mode & 0o700 != 0o700:
            self._make_writable(parts, mode)

    def _make_writable(self, parts: Parts, mode: int) -> None:
        """Open a directory to its owner until what fills it sets its own mode, as cp and rsync do.

        One that isn't ours stays as it is: whether something can be put there will show.
        """
        fd = self._home.tree.open(parts, beneath.OPEN_ANY)
        try:
            beneath.chmod_pinned(fd, stat.S_IMODE(mode) | 0o700)
        except PermissionError:
            pass
        finally:
            os.close(fd)

    def make_link(self, request: MakeLink) -> None:
        parts = self._home.network_of(target_of(request.path))
        if not paths.RESERVED.isdisjoint(request.target.split(b"/")):
            raise InvalidPath("a link may not lead to a reserved name")
        if b"\0" in request.target:
            raise InvalidPath("a link's target has a NUL byte")
        staged = self._home.new_name()
        place = self._places.of(parts[:-1])
        place.symlink(request.target, staged)
        try:
            if request.mtime_ns is not None:
                os.utime(
                    staged,
                    ns=(time.time_ns(), request.mtime_ns),
                    dir_fd=place.fd,
                    follow_symlinks=False,
                )
            placed = self._put_in_place(
                Staged(
                    staged,
                    parts[:-1],
                    parts[-1],
                    len(request.target),
                    request.mtime_ns,
                    request.overwrite,
                    place,
                )
            )
        except BaseException:
            os.unlink(staged, dir_fd=place.fd)
            raise
        if placed:
            self.change += len(request.target)

    def remove(self, request: Remove) -> Removed:
        """Remove a file or link. Raises IsADirectory."""
        parts = target_of(request.path)
        self._forget(parts)  # it may be a link
        directory, name = self._directory(parts[:-1]), parts[-1]
        check = same_as(request)
        item, operation = self._announced.get(id(request)), self._operation
        if item is not None and operation is not None:
            try:
                size = counted_size(self._home.take(operation, directory, name, item, check))
            except NoRoom:
                self.remarks.add(NO_ROOM)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
            else:
                self._took = True
                self.trash += size
                self.trash_files += 1
                self._touched.add(parts[:-1])
                return Removed(1, 0, size, operation.name, trashed=True)
        size = self._home.discard(directory, name, check)
        self.change -= size
        self.files -= 1
        self._touched.add(parts[:-1])
        return Removed(1, 0, size)

    def set_attributes(self, request: SetAttributes) -> None:
        self.set_attributes_of(self._home.network_of(paths.split(request.path)), request)

    def set_attributes_of(self, parts: Parts, request: SetAttributes) -> None:
        """As `set_attributes`, of a path that was split, and is known to lead there."""
        known = self._open.get(parts)
        if known is not None:  # a directory that was filled just now
            self._set_open(known, parts, request)
            return
        try:
            fd = self._home.tree.open(parts, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except PermissionError:
            self._set_closed(parts, request)
            return
        try:
            self._set_open(fd, parts, request)
        finally:
            os.close(fd)

    def _set_open(self, fd: int, parts: Parts, request: SetAttributes) -> None:
        info = os.fstat(fd)
        is_dir = stat.S_ISDIR(info.st_mode)
        if not is_dir:
            info = beneath.regular(fd)
        mode = self._permitted_mode(parts, info, request)
        try:
            if request.mtime_ns is not None:
                digest = None if is_dir else fresh_digest(fd, info)
                os.utime(fd, ns=(info.st_atime_ns, request.mtime_ns))
                if digest is not None:  # the bytes are the same: it goes on being true
                    keep_digest(fd, digest, info.st_size, request.mtime_ns)
            if mode is not None:
                os.chmod(fd, mode)
        except PermissionError:
            if not self._is_left_to_its_owner(info, request):
                raise
        if is_dir:
            self._touched.add(parts)
            if self._times is not None and request.mtime_ns is not None:
                self._times[parts] = info.st_atime_ns, request.mtime_ns
        elif self._home.durable:
            os.fsync(fd)

    def _permitted_mode(
        self, parts: Parts, info: os.stat_result, request: SetAttributes
    ) -> int | None:
        """The mode to set; None: none. Raises Forbidden for files that may not be changed.

        Who may only add to a directory may set its times and mode, as after filling it, but not
        close it to the others who do.
        """
        replaces = self._home.permits(Action.REPLACE, parts)
        if not replaces and not stat.S_ISDIR(info.st_mode):
            self._home.require(Action.REPLACE, parts)
        mode = request.mode
        if mode is not None and not replaces:
            mode |= 0o700
        return self._bits_for(parts, info, mode, exact=request.exact, setgid=request.setgid)

    def _is_left_to_its_owner(self, info: os.stat_result, request: SetAttributes) -> bool:
        """A directory that others own is filled all the same, as its group may: its mode and time
        stay. What was asked for by itself fails."""
        filled = request.mode is not None and request.mtime_ns is not None and not request.exact
        if not filled or not stat.S_ISDIR(info.st_mode):
            return False
        self.remarks.add(_KEPT_MODES)
        return True

    def _set_closed(self, parts: Parts, request: SetAttributes) -> None:
        """As ``set_attributes``, of what its own mode forbids to open, though not its owner."""
        fd = self._home.tree.open(parts, beneath.OPEN_ANY)
        try:
            info = os.fstat(fd)
            if not stat.S_ISDIR(info.st_mode):
                info = beneath.regular(fd)
            mode = self._permitted_mode(parts, info, request)
            try:
                if request.mtime_ns is not None:
                    beneath.utime_pinned(fd, (info.st_atime_ns, request.mtime_ns))
                if mode is not None:
                    beneath.chmod_pinned(fd, mode)
            except PermissionError:
                if not self._is_left_to_its_owner(info, request):
                    raise
        finally:
            os.close(fd)
        if self._home.durable:
            beneath.sync_file_system(self._home.fd)


def target_of(path: bytes) -> Parts:
    """The components of a path that a file can have. Raises IsADirectory for the home."""
    parts = paths.split(path)
    if not parts:
        raise IsADirectory("/: the home itself is a directory")
    return parts


def lstat(directory: int, name: bytes) -> os.stat_result | None:
    """What is at a name, links not followed; None when nothing is."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def may_replace(there: os.stat_result, overwrite: Overwrite, mtime_ns: int | None) -> None:
    """Raises what forbids to replace ``there`` by a file with that mtime."""
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectory("a directory is there")
    if overwrite == "never":
        raise AlreadyExists("it exists, and it is not to be replaced")
    if overwrite == "older" and mtime_ns is not None and there.st_mtime_ns >= mtime_ns:
        raise NotNewer("what is there is as new")
