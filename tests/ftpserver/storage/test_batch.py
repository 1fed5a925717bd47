"""Uploads: batches, their order, their failures, and the room that they take."""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import OperationalError

from ftpserver.schema import lease
from ftpserver.storage import batch as module
from ftpserver.storage.account_reservation import STEP, end
from ftpserver.storage.batch import SHARES_STEP, SMALL, Uploads
from ftpserver.storage.commit import _OPEN_DIRECTORIES, Commit
from ftpserver.storage.group_sync import SYNC_EACH
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.resumable import PIECE, RESUME_FROM
from ftpserver.storage.staging_dirs import StagingDir
from ftpserver.storage.walk import Usage
from ftpwire import beneath, digests, paths
from ftpwire.digests import StoredDigest
from ftpwire.errors import (
    AlreadyExists,
    Cancelled,
    CommandError,
    ConnectionLost,
    DiskFull,
    InvalidPath,
    IsADirectory,
    NotNewer,
    QuotaExceeded,
    VerificationFailed,
)
from ftpwire.messages import (
    Failed,
    Hashed,
    MakeDir,
    MakeLink,
    Put,
    Remove,
    Sent,
    SetAttributes,
    Stored,
)
from tests.ftpserver.storage.quota_store import held_files
from tests.ftpserver.storage.sync_scene import PATIENCE, Scene
from tests.pairwise import pairwise

MIB = 1024 * 1024


class Alice:
    """An account, her home, and her sessions' uploads."""

    def __init__(self, accounts, ledger, open_home, root, quota) -> None:
        self.id = accounts.add("alice", "secret", quota=quota).id
        self.ledger = ledger
        self._engine = ledger._engine
        self.files: Path = root / "alice"
        self._open_home = open_home
        self._home = open_home()

    def session(self, *, durable: bool = True, **options) -> Session:
        home = self._open_home(durable=durable, incarnation=self.ledger.incarnation)
        uploads = Uploads(home, self.ledger, self.id, durable=durable, **options)
        return Session(uploads)

    @property
    def space(self) -> tuple[int, int]:
        space = self.ledger.space(self.id)
        return space.used, space.held

    @property
    def staged(self) -> set[str]:
        return set(os.listdir(self._home.staging_fd)) - {"lock"}

    def agrees(self) -> bool:
        """Whether the ledger says what the disk says, and nothing is left over."""
        space = self.ledger.space(self.id)
        quota_store = (Usage(space.used, space.used_files), space.held, held_files(self._engine))
        return quota_store == (self._home.count(), 0, 0) and not self.staged


class Session:
    """One session's uploads; its requests count from 1."""

    def __init__(self, uploads: Uploads) -> None:
        self.uploads = uploads
        self.count = 0

    def put(self, path: bytes, data: bytes = b"new", sent: Sent | None = None, **options) -> int:
        self.count += 1
        request = Put(path, **{"size": len(data)} | options)
        sent = sent or Sent(len(data), digests.digest(data))
        if request.size is not None and request.size <= SMALL and not request.ask:
            self.uploads.stage_small(self.count, request, data, sent)
        else:
            with self.uploads.receiving(self.count, request) as receiving:
                offset, _ = receiving.resume(lambda done: None)
                for at in range(offset, len(data), 500_000):
                    piece = data[at : at + 500_000]
                    receiving.expect(len(piece))
                    receiving.staging.sink.write(memoryview(piece))
                receiving.finish(sent)
        return self.count

    def change(self, change) -> int:
        self.count += 1
        self.uploads.add_change(self.count, change)
        return self.count

    def commit(self) -> list:
        """The outcomes, without their ids."""
        return [outcome for _, outcome in self.uploads.commit()]

    def store(self, path: bytes, data: bytes = b"new", **options):
        """Put and commit one file; the outcome."""
        self.put(path, data, **options)
        (outcome,) = self.commit()
        return outcome


@pytest.fixture
def alice(accounts, ledger, open_home, root):
    made = Alice(accounts, ledger, open_home, root, 64 * MIB)
    yield made
    assert made.agrees(), (made.space, made.staged)


@pytest.fixture
def session(alice):
    return alice.session()


def codes(outcomes) -> list[str]:
    return [getattr(outcome, "code", "done") for outcome in outcomes]


# a file ------------------------------------------------------------------------------------

SIZES = [0, 1, SMALL, SMALL + 1, SHARES_STEP, SHARES_STEP + 1, 6 * MIB]


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_a_file_appears_as_it_was_sent(alice, durable, size):
    session = alice.session(durable=durable)
    data = os.urandom(size)
    session.put(b"/file", data, mode=0o4751, mtime_ns=1234567890123456789)
    assert not (alice.files / "file").exists(), "not before the commit"
    assert session.commit() == [Stored(size)]
    found = alice.files / "file"
    assert found.read_bytes() == data
    assert found.stat().st_mode & 0o7777 == 0o751, "setuid is lost"
    assert found.stat().st_mtime_ns == 1234567890123456789
    assert alice.space == (size, 0)
    with suppress(OSError):
        kept = StoredDigest.unpack(os.getxattr(found, digests.ATTRIBUTE))
        assert kept == (digests.digest(data), size, 1234567890123456789, bytes(16))


@pytest.mark.parametrize("size", [0, 1, SMALL + 1, 5 * MIB])
@pytest.mark.parametrize("ask", [True, False])
def test_a_size_that_is_not_known_beforehand(alice, session, size, ask):
    data = os.urandom(size)
    assert session.store(b"/file", data, size=None, ask=ask) == Stored(size)
    assert (alice.files / "file").read_bytes() == data


@pytest.mark.parametrize("durable", [True, False])
def test_what_comes_late_leaves_the_times_of_directories(alice, durable):
    """Its client has come again meanwhile, sent the same, and set the times as the last thing."""
    gone, back = alice.session(durable=durable), alice.session(durable=durable)
    gone.change(MakeDir(b"/dir"))
    gone.change(MakeDir(b"/other"))
    gone.commit()
    for path in (b"/dir/one", b"/dir/two"):
        gone.put(path)
    gone.change(MakeDir(b"/made"))
    gone.put(b"/made/file")
    gone.change(SetAttributes(b"/other", mtime_ns=10**18 + 1))
    back.put(b"/dir/one")
    back.change(SetAttributes(b"/dir", mtime_ns=10**18))
    back.commit()

    outcomes = [outcome for _, outcome in gone.uploads.commit(late=True)]
    assert codes(outcomes) == ["done"] * 5
    assert sorted(os.listdir(alice.files / "dir")) == ["one", "two"]
    assert (alice.files / "dir").stat().st_mtime_ns == 10**18
    assert (alice.files / "other").stat().st_mtime_ns == 10**18 + 1
    assert (alice.files / "made" / "file").read_bytes() == b"new"


