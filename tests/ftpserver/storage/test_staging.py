"""Kept staging: checkpoints, who may write, what a resume finds, and the room that it holds."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from ftpserver.accounts.accounts import Accounts
from ftpserver.admin.verify import check
from ftpserver.database import open_state
from ftpserver.schema import lease
from ftpserver.storage import commit as committing
from ftpserver.storage import incarnations
from ftpserver.storage import ledger as ledger_module
from ftpserver.storage import resumable as module
from ftpserver.storage import upload_locks as owning
from ftpserver.storage.batch import Uploads
from ftpserver.storage.home import Home
from ftpserver.storage.incarnations import LEASE_SECONDS
from ftpserver.storage.kept import KeptStaging
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.recount import recount
from ftpserver.storage.resumable import (
    Checkpoint,
    checkpoint_name,
    kept_name,
    kept_names,
)
from ftpserver.storage.upload_locks import TakenOver
from ftpwire import digests
from ftpwire.errors import (
    Busy,
    Cancelled,
    ConnectionLost,
    NotFound,
    QuotaExceeded,
    VerificationFailed,
)
from ftpwire.messages import Failed, Put, Sent, Stored

MIB = 1024 * 1024
SIZE = 5 * MIB


def content(size: int, seed: int = 1) -> bytes:
    """Bytes in which no piece looks like another."""
    return random.Random(seed).randbytes(size)


def put(data: bytes, path: bytes = b"/file", mtime_ns: int = 1, **options) -> Put:
    """The request for an upload that asks first."""
    return Put(path, len(data), options.pop("mode", 0o644), mtime_ns, ask=True, **options)


def quiet(_: int) -> None:
    """For progress that nobody wants."""


@pytest.fixture
def alice(accounts):
    """An account with room for two files and a half."""
    accounts.add("alice", "secret", quota=SIZE * 5 // 2)
    return accounts.get("alice").id


@pytest.fixture
def session(open_home, ledger, alice):
    """Makes the uploads of one more session of alice's."""

    def make(cut=lambda path: None) -> Uploads:
        return Uploads(open_home(), ledger, alice, durable=False, cut=cut)

    return make


def send(uploads: Uploads, data: bytes, request: Put, *, until: int | None = None) -> int:
    """Upload, or as far as ``until``, where the connection is lost; returns where it began."""
    offset = 0
    try:
        with uploads.receiving(1, request) as receiving:
            offset, digest = receiving.resume(quiet)
            if offset:
                assert digest == digests.digest(data[:offset])
            receiving.staging.sink.write(memoryview(data)[offset:until])
            if until is not None:
                raise ConnectionLost("cut")
            receiving.finish(Sent(len(data), digests.digest(data)))
    except ConnectionLost:
        pass
    return offset


def commit(uploads: Uploads) -> object:
    """Commit; the one outcome."""
    ((_, outcome),) = uploads.commit()
    return outcome


def staged(root) -> set[str]:
    """What lies in staging."""
    return set(os.listdir(root / "alice" / ".ftpd-staging")) - {"lock"}


# checkpoints -------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(home):
    made = Checkpoint(home.staging_fd, b"one.ck")
    yield made
    made.close()


RECORDS = [(10, b"a" * 32), (20, b"b" * 32), (30, b"c" * 32)]


def test_records_are_read_back(checkpoint):
    checkpoint.write(RECORDS)
    assert checkpoint.read(100) == RECORDS


@pytest.mark.parametrize(
    ("size", "found"),
    [(9, 0), (10, 1), (29, 2), (30, 3)],
    ids=["before-the-first", "at-the-first", "before-the-last", "at-the-last"],
)
def test_no_record_goes_beyond_the_file(checkpoint, size, found):
    checkpoint.write(RECORDS)
    assert checkpoint.read(size) == RECORDS[:found]


@given(cut=st.integers(0, 3 * 48), flipped=st.integers(0, 3 * 48 - 1), bit=st.integers(0, 7))
def test_a_damaged_checkpoint_is_good_up_to_the_damage(tmp_path_factory, cut, flipped, bit):
    directory = os.open(tmp_path_factory.mktemp("checkpoint"), os.O_RDONLY)
    try:
        one = Checkpoint(directory, b"one.ck")
        one.write(RECORDS)
        one.close()
        fd = os.open(b"one.ck", os.O_RDWR, dir_fd=directory)
        byte = os.pread(fd, 1, flipped)[0]
        os.pwrite(fd, bytes([byte ^ 1 << bit]), flipped)
        os.ftruncate(fd, cut)
        os.close(fd)
        again = Checkpoint(directory, b"one.ck")
        good = min(cut, flipped if flipped < cut else cut) // 48
        assert again.read(100) == RECORDS[:good]
        again.close()
    finally:
        os.close(directory)


