"""Ending a process before each of its steps, and what has to be there at the next start.

Lives here: what a step is (a call that changes or syncs something, or the books), the process that
ends before one, killed or with the power, the next start, and looking at what is there then.
Lives elsewhere: what is done (scenes.py), what a power cut leaves (disk_model.py).

What has to be there is taken from a run that nothing ends: before its first step, and after it was
acknowledged. In between every name has what it had before or what it has afterwards, and nothing
is lost.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from ftpserver.accounts.account import Account
from ftpserver.accounts.accounts import Accounts
from ftpserver.daemon.housekeeping import Housekeeping
from ftpserver.database import open_state
from ftpserver.storage.home import Home
from ftpserver.storage.home_staging import NOT_STAGED
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.recount import recount
from ftpserver.storage.trash.index import Contents, decode
from ftpserver.storage.trash.names import INDEX_NAME
from ftpserver.storage.trash.policy import Policy
from ftpserver.storage.walk import Usage
from ftpserver.workspace.workspace import Workspace
from ftpwire import beneath, paths
from ftpwire.messages import ListTrash
from tests.ftpserver.storage.quota_store import held_files
from tests.ftpserver.storage.trash.disk_model import Durable
from tests.system.crash_support import Disk

MIB = 1024 * 1024
TIME = 1_700_000_000_000_000_000
"""Nanoseconds since 1970: about the mtime of all that is there before."""
DAY_NS = 24 * 3600 * 10**9

Print = tuple[object, ...]
"""What something is, with all that is in it: equal of what is the same."""
Ends = Literal["killed", "power", "cut"]
"""How a process ends: killed; with the power, on the worst disk; with the power of a real disk."""


# looking -----------------------------------------------------------------------------------


def print_of(path: bytes, *, times: bool = True) -> Print:
    """What is at a path, whole.

    Args:
        times: Also the mtimes of directories; those of files always.
    """
    info = os.lstat(path)
    mode = stat.S_IMODE(info.st_mode)
    if stat.S_ISLNK(info.st_mode):
        return ("link", os.readlink(path))
    if stat.S_ISDIR(info.st_mode):
        below = tuple(
            (name, print_of(path + b"/" + name, times=times)) for name in sorted(os.listdir(path))
        )
        return ("directory", mode, _known(info.st_mtime_ns) if times else 0, below)
    with open(path, "rb") as file:
        return ("file", mode, info.st_mtime_ns, file.read())


def _known(time_ns: int) -> int:
    """A time, if it is one that a test gave; of all others, which differ in each run, one."""
    return min(time_ns, TIME + DAY_NS)


@dataclass(frozen=True)
class Seen:
    """A home as its user sees it, and its trash.

    Attributes:
        names: What is at each name in the home's top directory.
        kept: What lies in the trash, by what happened to it and its path; several of one path may.
        wrong: What must not be in a trash.
        of_command: The paths of what lies in the trash, by the words of the command.
        bytes_of: How many bytes that has, by the words of the command.
        purged: What doesn't, because it was purged singly, as its index says.
    """

    names: dict[bytes, Print]
    kept: list[tuple[str, bytes, Print]]
    wrong: list[str]
    of_command: dict[str, set[bytes]] = field(default_factory=dict)
    bytes_of: dict[str, int] = field(default_factory=dict)
    purged: set[tuple[str, bytes]] = field(default_factory=set)

    @property
    def leaves(self) -> set[Print]:
        """Every file and link, wherever it is."""
        return {leaf for thing in (*self.names.values(), *self.in_trash) for leaf in _leaves(thing)}

    @property
    def in_trash(self) -> list[Print]:
        """What lies in the trash."""
        return [thing for _, _, thing in self.kept]

    @property
    def lines(self) -> set[tuple[str, bytes]]:
        """What the lines say of what lies in the trash."""
        return {(what, path) for what, path, _ in self.kept}


def _leaves(thing: Print) -> Iterator[Print]:
    if thing[0] != "directory":
        yield thing
        return
    below: Any = thing[3]
    for _, one in below:
        yield from _leaves(one)


def seen(home: Path) -> Seen:
    """Look at a home, straight from the disk."""
    top = os.fsencode(home)
    names = {
        name: print_of(top + b"/" + name, times=False)
        for name in os.listdir(top)
        if name not in (paths.STAGING, paths.TRASH)
    }
    found = Seen(names, [], [])
    trash = top + b"/" + paths.TRASH
    if os.path.isdir(trash):
        for name in sorted(os.listdir(trash)):
            _see_operation(trash + b"/" + name, found)
    found.kept.sort(key=repr)
    return found


def _see_operation(directory: bytes, found: Seen) -> None:
    there = set(os.listdir(directory)) - {INDEX_NAME}
    index = directory + b"/" + INDEX_NAME
    content = b""
    if os.path.exists(index):
        content = Path(os.fsdecode(index)).read_bytes()
    lines = content.split(b"\n")
    if any(line and not list(decode(line)) for line in lines[:-1]):
        found.wrong.append(f"{index!r} has a line that cannot be read: {content!r}")
    contents = Contents.of(decode(content))
    is_used = bool(there)
    words = "" if contents.begin is None else contents.begin.words
    for item in contents.items:
        name = item.name.encode()
        if name in there:
            there.remove(name)
            what = print_of(directory + b"/" + name)
            found.kept.append((item.what, item.path.value, what))
            found.of_command.setdefault(words, set()).add(item.path.value)
            size = sum(len(leaf[3]) for leaf in _leaves(what) if leaf[0] == "file")  # type: ignore[arg-type]
            found.bytes_of[words] = found.bytes_of.get(words, 0) + size
        elif item.name in contents.gone and contents.gone[item.name].became == "purged":
            found.purged.add((words, item.path.value))
    if there:
        found.wrong.append(f"{directory!r}: no line tells of {there}")
    if is_used and contents.begin is None:
        found.wrong.append(f"{index!r} does not begin with whose it is")


# the site ----------------------------------------------------------------------------------


@dataclass
class Site:
    """A root with one account, which is made new for each run.

    Attributes:
        new: What it is made from.
        account: In it.
        disk: What it lies on, if that can lose its power.
    """

    root: Path
    new: Path
    account: Account
    disk: Disk | None = None

    @property
    def files(self) -> Path:
        """The account's home."""
        return self.account.home

    @classmethod
    def made(
        cls, place: Path, new_state: Path, disk: Disk | None = None, quota: int = 64 * MIB
    ) -> Site:
        """With an account of a new state."""
        root, new = (disk.mount_point if disk else place) / "root", place / "new"
        root.mkdir()
        shutil.copytree(new_state, root / ".ftpd")
        engine = open_state(root / ".ftpd")
        account = Accounts(engine, root).add("alice", "secret", quota=quota)
        engine.dispose()
        shutil.move(root, new)
        return cls(root, new, account, disk)

    def renew(self) -> None:
        """As if nothing had ever been there."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.copytree(self.new, self.root, dirs_exist_ok=True)  # a mount in it stays

    @contextmanager
    def opened(self) -> Iterator[tuple[Ledger, Workspace]]:
        """A session of the account, and the books."""
        engine = open_state(self.root / ".ftpd")
        try:
            ledger = Ledger(engine)
            with Workspace(self.account, ledger, policy=Policy) as workspace:
                yield ledger, workspace
        finally:
            engine.dispose()

    def start_again(self) -> list[str]:
        """What the next start of the server does; returns what is wrong after it."""
        engine = open_state(self.root / ".ftpd")
        try:
            ledger = Ledger(engine)
            service: Any = SimpleNamespace(
                ledger=ledger,
                accounts=Accounts(engine, self.root),
                ownership=SimpleNamespace(claim=lambda *_, **__: None),
            )
            housekeeping = Housekeeping(service)
            try:
                housekeeping.put_back()
                housekeeping.recount_dirty()
                housekeeping.clean_all()
            finally:
                housekeeping.close()
            return self.disagreements(ledger)
        finally:
            engine.dispose()

    def evicted(self) -> set[str]:
        """The words of the commands whose operations were evicted, as the database has it."""
        with self.opened() as (ledger, _):
            found = {one.words for one in ledger.evicted(self.account.id)}
            assert ledger.evicted_lately()[0] == len(found)
            return found

    def purged_for_space(self) -> dict[str, int]:
        """The bytes that `ListTrash` reports as freed, by the words of the commands."""
        with self.opened() as (_, workspace):
            listed = [one for page in workspace.list_trash(ListTrash()) for one in page.operations]
        return {one.words: one.given_up for one in listed if one.given_up is not None}

    def disagreements(self, ledger: Ledger) -> list[str]:
        """See `disagreements`."""
        return disagreements(ledger, self.account.id, self.files)


def disagreements(ledger: Ledger, account_id: int, files: Path) -> list[str]:
    """What the books say and the disk doesn't, and what is left over in staging."""
    space = ledger.space(account_id)
    home = Home(files, durable=False)
    try:
        counted, left = home.count(), home.staged() - NOT_STAGED
    finally:
        home.close()
    wrong = []
    used = Usage(space.used + space.trash, space.used_files + space.trash_files)
    if used != counted:
        wrong.append(f"the books say {used}, the disk {counted}")
    if min(space.used, space.used_files, space.trash, space.trash_files) < 0:
        wrong.append(f"more is in the trash than there is: {space}")
    if (space.held, held_files(ledger._engine)) != (0, 0):
        wrong.append(f"{space.held} bytes are still held")
    if left:
        wrong.append(f"left over in staging: {left}")
    return wrong