def test_modes_that_forbid_everything(alice, session):
    for mode in (0, 0o200, 0o444):
        assert session.store(b"/file-%o" % mode, mode=mode) == Stored(3)
        assert (alice.files / f"file-{mode:o}").stat().st_mode & 0o7777 == mode


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_modes_are_exact_whatever_the_umask(alice, session, umask):
    before = os.umask(umask)
    try:
        session.put(b"/file", mode=0o666)
        session.change(MakeDir(b"/dir", 0o757))
        assert codes(session.commit()) == ["done", "done"]
    finally:
        os.umask(before)
    assert (alice.files / "file").stat().st_mode & 0o7777 == 0o666
    assert (alice.files / "dir").stat().st_mode & 0o7777 == 0o757


# what is refused ---------------------------------------------------------------------------


@pairwise(
    {
        "size": [10, SMALL + 10, RESUME_FROM + 10],
        "lie": [
            pytest.param(lambda size: (size, Sent(size, b"x" * 32)), id="digest"),
            pytest.param(lambda size: (size, Sent(size - 1, None)), id="sent-fewer"),
            pytest.param(lambda size: (size, Sent(size + 1, None)), id="sent-more"),
            pytest.param(lambda size: (size + 1, Sent(size, None)), id="announced-more"),
            pytest.param(lambda size: (size - 1, Sent(size, None)), id="announced-fewer"),
        ],
        "ask": [True, False],
    }
)
def test_what_did_not_arrive_as_it_was_sent(alice, session, size, lie, ask):
    session.store(b"/file", b"old")
    announced, sent = lie(size)
    with pytest.raises(VerificationFailed):
        session.put(b"/file", b"x" * size, sent, size=announced, ask=ask)
    assert session.commit() == []
    assert (alice.files / "file").read_bytes() == b"old"


def test_a_digest_that_the_sender_could_not_know(alice, session):
    session.put(b"/file", b"data", Sent(4, None))
    assert session.commit() == [Stored(4)]


@pytest.mark.parametrize("size", [3, SMALL + 3, RESUME_FROM + 3])
@pytest.mark.parametrize(
    ("path", "error"),
    [
        (b"/", IsADirectory),
        (b"/x/..", IsADirectory),
        (b"relative", InvalidPath),
        (b"/" + paths.STAGING, InvalidPath),
        (b"/" + paths.STAGING + b"/x", InvalidPath),
        (b"/nul\0byte", InvalidPath),
        (b"/" + b"x" * 256, InvalidPath),
    ],
)
def test_paths_that_no_file_can_have(alice, session, size, path, error):
    with pytest.raises(error):
        session.put(path, b"x" * size, ask=size > SMALL)
    assert session.commit() == []


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (b"/nowhere/file", "not-found"),
        (b"/file/file", "not-a-directory"),
        (b"/dir", "is-a-directory"),
        (b"/dangling/file", "not-found"),
        (b"/loop/file", "invalid-path"),
    ],
)
@pytest.mark.parametrize("size", [3, SMALL + 3, RESUME_FROM + 3])
def test_places_where_no_file_can_be(alice, session, size, path, code):
    session.store(b"/file")
    session.change(MakeDir(b"/dir"))
    session.change(MakeLink(b"/dangling", b"gone"))
    session.change(MakeLink(b"/loop", b"loop"))
    session.commit()
    with pytest.raises((CommandError, OSError)):
        session.uploads.check(Put(path))
    outcome = session.store(path, b"x" * size, ask=size > SMALL)
    assert outcome.code == code
    assert path.decode() in outcome.message


# overwriting -------------------------------------------------------------------------------

OLD, NEW = 10**18, 10**18 + 1


@pairwise(
    {
        "overwrite, mtime_ns, error": [
            ("always", OLD - 1, None),
            ("always", None, None),
            ("never", NEW, AlreadyExists),
            ("older", NEW, None),
            ("older", OLD, NotNewer),
            ("older", OLD - 1, NotNewer),
            ("older", None, None),
        ],
        "there": ["file", "link"],
        "can_exchange": [True, False],
    }
)
def test_overwriting(
    alice, session, monkeypatch, canary, overwrite, mtime_ns, error, there, can_exchange
):
    if there == "file":
        session.store(b"/name", b"old content", mtime_ns=OLD)
    else:
        session.change(MakeLink(b"/name", bytes(canary / "secret"), OLD))
        session.commit()
    if not can_exchange:
        monkeypatch.setattr(beneath, "_renameat2", None)
    with suppress(CommandError):
        session.uploads.check(Put(b"/name", 3, mtime_ns=mtime_ns, overwrite=overwrite))
        assert error is None, "it is refused early as well"
    outcome = session.store(b"/name", b"new", mtime_ns=mtime_ns, overwrite=overwrite)
    if error is None:
        assert outcome == Stored(3)
        assert (alice.files / "name").read_bytes() == b"new"
        assert not (alice.files / "name").is_symlink()
        assert alice.space == (3, 0)
    else:
        assert outcome.code == error.code
        assert (alice.files / "name").is_symlink() == (there == "link")
        size = len("old content") if there == "file" else len(bytes(canary / "secret"))
        assert alice.space == (size, 0)


def test_a_full_disk_on_which_exchanging_cannot_be_tried_takes_what_fits(
    alice, session, monkeypatch
):
    def full(*names: object) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(beneath, "can_exchange", full)
        assert session.store(b"/name", b"old content") == Stored(11)
        assert session.store(b"/name", b"new") == Stored(3)
    assert (alice.files / "name").read_bytes() == b"new"
    assert alice.space == (3, 0)
    assert session.store(b"/name", b"newer") == Stored(5)


@pytest.mark.parametrize("overwrite", ["always", "never", "older"])
def test_a_directory_is_never_overwritten(alice, session, overwrite):
    session.change(MakeDir(b"/dir"))
    session.commit()
    with pytest.raises(IsADirectory):
        session.uploads.check(Put(b"/dir", overwrite=overwrite))
    assert session.store(b"/dir", overwrite=overwrite).code == "is-a-directory"
    session.change(MakeLink(b"/dir", b"target", overwrite=overwrite))
    assert codes(session.commit()) == ["is-a-directory"]


