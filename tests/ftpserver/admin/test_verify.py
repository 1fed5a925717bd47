"""`ftpd check`, `scrub` and `recount`: every kind of damage is found, and nothing else is."""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path

import pytest

from ftpserver.admin import scrub, verify
from ftpserver.admin.scrub import Examiner, Verdict
from ftpserver.admin.verify import CannotCheck, Verifier, Weight
from ftpserver.cli import main, tables
from ftpserver.daemon.housekeeping import Housekeeping
from ftpserver.storage.digest_xattr import keep_digest
from ftpserver.storage.home import Home
from ftpserver.storage.ledger import Ledger
from ftpserver.storage.recount import recount
from ftpwire import digests
from ftpwire.digests import StoredDigest
from ftpwire.frames import Kind
from ftpwire.messages import Put
from tests import sparse
from tests.system.programs import eventually

STAGING = ".ftpd-staging"


def store(path: Path, data: bytes) -> Path:
    """A file as a commit leaves it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    with open(path, "rb") as file:
        info = os.fstat(file.fileno())
        keep_digest(file.fileno(), digests.digest(data), len(data), info.st_mtime_ns)
    return path


def overwrite(path: Path, data: bytes) -> None:
    """Other bytes, and nothing else that tells: what a failing disk does."""
    info = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


@pytest.fixture
def alice(accounts, ledger, root):
    """The home of an account with some files, all as it should be."""
    account = accounts.add("alice", "secret")
    store(account.home / "file", b"content")
    store(account.home / "dir" / "large", bytes(3_000_000))
    (account.home / "dir" / "link").symlink_to("nowhere")
    (account.home / "by hand").write_bytes(b"no digest")
    recount(ledger, account.id, Home(account.home))
    return account


def kinds(root: Path, **options) -> list[tuple[str, bytes | None]]:
    return [(one.kind, one.path) for one in verify.check(root, **options)]


# check -------------------------------------------------------------------------------------


def test_a_sound_root(root, alice):
    verifier = Verifier(root, read=True, strict=True)
    assert list(verifier.findings()) == []
    assert verifier.beside is None
    assert (verifier.accounts, verifier.files, verifier.size) == (1, 3, 3_000_016)


def test_a_home_that_nobody_has_used(root, accounts):
    accounts.add("alice", "secret")
    assert kinds(root, read=True, strict=True) == []


def test_checking_changes_nothing(root, alice):
    def state() -> dict[str, tuple]:
        found = {}
        for path in [alice.home, *alice.home.rglob("*")]:
            info = path.lstat()
            found[str(path)] = (info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        return found

    before = state()
    verify.check(root, read=True)
    assert state() == before


def cut(home: Path) -> None:
    overwrite(home / "file", b"con")


def rot(home: Path) -> None:
    overwrite(home / "dir" / "large", bytes(2_999_999) + b"\1")


def garble(home: Path) -> None:
    os.setxattr(home / "file", digests.ATTRIBUTE, b"\x1b[31m")


def hide(home: Path) -> None:
    store(home / "dir" / STAGING / "partial", b"")


def add(home: Path) -> None:
    (home / "more").write_bytes(b"x")


def take(home: Path) -> None:
    (home / "file").unlink()


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        pytest.param(cut, [("used", None), ("size", b"/file")], id="cut"),
        pytest.param(rot, [("digest", b"/dir/large")], id="rot"),
        pytest.param(garble, [("attribute", b"/file")], id="garbled-attribute"),
        pytest.param(hide, [("partial", b"/dir/" + STAGING.encode())], id="partial"),
        pytest.param(add, [("used", None), ("files", None)], id="uncounted"),
        pytest.param(take, [("used", None), ("files", None)], id="counted-and-gone"),
    ],
)
def test_damage_to_files(root, alice, harm, found):
    harm(alice.home)

    assert kinds(root, read=True) == found
    assert all(one.weight is Weight.DAMAGE for one in verify.check(root, read=True))


def test_rot_is_found_by_reading_only(root, alice):
    rot(alice.home)
    assert kinds(root) == []


def test_contents_that_were_changed_in_order_are_no_damage(root, alice, ledger):
    (alice.home / "file").write_bytes(b"changed")
    os.utime(alice.home / "dir" / "large")
    assert kinds(root, read=True) == []


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        pytest.param("UPDATE account SET used = used + 1", ["used"], id="used"),
        pytest.param("UPDATE account SET held = 5", ["held"], id="held"),
        pytest.param(
            "INSERT INTO lease VALUES ('x', 1, 'local', 'gone', 'kept', 0, x'752d31', 9999999999)",
            ["lease"],
            id="kept-without-a-file",
        ),
        pytest.param("DROP TABLE lease", ["schema"], id="no-table"),
        pytest.param("ALTER TABLE account DROP COLUMN dirty", ["schema"], id="no-column"),
        pytest.param(
            "INSERT INTO lease VALUES ('x', 7, 'local', 'gone', 'kept', 0, NULL, 9999999999)",
            ["state"],
            id="lease-of-nobody",
        ),
    ],
)
def test_damage_to_the_books(root, alice, change, statement, found):
    columns = "id, account_id, node, incarnation, state, size, staging, expires"
    change(statement.replace("INTO lease VALUES", f"INTO lease ({columns}) VALUES"))

    findings = verify.check(root)

    assert [one.kind for one in findings] == found
    assert all(one.weight is Weight.DAMAGE for one in findings)


def test_a_home_that_is_gone(root, alice, accounts):
    accounts.add("bob", "secret").home.rmdir()
    assert kinds(root) == [("home", None)]


@pytest.mark.parametrize("damage", [b"nonsense" * 1000, b""], ids=["nonsense", "empty"])
def test_an_accounts_file_that_is_none(root, alice, engine, damage):
    engine.dispose()
    for name in ("state.db-wal", "state.db-shm"):
        (root / ".ftpd" / name).unlink(missing_ok=True)
    (root / ".ftpd" / "state.db").write_bytes(damage)

    assert {one.kind for one in verify.check(root)} <= {"state", "schema"}
    assert verify.check(root)


def test_a_damaged_page_of_the_accounts_file(root, accounts, engine):
    for number in range(60):
        accounts.add(f"user{number}", "secret")
    engine.dispose()
    path = root / ".ftpd" / "state.db"
    assert not path.with_name("state.db-wal").exists()
    data = bytearray(path.read_bytes())
    data[-4096:-2048] = b"\xff" * 2048
    path.write_bytes(data)

    assert {one.kind for one in verify.check(root)} == {"state"}


@pytest.mark.parametrize("missing", ["nothing", "state"])
def test_what_is_no_root(root, missing):
    if missing == "state":
        (root / ".ftpd").mkdir()
    with pytest.raises(CannotCheck, match="no server has been started here"):
        verify.check(root)
    assert not (root / ".ftpd" / "state.db").exists()


def test_another_version_s_state(root, alice, change):
    change("UPDATE schema_version SET version = 99")
    with pytest.raises(CannotCheck, match="99"):
        verify.check(root)


# what a crash leaves -----------------------------------------------------------------------


def test_what_a_crash_left_is_no_damage(root, alice, engine):
    """Leases, what is staged under them, and what nobody accounts for any more."""
    crashed = Ledger(engine)
    crashed.reserve(alice.id, 1000)
    (alice.home / STAGING / f"{crashed.incarnation}-12").write_bytes(bytes(500))
    (alice.home / STAGING / "u-12-34").write_bytes(bytes(500))
    (alice.home / "placed").write_bytes(bytes(1000))

    findings = verify.check(root, read=True)
    assert [one.kind for one in findings] == ["recount", "staging"]
    assert {one.weight for one in findings} == {Weight.DOUBT}
    strict = verify.check(root, read=True, strict=True)
    assert [one.kind for one in strict] == ["recount", "used", "files", "staging"]
    assert {one.weight for one in strict} == {Weight.DAMAGE}


def test_an_account_to_be_recounted(root, alice, change):
    change("UPDATE account SET dirty = 1, used = 0")

    (finding,) = verify.check(root)
    assert str(finding) == "recount: alice: will be recounted at next start: marked as uncertain"
    assert [kind for kind, _ in kinds(root, strict=True)] == ["recount", "used"]


def test_kept_uploads_are_as_they_should_be(root, alice, engine):
    earlier = Ledger(engine)
    lease = earlier.reserve(alice.id, 5000, b"u-12-34")
    earlier.keep(lease)
    for name in ("u-12-34", "u-12-34.ck"):
        (alice.home / STAGING / name).write_bytes(b"something")

    assert kinds(root, read=True, strict=True) == []
    (alice.home / STAGING / "u-12-34").unlink()
    assert kinds(root) == [("lease", f"/{STAGING}/u-12-34".encode())]


# beside a server ---------------------------------------------------------------------------


def test_a_server_at_work_is_not_in_disorder(server, files, dial):
    peer = dial(server)
    request_id = peer.request(Put(b"/file", 5_000_000))
    peer.frame(Kind.DATA, request_id, bytes(100_000))
    eventually(lambda: list(files.glob(f"{STAGING}/*-*")), "an upload under way")
    verifier = Verifier(server.settings.root, read=True, strict=True)

    assert list(verifier.findings()) == []
    assert verifier.beside is not None and str(os.getpid()) in verifier.beside


def test_damage_beside_a_server(start_server, monkeypatch):
    monkeypatch.setattr(Housekeeping, "clean_all", lambda self: None)  # the start's own repair
    server = start_server()
    files = server.settings.root / "alice"
    (files / STAGING).mkdir()
    (files / STAGING / "u-12-34").write_bytes(b"")
    (files / "file").write_bytes(b"12345")

    findings = verify.check(server.settings.root)

    assert [one.kind for one in findings] == ["used", "files", "staging"]
    assert {one.weight for one in findings} == {Weight.DAMAGE}


# the command -------------------------------------------------------------------------------


@pytest.fixture
def ftpd(root, monkeypatch, capsys, quick_passwords):
    """Runs a command on the root; gives its exit status and what it printed."""
    monkeypatch.setattr(os, "nice", lambda increment: 0)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ftpd", *arguments, "--root", str(root)])
        status = 0
        try:
            main.main()
        except SystemExit as ended:
            status = ended.code or 0
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_a_clean_check(ftpd, alice):
    assert ftpd("check") == (0, "checked 1 account, 3 files: no problems found\n", "")
    status, out, _ = ftpd("check", "--read", "--user", "alice")
    assert (status, out) == (0, "checked 1 account, 3 files (2.9 MiB read): no problems found\n")


def test_findings_are_lines(ftpd, alice):
    cut(alice.home)
    (alice.home / os.fsdecode(b"\xff\n\x1b[31m")).write_bytes(b"")
    os.setxattr(os.fsencode(alice.home) + b"/\xff\n\x1b[31m", digests.ATTRIBUTE, b"not a digest")

    status, out, err = ftpd("check")

    assert (status, err) == (8, "")
    assert sorted(out.splitlines()) == [
        "attribute: alice: /\\xff\\n\\x1b[31m expected a digest, found 6e6f74206120646967657374",
        "checked 1 account, 4 files: 4 damage",
        "files: alice: expected 6 files (on disk), found 5",
        "size: alice: /file expected 7, found 3",
        "used: alice: expected 3000019 bytes (on disk), found 3000023",
    ]


def test_findings_are_records(ftpd, alice):
    (alice.home / os.fsdecode(b"\xff")).write_bytes(b"")
    os.setxattr(os.fsencode(alice.home) + b"/\xff", digests.ATTRIBUTE, b"no")

    status, out, _ = ftpd("check", "--json")

    _, finding, summary = map(json.loads, out.splitlines())
    assert status == 8
    assert finding == {
        "kind": "attribute",
        "account": "alice",
        "path": "/\ufffd",
        "path_b64": base64.b64encode(b"/\xff").decode(),
        "expected": "a digest",
        "found": "6e6f",
        "weight": "damage",
    }
    assert summary == {
        "kind": "summary",
        "summary": True,
        "status": 8,
        "accounts": 1,
        "files": 4,
        "size": 3000016,
        "damage": 2,
        "doubt": 0,
        "unchecked": 0,
        "server_runs": False,
        "homes": True,
    }


def test_what_can_not_be_checked_is_status_1(ftpd, root):
    status, out, err = ftpd("check")
    assert (status, out) == (1, "")
    assert err.startswith("ftpd: ") and err.count("\n") == 1
    status, out, err = ftpd("scrub")
    assert (status, out) == (1, "") and "no server has been started here" in err


def test_doubt_is_status_0(ftpd, alice, change):
    change("UPDATE account SET dirty = 1")
    assert ftpd("check")[0] == 0
    assert ftpd("check", "--strict")[0] == 8


@pytest.mark.parametrize(
    "arguments", [("check", "--user", "bob"), ("scrub", "bob"), ("recount", "bob")]
)
def test_nobody_of_that_name(ftpd, alice, arguments):
    status, _, err = ftpd(*arguments)
    assert (status, err) == (5, "ftpd: bob: no such account\n")


def test_beside_a_server_it_says_so(server, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ftpd", "check", "--root", str(server.settings.root)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert not ended.value.code
    reported = f"the server is running (process {os.getpid()}): changes under way were not checked"
    assert reported in capsys.readouterr().err


# scrub -------------------------------------------------------------------------------------


def test_scrubbing_gives_digests(ftpd, alice):
    path = alice.home / "by hand"
    assert ftpd("scrub", "--no-write") == (
        0,
        "scrubbed 3 files, 2.9 MiB: 0 damaged, 0 digests added, 1 without a digest\n",
        "",
    )
    assert not os.listxattr(path)

    assert ftpd("scrub", "alice")[1].endswith(": 0 damaged, 1 digest added\n")

    kept = StoredDigest.unpack(os.getxattr(path, digests.ATTRIBUTE))
    info = path.stat()
    assert kept == StoredDigest(digests.digest(b"no digest"), info.st_size, info.st_mtime_ns)
    assert ftpd("scrub")[1].endswith(": 0 damaged, 0 digests added\n")


def test_holes_are_not_read(tmp_path, monkeypatch):
    """They would only push what is worth it out of the memory."""
    sparse.need_holes(tmp_path)
    layout = [(True, 2**20), (False, 300_001), (True, 2**20 + 5)]
    data = sparse.make(tmp_path / "file", layout)
    read, preadv = [], os.preadv

    def counted(*arguments):
        read.append(preadv(*arguments))
        return read[-1]

    monkeypatch.setattr(os, "preadv", counted)
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        examined = Examiner(read=True, give=True).file(directory, b"file", b"file")
    finally:
        os.close(directory)
    assert examined.given and 0 < sum(read) <= 300_001 + 2 * sparse.BLOCK
    kept = StoredDigest.unpack(os.getxattr(tmp_path / "file", digests.ATTRIBUTE))
    assert kept.digest == digests.digest(data)


def test_a_stale_digest_is_renewed(ftpd, alice):
    (alice.home / "file").write_bytes(b"something else")
    status, out, _ = ftpd("scrub")
    assert status == 0 and out.endswith(": 0 damaged, 2 digests added\n")
    kept = StoredDigest.unpack(os.getxattr(alice.home / "file", digests.ATTRIBUTE))
    assert kept.digest == digests.digest(b"something else")


@pytest.mark.parametrize("harm", [rot, cut], ids=["rot", "cut"])
def test_scrubbing_finds(ftpd, alice, harm):
    harm(alice.home)
    status, out, _ = ftpd("scrub")
    finding, summary = out.splitlines()
    assert status == 8
    assert finding.startswith("rotted: alice: /dir/large" if harm is rot else "cut: alice: /file")
    assert ": 1 damaged" in summary
    assert ftpd("scrub")[0] == 8, "what rotted is not made good by looking at it"


def test_scrubbing_in_records(ftpd, alice):
    rot(alice.home)
    finding, summary = map(json.loads, ftpd("scrub", "--json")[1].splitlines())
    assert finding == {
        "kind": "rotted",
        "account": "alice",
        "path": "/dir/large",
        "expected": digests.digest(bytes(3_000_000)).hex(),
        "found": digests.digest(bytes(2_999_999) + b"\1").hex(),
    }
    assert summary == {
        "kind": "summary",
        "summary": True,
        "status": 8,
        "files": 3,
        "size": 3000016,
        "sound": 1,
        "rotted": 1,
        "given": 1,
        "without_digest": 0,
        "changed": 0,
        "unchecked": 0,
    }


@pytest.mark.parametrize("change", ["rewritten", "cut", "removed", "renamed"])
def test_a_file_that_changes_meanwhile_is_passed_over(alice, monkeypatch, change):
    """Its bytes and its digest are of two moments then, and say nothing about the disk."""
    path = alice.home / "file"
    overwrite(path, b"CONTENT")
    digest = Examiner._digest

    def and_meanwhile(self, fd, info):
        result = digest(self, fd, info)
        if change == "rewritten":
            path.write_bytes(b"changed")
        elif change == "cut":
            os.truncate(path, 3)
        elif change == "removed":
            path.unlink()
        else:
            path.rename(path.with_name("renamed"))
        return result

    monkeypatch.setattr(Examiner, "_digest", and_meanwhile)
    directory = os.open(alice.home, os.O_RDONLY)
    try:
        examined = Examiner(read=True, give=True).file(directory, b"file", b"file")
    finally:
        os.close(directory)
    assert examined.verdict is Verdict.CHANGED


def test_a_disk_that_fails_is_damage(ftpd, alice, monkeypatch):
    def preadv(fd, buffers, offset):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(scrub.os, "preadv", preadv)
    status, out, _ = ftpd("scrub")
    assert status == 8
    assert out.splitlines()[0].startswith("unreadable: alice: /")
    assert ftpd("check", "--read")[0] == 8


def test_what_may_not_be_read_is_status_1(ftpd, alice, plain_user):
    (alice.home / "file").chmod(0)
    status, out, _ = ftpd("scrub")
    assert status == 1 and "closed: alice: /file" in out
    status, out, _ = ftpd("check")
    assert status == 1 and "unreadable: alice: /file" in out


def test_links_and_pipes_are_passed_over(ftpd, alice):
    os.mkfifo(alice.home / "pipe")
    (alice.home / "loop").symlink_to("loop")
    assert ftpd("recount")[0] == 0
    assert ftpd("check", "--read")[0] == 0
    assert "3 files" in ftpd("scrub")[1]


def test_a_home_deeper_than_any_stack(ftpd, alice, ledger):
    """Each level by the handle of the one above: the path is too long for any call."""
    fd = os.open(alice.home, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deeper", dir_fd=fd)
        below = os.open("deeper", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)

    assert ftpd("recount")[0] == 0
    assert ftpd("check", "--read")[0] == 0
    assert "4 files" in ftpd("scrub")[1]
    home = Home(alice.home)
    try:  # rmtree recurses
        home.remove(b"/deeper", recursive=True, tick=lambda: None)
    finally:
        home.close()


# recount -----------------------------------------------------------------------------------


def test_recounting(ftpd, alice, change, monkeypatch):
    change("UPDATE account SET used = 5, dirty = 1")
    assert ftpd("recount", "alice") == (0, "alice: 3000023 bytes (was 5) in 5 files\n", "")
    change("UPDATE account SET used = 5, dirty = 1")
    with monkeypatch.context() as terminal:
        terminal.setattr(tables, "on_terminal", lambda: True)
        assert ftpd("recount")[1] == "alice: 2.9 MiB (was 5 B); 5 files and directories\n"
    status, out, err = ftpd("recount", "--json")
    reported = {"account": "alice", "used": 3000023, "before": 3000023, "files": 5}
    done = {"action": "recount", "status": "done", "error": None}
    assert (status, json.loads(out), err) == (0, done | reported, "")
    assert ftpd("check", "--strict")[0] == 0
