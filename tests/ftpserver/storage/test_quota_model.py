"""Quotas against a model: whatever several sessions do in whatever order, the books are right.

The sessions are threads of the server, or processes of their own. After each step the ledger is
compared with a recount of the disk, and what is stored with plain dictionaries: what is in the
trash is the rest of what is counted, and nobody is refused for want of room that it takes. What the
steps of one session cost is the model's business in test_ledger.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ftpserver.storage.home import Home
from ftpserver.storage.resumable import PIECE, RESUME_FROM
from ftpwire import digests
from ftpwire.frames import Kind
from ftpwire.messages import (
    Copied,
    Copy,
    Failed,
    MakeDir,
    Move,
    Purge,
    Put,
    Ready,
    Remove,
    Removed,
    Restore,
    Restored,
    Sent,
    Space,
    Stored,
)
from tests.ftpserver.storage.quota_store import held_files
from tests.peer import Peer
from tests.system.programs import eventually

MIB = 1024 * 1024
QUOTA = 30 * MIB
MAX_FILES = 14
MOST_PARENTS = 2
"""So many directories above a name there are."""

NAMES = st.sampled_from([b"/a", b"/b", b"/d/a", b"/d/b", b"/e/c", b"/e/d/c"])
DIRECTORIES = st.sampled_from([b"/d", b"/e", b"/e/d", b"/new"])
SMALL = st.sampled_from([0, 1, 1000, 300_000])
LARGE = st.sampled_from([RESUME_FROM + 1, PIECE + 5, 11 * MIB])


def send(peer: Peer, number: int, data: bytes) -> None:
    for start in range(0, len(data), MIB):
        peer.frame(Kind.DATA, number, data[start : start + MIB])


class QuotaMachine(RuleBasedStateMachine):
    """Three sessions of one account: what is there, by name (None for a directory)."""

    def __init__(self, server, dial) -> None:
        super().__init__()
        self.server = server
        self._dial = dial
        self.there: dict[bytes, int | None] = {}
        self.open: dict[bytes, int] = {}
        """Interrupted uploads: their target, and the bytes that they hold."""

    @initialize()
    def begin(self):
        self.name = f"user{len(self.server.accounts)}"
        self.server.accounts.add(self.name, "secret", quota=QUOTA, max_files=MAX_FILES)
        self.peers = [self.log_in() for _ in range(3)]

    def log_in(self) -> Peer:
        peer = self._dial(self.server, logged_in=False)
        peer.log_in(self.name)
        return peer

    # the model ---------------------------------------------------------------------------

    @property
    def used(self) -> int:
        return sum(size or 0 for size in self.there.values())

    @property
    def free(self) -> int:
        return QUOTA - self.used - sum(self.open.values())

    @property
    def home(self) -> Path:
        return Path(self.server.accounts.get(self.name).home)

    def operations(self) -> list[str]:
        """The names of what is in the trash, the oldest first."""
        trash = self.home / ".ftpd-trash"
        return sorted(os.listdir(trash)) if trash.exists() else []

    def in_trash(self) -> tuple[int, int]:
        """Bytes, and files, directories and links, that are in the trash: not what it needs to
        know of them."""
        size = files = 0
        for operation in self.operations():
            directory = self.home / ".ftpd-trash" / operation
            for path in directory.rglob("*"):
                if path != directory / "index":
                    files += 1
                    size += 0 if path.is_dir() else path.lstat().st_size
        return size, files

    def seen(self) -> dict[bytes, int | None]:
        """What is there on the disk, as the model has it."""
        found: dict[bytes, int | None] = {}
        for path in self.home.rglob("*"):
            name = b"/" + os.fsencode(path.relative_to(self.home))
            if not name.startswith(b"/.ftpd-"):
                found[name] = None if path.is_dir() else path.lstat().st_size
        return found

    def new_names(self, path: bytes) -> int:
        names = []
        while path and path != b"/":
            if path not in self.there:
                names.append(path)
            path = path.rpartition(b"/")[0]
        return len(names)

    def has_names(self, path: bytes) -> bool:
        held = held_files(self.server.service.engine, self.name)
        return len(self.there) + held + self.new_names(path) <= MAX_FILES

    def add(self, path: bytes, size: int | None) -> None:
        self.there[path] = size
        while (path := path.rpartition(b"/")[0]) not in (b"", b"/"):
            self.there.setdefault(path, None)

    def below(self, path: bytes) -> dict[bytes, int | None]:
        return {
            name: size
            for name, size in self.there.items()
            if name == path or name.startswith(path + b"/")
        }

    def is_dir(self, path: bytes) -> bool:
        return path in self.there and self.there[path] is None

    def blocked(self, path: bytes) -> bool:
        """Whether a file is where a directory would have to be."""
        while (path := path.rpartition(b"/")[0]) not in (b"", b"/"):
            if self.there.get(path) is not None:
                return True
        return False

    # steps -------------------------------------------------------------------------------

    @rule(who=st.integers(0, 2), path=NAMES, size=SMALL)
    def put_small(self, who, path, size):
        peer = self.peers[who]
        data = bytes(size)
        number = peer.request(Put(path, size, parents=True))
        if data:
            peer.frame(Kind.DATA, number, data)
        peer.frame(Kind.END, number, Sent(size, digests.digest(data)))
        self.stored(path, size, peer.answer().message)

    def stored(self, path, size, reply):
        if isinstance(reply, Stored):
            assert not self.is_dir(path)
            assert size <= self.free
            self.add(path, size)
            self.open.pop(path, None)  # whatever else was kept for it is dropped
            return
        assert isinstance(reply, Failed), reply
        if reply.code == "quota":
            assert size > self.free or not self.has_names(path)
        else:
            assert self.is_dir(path) or self.blocked(path), reply

    @rule(who=st.integers(0, 2), path=NAMES, size=LARGE, stop=st.floats(0, 1))
    def put_large(self, who, path, size, stop):
        """Whole, or cut anywhere: what is kept of it holds its room until it is gone on with."""
        data = bytes(size)
        peer = self.peers[who]
        held = self.open.pop(path, None)
        free = self.free
        number = peer.request(Put(path, size, mtime_ns=1, ask=True, parents=True))
        ready = peer.answer().message
        if isinstance(ready, Failed):
            peer.frame(Kind.CANCEL, number)
            if ready.code == "quota":
                assert size > free or not self.has_names(path)
            else:
                assert self.is_dir(path) or self.blocked(path), ready
            self.look_for(path, held)
            return
        assert isinstance(ready, Ready)
        assert size <= free
        if stop < 0.5:
            send(peer, number, data[ready.offset : int(size * stop * 2)])
            peer.close()
            self.peers[who] = self.log_in()
            self.look_for(path, None, eventually_gone=True)
            return
        send(peer, number, data[ready.offset :])
        peer.frame(Kind.END, number, Sent(size, digests.digest(data)))
        self.stored(path, size, peer.answer().message)

    def look_for(self, path, held, *, eventually_gone: bool = False):
        """What the server keeps of an upload to a path is its own decision; it holds as much."""
        if eventually_gone:
            eventually(lambda: not self.under_way(), "the session's end")
        kept = self.kept()
        others = sum(self.open.values())
        if kept > others:
            self.open[path] = kept - others
        elif held is not None:
            assert kept == others

    def kept(self) -> int:
        account = self.server.accounts.get(self.name)
        return self.server.service.ledger.space(account.id).held

    def under_way(self) -> bool:
        from sqlalchemy import select

        from ftpserver.schema import lease
        from ftpserver.storage.incarnations import KEPT

        account = self.server.accounts.get(self.name)
        with self.server.service.engine.connect() as connection:
            found = connection.execute(
                select(lease.c.id).where(lease.c.account_id == account.id, lease.c.state != KEPT)
            )
            return found.first() is not None

    @rule(who=st.integers(0, 2), path=DIRECTORIES)
    def make_dir(self, who, path):
        reply = self.peers[who].ask(MakeDir(path, parents=True))
        if isinstance(reply, Failed):
            expected = "quota" if not self.has_names(path) else reply.code
            assert reply.code == expected
        else:
            self.add(path, None)

    @rule(
        who=st.integers(0, 2), path=NAMES | DIRECTORIES, final=st.sampled_from([False] * 3 + [True])
    )
    def remove(self, who, path, final):
        gone = self.below(path)
        before = self.in_trash()
        reply = self.peers[who].ask(Remove(path, recursive=True, final=final))
        assert isinstance(reply, Failed) == (not gone)
        for name in gone:
            del self.there[name]
        if isinstance(reply, Removed):
            assert reply.trashed == (not final)
            kept = (0, 0) if final else (sum(size or 0 for size in gone.values()), len(gone))
            assert self.in_trash() == (before[0] + kept[0], before[1] + kept[1])

    @rule(
        who=st.integers(0, 2),
        which=st.integers(0, 9),
        conflict=st.sampled_from(["skip", "replace", "beside"]),
    )
    def restore(self, who, which, conflict):
        """What comes back is what the disk says; only with a conflict it may displace anything."""
        operations = self.operations()
        if not operations:
            return
        operation = operations[which % len(operations)]
        trash = self.in_trash()
        reply = self.peers[who].ask(Restore(operation, conflict=conflict))
        seen = self.seen()
        if isinstance(reply, Failed):
            assert reply.code in ("quota", "expired"), reply
        else:
            assert isinstance(reply, Restored), reply
            size, files = self.in_trash()
            size += sum(size or 0 for size in seen.values())
            assert size <= trash[0] + self.used
            held = held_files(self.server.service.engine, self.name)
            if trash[1] + len(self.there) + held + MOST_PARENTS <= MAX_FILES:
                assert size == trash[0] + self.used  # nothing has to go
                assert files + len(seen) >= trash[1] + len(self.there)  # parents may be made
        self.there = seen

    @rule(who=st.integers(0, 2), which=st.integers(0, 9))
    def purge(self, who, which):
        operations = self.operations()
        operation = operations[which] if which < len(operations) else None
        size, files = self.in_trash()
        reply = self.peers[who].ask(Purge(operation))
        assert isinstance(reply, Removed), reply
        left = self.in_trash()
        assert (reply.size_bytes, reply.files + reply.directories) == (
            size - left[0],
            files - left[1],
        )
        assert operation not in self.operations()
        assert operation is not None or not self.operations()

    @rule(who=st.integers(0, 2))
    def ask_for_room(self, who):
        """Who asks has everything measured first."""
        space = self.peers[who].ask(Space())
        assert (space.used, space.used_files) == (self.used, len(self.there))
        assert (space.trash, space.trash_files) == self.in_trash()

    @rule(who=st.integers(0, 2), old=NAMES | DIRECTORIES, new=NAMES)
    def move(self, who, old, new):
        reply = self.peers[who].ask(Move(old, new))
        if isinstance(reply, Failed):
            return
        if old == new:
            return
        moved = self.below(old)
        for name in moved:
            del self.there[name]
        for name, size in moved.items():
            self.there[new + name[len(old) :]] = size

    @rule(who=st.integers(0, 2), old=NAMES, new=NAMES)
    def copy_file(self, who, old, new):
        reply = self.peers[who].ask(Copy(old, new))
        if isinstance(reply, Copied):
            size = self.there[old]
            assert size is not None
            assert size <= self.free
            self.there[new] = size
            self.open.pop(new, None)

    @precondition(lambda self: self.open)
    @rule()
    def give_up(self):
        """What is kept goes, as after --staging-days."""
        from sqlalchemy import update

        from ftpserver.schema import lease

        with self.server.service.engine.begin() as connection:
            connection.execute(update(lease).values(expires=0))
        self.server.housekeeping.recount_dirty()
        self.open.clear()

    # what always holds -------------------------------------------------------------------

    @invariant()
    def the_books_are_right(self):
        if not hasattr(self, "name"):
            return
        account = self.server.accounts.get(self.name)
        home = Home(account.home)
        try:
            counted = home.count()
        finally:
            home.close()
        assert (account.used, account.files) == (counted.size, counted.files)
        size, files = self.in_trash()
        assert (counted.size - size, counted.files - files) == (self.used, len(self.there))
        assert account.trash_bytes <= size and account.trash_files <= files  # what is measured
        assert account.held == sum(self.open.values())
        held = held_files(self.server.service.engine, self.name)
        assert (held > 0) <= bool(self.open)
        # what was replaced is in the trash, which goes when names are needed
        assert len(self.there) + held <= MAX_FILES
        assert account.used + account.held <= QUOTA
        for name, size in self.there.items():
            info = os.lstat(os.fsencode(account.home) + name)
            assert size is None or info.st_size == size

    def teardown(self):
        for peer in getattr(self, "peers", ()):
            peer.close()


long = (pytest.mark.long, pytest.mark.timeout(3600))


@pytest.mark.parametrize(
    ("isolation", "runs", "steps"),
    [
        pytest.param("thread", 10, 25, id="thread-short"),
        pytest.param("process", 12, 30, id="process-short", marks=pytest.mark.system),
        pytest.param("thread", 300, 60, id="thread-long", marks=long),
        pytest.param("process", 300, 60, id="process-long", marks=long),
    ],
)
def test_the_quota_is_what_a_recount_says(start_server, dial, runs, steps, isolation):
    server = start_server(durable=False, isolation=isolation)
    run_state_machine_as_test(
        lambda: QuotaMachine(server, dial),
        settings=settings(
            deadline=None,
            database=None,
            max_examples=runs,
            stateful_step_count=steps,
            phases=[Phase.generate],
        ),
    )


def test_a_machine_that_is_wrong_is_caught(start_server, dial, monkeypatch):
    """The control: books that forget what was replaced do not pass."""
    real = Home.drop_staged
    monkeypatch.setattr(Home, "drop_staged", lambda self, staged: real(self, staged) * 0)
    server = start_server(durable=False)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(
            lambda: QuotaMachine(server, dial),
            settings=settings(
                deadline=None,
                database=None,
                max_examples=20,
                stateful_step_count=30,
                phases=[Phase.generate],
            ),
        )
