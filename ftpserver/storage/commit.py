"""The visible part of a commit: renames and changes under the home's lock.

Lives here: renaming staged files to their targets, making directories and links, setting
attributes, removing files, and syncing the directories that were changed.
Lives elsewhere: the other steps of a commit (batch_commit.py), the bytes before that (staging.py),
the contents of the trash (trash/).
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
from ftpserver.storage.resumable import ResumableStaging
from ftpserver.storage.staging import DROPPED_BITS, MODE_BITS
from ftpserver.storage.staging_dirs import StagingDir, StagingDirs
from ftpserver.storage.trash.index import Item, State
from ftpserver.storage.trash.operation import NO_SPACE, NoSpace, Operation, state_of
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
"""The mode bits that let its owner open a directory."""
_WORTH_A_LOOK = 64 * 1024
_NO_VERSIONS = "replaced files could not be put into the trash: they were purged"
_KEPT_MODES = "directories of another owner or group keep their mode and times"


class Staged(msgspec.Struct):  # not a dataclass: it is made for each small file, and this is faster
    """A verified file in staging, waiting for the commit of its batch.

    Attributes:
        name: Its name in staging.
        parent, leaf: The directory that it goes to, and its name there.
        fd: Its descriptor, open while the batch has few files, to be synced one by one; else -1.
        staging_dir: The staging directory that it is in.
        parents: True to make missing parent directories.
        digest: The digest of its bytes; None for a link.
        keep_replaced: True to put what it replaces into the trash, if the trash is used.
        resumable: The lock that keeps other sessions from it, if they can find it by its name.
    """

    name: bytes
    parent: Parts
    leaf: bytes
    size: int
    mtime_ns: int | None
    overwrite: Overwrite
    staging_dir: StagingDir
    fd: int = -1
    resumable: ResumableStaging | None = None
    parents: bool = False
    digest: bytes | None = None
    keep_replaced: bool = True

    @property
    def target(self) -> Parts:
        """The path that it is renamed to."""
        return (*self.parent, self.leaf)

    def close(self) -> None:
        """Close its descriptor, and let other sessions open it. Can be called twice."""
        if self.resumable is not None:
            self.resumable.close()
            self.resumable = None
        elif self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


@dataclass(frozen=True, slots=True)
class _Replaced:
    """A file that was exchanged, and waits in staging to go to the trash."""

    name: bytes
    path: Parts
    info: os.stat_result
    after: State


class Commit:
    """One batch becoming visible. Use it while holding the home's lock.

    Directory handles are kept only for the life of this object: a file that is put through the
    handle of a directory that was moved or removed would be lost.

    Args:
        staging_dirs: The directories where the batch's files are staged.
        syncs: Groups the syncs of the sessions of this process.
        keep_times: True to leave directories their times. For a commit after the client has
            disconnected: it may have reconnected, filled the directories and set their times.
        operation: The operation in the trash for what is removed and replaced; None: it is
            purged.

    Attributes:
        change: Bytes stored in addition; negative if fewer are stored.
        files: Files, directories and links stored in addition; negative if fewer are.
        trash, trash_files: The bytes and files of these that are in the trash.
        remarks: Warnings for the user, each one once.
    """

    def __init__(
        self,
        home: Home,
        staging_dirs: StagingDirs,
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
        self._staging_dirs = staging_dirs
        self._syncs = syncs
        self._operation = operation
        self._announced: dict[int, Item] = {}
        """The announced items of the trash, by the identity of their requests."""
        self._replaced: list[_Replaced] = []
        self._took = False
        """True if something was renamed into the trash."""
        self._limits: dict[Parts, int] = {}
        self._elsewhere: set[Parts] = set()
        """Directories on other file systems than the home's."""
        self._open: OrderedDict[Parts, int] = OrderedDict()
        self._here: Parts | None = None
        """The open directory that was asked for last. Most files go to the same directory as the
        file before, with the identical tuple, and then it need not be looked up."""
        self._here_fd = -1
        self._touched: set[Parts] = set()
        self._put_to: Parts | None = None
        """The touched directory that received a file last."""
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
        """Keep the handle of a directory, and close the oldest one if too many are open.

        Args:
            info: The directory's state, if known.
        """
        self._here = None  # its handle may be the one that is closed
        before = self._open.pop(parts, None)
        if before is not None:  # another session has removed and remade that directory meanwhile
            os.close(before)
        elif len(self._open) >= _OPEN_DIRECTORIES:
            os.close(self._open.popitem(last=False)[1])
        self._open[parts] = fd
        staging_dir = self._staging_dirs.get(parts)
        if staging_dir is not None:
            elsewhere = staging_dir.above is not None
        else:
            info = info or os.fstat(fd)
            elsewhere = info.st_dev != self._home.device
        if elsewhere:
            self._elsewhere.add(parts)
        if self._times is not None and parts not in self._times:
            info = info or os.fstat(fd)
            self._times[parts] = info.st_atime_ns, info.st_mtime_ns

    def announce(self, requests: Sequence[Remove]) -> None:
        """Record in the trash's index what is going to be removed, in one write for the batch."""
        operation = self._operation
        if operation is None:
            return
        items = {}
        for request in requests:
            try:
                parts = target_of(request.path)
            except CommandError:
                continue  # `remove` reports the invalid path
            items[id(request)] = operation.item("removed", parts, number=request.number)
        if not items:
            return
        try:
            operation.announce(list(items.values()))
        except NoSpace:
            self.remarks.add(NO_SPACE)
            return
        self._announced = items

    def finish(self) -> None:
        """Put what was replaced into the trash, and restore directory times if that was asked for.
        Call it after all changes."""
        self._keep_replaced()
        for parts, times in (self._times or {}).items():
            if parts not in self._touched:
                continue
            try:
                os.utime(self._directory(parts), ns=times)
            except (FileNotFoundError, PermissionError):
                pass  # a later change of this batch removed it, or its mode forbids opening it

    def _keep_replaced(self) -> None:
        """Put exchanged files into the trash. A failure here doesn't fail the files stored."""
        replaced, self._replaced = self._replaced, []
        operation = self._operation
        if not replaced or operation is None:
            return
        left = replaced
        try:
            with operation.writing(waiting=False):
                items = [operation.item("replaced", one.path, after=one.after) for one in replaced]
                operation.announce(items)
                left = self._take_all(operation, list(zip(replaced, items, strict=True)))
                self._home.will_block()
                operation.sync()
        except NoSpace:
            pass  # the remark below reports it
        except Exception as error:  # whatever the error is, the batch is visible and gets settled
            logger.error("replaced files cannot be put into the trash: %s", error)
        if left:
            self.remarks.add(_NO_VERSIONS)
        for one in left:
            try:
                self.change -= self._home.drop_staged(one.name)
                self.files -= 1
            except OSError as error:
                logger.error("a replaced file cannot be removed: %s", error)

    def _take_all(
        self, operation: Operation, replaced: list[tuple[_Replaced, Item]]
    ) -> list[_Replaced]:
        """Put what was replaced into the trash; return those for which that failed."""
        failed = []
        for number, (one, item) in enumerate(replaced):
            if not number % TURN_FILES:
                self._home.take_turn()
            if not self._try_take(operation, one, item):
                failed.append(one)
        return failed

    def _try_take(self, operation: Operation, one: _Replaced, item: Item) -> bool:
        """Put one replaced file into the trash. False: that failed."""
        try:
            operation.take_file(self._home.staging_fd, one.name, item)
        except NoSpace:
            return False
        except OSError as error:
            logger.error("a replaced file cannot be put into the trash: %s", error)
            return False
        self.trash += counted_size(one.info)
        self.trash_files += 1
        return True

    def sync(self) -> None:
        """Make the renames durable: sync few directories in a group with other sessions, many by
        syncing their whole file system.

        The home's lock is held meanwhile. This cannot deadlock: sessions that share a group sync
        wait for no lock while they sync.
        """
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
            if len(few) >= SYNC_EACH:  # only this many stay open at a time
                self._syncs.sync(few)
                few = []
            try:
                few.append(self._directory(parts))
            except FileNotFoundError:
                pass  # a later change of this batch removed it
            except PermissionError:  # its mode forbids opening it
                self._home.will_block()
                beneath.sync_file_system(self._home.fd)
        self._syncs.sync(few)

    def place(self, staged: Staged) -> None:
        """Rename a staged file to its target, and make missing parents if it asks for that."""
        if staged.parents and staged.parent is not self._here:
            self._make_parents(staged.parent)
        try:
            if self._put_in_place(staged):
                self.change += staged.size
        except PermissionError:
            if not staged.parents:
                raise
            # an upload over several connections may have set the directory's final mode already
            parent = staged.parent
            self._make_writable(parent, self._home.stat(parent, follow=True).st_mode)
            if self._put_in_place(staged):
                self.change += staged.size

    def _put_in_place(self, staged: Staged) -> bool:
        """Rename to the target. False: the identical file is there, and may not be replaced."""
        parent, name, staging = staged.parent, staged.leaf, staged.staging_dir.fd
        directory = self._here_fd if parent is self._here else self._directory(parent)
        while True:
            try:
                beneath.rename_new(staging, staged.name, directory, name)
                self.files += 1
                break
            except FileExistsError:
                there = lstat(directory, name)
                if there is None:
                    continue  # it was removed just now: try again
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
                    f"{paths.show(paths.join(*parent, name))} is not on the same file system as "
                    f"{paths.show(paths.join(paths.STAGING))}: it was mounted or moved meanwhile"
                ) from None
        if parent is not self._put_to:  # else it is in the set: comparing is faster than hashing
            self._put_to = parent
            self._touched.add(parent)
        return True

    def _is_the_same(
        self, directory: int, name: bytes, there: os.stat_result, staging: int, staged: bytes
    ) -> bool:
        """Return whether the existing file equals the staged one: an earlier attempt may have
        stored it, and its reply was lost. A file without a stored digest doesn't count as equal."""
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
        """Sync and close the directories that were opened through a link, which is about to be
        replaced or removed: later changes must not go through it. For anything else than a link,
        no open directory is below it."""
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
        """Exchange the two names, then measure what came out: exactly that is what went away.

        Where names cannot be exchanged, the existing file is measured first. That is safe because
        the batch holds the home's lock alone then: no other session replaces the file in between.

        Returns:
            False if nothing exists at the target any more.
        """
        staging, name = staged.staging_dir.fd, staged.leaf
        try:
            beneath.exchange(staging, staged.name, directory, name)
        except beneath.Unsupported:
            self._home.cannot_exchange(staging)  # remembered: later batches lock the home alone
            self._replace_by_rename(staged, directory)
            return True
        except FileNotFoundError:
            if lstat(staging, staged.name) is None:
                raise
            return False
        came_out = os.stat(staged.name, dir_fd=staging, follow_symlinks=False)
        if stat.S_ISDIR(came_out.st_mode):  # a directory appeared since the check: put it back
            beneath.exchange(staging, staged.name, directory, name)
            raise IsADirectory("a directory is there")
        if self._is_kept(staged, staging, staged.name, came_out):
            after = self._state_of(staged, directory)
            self._replaced.append(_Replaced(staged.name, staged.target, came_out, after))
            self.files += 1  # both exist: the new file, and the replaced one in the trash
        else:
            self.change -= self._home.drop_staged(staged.name, staging)
        return True

    def _replace_by_rename(self, staged: Staged, directory: int) -> None:
        """Replace a file where names cannot be exchanged: link the old one into the trash first."""
        staging, name = staged.staging_dir.fd, staged.leaf
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
        """Link the file that is about to be replaced into the trash. False: that failed."""
        name, operation = staged.leaf, self._operation
        if operation is None or not self._is_kept(staged, directory, name, there):
            return False
        try:
            with operation.writing(waiting=False):
                after = self._state_of(staged, staged.staging_dir.fd, staged.name)
                item = operation.item("replaced", staged.target, after=after)
                operation.announce([item])
                operation.link(directory, name, item)
                operation.sync()
        except (NoSpace, CommandError, OSError):
            self.remarks.add(_NO_VERSIONS)
            return False
        return True

    def _is_kept(self, staged: Staged, directory: int, name: bytes, info: os.stat_result) -> bool:
        """Return whether a replaced file goes to the trash: not if its contents are the same, or if
        it is on another file system.

        The digest of a small file with another mtime isn't read. That would cost more than keeping
        the file until the trash is thinned, which discards versions equal to their successor.
        """
        operation = self._operation
        if operation is None or not operation.keep_replaced or not staged.keep_replaced:
            return False
        if staged.staging_dir.above is not None:
            return False
        if staged.digest is None or info.st_size != staged.size:
            return True
        if info.st_mtime_ns != staged.mtime_ns and info.st_size < _WORTH_A_LOOK:
            return True
        return digest_by_name(directory, name, info) != staged.digest

    def _state_of(self, staged: Staged, directory: int, name: bytes | None = None) -> State:
        """Return the state of the new file, by which a restore recognizes it."""
        if staged.digest is not None and staged.mtime_ns is not None:
            return State(0, staged.size, staged.mtime_ns, staged.digest.hex())
        info = os.stat(name or staged.leaf, dir_fd=directory, follow_symlinks=False)
        return state_of(info, staged.digest)

    def make_dir(self, request: MakeDir) -> None:
        parts = self._home.redirected(paths.split(request.path))
        self.make_directory(parts, request.mode, parents=request.parents, fill=request.fill)

    def make_directory(self, parts: Parts, mode: int, *, parents: bool, fill: bool) -> None:
        """Do what `make_dir` does, for a path already split and redirected."""
        if not parts:
            if parents:
                return
            raise AlreadyExists("the home itself exists")
        try:
            self._make_one(parts, mode)
        except FileExistsError:
            if not parents:
                raise
            self._ensure_dir(parts, writable=fill)
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
        # 0700, as its contents come next. The kernel adds the group, setgid and ACL of the parent.
        os.mkdir(parts[-1], mode & MODE_BITS | 0o700, dir_fd=directory)
        self.files += 1
        fd = os.open(parts[-1], beneath.OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            info = os.fstat(fd)
            bits = self._bits_for(parts, info, mode)
            if bits is not None:  # set the exact mode, which mkdir has combined with the umask
                os.chmod(fd, bits)
        except BaseException:
            os.close(fd)
            raise
        bits = stat.S_IMODE(info.st_mode) if bits is None else bits
        # Keep the handle: its contents come next. Not if its mode would forbid opening it by name,
        # nor if the account's permissions depend on where the links above it lead.
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
        """Return the mode to set on something in state ``info``; None to leave it.

        A directory keeps its sticky bit, and its setgid bit unless the request changes that. Other
        programs rely on these to share a directory, and setgid came from the parent directory.

        Raises:
            Forbidden: The kernel would clear the setgid bit.
            NotADirectory: Setgid was asked for something else than a directory.
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
        """Return the permission bits that a directory's default ACL leaves to its contents."""
        limits = self._limits.get(parent)
        if limits is None:
            staging_dir = self._staging_dirs.get(parent)
            if staging_dir is not None:
                limits = staging_dir.limits
            else:
                try:
                    found = acl_limits(self._directory(parent))
                except PermissionError:
                    found = None  # its mode forbids opening it
                limits = MODE_BITS if found is None else found
            self._limits[parent] = limits
        return limits

    def _ensure_dir(self, parts: Parts, *, writable: bool) -> None:
        mode = self._home.stat(parts, follow=True).st_mode
        if not stat.S_ISDIR(mode):
            raise NotADirectory("a file is there")
        if writable and mode & 0o700 != 0o700:
            self._make_writable(parts, mode)

    def _make_writable(self, parts: Parts, mode: int) -> None:
        """Make a directory writable for its owner until the client sets its final mode, as cp and
        rsync do.

        A directory of another owner is left as it is; writing into it may still work.
        """
        fd = self._home.tree.open(parts, beneath.OPEN_ANY)
        try:
            beneath.chmod_pinned(fd, stat.S_IMODE(mode) | 0o700)
        except PermissionError:
            pass
        finally:
            os.close(fd)

    def make_link(self, request: MakeLink) -> None:
        parts = self._home.redirected(target_of(request.path))
        if not paths.RESERVED.isdisjoint(request.target.split(b"/")):
            raise InvalidPath("the target of a link may not contain a reserved name")
        if b"\0" in request.target:
            raise InvalidPath("the target of a link may not contain a NUL byte")
        staged = self._home.new_name()
        staging_dir = self._staging_dirs.of(parts[:-1])
        staging_dir.symlink(request.target, staged)
        try:
            if request.mtime_ns is not None:
                os.utime(
                    staged,
                    ns=(time.time_ns(), request.mtime_ns),
                    dir_fd=staging_dir.fd,
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
                    staging_dir,
                )
            )
        except BaseException:
            os.unlink(staged, dir_fd=staging_dir.fd)
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
            except NoSpace:
                self.remarks.add(NO_SPACE)
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
        self.set_attributes_of(self._home.redirected(paths.split(request.path)), request)

    def set_attributes_of(self, parts: Parts, request: SetAttributes) -> None:
        """Do what `set_attributes` does, for a path already split and redirected."""
        known = self._open.get(parts)
        if known is not None:  # a directory that this batch has filled
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
                if digest is not None:  # the bytes are unchanged, so the digest is still valid
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
        """Return the mode to set; None for none. Raises Forbidden for a file that may not change.

        A user who may only add to a directory may set its times and mode, as after filling it, but
        not close it to other users who add to it.
        """
        replaces = self._home.permits(Action.REPLACE, parts)
        if not replaces and not stat.S_ISDIR(info.st_mode):
            self._home.require(Action.REPLACE, parts)
        mode = request.mode
        if mode is not None and not replaces:
            mode |= 0o700
        return self._bits_for(parts, info, mode, exact=request.exact, setgid=request.setgid)

    def _is_left_to_its_owner(self, info: os.stat_result, request: SetAttributes) -> bool:
        """Return whether a refused change is only remarked on: a directory of another owner was
        filled, and keeps its mode and times. A change that was requested explicitly fails."""
        filled = request.mode is not None and request.mtime_ns is not None and not request.exact
        if not filled or not stat.S_ISDIR(info.st_mode):
            return False
        self.remarks.add(_KEPT_MODES)
        return True

    def _set_closed(self, parts: Parts, request: SetAttributes) -> None:
        """Do what ``set_attributes`` does, for a file that its own mode forbids to open."""
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
    """Split the path of a file. Raises IsADirectory for the home itself."""
    parts = paths.split(path)
    if not parts:
        raise IsADirectory("/: the home itself is a directory")
    return parts


def lstat(directory: int, name: bytes) -> os.stat_result | None:
    """Return the state of what has a name, without following links; None if nothing has it."""
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def may_replace(there: os.stat_result, overwrite: Overwrite, mtime_ns: int | None) -> None:
    """Raise if ``there`` may not be replaced by a file with this mtime."""
    if stat.S_ISDIR(there.st_mode):
        raise IsADirectory("a directory is there")
    if overwrite == "never":
        raise AlreadyExists("it already exists, and the request forbids replacing it")
    if overwrite == "older" and mtime_ns is not None and there.st_mtime_ns >= mtime_ns:
        raise NotNewer("the existing file is as new or newer")
