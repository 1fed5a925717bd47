"""Crashing a real server at random moments, and knowing what must be there afterwards.

Lives here: the oracle (what was acknowledged, what was under way), the work that clients do
meanwhile, the moment of the crash, and a disk that loses power.
Lives elsewhere: the rounds (test_crash.py), servers that break promises on purpose
(weakened.py), the verifier that administrators have too (ftpserver/admin/verify.py).
"""

from __future__ import annotations

import fcntl
import os
import random
import sqlite3
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ftpclient import Client
from ftpclient.transfer.report import Listener, Result
from ftpserver.accounts.accounts import Accounts
from ftpserver.database import open_state
from ftpserver.storage.trash.index import Contents, decode
from ftpserver.storage.trash.names import INDEX_NAME
from ftpwire import digests
from ftpwire.errors import FtpError
from ftpwire.messages import MANY_FILES, Purge, Removed
from tests.peer import Peer
from tests.system import trees
from tests.system.programs import PATIENCE, STAGING, TRASH, Programs, clean_environment, eventually

NAME = "alice"
PASSWORD = "correct horse"
MIB = 1024 * 1024

WITHOUT_RENAME_FLAGS = {
    "PYTHONPATH": str(Path(__file__).parent / "abilities"),
    "WITHOUT_RENAME_FLAGS": "1",
}
"""Environment of a server whose file systems have neither RENAME_EXCHANGE nor RENAME_NOREPLACE."""

KEEPING = {"FTPD_TRASH_VERSIONS": "1000", "FTPD_TRASH_RESERVE": "0"}
"""Environment of a server that gives up nothing of the trash before it needs room."""

State = bytes | None
"""What is at a path: a file's digest, a link's or directory's mark, or nothing."""
DIRECTORY = b"directory"


def link_to(target: bytes) -> bytes:
    """The state of a symbolic link."""
    return b"link to " + target


# the oracle --------------------------------------------------------------------------------


@dataclass(eq=False)
class Change:
    """Something that was asked for: ``after`` is what it makes of the paths, all or nothing.

    Attributes:
        adds_first: A crash may leave what it makes, and with it what it takes away.
        moved: What is at these paths goes elsewhere, and not into the trash.
    """

    after: dict[bytes, State]
    adds_first: bool = False
    moved: frozenset[bytes] = frozenset()

    def is_half_made(self, found: Mapping[bytes, bytes], before: Mapping[bytes, bytes]) -> bool:
        """Whether more than nothing was made, and less than what may be."""
        made = all(found.get(path) == state for path, state in self.after.items())
        left = all(found.get(path) == before.get(path) for path in self.after)
        added = self.adds_first and all(
            found.get(path) == (before.get(path) if state is None else state)
            for path, state in self.after.items()
        )
        return not (made or left or added)


class Expected:
    """What a home may hold after a crash.

    Acknowledged changes hold, each change under way was made or wasn't, and nothing else is
    there. ``_lock`` guards all of it; several clients work on paths of their own.
    """

    def __init__(self, *, without_rename_flags: bool = False) -> None:
        self._lock = threading.Lock()
        self._settled: dict[bytes, bytes] = {}
        self._under_way: dict[bytes, Change] = {}
        self.acknowledged = 0
        self.without_rename_flags = without_rename_flags
        self.trashed: set[tuple[bytes, bytes]] = set()
        """Files and links that were removed or replaced since the trash was emptied: where they
        were, and their states."""
        self.unfinished: dict[bytes, tuple[Path, bytes]] = {}
        """Local files and their digests, by the path that they were on their way to."""

    def begin(
        self,
        after: Mapping[bytes, State],
        *,
        adds_first: bool = False,
        moved: Collection[bytes] = (),
    ) -> Change:
        """Before a change is asked for. No other change of these paths may be under way."""
        change = Change(dict(after), adds_first, frozenset(moved))
        with self._lock:
            for path in after:
                assert path not in self._under_way, path
                self._under_way[path] = change
        return change

    def acknowledge(self, change: Change) -> None:
        """The server says that it is done."""
        with self._lock:
            self.acknowledged += 1
            for path, state in change.after.items():
                del self._under_way[path]
                before = self._settled.get(path, DIRECTORY)
                if before not in (DIRECTORY, state) and path not in change.moved:
                    self.trashed.add((path, before))
                self._set(path, state)

    def below(self, directory: bytes) -> dict[bytes, bytes]:
        """What is known to be at a path and below it."""
        with self._lock:
            return {
                path: state
                for path, state in self._settled.items()
                if path == directory or path.startswith(directory + b"/")
            }

    def _set(self, path: bytes, state: State) -> None:
        if state is None:
            self._settled.pop(path, None)
        else:
            self._settled[path] = state

    def compare(self, found: Mapping[bytes, bytes]) -> list[str]:
        """What is wrong in a home after a crash; from now on, what was found is what is."""
        with self._lock:
            wrong = []
            for path in sorted(self._settled.keys() | self._under_way.keys() | found.keys()):
                allowed = {self._settled.get(path)}
                if path in self._under_way:
                    allowed.add(self._under_way[path].after[path])
                if found.get(path) not in allowed:
                    wrong.append(f"{path!r}: {found.get(path)!r} is none of {allowed}")
            for change in set(self._under_way.values()):
                if change.is_half_made(found, self._settled):
                    wrong.append(f"half of a change was made: {sorted(change.after)}")
            self._under_way.clear()
            self._settled = dict(found)
            return wrong