def test_what_is_replaced_is_measured_when_it_comes_out(alice, session, monkeypatch):
    """Not before: another session may have changed it meanwhile."""
    session.store(b"/file", b"x" * 100)
    exchange = beneath.exchange

    def late(*arguments):
        other = alice.session()
        assert other.store(b"/file", b"y" * 5000) == Stored(5000)
        monkeypatch.setattr(beneath, "exchange", exchange)
        late.happened = True
        return exchange(*arguments)

    session.put(b"/file", b"z" * 7)
    monkeypatch.setattr(
        beneath, "exchange", lambda *arguments: monkeypatch.undo() or late(*arguments)
    )
    assert session.commit() == [Stored(7)]
    assert late.happened
    assert alice.space == (7, 0)


def test_a_directory_that_comes_between_is_given_back(alice, session, monkeypatch):
    session.store(b"/name", b"old")
    exchange = beneath.exchange

    def late(*arguments):
        monkeypatch.setattr(beneath, "exchange", exchange)
        alice.ledger.settle([alice.ledger.reserve(alice.id, 0)], -3)
        (alice.files / "name").unlink()
        (alice.files / "name").mkdir()
        return exchange(*arguments)

    session.put(b"/name", b"new")
    monkeypatch.setattr(beneath, "exchange", late)
    assert codes(session.commit()) == ["is-a-directory"]
    assert (alice.files / "name").is_dir()


def test_a_file_that_goes_while_it_is_replaced(alice, session, monkeypatch):
    """Somebody removes the old one at the wrong moment: that is no reason to fail."""
    session.store(b"/name", b"old")
    rename_new = beneath.rename_new

    def late(*arguments):
        monkeypatch.setattr(beneath, "rename_new", rename_new)
        try:
            rename_new(*arguments)
        except FileExistsError:
            (alice.files / "name").unlink()
            alice.ledger.settle([alice.ledger.reserve(alice.id, 0)], -3, -1)
            raise

    session.put(b"/name", b"newer")
    monkeypatch.setattr(beneath, "rename_new", late)
    assert session.commit() == [Stored(5)]
    assert (alice.files / "name").read_bytes() == b"newer"


# batches -----------------------------------------------------------------------------------


def test_outcomes_come_in_order_whatever_they_are(alice, session):
    uploads = session.uploads
    session.put(b"/a", b"1")
    session.change(MakeDir(b"/dir"))
    session.put(b"/dir/b", b"22")
    session.put(b"/nowhere/c", b"333")
    uploads.add_outcome(99, Hashed(bytes(32), 0))
    session.change(MakeDir(b"/dir"))
    session.change(MakeLink(b"/link", b"a", 10**18))
    session.put(b"/link", b"4444", overwrite="never")
    session.change(SetAttributes(b"/dir", 0o711, 10**18))
    session.put(b"/a", b"55555")
    outcomes = uploads.commit()
    assert [number for number, _ in outcomes] == [1, 2, 3, 4, 99, 5, 6, 7, 8, 9]
    assert codes(outcome for _, outcome in outcomes) == [
        "done",
        "done",
        "done",
        "not-found",
        "done",
        "exists",
        "done",
        "exists",
        "done",
        "done",
    ]
    assert (alice.files / "a").read_bytes() == b"55555"
    assert (alice.files / "dir" / "b").read_bytes() == b"22"
    assert (alice.files / "link").lstat().st_mtime_ns == 10**18
    info = (alice.files / "dir").stat()
    assert (info.st_mode & 0o7777, info.st_mtime_ns) == (0o711, 10**18)
    assert alice.space == (7 + len((alice.files / "link").readlink().name), 0)
    assert uploads.commit() == [] and not uploads.pending


def test_one_that_fails_does_not_hurt_the_others(alice, session):
    session.put(b"/before")
    with pytest.raises(VerificationFailed):
        session.put(b"/bad", b"data", Sent(4, bytes(32)))
    session.uploads.add_outcome(session.count, Failed("verification-failed", "bad"))
    session.put(b"/missing/bad")
    session.put(b"/after")
    assert codes(session.commit()) == ["done", "verification-failed", "not-found", "done"]
    assert sorted(os.listdir(alice.files)) == [".ftpd-staging", "after", "before"]


def test_the_same_name_twice_in_a_batch(alice, session):
    session.put(b"/name", b"1")
    session.put(b"/name", b"22")
    session.put(b"/name", b"333", overwrite="never")
    assert codes(session.commit()) == ["done", "done", "exists"]
    assert (alice.files / "name").read_bytes() == b"22"
    assert alice.space == (2, 0)


@pytest.mark.parametrize(
    ("count", "durable"),
    [(1, True), (1, False), (SYNC_EACH, True), (SYNC_EACH + 1, True), (300, False), (200, True)],
)
def test_batches_of_any_size(alice, count, durable):
    session = alice.session(durable=durable)
    for number in range(count):
        session.change(MakeDir(b"/dir-%d" % (number % 70), parents=True))
        session.put(b"/dir-%d/%d" % (number % 70, number), b"x" * number)
    assert set(codes(session.commit())) == {"done"}
    assert alice.space == (sum(range(count)), 0)


def test_a_batch_is_full_at_a_number_of_files_or_bytes(alice, session, monkeypatch):
    monkeypatch.setattr(module, "BATCH_FILES", 3)
    monkeypatch.setattr(module, "BATCH_BYTES", 1000)
    for number in range(3):
        assert not session.uploads.full
        session.put(b"/%d" % number)
    assert session.uploads.full
    session.commit()
    assert not session.uploads.full
    session.put(b"/large", b"x" * 1000)
    assert session.uploads.full
    session.commit()


def test_abandoning(alice, session):
    for size in (3, SMALL + 3, RESUME_FROM + 3):
        session.put(b"/%d" % size, b"x" * size, ask=size > SMALL)
    session.change(MakeDir(b"/dir"))
    session.uploads.abandon()
    assert os.listdir(alice.files) == [".ftpd-staging"]
    assert not session.uploads.pending