@pytest.mark.parametrize(
    "records",
    [[(20, b"a" * 32), (10, b"b" * 32)], [(20, b"a" * 32), (20, b"b" * 32)]],
    ids=["falling", "twice"],
)
def test_records_rise(checkpoint, records):
    checkpoint.write(records)
    assert checkpoint.read(100) == records[:1]


# what a resume finds -----------------------------------------------------------------------


@settings(max_examples=settings().max_examples // 4)
@given(points=st.lists(st.integers(0, SIZE), max_size=4))
def test_cut_anywhere_and_gone_on_with(tmp_path_factory, points):
    """However often and wherever it is cut: in the end the bytes are right."""
    root = tmp_path_factory.mktemp("cuts")
    engine = open_state(root / ".ftpd")
    ledger, accounts = Ledger(engine), Accounts(engine, root)
    accounts.add("alice", "secret")
    account = accounts.get("alice").id
    home = Home(root / "alice", durable=False)
    try:
        data, request = content(SIZE), put(content(SIZE))
        best = 0
        for point in points:
            uploads = Uploads(home, ledger, account, durable=False)
            offset = send(uploads, data, request, until=max(point, best))
            assert offset == best
            uploads.abandon()
            reached = max(point, best)
            best = reached if reached >= module.RESUME_FROM else 0
        uploads = Uploads(home, ledger, account, durable=False)
        assert send(uploads, data, request) == best
        assert commit(uploads) == Stored(SIZE)
        assert (root / "alice" / "file").read_bytes() == data
        assert staged(root) == set()
        space = ledger.space(account)
        assert (space.used, space.held) == (SIZE, 0)
    finally:
        home.close()
        engine.dispose()


@pytest.mark.parametrize("position", [0, 2 * MIB, 3 * MIB, 7 * MIB], ids=str)
def test_a_rotten_byte_is_sent_again(session, root, monkeypatch, position):
    """What comes before the last checkpoint in front of it is kept; nothing else is."""
    monkeypatch.setattr(module, "PIECE", 2 * MIB)
    data = content(8 * MIB)
    send(session(), data, put(data), until=8 * MIB - 5)
    (name,) = {one for one in staged(root) if not one.endswith(".ck")}
    with open(root / "alice" / ".ftpd-staging" / name, "r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))
    uploads = session()
    assert send(uploads, data, put(data)) == position // (2 * MIB) * (2 * MIB)
    assert commit(uploads) == Stored(8 * MIB)
    assert (root / "alice" / "file").read_bytes() == data


@pytest.mark.parametrize("garbage", [b"", b"x" * 47, b"\0" * 480], ids=["empty", "short", "zeros"])
def test_without_a_checkpoint_nothing_is_believed(session, root, alice, garbage):
    data = content(SIZE)
    request = put(data)
    send(session(), data, request, until=SIZE - 1)
    name = os.fsdecode(
        checkpoint_name(kept_name(alice, (b"file",), request.size, request.mtime_ns))
    )
    (root / "alice" / ".ftpd-staging" / name).write_bytes(garbage)
    uploads = session()
    assert send(uploads, data, request) == 0
    assert commit(uploads) == Stored(SIZE)
    assert (root / "alice" / "file").read_bytes() == data


def test_a_loss_while_it_is_looked_at_loses_nothing(session):
    """Reading what is there takes long; the client may vanish meanwhile."""
    data = content(SIZE)
    send(session(), data, put(data), until=SIZE - 1)

    def vanish(_: int) -> None:
        raise ConnectionLost("cut")

    with pytest.raises(ConnectionLost), session().receiving(1, put(data)) as receiving:
        receiving.resume(vanish)
    assert send(session(), data, put(data), until=SIZE - 1) == SIZE - 1


def test_at_no_moment_are_its_checkpoints_gone(open_home, ledger, alice, monkeypatch):
    """A crash while it is gone on with, or a power cut soon after, costs no byte."""
    data, synced = content(SIZE), set()
    send(Uploads(open_home(), ledger, alice, durable=False), data, put(data), until=SIZE - 1)
    home, name = open_home(durable=True), kept_name(alice, (b"file",), SIZE, 1)
    write, sync, rename = os.write, os.fdatasync, os.rename

    def is_there(fd: int, data: bytes) -> int:
        assert module.look_at(home.staging_fd, name).size == SIZE - 1
        return write(fd, data)

    def note(fd: int) -> None:
        synced.add(os.fstat(fd).st_ino)
        sync(fd)

    def is_synced(source: bytes, target: bytes, **where: int) -> None:
        if target == checkpoint_name(name):
            assert os.stat(source, dir_fd=home.staging_fd).st_ino in synced
        rename(source, target, **where)

    monkeypatch.setattr(os, "write", is_there)
    monkeypatch.setattr(os, "fdatasync", note)
    monkeypatch.setattr(os, "rename", is_synced)
    uploads = Uploads(home, ledger, alice, durable=True)
    with uploads.receiving(1, put(data)) as receiving:
        assert receiving.resume(quiet) == (SIZE - 1, digests.digest(data[:-1]))
        monkeypatch.undo()
        receiving.staging.sink.write(memoryview(data)[-1:])
        receiving.finish(Sent(SIZE, digests.digest(data)))
    assert commit(uploads) == Stored(SIZE)


def test_not_to_be_resumed_starts_over(session):
    data = content(SIZE)
    send(session(), data, put(data), until=SIZE - 1)
    assert send(session(), data, put(data, resume=False), until=SIZE - 2) == 0


def test_another_source_starts_over(session):
    data = content(SIZE)
    send(session(), data, put(data), until=SIZE - 1)
    assert send(session(), data, put(data, mtime_ns=2), until=SIZE - 1) == 0


def test_a_full_disk_at_the_last_checkpoint_leaves_nothing_open(
    session, root, ledger, alice, monkeypatch
):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    data = content(SIZE)
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "append", full)
        send(session(), data, put(data), until=SIZE - 1)
    assert staged(root) == set()
    assert ledger.space(alice).held == 0


# the room that it holds --------------------------------------------------------------------


def test_kept_staging_holds_its_space(session, ledger, alice):
    data = content(SIZE)
    send(session(), data, put(data), until=SIZE - 1)
    space = ledger.space(alice)
    assert (space.used, space.held) == (0, SIZE)


def test_what_another_version_has_kept_gives_way_when_space_is_short(session, root, ledger, alice):
    """The source changed between two tries: its new version must not be refused for the old."""
    for mtime_ns in (1, 2, 3, 4):
        data = content(SIZE, seed=mtime_ns)
        send(session(), data, put(data, mtime_ns=mtime_ns), until=SIZE - 1)
    other = content(SIZE)
    with pytest.raises(QuotaExceeded):
        send(session(), other, put(other, b"/other"))
    uploads = session()
    assert send(uploads, data, put(data, mtime_ns=4)) == SIZE - 1
    assert commit(uploads) == Stored(SIZE)
    space = ledger.space(alice)
    assert (space.used, space.held) == (SIZE, 0)
    assert staged(root) == set()


@pytest.mark.parametrize("size", [10, SIZE], ids=["small", "large"])
def test_a_commit_drops_what_is_kept_of_its_target(session, root, ledger, alice, size):
    data = content(SIZE)
    send(session(), data, put(data), until=SIZE - 1)
    newer = content(size, seed=2)
    uploads = session()
    if size == SIZE:
        send(uploads, newer, put(newer, mtime_ns=2))
    else:
        sent = Sent(size, digests.digest(newer))
        uploads.stage_small(1, Put(b"/file", size, 0o644, 2), newer, sent)
    assert commit(uploads) == Stored(size)
    assert staged(root) == set()
    space = ledger.space(alice)
    assert (space.used, space.held) == (size, 0)


def test_it_lapses_at_its_own_time_and_not_before(engine, open_home, alice, root, monkeypatch):
    """Heartbeats neither prolong nor shorten the time that it waits for a resume."""
    now = 1_000_000
    monkeypatch.setattr(incarnations, "now", lambda: now)
    monkeypatch.setattr(ledger_module, "now", lambda: now)
    ledger = Ledger(engine, keep_seconds=10 * LEASE_SECONDS)
    data = content(SIZE)
    uploads = Uploads(open_home(), ledger, alice, durable=False)
    send(uploads, data, put(data), until=SIZE - 1)
    ledger.heartbeat()
    now += 9 * LEASE_SECONDS
    later = Ledger(engine, keep_seconds=10 * LEASE_SECONDS)
    for one in (ledger, later):
        one.reap()
        recount(one, alice, _home(root))
        assert one.space(alice).held == SIZE
    now += LEASE_SECONDS + 1
    ledger.heartbeat()
    assert alice in ledger.reap()
    recount(ledger, alice, _home(root))
    assert ledger.space(alice).held == 0
    assert staged(root) == set()


def _home(root) -> Home:
    return Home(root / "alice", durable=False)


def test_a_clean_up_leaves_an_upload_that_begins(session, root, ledger, alice):
    data = content(SIZE)
    uploads = session()
    with uploads.receiving(1, put(data)) as receiving:
        receiving.resume(quiet)
        recount(ledger, alice, _home(root))
        receiving.staging.sink.write(memoryview(data))
        receiving.finish(Sent(SIZE, digests.digest(data)))
        recount(ledger, alice, _home(root))
    recount(ledger, alice, _home(root))
    assert commit(uploads) == Stored(SIZE)
    recount(ledger, alice, _home(root))
    space = ledger.space(alice)
    assert (space.used, space.held) == (SIZE, 0)


def test_a_count_after_the_renames_waits_for_the_settlement(session, root, ledger, alice):
    """Else it would count what is settled after it, twice."""
    data = content(SIZE)
    uploads = session()
    send(uploads, data, put(data))
    settle, locked = Ledger.settle, []

    def settled(self, *arguments):
        fd = os.open(root / "alice" / ".ftpd-staging" / "lock", os.O_RDWR)
        try:
            with pytest.raises(BlockingIOError):
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            locked.append(True)
        finally:
            os.close(fd)
        return settle(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "settle", settled)
        assert commit(uploads) == Stored(SIZE)
    assert locked


# two sessions ------------------------------------------------------------------------------


def end_with(error: Exception | None):
    """What the older session does when it goes on; its bytes are all there by then."""

    def end(receiving, data: bytes) -> None:
        if error is not None:
            raise error
        receiving.finish(Sent(len(data), digests.digest(data)))

    return end


def goes_on_writing(receiving, data: bytes) -> None:
    for _ in range(3):
        receiving.staging.sink.write(memoryview(bytes(MIB)))
        receiving.staging.sink.go_idle()


ENDS = {
    "looks": lambda receiving, data: receiving.look(),
    "writes": goes_on_writing,
    "starts-over": lambda receiving, data: receiving.staging.start_over(),
    "resumes": lambda receiving, data: receiving.resume(quiet),
    "leaves-a-checkpoint": lambda receiving, data: receiving.staging.mark(1, bytes(32)),
    "takes-pieces": lambda receiving, data: receiving.take_pieces(),
    "finishes": end_with(None),
    "is-cut": end_with(ConnectionLost("cut")),
    "is-cancelled": end_with(Cancelled("cancelled")),
    "fails": end_with(VerificationFailed("wrong")),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_newer_session_takes_over(session, root, ledger, alice, end):
    """All that was written is there. Whatever the older one does then, it touches nothing."""
    data, cuts = content(SIZE), []
    older, newer = session(cuts.append), session()
    with pytest.raises((TakenOver, ConnectionLost, Cancelled, VerificationFailed)):
        with older.receiving(1, put(data, pieces=True)) as receiving:
            receiving.resume(quiet)
            receiving.staging.sink.write(memoryview(data)[: SIZE - 7])
            receiving.staging.sink.go_idle()
            receiving.look()
            with newer.receiving(1, put(data)) as taking:
                assert taking.resume(quiet) == (SIZE - 7, digests.digest(data[: SIZE - 7]))
                before = names_and_bytes(root)
                with pytest.raises((TakenOver, ConnectionLost, Cancelled, VerificationFailed)):
                    ENDS[end](receiving, data)
                    receiving.staging.sink.finish()
                assert names_and_bytes(root) == before
                taking.staging.sink.write(memoryview(data)[SIZE - 7 :])
                taking.finish(Sent(SIZE, digests.digest(data)))
                before = names_and_bytes(root)
            ENDS[end](receiving, data)
    older.abandon()
    assert names_and_bytes(root) == before
    assert set(cuts) == {b"/file"}
    assert commit(newer) == Stored(SIZE)
    assert (root / "alice" / "file").read_bytes() == data
    space = ledger.space(alice)
    assert (space.used, space.held) == (SIZE, 0)
    assert staged(root) == set()


def names_and_bytes(root) -> dict[str, tuple[int, bytes]]:
    """All in staging: inode and digest."""
    paths = [path for path in (root / "alice" / ".ftpd-staging").iterdir() if path.name != "lock"]
    return {one.name: (one.stat().st_ino, digests.digest(one.read_bytes())) for one in paths}


def test_what_is_written_while_it_is_dropped_is_not_taken_for_lost(
    session, root, ledger, alice, monkeypatch
):
    """Who was told that the upload is refused is not told that another session has it."""
    data, cuts, late, dropped = content(SIZE), [], [], threading.Event()
    write, unlink = module._CheckpointedWriter._write, module.unlink_if_there

    def write_late(self, piece: memoryview) -> None:
        if threading.current_thread() is not threading.main_thread():
            late.append(dropped.wait(60))
        write(self, piece)

    def unlink_and_tell(directory: int, name: bytes) -> None:
        unlink(directory, name)
        if name.endswith(b".ck"):
            dropped.set()

    monkeypatch.setattr(module._CheckpointedWriter, "_write", write_late)
    monkeypatch.setattr(module, "unlink_if_there", unlink_and_tell)
    uploads = session(lambda: cuts.append(1))
    with pytest.raises(VerificationFailed):
        with uploads.receiving(1, put(data)) as receiving:
            receiving.resume(quiet)
            receiving.staging.sink.write(memoryview(data)[: 2 * MIB])
            raise VerificationFailed("more bytes came than were announced")
    assert late and all(late) and not cuts
    assert staged(root) == set() and ledger.space(alice).held == 0


def test_what_came_in_whole_is_taken_over_as_well(session, root, ledger, alice):
    """The older one waits for its commit, with another file: that is stored."""
    data, small = content(SIZE), b"small"
    older, newer = session(), session()
    send(older, data, put(data, mode=0o444))
    older.stage_small(2, Put(b"/small", 5), small, Sent(5, digests.digest(small)))
    assert send(newer, data, put(data)) == SIZE
    (_, lost), (_, stored) = older.commit()
    assert isinstance(lost, Failed) and lost.code == "lease-lost" and stored == Stored(5)
    assert commit(newer) == Stored(SIZE)
    assert (root / "alice" / "file").read_bytes() == data
    space = ledger.space(alice)
    assert (space.used, space.held) == (SIZE + 5, 0)
    assert staged(root) == set()


def test_a_taker_that_dies_half_way_costs_no_other_file_and_no_space(
    session, root, ledger, alice, monkeypatch
):
    """The lease is the newer one's, the files are still the older one's."""
    data, small = content(SIZE), b"small"
    older, newer = session(), session()
    send(older, data, put(data))
    older.stage_small(2, Put(b"/small", 5), small, Sent(5, digests.digest(small)))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "renew", refuse)
        with pytest.raises(OSError, match="No space"):
            send(newer, data, put(data))
    (_, lost), (_, stored) = older.commit()
    assert isinstance(lost, Failed) and lost.code == "lease-lost" and stored == Stored(5)
    space = ledger.space(alice)
    assert (space.used, space.held) == (5, SIZE)
    assert kept_name(alice, (b"file",), SIZE, 1).decode() in staged(root), "it has its room"
    send(newer, data, put(data))
    assert commit(newer) == Stored(SIZE)
    space = ledger.space(alice)
    assert (space.used, space.held) == (SIZE + 5, 0)
    assert staged(root) == set()


@pytest.mark.parametrize("table", [b"", bytes(32768), b"damaged" * 500], ids=len)
def test_a_table_that_a_power_cut_has_spoiled_costs_nothing(session, root, alice, table):
    """It isn't synced: the checkpoint says what counts."""
    data = content(SIZE)
    send(session(), data, put(data), until=SIZE - 1)
    name = kept_name(alice, (b"file",), SIZE, 1).decode()
    (root / "alice" / ".ftpd-staging" / f"{name}.pc").write_bytes(table)
    uploads = session()
    assert send(uploads, data, put(data)) == SIZE - 1
    assert commit(uploads) == Stored(SIZE) and staged(root) == set()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EINVAL, errno.EOPNOTSUPP, 0])