def contents(home: Path | bytes) -> dict[bytes, bytes]:
    """What a home holds, by paths as clients name them. The home is read straight from disk."""
    top = os.fsencode(home)
    found: dict[bytes, bytes] = {}
    for directory, directories, files in os.walk(top):
        if directory == top:
            directories[:] = [name for name in directories if name not in (STAGING, TRASH)]
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                state = link_to(os.readlink(path))
            elif stat.S_ISDIR(mode):
                state = DIRECTORY
            else:
                with open(path, "rb") as file:
                    state = digests.digest(file.read())
            found[path[len(top) :]] = state
    return found


@dataclass
class Trash:
    """A home's trash, read straight from disk.

    Attributes:
        things: Files and links: where they were, and their states.
        wrong: What must not be there.
        is_whole: Nothing of it was given up for want of room.
    """

    things: set[tuple[bytes, bytes]] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    is_whole: bool = True

    @classmethod
    def of(cls, home: Path) -> Trash:
        """What lies in it."""
        found = cls()
        for operation in sorted(home.glob(f"{os.fsdecode(TRASH)}/*")):
            found._add(os.fsencode(operation))
        return found

    def _add(self, operation: bytes) -> None:
        there = contents(operation)
        index = there.pop(b"/" + INDEX_NAME, None)
        lines = b""
        if index is not None:
            lines = Path(os.fsdecode(operation + b"/" + INDEX_NAME)).read_bytes()
        *whole, _ = lines.split(b"\n")
        if len(list(decode(b"\n".join(whole)))) < len([line for line in whole if line]):
            self.wrong.append(f"{operation!r}: a line cannot be read: {lines!r}")
        said = Contents.of(decode(lines))
        if any(gone.became == "purged" for gone in said.gone.values()):
            self.is_whole = False
        items = {item.name.encode(): item.path.value for item in said.items}
        for path, state in there.items():
            _, name, *below = path.split(b"/", 2)
            if name not in items:
                self.wrong.append(f"{operation!r}: no line tells of {path!r}")
                continue
            self.things.add((b"/".join([items[name], *below]), state))


# the moment --------------------------------------------------------------------------------


class Crash:
    """One crash, at a moment that nobody knows before.

    Args:
        action: What ends the server; called once, from whatever thread the moment comes in.
        seconds: When it comes at the latest, from ``start`` on.
        acknowledgements: Or right at the n-th acknowledgement.
        commands: Or right at the end of the n-th command.
    """

    def __init__(
        self,
        action: Callable[[], None],
        seconds: float,
        acknowledgements: int = 0,
        commands: int = 0,
    ) -> None:
        self.happened = threading.Event()
        self._action = action
        self._lock = threading.Lock()
        self._acknowledgements = acknowledgements
        self._commands = commands
        self._timer = threading.Timer(seconds, self.now)

    def start(self) -> None:
        self._timer.start()

    def acknowledged(self) -> None:
        """An acknowledgement came."""
        if self._acknowledgements > 0:
            self._acknowledgements -= 1
            if self._acknowledgements == 0:
                self.now()

    def commanded(self) -> None:
        """A command came to its end."""
        if self._commands > 0:
            self._commands -= 1
            if self._commands == 0:
                self.now()

    def now(self) -> None:
        with self._lock:
            if not self.happened.is_set():
                self.happened.set()
                self._action()

    def join(self) -> None:
        """Wait until it is over."""
        self.happened.wait(PATIENCE)
        self._timer.cancel()
        self._timer.join()
        with self._lock:
            pass  # the action has ended