def test_a_link_that_is_replaced_leads_no_more(alice, session):
    """What comes after it in the batch goes where the new link leads."""
    for name in (b"/one", b"/two"):
        session.change(MakeDir(name))
    session.change(MakeLink(b"/link", b"one"))
    session.commit()
    session.put(b"/link/first")
    session.change(MakeLink(b"/link", b"two"))
    session.put(b"/link/second")
    session.put(b"/link", b"a file")
    session.put(b"/link/third")
    assert codes(session.commit()) == ["done", "done", "done", "done", "not-a-directory"]
    assert os.listdir(alice.files / "one") == ["first"]
    assert os.listdir(alice.files / "two") == ["second"]


def test_a_link_that_is_removed_leads_no_more(alice, session):
    """What comes after it in the batch finds nothing there, or what was made there since."""
    session.change(MakeDir(b"/one"))
    session.change(MakeLink(b"/link", b"one"))
    session.commit()
    (alice.files / "one").chmod(0o711)
    session.put(b"/link/first")
    session.change(Remove(b"/link"))
    session.put(b"/link/second")
    session.change(SetAttributes(b"/link", 0o700))
    session.put(b"/link/third", parents=True)
    assert codes(session.commit()) == ["done", "done", "not-found", "not-found", "done"]
    assert os.listdir(alice.files / "one") == ["first"]
    assert os.listdir(alice.files / "link") == ["third"]
    assert stat.S_IMODE((alice.files / "one").stat().st_mode) == 0o711


def test_a_link_is_replaced_after_many_directories_were_open(alice, session):
    """What is synced before that is opened again, and others are closed for it."""
    many = [b"/%d" % number for number in range(_OPEN_DIRECTORIES - 1)]
    for name in [b"/one", *many]:
        session.change(MakeDir(name))
        session.put(name + b"/there")
    session.change(MakeLink(b"/link", b"one"))
    session.commit()
    session.put(many[0] + b"/new")
    for name in [b"/link", *many[1:]]:
        session.put(name + b"/there", overwrite="never")
    session.change(MakeLink(b"/link", many[0][1:]))
    expected = ["done", *["exists"] * len(many), "done"]
    assert codes(session.commit()) == expected


# directories, links, attributes ------------------------------------------------------------


def test_directories(alice, session):
    requests = [
        (MakeDir(b"/a/b/c"), "not-found"),
        (MakeDir(b"/a/b/c", 0o711, parents=True), "done"),
        (MakeDir(b"/a/b/c", parents=True), "done"),
        (MakeDir(b"/a/b/c"), "exists"),
        (MakeDir(b"/", parents=True), "done"),
        (MakeDir(b"/"), "exists"),
        (MakeDir(b"/closed", 0o555), "done"),
        (MakeDir(b"/a/b/c/" + b"x" * 255, 0o2777), "done"),
    ]
    for request, _ in requests:
        session.change(request)
    assert codes(session.commit()) == [code for _, code in requests]
    modes = {
        name: (alice.files / name).stat().st_mode & 0o7777
        for name in ("a", "a/b", "a/b/c", "closed", "a/b/c/" + "x" * 255)
    }
    assert list(modes.values()) == [0o755, 0o755, 0o711, 0o555, 0o777]
    session.put(b"/file")
    session.change(MakeDir(b"/file", parents=True))
    session.change(MakeDir(b"/file/x", parents=True))
    assert codes(session.commit()) == ["done", "not-a-directory", "not-a-directory"]


@pytest.mark.parametrize(
    "target",
    [b"a", b"../..", b"/etc/passwd", b"\xff\n", b"x" * 4095, b"a/" + paths.STAGING + b"x"],
)
def test_links_are_stored_as_they_came(alice, session, target):
    session.change(MakeLink(b"/link", target, 5))
    assert codes(session.commit()) == ["done"]
    assert os.readlink(os.fsencode(alice.files / "link")) == target
    assert (alice.files / "link").lstat().st_mtime_ns == 5


@pytest.mark.parametrize(
    "target",
    [
        paths.STAGING,
        b"/" + paths.STAGING,
        b"a/../" + paths.STAGING + b"/lock",
        b"./" + paths.STAGING + b"/",
        b"nul\0byte",
    ],
)
def test_links_that_may_not_be(alice, session, target):
    session.change(MakeLink(b"/link", target))
    assert codes(session.commit()) == ["invalid-path"]


def test_a_link_that_replaces_a_file_frees_its_space(alice, session):
    session.store(b"/name", b"x" * 100)
    session.change(MakeLink(b"/name", b"target", overwrite="never"))
    session.change(MakeLink(b"/name", b"target"))
    assert codes(session.commit()) == ["exists", "done"]
    assert alice.space == (len("target"), 0)


def test_a_link_needs_space_for_its_target(alice, session, engine):
    alice.ledger.reserve(alice.id, 64 * MIB - 5)
    session.change(MakeLink(b"/short", b"12345"))
    assert codes(session.commit()) == ["done"]
    with pytest.raises(QuotaExceeded):
        session.change(MakeLink(b"/long", b"1"))
    session.change(MakeLink(b"/empty", b"", overwrite="never"))
    session.commit()
    alice.agrees = lambda: alice.space[0] == alice._home.count().size == 5


def test_attributes(alice, session):
    session.put(b"/file")
    session.change(MakeLink(b"/link", b"file"))
    session.change(SetAttributes(b"/file", 0o6640))
    session.change(SetAttributes(b"/link", mtime_ns=-1_500_000_000))
    session.change(SetAttributes(b"/nowhere", 0o600))
    session.change(SetAttributes(b"/", 0o750))
    os.mkfifo(alice.files / "fifo")
    alice.ledger.settle([alice.ledger.reserve(alice.id, 0)], 0, 1)
    session.change(SetAttributes(b"/fifo", 0o600))
    assert codes(session.commit()) == [
        "done",
        "done",
        "done",
        "done",
        "not-found",
        "done",
        "not-regular",
    ]
    info = (alice.files / "file").stat()
    assert (info.st_mode & 0o7777, info.st_mtime_ns) == (0o640, -1_500_000_000)
    assert alice.files.stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("mode", [0o000, 0o200, 0o300, 0o555])
def test_what_forbids_everything_can_be_opened_again(alice, plain_user, mode):
    """As chmod(1) does it for whoever owns the file."""
    session = alice.session()
    session.put(b"/file", mode=mode)
    session.change(MakeDir(b"/dir", mode))
    session.change(SetAttributes(b"/file", 0o644, 10**18))
    session.change(SetAttributes(b"/dir", 0o755, 10**18))
    assert codes(session.commit()) == ["done"] * 4
    for name, expected in (("file", 0o644), ("dir", 0o755)):
        info = (alice.files / name).stat()
        assert (info.st_mode & 0o7777, info.st_mtime_ns) == (expected, 10**18)


