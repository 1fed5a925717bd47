"""The books against the disk: whatever goes to the trash, comes back, and is given up.

The steps of restoring against a model of what is there are in test_restoring_model.py.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import closing

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run
from sqlalchemy import select, update

from ftpserver.schema import account as table
from ftpserver.storage.home import Home
from ftpserver.storage.recount import recount
from ftpserver.storage.trash import discarding, evicting_store
from ftpserver.storage.trash.thinning import Thinning
from ftpwire import digests
from ftpwire.errors import CommandError, Expired, QuotaExceeded
from ftpwire.messages import (
    Failed,
    Move,
    Operation,
    Purge,
    Put,
    Remove,
    Restore,
    Sent,
    Stored,
)
from tests.ftpserver.storage.trash.conftest import Bin

QUOTA = 4000
PATHS = st.sampled_from([b"/a", b"/b", b"/d/a", b"/d/e/b", b"/f/c"])
DIRECTORIES = st.sampled_from([b"/d", b"/d/e", b"/f"])
SIZES = st.sampled_from([0, 1, 500, 1500])


class TrashMachine(RuleBasedStateMachine):
    """Two sessions of one account."""

    def __init__(self, bin_: Bin, engine) -> None:
        super().__init__()
        self.bin = bin_
        self.engine = engine
        # begun anew for each run, where the last one has left it
        for name in os.listdir(bin_.files) if bin_.files.exists() else ():
            if not name.startswith(".ftpd-"):
                bin_.session.remove(Remove(os.fsencode("/" + name), recursive=True))
        bin_.session.purge(Purge())
        with engine.begin() as connection:
            connection.execute(update(table).values(quota=QUOTA, max_files=40))
        self.sessions = [bin_.session, bin_.open()]

    def teardown(self) -> None:
        self.sessions[1].close()

    def names(self) -> list[str]:
        trash = self.bin.files / ".ftpd-trash"
        return sorted(os.listdir(trash)) if trash.exists() else []

    def one_of(self, names: list[str], which: float) -> str:
        return names[int(which * len(names)) % len(names)]

    # steps -----------------------------------------------------------------------------------

    @rule(who=st.integers(0, 1), path=PATHS, size=SIZES)
    def put(self, who, path, size):
        before = self.bin.ledger.space(self.bin.account.id)
        session = self.sessions[who]
        self.bin.begin("put", session)
        data = os.urandom(size)
        sent = Sent(size, digests.digest(data))
        try:
            session.stage(Put(path, size, parents=True), data, sent)
            [(_, outcome)] = session.commit()
            assert isinstance(outcome, Stored | Failed)
        except QuotaExceeded as error:
            if error.what == "bytes":
                uncounted = any(not one.counted for one in self.bin.operations())
                assert size > before.free or uncounted
        except CommandError:
            pass  # a directory is there

    @rule(who=st.integers(0, 1), path=PATHS)
    def remove(self, who, path):
        self.bin.begin("rm", self.sessions[who])
        self._try(lambda: self.sessions[who].remove(Remove(path)))

    @rule(who=st.integers(0, 1), path=DIRECTORIES)
    def remove_tree(self, who, path):
        self.bin.begin("rm -r", self.sessions[who])
        self._try(lambda: self.sessions[who].remove(Remove(path, recursive=True)))

    @rule(who=st.integers(0, 1), source=PATHS, to=PATHS)
    def move(self, who, source, to):
        self.bin.begin("mv", self.sessions[who])
        self._try(lambda: self.sessions[who].move(Move(source, to, overwrite="always")))

    @precondition(lambda self: self.names())
    @rule(
        who=st.integers(0, 1),
        which=st.floats(0, 0.99),
        conflict=st.sampled_from(["skip", "replace", "beside"]),
    )
    def restore(self, who, which, conflict):
        name = self.one_of(self.names(), which)
        self._try(lambda: self.bin.restore(name, self.sessions[who], conflict=conflict))

    @precondition(lambda self: self.names())
    @rule(which=st.floats(0, 0.99), path=PATHS)
    def restore_part(self, which, path):
        name = self.one_of(self.names(), which)
        self._try(lambda: self.bin.restore(name, paths=[path]))

    @precondition(lambda self: self.names())
    @rule(which=st.floats(0, 0.99), item=st.floats(0, 0.99))
    def purge(self, which, item):
        name = self.one_of(self.names(), which)
        things = self.bin.things(name)
        items = [self.one_of(things, item)] if things and item > 0.5 else []
        self._try(lambda: self.bin.session.purge(Purge(name, items)))

    @rule()
    def measure(self):
        self.bin.measure()

    @rule(versions=st.integers(0, 2), items=st.integers(0, 10), size=st.integers(0, QUOTA))
    def thin(self, versions, items, size):
        with closing(Home(self.bin.files, durable=False)) as home:
            thinning = Thinning(home, self.bin.ledger, self.bin.account.id)
            thinning.thin(versions, time.time_ns())
            thinning.trim(items, size)

    @rule()
    def count(self):
        recount(self.bin.ledger, self.bin.account.id, Home(self.bin.files, durable=False))

    def _try(self, step) -> None:
        try:
            step()
        except (CommandError, OSError):
            pass  # what is in the way, or not there, is told by other tests

    # what holds ------------------------------------------------------------------------------

    @invariant()
    def agrees(self):
        assert self.bin.agrees()
        with self.engine.connect() as connection:
            row = connection.execute(select(table)).one()
        assert 0 <= row.trash_bytes <= row.used and 0 <= row.trash_files <= row.files
        assert not row.dirty
        assert row.held == 0


@pytest.mark.parametrize(
    ("runs", "steps"),
    [(12, 25), pytest.param(300, 50, marks=pytest.mark.long)],
    ids=["short", "long"],
)
@pytest.mark.parametrize("seconds", [0.05, 0.0], ids=["", "in parts"])
def test_the_books_are_what_the_disk_says(bin_: Bin, engine, runs, steps, seconds, monkeypatch):
    monkeypatch.setattr(discarding, "_PART_SECONDS", seconds)
    run(
        lambda: TrashMachine(bin_, engine),
        settings=settings(
            deadline=None, database=None, max_examples=runs, stateful_step_count=steps
        ),
    )


# giving up while others restore ------------------------------------------------------------------


@pytest.mark.parametrize("first", ["restore", "giving up"])
def test_giving_up_against_restoring(bin_: Bin, monkeypatch, first):
    """Each operation is either back, or gone; and the books say so."""
    bin_.put(b"/t/a", bytes(1000), parents=True)
    bin_.put(b"/t/b", bytes(1000))
    name = bin_.rm(b"/t", recursive=True)
    bin_.measure()
    with bin_.ledger._engine.begin() as connection:
        connection.execute(update(table).values(quota=2500))
    other = bin_.open()
    outcome: list[object] = []

    def restore() -> None:
        try:
            outcome.append(bin_.restore(name, other).items)
        except CommandError as error:
            outcome.append(error)

    thread = threading.Thread(target=restore)
    purge = discarding.purge
    if first == "giving up":
        # claimed already, and not removed yet, when the other one comes
        discard = discarding._Discarding.run

        def slowly(self, staged):
            thread.start()
            thread.join(60)
            return discard(self, staged)

        monkeypatch.setattr(discarding._Discarding, "run", slowly)
    else:

        def later(*arguments, **options):
            thread.start()
            thread.join(60)
            return purge(*arguments, **options)

        monkeypatch.setattr(evicting_store, "purge", later)
    data = bytes(2000)
    sent = Sent(len(data), digests.digest(data))
    try:
        bin_.session.stage(Put(b"/new", len(data)), data, sent)
        bin_.session.commit()
        stored = True
    except QuotaExceeded:
        stored = False
    assert not thread.is_alive()
    if first == "restore":
        assert outcome == [1] and not stored
        assert (bin_.files / "t" / "a").exists()
    else:
        assert isinstance(outcome[0], Expired) and stored
        assert not (bin_.files / "t").exists()
    assert bin_.agrees()


def test_many_at_once(bin_: Bin):
    """Some remove and restore, others need the room: at the end the books are right."""
    with bin_.ledger._engine.begin() as connection:
        connection.execute(update(table).values(quota=20_000))
    begin = threading.Barrier(3)
    wrong: list[BaseException] = []

    def removes_and_restores(number: int) -> None:
        session = bin_.open()
        try:
            begin.wait()
            for turn in range(15):
                path = b"/%d-%d" % (number, turn % 2)
                data = bytes(1000)
                sent = Sent(len(data), digests.digest(data))
                try:
                    session.stage(Put(path + b"/f", len(data), parents=True), data, sent)
                    session.commit()
                    removed = session.remove(Remove(path, recursive=True))
                    session.begin_operation(Operation())
                    session.restore(Restore(removed.operation))
                except CommandError:
                    continue
        except BaseException as error:
            wrong.append(error)

    def needs_room() -> None:
        session = bin_.open()
        try:
            begin.wait()
            for _ in range(15):
                data = bytes(9000)
                sent = Sent(len(data), digests.digest(data))
                try:
                    session.stage(Put(b"/large", len(data)), data, sent)
                    session.commit()
                except QuotaExceeded:
                    continue
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=removes_and_restores, args=(n,)) for n in range(2)]
    threads.append(threading.Thread(target=needs_room))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []
    assert bin_.agrees()