# the work ----------------------------------------------------------------------------------


class Sources:
    """Local files to send. Each is another one, made from one block of noise."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.directory = directory
        self._noise = random.Random(seed).randbytes(40 * MIB)
        self.count = 0
        directory.mkdir()

    def bytes(self, size: int) -> bytes:
        """New contents."""
        self.count += 1
        return (struct.pack(">Q", self.count) + self._noise)[:size]

    def tree(self) -> Path:
        """A new local directory."""
        self.count += 1
        path = self.directory / f"tree-{self.count}"
        path.mkdir()
        return path

    def remove(self) -> None:
        """When nothing more is sent."""
        trees.remove(self.directory)

    def file(self, path: Path | str, size: int) -> tuple[Path, bytes]:
        """A local file with new contents, and their digest."""
        data = self.bytes(size)
        path = self.directory / path
        path.write_bytes(data)
        return path, digests.digest(data)


class Worker(threading.Thread):
    """A client at work until the crash. Subclasses say what it does over and over.

    Attributes:
        one_by_one: Each small file goes by a request of its own, as to an older server.
        failure: What went wrong before the crash; nothing should.
    """

    one_by_one = False

    def __init__(
        self, port: int, expected: Expected, crash: Crash, source: Path, seed: int
    ) -> None:
        super().__init__(name=type(self).__name__)
        self._port = port
        self.expected = expected
        self.crash = crash
        self.random = random.Random(seed)
        self.sources = Sources(source, seed)
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            address = f"{NAME}@127.0.0.1:{self._port}"
            with Client(address, password=PASSWORD, plaintext=True, retries=0) as client:
                if self.one_by_one:
                    client.connection.server.features.remove(MANY_FILES)
                self.prepare(client)
                while not self.crash.happened.is_set():
                    self.step(client)
                    self.crash.commanded()
        except BaseException as error:
            # after the crash, whatever a client may meet is right; before it, nothing is
            if not (self.crash.happened.is_set() and isinstance(error, FtpError)):
                self.failure = error
                self.crash.now()

    def prepare(self, client: Client) -> None:
        """At the beginning."""

    def step(self, client: Client) -> None:
        """One thing to do, at random."""
        raise NotImplementedError

    def change(
        self,
        after: Mapping[bytes, State],
        ask: Callable[[], object],
        *,
        adds_first: bool = False,
        moved: Collection[bytes] = (),
    ) -> None:
        """Ask for one change and have it acknowledged."""
        change = self.expected.begin(after, adds_first=adds_first, moved=moved)
        ask()
        self.expected.acknowledge(change)
        self.crash.acknowledged()

    def make_dir(self, client: Client, path: bytes) -> None:
        """Make a directory if it isn't there."""
        if not self.expected.below(path):
            self.change({path: DIRECTORY}, lambda: client.make_dir(path, parents=True))

    def put(
        self, client: Client, sources: list[Path], target: bytes, after: Mapping[bytes, State]
    ) -> None:
        """Upload. Each file and link is a change of its own; directories are when it is over."""
        listener = _Acknowledgements(self, after)
        summary = client.put(sources, target, recursive=True, listener=listener)
        if summary.failed:
            assert summary.first_error is not None
            raise summary.first_error
        listener.all_done()


class _Acknowledgements(Listener):
    """Notes each acknowledgement of an upload as it comes."""

    def __init__(self, worker: Worker, after: Mapping[bytes, State]) -> None:
        self._worker = worker
        expected = worker.expected
        self._changes = {
            path: expected.begin({path: state})
            for path, state in after.items()
            if state != DIRECTORY or not expected.below(path)
        }

    def finished(self, result: Result) -> None:
        if result.status == "done":  # else the summary says what went wrong
            self._acknowledge(result.target)

    def all_done(self) -> None:
        """The upload is over: what isn't told one by one is done as well."""
        for path in list(self._changes):
            self._acknowledge(path)

    def _acknowledge(self, path: bytes) -> None:
        self._worker.expected.acknowledge(self._changes.pop(path))
        self._worker.crash.acknowledged()