# when the disk fails -----------------------------------------------------------------------


class Failing:
    """Stands in for a call that fails from some time on."""

    def __init__(self, monkeypatch, owner, name, *, number=errno.EIO, after=0, only=None) -> None:
        self.calls = 0
        real = getattr(owner, name)

        def fail(*arguments, **options):
            if only is not None and not only(*arguments):
                return real(*arguments, **options)
            self.calls += 1
            if self.calls > after:
                raise OSError(number, os.strerror(number))
            return real(*arguments, **options)

        monkeypatch.setattr(owner, name, fail)


@pytest.mark.parametrize("count", [1, SYNC_EACH, SYNC_EACH + 1, 20])
def test_files_that_can_not_be_synced_are_refused_and_dropped(alice, session, monkeypatch, count):
    session.store(b"/0", b"old")
    for number in range(count):
        session.put(b"/%d" % number, b"new content")
    session.change(MakeDir(b"/dir"))
    session.uploads.add_outcome(99, Hashed(bytes(32), 0))
    with monkeypatch.context() as patch:
        failing = [
            Failing(patch, os, "fsync"),
            Failing(patch, beneath, "sync_file_system"),
        ]
        outcomes = session.commit()
        assert sum(one.calls for one in failing) == 1, "what failed once is not synced again"
    assert set(codes(outcomes[:-1])) == {"disk-failed"}
    assert outcomes[-1] == Hashed(bytes(32), 0)
    assert (alice.files / "0").read_bytes() == b"old"
    assert os.listdir(alice.files) == [".ftpd-staging", "0"] or len(os.listdir(alice.files)) == 2
    assert alice.agrees()
    assert session.store(b"/0", b"new content") == Stored(11), "the session goes on"


@pytest.mark.parametrize("count", [1, SYNC_EACH + 3])
def test_names_that_can_not_be_synced_are_not_acknowledged(alice, session, monkeypatch, count):
    """They are visible already, so they count; but nobody is told that they are safe."""
    for number in range(count):
        session.change(MakeDir(b"/dir-%d" % number))
        session.put(b"/dir-%d/file" % number, b"new content")

    def is_directory(fd) -> bool:
        return os.path.isdir(f"/proc/self/fd/{fd}") and not is_staging(fd) and not of_books(fd)

    def is_staging(fd) -> bool:
        return os.readlink(f"/proc/self/fd/{fd}").endswith(".ftpd-staging")

    with monkeypatch.context() as patch:
        Failing(patch, os, "fsync", only=is_directory)
        Failing(patch, beneath, "sync_file_system", only=is_directory)
        assert set(codes(session.commit())) == {"disk-failed"}
    assert alice.space == (11 * count, 0)


class Committing(threading.Thread):
    """A session that commits one new file, in a thread of its own."""

    def __init__(self, session: Session, path: bytes) -> None:
        super().__init__(daemon=True)
        session.put(path, b"content")
        self._session = session
        self.outcomes: list = []
        self.start()

    def run(self) -> None:
        self.outcomes = self._session.commit()

    def ended(self) -> list[str]:
        self.join(PATIENCE)
        assert not self.is_alive()
        return codes(self.outcomes)


@pytest.fixture
def together(alice, monkeypatch):
    """Three sessions that commit a file each: the sync of the first one is under way, the two
    others are going to be in the next one."""
    scene = Scene()
    committing = [Committing(alice.session(syncs=scene.syncs), b"/0")]
    scene.disk.wait_for(1)
    for path in (b"/1", b"/2"):
        committing.append(Committing(alice.session(syncs=scene.syncs), path))
        scene.wait_for_one_more()
    yield scene, committing
    scene.disk.end_all()
    for one in committing:
        one.join(PATIENCE)


def test_sessions_that_commit_at_the_same_time_share_their_syncs(alice, together):
    scene, committing = together
    assert not (alice.files / "1").exists()  # nothing shows before its bytes are safe
    scene.disk.end()
    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in scene.disk.wait_for(2)]
    assert sum(".ftpd-staging/" in name for name in names) == 2
    scene.disk.end_all()
    assert [one.ended() for one in committing] == [["done"]] * 3
    assert {"0", "1", "2"} <= set(os.listdir(alice.files)) and alice.agrees()


def test_a_sync_that_fails_fails_the_sessions_that_it_was_for(alice, together):
    scene, committing = together
    scene.disk.end()
    fds = scene.disk.wait_for(2)
    # the first one's file is safe, and it may be so quick that its name is in this sync, too
    first = "disk-failed" if any(stat.S_ISDIR(os.fstat(fd).st_mode) for fd in fds) else "done"
    scene.disk.end(OSError(errno.EIO, os.strerror(errno.EIO)))
    scene.disk.end_all()
    assert [one.ended() for one in committing] == [[first], ["disk-failed"], ["disk-failed"]]
    assert set(os.listdir(alice.files)) == {".ftpd-staging", "0"} and alice.agrees()


def test_a_lease_that_is_gone_fails_its_session_alone(alice, together):
    scene, committing = together
    with alice._engine.begin() as connection:  # as if somebody had ended it: the newest one
        newest = select(lease.c.id).order_by(text("rowid DESC")).limit(1)
        end(connection, alice.id, lease.c.id == connection.execute(newest).scalar())
    scene.disk.end_all()
    assert [one.ended() for one in committing] == [["done"], ["done"], ["lease-lost"]]
    assert "2" not in os.listdir(alice.files)


def test_who_leads_a_sync_and_ends_in_the_middle_of_it_holds_up_nobody(alice, together):
    scene, committing = together
    scene.disk.end()
    scene.disk.wait_for(2)
    scene.disk.end(MemoryError())
    scene.disk.end_all()
    assert [one.ended() for one in committing] == [["done"], ["internal"], ["done"]]
    assert "1" not in os.listdir(alice.files)


def test_a_lease_lasts_before_anything_is_made_beside_where_it_goes(alice, session):
    """There no start looks by itself."""
    order = []

    class Beside:
        def make(self, make):
            order.append("made")
            return os.open(os.devnull, os.O_RDONLY)

    made_durable = alice.ledger.make_durable
    session.uploads._ledger.make_durable = lambda: (order.append("durable"), made_durable())
    staging_dir = StagingDir(
        -1, Beside(), above=0, before_beside=session.uploads._reservation.make_durable
    )
    Beside.fd = -1
    session.put(b"/file")
    for _ in range(2):
        os.close(staging_dir.open(b"name", 0))
    assert order == ["durable", "made", "made"]  # once for the batch
    assert codes(session.commit()) == ["done"]