def test_a_file_system_without_locks_of_parts(session, root, monkeypatch, number):
    """Uploads come in one stream there, and what has a checkpoint counts."""

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    if number:
        monkeypatch.setattr(fcntl, "fcntl", refuse)
    else:  # a system without them
        monkeypatch.delattr(fcntl, "F_OFD_SETLK")
        monkeypatch.delattr(fcntl, "F_OFD_GETLK")
    data = content(SIZE)
    with pytest.raises(ConnectionLost), session().receiving(1, put(data, pieces=True)) as receiving:
        receiving.resume(quiet)
        assert receiving.take_pieces() is None
        receiving.staging.sink.write(memoryview(data)[: SIZE - 1])
        raise ConnectionLost("cut")
    uploads = session()
    assert send(uploads, data, put(data)) == SIZE - 1
    assert commit(uploads) == Stored(SIZE) and staged(root) == set()


def test_who_waits_for_it_changes_no_mode_of_what_is_stored(session, home, root, alice):
    """Who isn't root makes a file writable to open it, before it has its lock."""
    data = content(SIZE)
    uploads = session()
    send(uploads, data, put(data, mode=0o444))
    name = kept_name(alice, (b"file",), SIZE, 1)
    os.chmod(name, 0o600, dir_fd=home.staging_fd)  # as in open_kept
    assert commit(uploads) == Stored(SIZE)
    assert (root / "alice" / "file").stat().st_mode & 0o777 == 0o444