# steps -------------------------------------------------------------------------------------


_CALLS = (
    *("rename", "replace", "link", "symlink", "unlink", "rmdir", "mkdir", "write", "pwrite"),
    *("ftruncate", "truncate", "utime", "chmod", "setxattr", "fsync", "fdatasync"),
)
"""Of `os`, what changes or syncs something."""
_BOOKS = (
    *("reserve", "reserve_step", "extended", "begin_commit", "settle", "operation"),
    *("close_operation", "begin_eviction", "forget_operation", "reserve_freed", "note_answers"),
)

Weaken = Callable[[], None]
"""Breaks a promise, in the process that is going to be ended."""


class _Steps:
    """Counts the steps of a process, and ends it before one of them.

    Args:
        last: Its number; 0: none.
        end: Ends the process.
        durable: Told what was synced.
    """

    def __init__(self, last: int, end: Callable[[], None], durable: Durable | None) -> None:
        self.count = 0
        self._last = last
        self._end = end
        self._durable = durable
        self._inside = False

    def install(self) -> None:
        for name in _CALLS:
            setattr(os, name, self._around(getattr(os, name), name))
        beneath.sync_file_system = self._around(beneath.sync_file_system, "syncfs")
        os.sync = self._around(os.sync, "syncfs")
        if beneath._renameat2 is not None:
            beneath._renameat2 = self._around(beneath._renameat2, "rename")
        for name in _BOOKS:
            setattr(Ledger, name, self._around(getattr(Ledger, name), name))

    def _around(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def step(*arguments: Any, **options: Any) -> Any:
            if self._inside:
                return call(*arguments, **options)
            self.reached()
            result = call(*arguments, **options)
            if self._durable is not None:
                self._inside = True
                if name in ("fsync", "fdatasync"):
                    self._durable.synced(arguments[0])
                elif name == "syncfs":
                    self._durable.all_synced()
                self._inside = False
            return result

        return step

    def reached(self) -> None:
        """The next step would be done now."""
        self.count += 1
        if self._durable is not None:
            self._inside = True
            self._durable.pin()
            self._inside = False
        if self.count == self._last:
            self.stop()
            self._end()

    def stop(self) -> None:
        """What comes now is no step."""
        self._inside = True


@dataclass(frozen=True)
class Ended:
    """How a process has ended.

    Attributes:
        acknowledged: What it had to do was done by then.
        steps: How many steps that took, if it was.
    """

    acknowledged: bool
    steps: int


class Scene:
    """Something that a session does."""

    may_lose_version = False
    """What it replaces may be lost by a crash between the exchange and the rename: its name has the
    new content by then."""
    evicts = False
    """What it takes out of the trash is evicted, or purged singly: it is recorded what that was."""
    in_parts = False
    """What it makes comes bit by bit: the directories above something first, for one."""

    def prepare(self, workspace: Workspace, home: Path) -> None:
        """What is there before."""

    def act(self, workspace: Workspace) -> None:
        """What is done; it is acknowledged when this returns."""
        raise NotImplementedError

    def repeat(self, workspace: Workspace) -> bool:
        """Do it again, because it wasn't acknowledged; whether the home has to be as after one time
        then."""
        return False


def run(site: Site, scene: Scene, ends: Ends, last: int, weaken: Weaken = lambda: None) -> Ended:
    """Do it in a process of its own, which ends before a step.

    Args:
        last: The number of that step; 0: it ends after all of them.
    """
    site.renew()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            _run_here(site, scene, ends, last, weaken, write)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)
    with open(read, "rb") as reported:
        said = reported.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == -signal.SIGKILL, "it failed by itself: see above"
    image = site.root.with_name("image")
    if ends == "cut":
        assert site.disk is not None
        site.disk.unmount()
        site.disk.mount()
    elif image.exists():
        shutil.rmtree(site.files)
        image.rename(site.files)
    return Ended(bool(said), int(said or 0))