class SmallFiles(Worker):
    """Trees of small files, single ones, overwriting, removing, renaming, copying."""

    top = b"/small"
    _TREES = 6
    _SINGLES = 12

    def prepare(self, client: Client) -> None:
        self.make_dir(client, self.top)

    def step(self, client: Client) -> None:
        verbs = [
            (8, self.put_tree),
            (3, self.put_tree_at_once),
            (5, self.put_few),
            (3, self.put_stream),
            (3, self.remove_file),
            (1, self.remove_tree),
            (3, self.rename_file),
            (1, self.rename_tree),
            (2, self.copy_file),
        ]
        weights = [weight for weight, _ in verbs]
        self.random.choices(verbs, weights)[0][1](client)

    def _size(self) -> int:
        return self.random.choice([0, 1, 100, 5_000, 20_000, self.random.randrange(400_000)])

    def _single(self) -> bytes:
        return self.top + b"/single-%d" % self.random.randrange(self._SINGLES)

    def _tree(self) -> bytes:
        return self.top + b"/tree-%d" % self.random.randrange(self._TREES)

    def _files(self) -> list[bytes]:
        known = self.expected.below(self.top)
        return sorted(path for path, state in known.items() if state != DIRECTORY)

    def put_tree(self, client: Client) -> None:
        """A few or many files in a few or many directories, new or over what is there."""
        target = self._tree()
        source, after = self._make_tree(target)
        # into what is there, or as a new one
        sources = sorted(source.iterdir()) if self.expected.below(target) else [source]
        self.put(client, sources, target, after)

    def put_tree_at_once(self, client: Client) -> None:
        """In the place of what is there, all or nothing of it."""
        target = self._tree()
        source, after = self._make_tree(target)

        def put() -> None:
            _check(client.put([source], target, recursive=True, atomic=True))

        self.change(dict.fromkeys(self.expected.below(target)) | after, put)

    def _make_tree(self, target: bytes) -> tuple[Path, dict[bytes, State]]:
        source = self.sources.tree()
        after: dict[bytes, State] = {target: DIRECTORY}
        thin = self.random.random() < 0.3  # so little that all of it is one batch
        for number in self.random.sample(range(9), self.random.choice([1, 3, 8, 8])):
            below = source / f"d{number}"
            below.mkdir()
            directory = target + b"/" + os.fsencode(below.name)
            after[directory] = DIRECTORY
            for count in range(1 if thin else self.random.choice([0, 1, 3, 12])):
                size = 100 if thin else min(self._size(), 20_000)
                _, digest = self.sources.file(below / str(count), size)
                after[directory + b"/%d" % count] = digest
            if self.random.random() < 0.3:
                text = f"nowhere-{self.sources.count}"
                (below / "link").symlink_to(text)
                after[directory + b"/link"] = link_to(text.encode())
        return source, after

    def put_few(self, client: Client) -> None:
        """So few that they are synced one by one."""
        for _ in range(self.random.randrange(1, 4)):
            target = self._single()
            source, digest = self.sources.file("single", self._size())
            self.put(client, [source], target, {target: digest})

    def put_stream(self, client: Client) -> None:
        """One whose size nobody knows before."""
        target = self._single()
        source, digest = self.sources.file("stream", self._size())
        with open(source, "rb") as file:
            self.change({target: digest}, lambda: _check(client.put_stream(file.fileno(), target)))

    def remove_file(self, client: Client) -> None:
        files = self._files()
        if files:
            path = self.random.choice(files)
            self.change({path: None}, lambda: client.remove(path))

    def remove_tree(self, client: Client) -> None:
        tree = self._tree()
        known = self.expected.below(tree)
        if known:
            after = dict.fromkeys(known)
            self.change(after, lambda: client.remove(tree, recursive=True))

    def rename_file(self, client: Client) -> None:
        """To a new name, or over another file."""
        files = self._files()
        if not files:
            return
        source = self.random.choice(files)
        target = self._single()
        if target != source:
            after = {source: None, target: self.expected.below(source)[source]}
            # without RENAME_NOREPLACE the new name is another link to the file at first
            linked = self.expected.without_rename_flags
            self.change(
                after, lambda: client.move(source, target), adds_first=linked, moved=[source]
            )

    def rename_tree(self, client: Client) -> None:
        source, target = self._tree(), self._tree()
        known = self.expected.below(source)
        if not known or self.expected.below(target):
            return
        after: dict[bytes, State] = dict.fromkeys(known)
        for path, state in known.items():
            after[target + path[len(source) :]] = state
        self.change(after, lambda: client.move(source, target), moved=known)

    def copy_file(self, client: Client) -> None:
        files = self._files()
        if not files:
            return
        source = self.random.choice(files)
        target = self._single()
        state = self.expected.below(source)[source]
        if target != source:
            self.change({target: state}, lambda: client.copy(source, target, links=True))