def test_nobody_comes_between_the_lease_and_the_file_of_a_commit(
    session, root, ledger, alice, monkeypatch
):
    data = content(SIZE)
    older, newer = session(), session()
    send(older, data, put(data))
    begin_commit, tried = Ledger.begin_commit, []

    def interfere(self, leases) -> None:
        begin_commit(self, leases)
        monkeypatch.setattr(owning, "PATIENCE", 0.0)
        with pytest.raises(Busy):
            tried.append(send(newer, data, put(data)))
        tried.append(True)

    monkeypatch.setattr(Ledger, "begin_commit", interfere)
    assert commit(older) == Stored(SIZE) and tried == [True]
    assert (root / "alice" / "file").read_bytes() == data
    assert (ledger.space(alice).held, staged(root)) == (0, set())


@pytest.mark.parametrize("first", ["resume", "drop"])
def test_who_resumes_and_who_drops_at_the_same_time(
    session, open_home, root, ledger, alice, monkeypatch, first
):
    """The one or the other, whoever comes in the middle of the other's."""
    data = content(SIZE)
    send(session(), data, put(data), until=SIZE - 1)
    kept = KeptStaging(open_home(), ledger, alice)
    monkeypatch.setattr(owning, "PATIENCE", 0.0)
    come = []

    def resumes() -> None:
        with pytest.raises(Busy):
            send(session(), data, put(data))

    def drops() -> None:
        assert kept.drop(None).busy == 1

    take_over, drop = Ledger.take_over, Ledger.drop_kept

    def in_between(*arguments):
        found = (take_over if first == "resume" else drop)(*arguments)
        monkeypatch.setattr(Ledger, "take_over", take_over)
        monkeypatch.setattr(Ledger, "drop_kept", drop)
        come.append((drops if first == "resume" else resumes)())
        return found

    if first == "resume":
        monkeypatch.setattr(Ledger, "resumable", _frozen(ledger.resumable(alice)))
        monkeypatch.setattr(Ledger, "take_over", in_between)
        uploads = session()
        assert send(uploads, data, put(data)) == SIZE - 1
        drops()
        assert commit(uploads) == Stored(SIZE)
    else:
        monkeypatch.setattr(Ledger, "drop_kept", in_between)
        assert kept.drop(None).count == 1
        assert (ledger.space(alice).held, staged(root)) == (0, set())
        assert send(session(), data, put(data), until=SIZE - 1) == 0
    assert come == [None]