def of_books(fd) -> bool:
    """Whether a descriptor is of the books and not of a home."""
    path = f"{os.readlink(f'/proc/self/fd/{fd}')}/"
    return "/.ftpd/" in path


def test_no_sync_is_asked_for_without_durability(alice, monkeypatch):
    """But of the books: after a power cut they have to know which homes to count."""
    session = alice.session(durable=False)
    for number in range(20):
        session.change(MakeDir(b"/dir-%d" % number))
        session.put(b"/dir-%d/file" % number)
    with monkeypatch.context() as patch:
        Failing(patch, os, "fsync", only=lambda fd: not of_books(fd))
        Failing(patch, beneath, "sync_file_system")
        assert set(codes(session.commit())) == {"done"}


def test_a_system_without_syncfs(alice, session, monkeypatch):
    for number in range(20):
        session.change(MakeDir(b"/dir-%d" % number))
        session.put(b"/dir-%d/file" % number)
    synced = []
    fsync = os.fsync
    with monkeypatch.context() as patch:
        patch.setattr(beneath, "_syncfs", None)
        patch.setattr(os, "fsync", lambda fd: synced.append(fd) or fsync(fd))
        assert set(codes(session.commit())) == {"done"}
    assert len(synced) >= 20 + 20


@pytest.mark.parametrize("size", [10, SMALL + 10, RESUME_FROM + 10])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_is_full(alice, session, monkeypatch, size, number):
    session.store(b"/file", b"old")
    with monkeypatch.context() as patch:
        Failing(patch, os, "write", number=number)
        with pytest.raises(OSError) as caught:
            session.put(b"/file", b"x" * size, ask=size > SMALL)
    assert caught.value.errno == number
    session.uploads.add_outcome(session.count, Failed("disk-full", ""))
    assert codes(session.commit()) == ["disk-full"]
    assert (alice.files / "file").read_bytes() == b"old"
    assert alice.agrees()
    assert session.store(b"/file", b"x" * size) == Stored(size)


@pytest.fixture
def disk_has(monkeypatch):
    """Makes the disk have so many bytes free."""

    def free(size: int, blocks: int = 1000) -> None:
        reported = SimpleNamespace(f_blocks=blocks, f_bavail=size, f_frsize=1)
        monkeypatch.setattr(os, "fstatvfs", lambda fd: reported)

    return free


@pytest.mark.parametrize("size", [SHARES_STEP + 1, RESUME_FROM + 1])
@pytest.mark.parametrize("ask", [True, False])
def test_what_the_disk_has_no_space_for_is_refused_before_its_first_byte(
    alice, session, disk_has, size, ask
):
    disk_has(size - 1)
    with pytest.raises(DiskFull, match=f"{size} bytes needed, {size - 1} bytes free"):
        with session.uploads.receiving(1, Put(b"/file", size, ask=ask)):
            pytest.fail("nothing is received")
    assert alice.agrees()
    disk_has(size)
    assert session.store(b"/file", bytes(size), ask=ask) == Stored(size)


def test_what_the_disk_has_of_an_upload_needs_no_space_again(alice, disk_has):
    data = os.urandom(20 * MIB)
    interrupt(alice.session(), data, 18 * MIB)
    disk_has(2 * MIB)
    assert resumed(alice.session(), data) == 18 * MIB


def test_a_file_system_that_does_not_report_its_free_space(alice, session, disk_has):
    disk_has(0, blocks=0)
    assert session.store(b"/file", bytes(SHARES_STEP + 1)) == Stored(SHARES_STEP + 1)


def test_staging_that_can_not_be_made(alice, session, monkeypatch):
    opened = os.open

    def no_more(path, flags, *arguments, **options):
        if flags & os.O_CREAT:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, flags, *arguments, **options)

    session.put(b"/first")
    for size in (10, SMALL + 10, RESUME_FROM + 10):
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", no_more)
            with pytest.raises(OSError):
                session.put(b"/file", b"x" * size, ask=size > SMALL)
    assert codes(session.commit()) == ["done"]


# when the room is lost ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, SMALL + 3, RESUME_FROM + 3])
def test_a_reservation_that_was_ended_stores_nothing(alice, session, engine, size):
    """Another node took this one for dead."""
    session.store(b"/file", b"old")
    session.put(b"/file", b"x" * size, ask=size > SMALL)
    session.change(MakeDir(b"/dir"))
    Ledger(engine).reap()
    assert codes(session.commit()) == ["lease-lost", "lease-lost"]
    assert (alice.files / "file").read_bytes() == b"old"
    assert not (alice.files / "dir").exists()
    assert alice.agrees()
    assert session.store(b"/file", b"newer") == Stored(5)