def _check(summary: object) -> None:
    error = getattr(summary, "first_error", None)
    if error is not None:
        raise error


class SingleFile(Worker):
    """One small file after another, each new: several of these share their syncs."""

    def prepare(self, client: Client) -> None:
        self._count = 0
        self._tag = b"%x" % self.random.getrandbits(64)
        self.make_dir(client, self.top)

    def step(self, client: Client) -> None:
        self._count += 1
        target = self.top + b"/%s-%d" % (self._tag, self._count)
        source, digest = self.sources.file("single", self.random.choice([0, 1, 1000, 9000]))
        self.put(client, [source], target, {target: digest})


SINGLE_FILES: tuple[type[Worker], ...] = tuple(
    type(f"SingleFile{number}", (SingleFile,), {"top": b"/single-of-%d" % number})
    for number in range(8)
)
"""Several clients of that kind, which stay out of each other's directories."""


class LargeFiles(Worker):
    """Large files, over one another. What a crash interrupted is gone on with afterwards."""

    top = b"/large"

    def prepare(self, client: Client) -> None:
        self.make_dir(client, self.top)

    def step(self, client: Client) -> None:
        unfinished = self.expected.unfinished
        if unfinished:
            target, (source, digest) = next(iter(unfinished.items()))
        else:
            target = self.top + b"/%d" % self.random.randrange(2)
            size = self.random.choice([MIB, 5 * MIB, 9 * MIB, 40 * MIB])
            # not below what is removed at the end of the round
            name = f"large-{target[-1]}-{self.random.getrandbits(32)}"
            source, digest = self.sources.file(self.sources.directory.parent / name, size)
            unfinished[target] = source, digest
        self.put(client, [source], target, {target: digest})
        del unfinished[target]
        source.unlink()


# the server --------------------------------------------------------------------------------