def _frozen(leases):
    """Who looked at them a moment ago."""
    return lambda self, account_id: leases


def test_who_comes_between_the_exchange_and_its_end_finds_nothing(session, root, ledger, alice):
    """For a moment what is replaced lies in staging: it is nobody's upload."""
    (root / "alice").mkdir(exist_ok=True)
    data = content(SIZE)
    older, newer = session(), session()
    send(older, content(SIZE, seed=3), put(data, mtime_ns=3))
    assert commit(older) == Stored(SIZE)
    send(older, data, put(data))
    exchange = committing.beneath.exchange
    offsets = []

    def interfere(*arguments) -> None:
        exchange(*arguments)
        if not offsets:
            with pytest.raises(QuotaExceeded):  # the older one still holds its room
                offsets.append(0)
                send(newer, data, put(data))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(committing.beneath, "exchange", interfere)
        assert commit(older) == Stored(SIZE)
    assert offsets == [0]
    assert (root / "alice" / "file").read_bytes() == data
    space = ledger.space(alice)
    assert (space.used, space.held) == (SIZE, 0)
    assert staged(root) == set()


def test_another_process_that_holds_it_is_informed(session, home, alice, monkeypatch):
    data = content(SIZE)
    name = kept_name(alice, (b"file",), put(data).size, put(data).mtime_ns)
    fd = os.open(name, os.O_RDWR | os.O_CREAT, dir_fd=home.staging_fd)
    monkeypatch.setattr(owning, "PATIENCE", 0.01)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(Busy):
            send(session(), data, put(data))
    finally:
        os.close(fd)
    assert send(session(), data, put(data), until=SIZE - 1) == 0