def _run_here(site: Site, scene: Scene, ends: Ends, last: int, weaken: Weaken, write: int) -> None:
    tell = os.write
    durable: Durable | None = None

    def end() -> None:
        if durable is not None:
            durable.write(os.fsencode(site.root.with_name("image")))
        if ends == "cut":
            assert site.disk is not None
            site.disk.cut()
        os.kill(os.getpid(), signal.SIGKILL)

    with site.opened() as (ledger, workspace):
        scene.prepare(workspace, site.files)
        recount(ledger, site.account.id, Home(site.files))
    with site.opened() as (_, workspace):
        _ = workspace.home  # a session that has begun
        os.sync()
        if ends == "power":
            durable = Durable(os.fsencode(site.files))
        steps = _Steps(last, end, durable)
        steps.install()
        weaken()
        scene.act(workspace)
        tell(write, b"%d" % steps.count)
        steps.stop()
        end()


def violations(
    site: Site, scene: Scene, ends: Ends, weaken: Weaken = lambda: None, every: int = 1
) -> list[str]:
    """End it before each step, and after the last; returns what was wrong.

    Args:
        every: Only before each n-th step, which always are the first and the last ones.
    """
    nothing = run(site, scene, ends, 1)
    assert not nothing.acknowledged
    before = seen(site.files)
    whole = run(site, scene, "killed", 0)
    after = seen(site.files)
    assert whole.acknowledged
    found = site.start_again()
    assert not found, found
    assert seen(site.files) == after, "the next start changes what is there"
    wrong = []
    for last in [*range(1, whole.steps + 1, every), 0]:
        ended = run(site, scene, ends, last, weaken)
        found = _miscounted(before, site)  # also before the home is counted again
        found += site.start_again()
        found += _miscounted(before, site)
        there = seen(site.files)
        found += there.wrong
        found += compare(scene, ended.acknowledged, before, after, there)
        if scene.evicts:
            found += _unrecorded(before, there, site.evicted())
        if not ended.acknowledged and ends != "power":  # of which inodes have other numbers
            found += _done_again(site, scene, after)
        wrong += [f"before step {last} of {whole.steps}: {one}" for one in found]
    return wrong