@dataclass
class Root:
    """A root of homes that outlives many servers, with one account that has a quota.

    Attributes:
        without_rename_flags: As if its file system had no flags of rename(2).
    """

    path: Path
    quota: int
    programs: Programs
    place: Path
    variant: str = "as-is"
    options: tuple[str, ...] = ()
    without_rename_flags: bool = False
    expected: Expected = field(init=False)
    process: subprocess.Popen[bytes] | None = None
    port: int = 0
    _evicted_before: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.expected = Expected(without_rename_flags=self.without_rename_flags)

    def make(self) -> None:
        """Its state, and the account."""
        engine = open_state(self.path / ".ftpd")
        try:
            Accounts(engine, self.path).add(NAME, PASSWORD, quota=self.quota)
        finally:
            engine.dispose()

    def contents(self) -> dict[bytes, bytes]:
        """What the user's home holds."""
        return contents(self.path / NAME)

    def trash(self) -> Trash:
        """What lies in the user's trash."""
        found = Trash.of(self.path / NAME)
        found.is_whole = found.is_whole and self._evicted() <= self._evicted_before
        return found

    def _evicted(self) -> set[str]:
        """The operations that were evicted for their space, by what the accounts file knows."""
        rows = self._rows("SELECT name FROM operation WHERE given_up IS NOT NULL")
        return {str(name) for (name,) in rows}

    def empty_trash(self) -> None:
        """Have the server give up what is in the trash."""
        with Peer.connect(("127.0.0.1", self.port)) as peer:
            peer.log_in(NAME, PASSWORD)
            assert isinstance(peer.ask(Purge()), Removed)
        self.expected.trashed.clear()
        # their records stay for a day; they say nothing about what comes into the trash from now on
        self._evicted_before = self._evicted()

    def start(self) -> None:
        """Start a server on it, and wait until it listens."""
        launcher = [sys.executable, str(Path(__file__).parent / "weakened.py"), self.variant]
        options = ["--root", str(self.path), "--host", "127.0.0.1", "--port", "0", "--plaintext"]
        with open(self.log_path, "ab") as log:
            self.process = self.programs.start(
                [*launcher, "start", *options, *self.options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=clean_environment(self.place, **self._abilities),
                cwd=self.place,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        assert line.startswith("listening on "), (line, self.log)
        self.port = int(line.rpartition(":")[2])

    @property
    def _abilities(self) -> dict[str, str]:
        return KEEPING | (WITHOUT_RENAME_FLAGS if self.without_rename_flags else {})

    @property
    def log_path(self) -> Path:
        return self.place / "server.log"

    @property
    def log(self) -> str:
        return self.log_path.read_text("utf-8", "backslashreplace")

    def kill(self) -> None:
        """End the server as a crash would. Can be called twice."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def stop(self) -> None:
        """Stop the server in order."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, self.log[-3000:]
        self.kill()

    def wait_for_recount(self) -> None:
        """Until the server has repaired what the crash before left in doubt."""
        try:
            eventually(self._is_sure, "the recount at start")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-3000:]}") from None

    def _is_sure(self) -> bool:
        try:
            return not self._asked(
                "SELECT (SELECT count(*) FROM account WHERE dirty)"
                " + (SELECT count(*) FROM lease WHERE state != 'kept')"
            )
        except sqlite3.OperationalError:  # whoever is the last to close it removes its log just now
            return False

    def _asked(self, statement: str) -> int:
        """A number that the accounts file knows."""
        return int(self._rows(statement)[0][0])

    def _rows(self, statement: str) -> list[tuple[Any, ...]]:
        database = sqlite3.connect(f"file:{self.path}/.ftpd/state.db?mode=ro", uri=True)
        try:
            return database.execute(statement).fetchall()
        finally:
            database.close()


# power -------------------------------------------------------------------------------------


class CannotMount(Exception):
    """This machine, or this user, cannot mount a disk of its own; the text says why."""


class Disk:
    """An ext4 file system in an image file, whose power can be cut.

    A cut is the file system's own shutdown, without a last flush of its journal: what was not
    synced is lost, as when the plug is pulled.

    Raises (by ``make`` and ``mount``):
        CannotMount
    """

    _SHUTDOWN = 0x8004587D
    _NO_LOG_FLUSH = 2

    def __init__(self, place: Path, size: int) -> None:
        self._image = place / "disk.img"
        self._size = size
        self.mount_point = place / "disk"
        self._fd = -1

    def make(self) -> None:
        """Format and mount it."""
        if os.geteuid() != 0:
            raise CannotMount("only root can mount a disk")
        self.mount_point.mkdir()
        with open(self._image, "wb") as image:
            image.truncate(self._size)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self._image))
        self.mount()

    def mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.mount_point))
        self._fd = os.open(self.mount_point, os.O_RDONLY | os.O_DIRECTORY)

    def cut(self) -> None:
        """From now on nothing reaches the disk."""
        fcntl.ioctl(self._fd, self._SHUTDOWN, struct.pack("I", self._NO_LOG_FLUSH))

    def unmount(self) -> None:
        """Everything that uses it must have ended, or be about to: a worker ends by itself when its
        server was killed."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            eventually(self._is_unmounted, "all that used the disk has ended")

    def _is_unmounted(self) -> bool:
        try:
            _run("umount", str(self.mount_point))
        except CannotMount as error:
            if "busy" not in str(error):
                raise
            return False
        return True

    def close(self) -> None:
        """Unmount it whatever happened; its loop device goes with it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            try:
                _run("umount", str(self.mount_point))
            except CannotMount:
                _run("umount", "--lazy", str(self.mount_point))
        self._image.unlink(missing_ok=True)


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE)
    except FileNotFoundError:
        raise CannotMount(f"{command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        raise CannotMount(f"{command[0]}: {error.stderr.strip()}") from None