@pytest.mark.parametrize("size", [3, SMALL + 3, RESUME_FROM + 3])
def test_staging_that_can_t_be_removed_holds_no_space(alice, session, monkeypatch, size):
    """The disk fails; what it keeps from being removed is removed by the next clean-up."""

    def fail(*arguments, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    session.put(b"/earlier")  # what is open of the database stays so
    session.uploads.abandon()
    descriptors = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", fail)
        with pytest.raises((OSError, VerificationFailed)):
            session.put(b"/broken", b"x" * size, sent=Sent(size, bytes(32)), ask=size > SMALL)
        session.uploads.abandon()
        session.put(b"/file", b"x" * size, ask=size > SMALL)
        with pytest.raises(OSError):
            session.uploads.abandon()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    alice.agrees = lambda: alice.space == (0, 0)


def test_an_account_that_is_removed_meanwhile(alice, session, accounts):
    session.put(b"/file")
    accounts.remove("alice")
    assert codes(session.commit()) == ["lease-lost"]
    assert os.listdir(alice.files) == [".ftpd-staging"]
    with pytest.raises(CommandError) as caught:
        session.put(b"/file")
    assert caught.value.code == "not-found"
    alice.agrees = lambda: not alice.staged


@pytest.mark.parametrize("verb", ["begin_commit", "settle"])
def test_a_ledger_that_fails_leaves_nobody_without_an_answer(alice, session, monkeypatch, verb):
    """A full disk under the accounts file, or a lock that somebody holds for minutes."""

    def fail(*_):
        raise OperationalError("UPDATE", {}, Exception("database is locked"))

    session.put(b"/one")
    session.change(MakeDir(b"/dir"))
    session.put(b"/two")
    with monkeypatch.context() as patch:
        patch.setattr(alice.ledger, verb, fail)
        # what is there for good is told as that, and settled later
        reported = "done" if verb == "settle" else "internal"
        assert codes(session.commit()) == [reported] * 3
    assert (alice.files / "one").exists() == (verb == "settle")
    assert not alice.staged
    if verb == "settle":  # what it held is found by the next start, which counts the disk
        alice.agrees = lambda: True
    else:
        assert alice.agrees()
    assert session.store(b"/one", b"again") == Stored(5)


# room --------------------------------------------------------------------------------------


def test_a_size_that_is_known_is_refused_before_its_first_byte(alice, session):
    for size in (65 * MIB, 2**62):
        with pytest.raises(QuotaExceeded) as caught:
            with session.uploads.receiving(1, Put(b"/file", size, ask=True)):
                pytest.fail("nothing is received")
        assert (caught.value.needed, caught.value.free) == (size, 64 * MIB)
    with session.uploads.receiving(2, Put(b"/file", 64 * MIB, ask=True)) as receiving:
        assert alice.space == (0, 64 * MIB)
        with pytest.raises(QuotaExceeded):
            alice.session().put(b"/other", b"x")
        data = bytes(64 * MIB)
        receiving.resume(lambda done: None)
        receiving.staging.sink.write(memoryview(data))
        receiving.finish(Sent(len(data), digests.digest(data)))
    assert session.commit() == [Stored(64 * MIB)]


def test_a_size_that_is_not_known_is_refused_when_space_ends(alice, session):
    fill = 64 * MIB - 1000
    alice.ledger.settle([alice.ledger.reserve(alice.id, fill)], fill, 1)
    with pytest.raises(QuotaExceeded):
        session.put(b"/file", b"x" * 1001, size=None, ask=True)
    assert alice.space == (fill, 0)
    session.put(b"/file", b"x" * 1000, size=None, ask=True)
    assert session.commit() == [Stored(1000)]
    assert alice.space == (64 * MIB, 0)
    (alice.files / "fill").touch()
    os.truncate(alice.files / "fill", fill)


@pytest.fixture
def tight(accounts, ledger, open_home, root):
    """Alice with room for 1000 bytes."""
    made = Alice(accounts, ledger, open_home, root, 1000)
    yield made
    assert made.agrees(), (made.space, made.staged)


def test_space_that_a_batch_frees_is_used_by_it(tight):
    """Ten times the same file: each replaces the one before, so it fits."""
    session = tight.session()
    for number in range(10):
        session.put(b"/file", b"%d" % number * 400)
    assert codes(session.commit()) == ["done"] * 10
    assert (tight.files / "file").read_bytes() == b"9" * 400
    assert tight.space == (400, 0)


def test_a_refusal_inside_a_batch(tight):
    session = tight.session()
    session.put(b"/a", b"x" * 600)
    with pytest.raises(QuotaExceeded) as caught:
        session.put(b"/b", b"x" * 600)
    assert (caught.value.needed, caught.value.free) == (600, 400)
    session.uploads.add_outcome(session.count, Failed.from_error(caught.value))
    session.put(b"/c", b"x" * 400)
    with pytest.raises(QuotaExceeded):
        session.put(b"/d", b"x")
    session.uploads.add_outcome(session.count, Failed("quota", ""))
    session.put(b"/empty", b"")
    assert codes(session.commit()) == ["done", "quota", "done", "quota", "done"]
    assert sorted(os.listdir(tight.files)) == [".ftpd-staging", "a", "c", "empty"]
    assert tight.space == (1000, 0)


def test_an_overwrite_needs_space_beside_the_old_file(tight):
    session = tight.session()
    assert session.store(b"/file", b"x" * 600) == Stored(600)
    with pytest.raises(QuotaExceeded):
        session.put(b"/file", b"y" * 600)
    assert (tight.files / "file").read_bytes() == b"x" * 600
    assert session.store(b"/file", b"y" * 400) == Stored(400)
    assert tight.space == (400, 0)


def test_space_that_only_one_session_gets(tight):
    sessions = [tight.session(durable=False) for _ in range(16)]
    together = threading.Barrier(len(sessions))
    outcomes = []

    def store(number: int) -> None:
        together.wait()
        try:
            outcomes.append(sessions[number].store(b"/%d" % number, b"x" * 1000))
        except QuotaExceeded:
            outcomes.append(None)

    threads = [threading.Thread(target=store, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(Stored(1000)) == 1
    assert outcomes.count(None) == 15
    assert tight.space == (1000, 0)


def test_small_files_share_steps(accounts, ledger, open_home, root, monkeypatch):
    """No statement for each small file."""
    alice = Alice(accounts, ledger, open_home, root, None)
    session = alice.session()
    statements = []
    for verb in ("reserve", "reserve_step", "extend", "begin_commit", "settle"):
        real = getattr(ledger, verb)
        monkeypatch.setattr(
            ledger,
            verb,
            lambda *arguments, real=real, verb=verb: statements.append(verb) or real(*arguments),
        )
    for number in range(300):
        session.put(b"/%d" % number, b"x" * 100_000)
    assert alice.space == (0, 2 * STEP)
    assert set(codes(session.commit())) == {"done"}
    assert statements == ["reserve_step", "extend", "begin_commit", "settle"]
    assert alice.agrees()


# interrupted, and resumed ------------------------------------------------------------------


def interrupt(session, data: bytes, count: int, error=ConnectionLost, **options) -> None:
    """Send the first ``count`` bytes of a large upload, and no more."""
    request = Put(b"/file", **{"size": len(data), "ask": True, "mtime_ns": 5} | options)
    with pytest.raises(error), session.uploads.receiving(1, request) as receiving:
        offset, _ = receiving.resume(lambda done: None)
        receiving.staging.sink.write(memoryview(data)[offset:count])
        raise error("cut")


def resumed(session, data: bytes, **options) -> int:
    """Send the rest, and commit; from where it went on."""
    request = Put(b"/file", **{"size": len(data), "ask": True, "mtime_ns": 5} | options)
    with session.uploads.receiving(1, request) as receiving:
        offset, digest = receiving.resume(lambda done: None)
        assert digest == (digests.digest(data[:offset]) if offset else None)
        receiving.staging.sink.write(memoryview(data)[offset:])
        receiving.finish(Sent(len(data), digests.digest(data)))
    assert session.commit() == [Stored(len(data))]
    return offset


@pytest.mark.parametrize("error", [ConnectionLost, Cancelled])
def test_an_interrupted_upload_is_resumed(alice, error):
    data = os.urandom(20 * MIB)
    interrupt(alice.session(), data, 18 * MIB + 77, error)
    assert alice.space == (0, 20 * MIB), "its room is kept"
    assert not (alice.files / "file").exists()
    assert resumed(alice.session(), data) == 18 * MIB + 77
    assert (alice.files / "file").read_bytes() == data


def test_what_is_resumed_may_be_interrupted_again(alice):
    data = os.urandom(30 * MIB)
    for count in (6 * MIB, 7 * MIB, 25 * MIB):
        interrupt(alice.session(), data, count)
    assert resumed(alice.session(), data) == 25 * MIB
    assert (alice.files / "file").read_bytes() == data


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: os.truncate(path, 17 * MIB), id="shorter"),
        pytest.param(lambda path: flip(path, 17 * MIB), id="rotten-at-the-end"),
    ],
)
def test_what_was_lost_of_the_last_piece_is_sent_again(alice, spoil):
    data = os.urandom(20 * MIB)
    interrupt(alice.session(), data, 18 * MIB)
    (name,) = [one for one in alice.staged if not one.endswith(".ck")]
    spoil(alice.files / ".ftpd-staging" / name)
    # pieces of whole buffers: the first checkpoint is at the first one beyond a piece's size
    assert resumed(alice.session(), data) == PIECE
    assert (alice.files / "file").read_bytes() == data