def test_what_a_session_has_is_not_dropped(session, open_home, ledger, alice):
    data = content(SIZE)
    uploads, kept = session(), KeptStaging(open_home(), ledger, alice)
    send(uploads, data, put(data))
    with pytest.raises(Busy):
        kept.drop(b"/file")
    assert not module.drop_kept(kept.home, ledger, alice, kept_name(alice, (b"file",), SIZE, 1))
    assert commit(uploads) == Stored(SIZE)
    with pytest.raises(NotFound):
        kept.drop(b"/file")


@pytest.mark.parametrize("where", [(Checkpoint, "renew"), (Ledger, "take_over")])
def test_what_can_not_be_begun_leaves_nothing_locked(session, ledger, alice, root, where):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    data = content(SIZE)
    for until in (None, SIZE - 1):
        if until:
            send(session(), data, put(data), until=until)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*where, refuse)
            with pytest.raises(OSError, match="Too many"):
                send(session(), data, put(data))
        assert bool(staged(root)) == bool(until), "what was kept is kept"
    uploads = session()
    assert send(uploads, data, put(data)) == SIZE - 1
    assert commit(uploads) == Stored(SIZE) and ledger.space(alice).held == 0


def test_a_lock_that_is_not_given_back_costs_no_upload(session, home, alice, root, monkeypatch):
    """Whoever has it was stopped in the middle: what was written is kept as it is."""
    monkeypatch.setattr(module, "PIECE", MIB)
    data, name = content(SIZE), kept_name(alice, (b"file",), SIZE, 1)
    with pytest.raises(Busy), session().receiving(1, put(data)) as receiving:
        receiving.resume(quiet)
        receiving.staging.sink.write(memoryview(data)[: 9 * MIB // 2])
        receiving.staging.sink.go_idle()
        fd = os.open(name, os.O_RDWR, dir_fd=home.staging_fd)
        fcntl.flock(fd, fcntl.LOCK_EX)
        monkeypatch.setattr(owning, "PATIENCE", 0.0)
        receiving.staging.sink.write(memoryview(data)[9 * MIB // 2 :])
        receiving.staging.sink.finish()
    os.close(fd)
    uploads = session()
    assert 4 * MIB <= send(uploads, data, put(data)) <= 9 * MIB // 2
    assert commit(uploads) == Stored(SIZE) and staged(root) == set()


def test_a_refused_commit_leaves_nothing(session, root, ledger, alice):
    """Somebody made a directory at the target meanwhile."""
    data = content(SIZE)
    uploads = session()
    send(uploads, data, put(data))
    (root / "alice" / "file").mkdir()
    assert isinstance(commit(uploads), Failed)
    assert staged(root) == set()
    space = ledger.space(alice)
    assert (space.used, space.held) == (0, 0)


def test_a_crash_in_the_middle_of_a_commit_leaves_no_space_held(
    engine, open_home, alice, root, ledger
):
    """Stored, not settled: the lease that is left owns nothing any more."""
    data = content(SIZE)
    uploads = Uploads(open_home(), ledger, alice, durable=False)
    send(uploads, data, put(data))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ledger, "settle", lambda *_: (_ for _ in ()).throw(Cancelled("killed")))
        uploads.commit()
    later = Ledger(engine)
    assert alice in later.reap()
    recount(later, alice, _home(root))
    space = later.space(alice)
    assert (space.used, space.held) == (SIZE, 0)
    assert staged(root) == set()


# several accounts in one home ---------------------------------------------------------------


@pytest.fixture
def bob(accounts, root, open_home, alice):
    """Another account that has alice's home."""
    open_home()
    return accounts.add("bob", "x", password_hash="x", home=root / "alice", quota=3 * SIZE).id


def test_nobody_takes_over_what_another_account_uploads(
    session, open_home, ledger, alice, bob, root
):
    """Not even the same file, of the same size and time, to the same path."""
    data = content(SIZE)
    his = Uploads(open_home(), ledger, bob, durable=False)
    hers = session(cut=lambda path: pytest.fail("she was cut off"))
    with hers.receiving(1, put(data)) as receiving:
        receiving.staging.sink.write(memoryview(data)[: SIZE - 1])
        assert send(his, data, put(data)) == 0
        assert commit(his) == Stored(SIZE)
        receiving.staging.sink.write(memoryview(data)[SIZE - 1 :])
        receiving.finish(Sent(SIZE, digests.digest(data)))
    assert commit(hers) == Stored(SIZE)
    assert staged(root) == set()
    assert (ledger.space(alice).held, ledger.space(bob).held) == (0, 0)


def test_what_another_account_keeps_is_no_others_to_resume_drop_or_clean(
    session, open_home, ledger, alice, bob, root
):
    data = content(SIZE)
    his = Uploads(open_home(), ledger, bob, durable=False)
    send(session(), data, put(data), until=SIZE - 1)
    with pytest.raises(NotFound):
        KeptStaging(open_home(), ledger, bob).drop(b"/file")
    assert send(his, data, put(data), until=SIZE - 2) == 0
    assert commit_again(his, data) == SIZE - 2
    recount(ledger, bob, _home(root))
    assert verify_staging(root) == []
    assert send(session(), data, put(data), until=SIZE - 1) == SIZE - 1
    KeptStaging(open_home(), ledger, alice).drop(b"/file")
    assert staged(root) == set()


def commit_again(uploads: Uploads, data: bytes) -> int:
    """Resume, and commit; where it began."""
    offset = send(uploads, data, put(data))
    assert commit(uploads) == Stored(len(data))
    return offset


def verify_staging(root) -> list[str]:
    """What the verifier has against what lies in staging."""
    return [str(one) for one in check(root) if one.kind in ("staging", "lease")]


def test_what_an_earlier_version_has_kept_is_resumed(session, open_home, ledger, alice, root):
    """Its names said nothing of the account."""
    data = content(SIZE)
    send(session(), data, put(data), until=SIZE - 1)
    now, before = kept_names(alice, (b"file",), SIZE, 1)
    for suffix in (b"", b".ck"):
        staging = os.fsencode(root / "alice" / ".ftpd-staging") + b"/"
        os.rename(staging + now + suffix, staging + before + suffix)
    with ledger._engine.begin() as connection:
        connection.execute(update(lease).values(staging=before))
    (kept,) = KeptStaging(open_home(), ledger, alice).uploads()
    assert kept.path == b"/file"
    uploads = session()
    assert send(uploads, data, put(data)) == SIZE - 1
    assert commit(uploads) == Stored(SIZE)
    assert staged(root) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_who_is_not_root_goes_on_with_a_file_that_nobody_may_write(tmp_path):
    """It was finished, and has its mode, when its process died."""
    os.chown(tmp_path, 65534, 65534)
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setuid(65534)
            os.close(os.open(b"u-one", os.O_CREAT | os.O_WRONLY, 0o400, dir_fd=directory))
            os.write(module.open_kept(directory, b"u-one"), b"more")
            status = 0
        finally:
            os._exit(status)
    os.close(directory)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert (tmp_path / "u-one").read_bytes() == b"more"