def _done_again(site: Site, scene: Scene, after: Seen) -> list[str]:
    """What is wrong after the same once more."""
    with site.opened() as (ledger, workspace):
        try:
            if not scene.repeat(workspace):
                return []
        except AssertionError as error:
            return [f"done again, and failed: {error}"]
        wrong = site.disagreements(ledger)
    names = seen(site.files).names
    if names != after.names:
        wrong.append(f"done again, and not so: {names} instead of {after.names}")
    return wrong


def compare(scene: Scene, acknowledged: bool, before: Seen, after: Seen, there: Seen) -> list[str]:
    """What is wrong with what is there at the next start."""
    if acknowledged:
        return [
            f"acknowledged, and not so: {what}: {one} instead of {other}"
            for what, one, other in (
                ("names", there.names, after.names),
                ("trash", there.kept, after.kept),
            )
            if one != other
        ]
    wrong = []
    for name in before.names.keys() | after.names.keys() | there.names.keys():
        found, new = there.names.get(name), after.names.get(name)
        if found in (before.names.get(name), new) or (scene.in_parts and _is_part(found, new)):
            continue
        wrong.append(f"{name!r} is neither as before nor as afterwards: {found!r}")
    stay = before.leaves & after.leaves
    if scene.may_lose_version:
        for _, path, thing in after.kept:
            name = path.lstrip(b"/")
            if there.names.get(name) == after.names.get(name):
                stay -= set(_leaves(thing))
    wrong += [f"{leaf} is nowhere any more" for leaf in stay - there.leaves]
    lines = there.lines - before.lines - after.lines
    wrong += [f"a line that was never to be: {line}" for line in lines]
    return wrong


def _unrecorded(before: Seen, there: Seen, evicted: set[str]) -> list[str]:
    """What left the trash without a record, and records of what is in the trash."""
    wrong = [f"recorded as evicted, and there: {one}" for one in evicted & set(there.of_command)]
    for words, paths_of in before.of_command.items():
        for path in sorted(paths_of - there.of_command.get(words, set())):
            if words not in evicted and (words, path) not in there.purged:
                wrong.append(f"{path!r} of {words!r} left the trash, and no record says why")
    return wrong


def _miscounted(before: Seen, site: Site) -> list[str]:
    """Evictions that are reported with another size than what they took away."""
    return [
        f"{words!r} had {before.bytes_of.get(words)} bytes, and {size} are reported as freed"
        for words, size in site.purged_for_space().items()
        if size != before.bytes_of.get(words)
    ]


def _is_part(found: Print | None, new: Print | None) -> bool:
    """Whether something is a part of what it is going to be."""
    if found == new or found is None:
        return True
    if new is None or found[0] != "directory" or new[0] != "directory":
        return False
    there: Any = found[3]
    all_of: Any = dict(new[3])  # type: ignore[call-overload]
    return all(name in all_of and _is_part(below, all_of[name]) for name, below in there)