@pytest.mark.parametrize("spoiled", ["bytes", "checkpoint", "no-checkpoint", "longer"])
def test_nothing_that_is_there_is_trusted(alice, spoiled):
    data = os.urandom(9 * MIB)
    interrupt(alice.session(), data, 8 * MIB)
    (name,) = [one for one in alice.staged if not one.endswith(".ck")]
    staged = alice.files / ".ftpd-staging" / name
    checkpoint = staged.with_name(name + ".ck")
    match spoiled:
        case "bytes":
            flip(staged, 0)
        case "checkpoint":
            flip(checkpoint, 5)
        case "no-checkpoint":
            checkpoint.unlink()
        case "longer":
            with staged.open("ab") as file:
                file.write(b"more than the checkpoint says")
    assert resumed(alice.session(), data) == (8 * MIB if spoiled == "longer" else 0)
    assert (alice.files / "file").read_bytes() == data


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("options", [{"mtime_ns": 6}, {"size": 9 * MIB + 1}, {"resume": False}])
def test_another_source_starts_over(alice, options):
    data = os.urandom(9 * MIB)
    interrupt(alice.session(), data, 8 * MIB)
    other = os.urandom(options.get("size", 9 * MIB))
    assert resumed(alice.session(), other, **{"size": len(other)} | options) == 0
    assert (alice.files / "file").read_bytes() == other
    assert not alice.staged, "what nobody will ask for again is dropped at once"


def test_little_is_not_worth_keeping(alice):
    interrupt(alice.session(), os.urandom(9 * MIB), RESUME_FROM - 1)
    assert alice.agrees()


def test_what_failed_otherwise_is_not_kept(alice):
    interrupt(alice.session(), os.urandom(9 * MIB), 8 * MIB, VerificationFailed)
    assert alice.agrees()


def test_what_was_done_before_an_error_of_the_server_s_own_is_settled(alice, session, monkeypatch):
    def fail(self, change):
        raise RuntimeError("a defect")

    monkeypatch.setattr(Commit, "make_link", fail)
    session.put(b"/a", b"1234")
    session.change(MakeLink(b"/link", b"a"))
    assert codes(session.commit()) == ["internal", "internal"]
    assert (alice.files / "a").read_bytes() == b"1234"
    assert alice.space == (4, 0)


# files, directories and links are counted ---------------------------------------------------


@pytest.fixture
def limited(accounts, ledger, open_home, root) -> Alice:
    """Five names at most."""
    alice = Alice(accounts, ledger, open_home, root, None)
    accounts.change("alice", max_files=5)
    return alice


def names_used(alice: Alice) -> int:
    assert alice.agrees()
    return alice.ledger.space(alice.id).used_files


def test_a_limit_of_files_counts_all_that_has_a_name(limited):
    session = limited.session()
    session.put(b"/a")
    session.change(MakeDir(b"/d/e", parents=True))
    session.change(MakeLink(b"/l", b"a"))
    session.put(b"/d/b", bytes(SHARES_STEP + 1))
    assert codes(session.commit()) == ["done"] * 4
    assert names_used(limited) == 5


@pytest.mark.parametrize("size", [1, SMALL + 1, SHARES_STEP + 1])
def test_one_file_too_many_is_refused_and_replacing_is_none(limited, size):
    session = limited.session()
    for number in range(5):
        session.put(b"/%d" % number)
    assert codes(session.commit()) == ["done"] * 5
    with pytest.raises(QuotaExceeded, match="5 files and directories: 1 needed, 0 free"):
        session.put(b"/more", bytes(size))
    for change in (MakeDir(b"/dir"), MakeLink(b"/link", b"0"), MakeDir(b"/x/y", parents=True)):
        with pytest.raises(QuotaExceeded):
            session.change(change)
    session.put(b"/3", b"replaced")
    session.change(MakeLink(b"/4", b"0"))
    session.change(Remove(b"/0"))
    session.change(Remove(b"/1"))
    assert codes(session.commit()) == ["done"] * 4
    assert names_used(limited) == 3
    session.change(MakeDir(b"/x/y", parents=True))
    assert codes(session.commit()) == ["done"]
    assert names_used(limited) == 5


def test_a_directory_is_looked_at_once_for_many_files(alice, session, monkeypatch):
    """Whether it has to be made, and counted, is asked for each file of a tree."""
    session.put(b"/d/first", b"data", parents=True)
    session.commit()
    stat, looked = Home.stat, []

    def counted(self, parts, **options):
        looked.append(parts)
        return stat(self, parts, **options)

    monkeypatch.setattr(Home, "stat", counted)
    for number in range(20):
        session.put(b"/d/%d" % number, b"data", parents=True)
    session.commit()
    assert looked.count((b"d",)) == 1
    assert len(os.listdir(alice.files / "d")) == 21
