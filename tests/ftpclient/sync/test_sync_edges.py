"""What a sync meets at the edges: paths too long for a request, times that no disk keeps, targets
that nothing can be written to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ftpwire import beneath
from ftpwire.errors import QuotaExceeded, SafetyLimit
from ftpwire.messages import Space, SpaceInfo
from ftpwire.paths import MAX_PATH
from tests.ftpclient.sync.test_sync import TIME, Mirror, link, write

NAME = b"n" * 200
ODD = 300_000_001_500_000_000
"""1979, and no even second."""


@pytest.fixture(params=["up", "down"])
def mirror(client, files, tmp_path, request) -> Mirror:
    return Mirror(client, files, tmp_path, request.param)


# long paths ---------------------------------------------------------------------------------


def dig(top: Path, levels: int, name: bytes = b"deepest") -> None:
    """A chain of directories whose path is too long for any system call, with a file at its end."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir(NAME, dir_fd=fd)
        below = os.open(NAME, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=fd))
    os.close(fd)


@pytest.mark.parametrize("levels", [19, 20, 21, 25])
@pytest.mark.parametrize("name", [b"deepest", b"x" * 100])
def test_a_long_path_is_one_failure_and_the_rest_goes_on(mirror, levels, name):
    write(mirror.source / "a", "a")
    dig(mirror.source, levels, name)
    write(mirror.source / "z", "z")

    summary = mirror.sync()

    assert (mirror.target / "a").read_text() == "a"
    assert (mirror.target / "z").read_text() == "z"
    deepest = levels * (len(NAME) + 1) + len(name)
    too_long = len("/there/") + deepest > MAX_PATH
    if mirror.upload:  # reads its files by their paths, which the system bounds as well
        too_long |= len(os.fsencode(mirror.source)) + 1 + deepest >= MAX_PATH
    assert summary.failed == too_long
    assert [code for _, code, _ in mirror.reported.errors] == ["invalid-path"] * too_long
    again = mirror.sync()
    assert (again.sent, again.failed, again.attributes) == (0, too_long, 0)


def test_a_long_path_that_both_have_is_one_failure(mirror):
    for side in (mirror.source, mirror.target):
        side.mkdir(exist_ok=True)
        dig(side, 24)
    write(mirror.source / "a", "a")
    summary = mirror.sync(delete=True)
    assert (summary.failed, summary.deleted, summary.sent) == (1, 0, 1)


def test_a_long_path_that_only_the_target_has_stays(mirror):
    write(mirror.source / "a", "a")
    mirror.target.mkdir(exist_ok=True)
    dig(mirror.target, 24)
    summary = mirror.sync(delete=True)
    assert (summary.sent, summary.failed, summary.deleted) == (1, 1, 0)


@pytest.mark.parametrize("direction", ["put -r {} /there", "get -r /there {}"])
@pytest.mark.parametrize(("levels", "name"), [(24, b"deepest"), (20, b"x" * 100)])
def test_copies_go_on_after_a_long_path(client, files, tmp_path, direction, levels, name):
    source = files / "there" if direction.startswith("get") else tmp_path / "here"
    target = tmp_path / "here" if direction.startswith("get") else files / "there"
    write(source / "a", "a")
    dig(source, levels, name)
    write(source / "z", "z")
    verb = client.get if direction.startswith("get") else client.put
    ends = (["/there"], tmp_path / "here") if verb == client.get else ([source], "/there")
    summary = verb(*ends, recursive=True)
    assert summary.failed == 1
    assert (target / "a").exists() and (target / "z").exists()


# links --------------------------------------------------------------------------------------


def test_update_leaves_newer_links(mirror):
    mirror.target.mkdir(exist_ok=True)
    for name, theirs in (("older", TIME - 10**9), ("newer", TIME + 10**9)):
        link(mirror.source / name, "ours")
        link(mirror.target / name, "theirs")
        os.utime(mirror.target / name, ns=(theirs, theirs), follow_symlinks=False)

    summary = mirror.sync(update=True)

    assert os.readlink(mirror.target / "older") == "ours"
    assert os.readlink(mirror.target / "newer") == "theirs"
    assert mirror.reported.errors == [("skipped", "not-newer", "newer")]
    assert summary.exit_code == 0


# times --------------------------------------------------------------------------------------


@pytest.fixture(params=["two seconds", "an earliest"])
def coarse(mirror, tmp_path, monkeypatch, request) -> Mirror:
    """The target's disk keeps even seconds only, or nothing before 1980."""
    place = os.fspath(tmp_path / "root" if mirror.upload else mirror.target)
    real = os.utime

    def where(path, dir_fd) -> str:
        if isinstance(path, int):
            return os.readlink(f"/proc/self/fd/{path}")
        above = "" if dir_fd is None else os.readlink(f"/proc/self/fd/{dir_fd}")
        return os.path.join(above, os.fsdecode(path))

    def kept(ns: int) -> int:
        if request.param == "two seconds":
            return ns // (2 * 10**9) * (2 * 10**9)
        return max(ns, 315_532_800 * 10**9)

    def utime(path, times=None, *, ns=None, dir_fd=None, follow_symlinks=True):
        if ns is not None and where(path, dir_fd).startswith(place):
            ns = (ns[0], kept(ns[1]))
        extra = {} if isinstance(path, int) else {"dir_fd": dir_fd}
        if not follow_symlinks:
            extra["follow_symlinks"] = False
        real(path, times, **({"ns": ns} if ns is not None else {}), **extra)

    monkeypatch.setattr(os, "utime", utime)
    return mirror


@pytest.mark.parametrize("checksum", [False, True])
def test_a_time_that_the_target_can_not_keep(coarse, checksum):
    odd = ODD
    write(coarse.source / "d" / "file", "bytes", time=odd)
    write(coarse.source / "plain", time=TIME // (4 * 10**9) * (4 * 10**9))
    os.utime(coarse.source / "d", ns=(odd, odd))
    os.utime(coarse.source, ns=(0, 10**18))
    assert coarse.sync(checksum=checksum).sent == 2
    for _ in range(2):
        summary = coarse.sync(checksum=checksum)
        assert coarse.reported.results == []
        assert (summary.sent, summary.attributes, summary.exit_code) == (0, 0, 0)
        (remark,) = coarse.reported.remarks
        disk = "server's disk" if coarse.upload else "local disk"
        assert remark.startswith(f"the {disk} cannot store the exact time of ")
        assert " and 1 more: the nearest one counts as the same" in remark


def test_a_changed_file_is_sent_whatever_the_disk_keeps(coarse):
    odd = ODD
    write(coarse.source / "file", "bytes", time=odd)
    coarse.sync()
    write(coarse.source / "file", "BYTES", time=TIME)
    assert coarse.sync().sent == 1
    assert (coarse.target / "file").read_text() == "BYTES"


def test_a_server_that_knows_nothing_of_times(mirror, monkeypatch):
    from ftpserver.storage.home import Home

    monkeypatch.setattr(Home, "kept_times", lambda *_: None)
    write(mirror.source / "file", time=TIME)
    mirror.sync()
    os.utime(mirror.target / "file", ns=(10**9, 10**9))
    assert mirror.sync().sent == 1
    mirror.check()


def test_the_server_reports_which_times_it_keeps(server, dial):
    space = dial(server).ask(Space([0, TIME, 10**18]))
    assert isinstance(space, SpaceInfo) and space.kept_times == [0, TIME, 10**18]
    assert dial(server).ask(Space()).kept_times is None


@pytest.mark.parametrize("nameless", [True, False])
def test_trying_times_out_leaves_nothing(tmp_path, monkeypatch, nameless):
    if not nameless:
        monkeypatch.delattr(os, "O_TMPFILE")
    os.utime(tmp_path, ns=(TIME, TIME))
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert beneath.kept_times(fd, b"probe", [1, TIME]) == [1, TIME]
    finally:
        os.close(fd)
    assert list(tmp_path.iterdir()) == []
    assert tmp_path.stat().st_mtime_ns == TIME


# what cannot be written to ---------------------------------------------------------------------


def test_what_can_not_be_written_is_reported_once_each(
    client, server, files, tmp_path, monkeypatch
):
    from ftpserver.storage.permissions import Permissions

    up = Mirror(client, files, tmp_path, "up")
    for name in ("a", "b", "d/x", "d/y", "d/e/z", "both/in"):
        write(up.source / name)
    write(up.target / "a", "old")
    write(up.target / "both" / "in", "old")
    write(up.target / "extra")
    server.accounts.change("alice", permissions=Permissions.parse("read-only"))
    client.close()

    summary = up.sync(delete=True)

    reported = [path for _, code, path in up.reported.errors if code == "forbidden"]
    assert reported == ["", "a", "b", "both", "both/in", "d"]
    assert ("failed", "safety-limit", "") in up.reported.errors
    assert (up.target / "extra").exists()
    assert summary.failed == 7


def test_what_can_not_be_written_here_is_reported_once_each(plain_user, client, files, tmp_path):
    down = Mirror(client, files, tmp_path, "down")
    for name in ("a", "b", "d/x", "d/y", "d/e/z", "both/in"):
        write(down.source / name)
    write(down.target / "a", "old")
    write(down.target / "both" / "in", "old")
    for path in (down.target / "both" / "in", down.target / "both", down.target):
        if os.geteuid():
            pytest.skip("only root can give files away")
        os.chown(path, 1234, 1234)

    summary = down.sync()

    reported = [path for _, _, path in down.reported.errors]
    assert reported == ["", "a", "b", "both", "both/in", "d"]
    assert summary.exit_code == 6


def test_a_directory_that_is_made_the_next_time_gets_what_is_in_it(
    client, server, files, tmp_path, monkeypatch
):
    from ftpserver.storage.permissions import Permissions

    up = Mirror(client, files, tmp_path, "up")
    write(up.source / "d" / "x")
    server.accounts.change("alice", permissions=Permissions.parse("all /there/d=read-only"))
    client.close()
    assert up.sync().failed == 1
    server.accounts.change("alice", permissions=Permissions())
    client.close()
    assert up.sync().failed == 0
    up.check()


# deleting first -------------------------------------------------------------------------------


def test_what_does_not_fit_offers_to_delete_first(server, client, files, tmp_path):
    up = Mirror(client, files, tmp_path, "up")
    server.accounts.change("alice", quota=1_000_000)
    write(up.source / "new", b"n" * 700_000)
    (up.target).mkdir()
    client.put([write(tmp_path / "old", b"o" * 700_000)], "/there/old")
    with pytest.raises(QuotaExceeded) as caught:
        up.sync(delete=True)
    assert str(caught.value).endswith(
        "nothing was changed (--delete-before deletes 683.6 KiB first)"
    )
    with pytest.raises(QuotaExceeded) as caught:
        up.sync()
    assert str(caught.value).endswith("nothing was changed")
    summary = up.sync(delete=True, delete_before=True)
    assert (summary.sent, summary.deleted, summary.failed) == (1, 1, 0)
    up.check(delete=True, delete_before=True)


@pytest.mark.parametrize(
    "options", [{"max_delete": 0}, {"confirm": lambda plan: False}], ids=["max", "confirm"]
)
def test_deleting_first_has_the_same_limits(mirror, options):
    write(mirror.source / "new")
    write(mirror.target / "old")
    with pytest.raises(SafetyLimit):
        mirror.sync(delete=True, delete_before=True, **options)
    assert (mirror.target / "old").exists() and not (mirror.target / "new").exists()


def test_deleting_first_with_renames_and_another_type(mirror):
    write(mirror.source / "d" / "moved", b"m" * 5000)
    write(mirror.source / "file")
    write(mirror.source / "new" / "n")
    write(mirror.target / "gone" / "was", b"m" * 5000)
    write(mirror.target / "gone" / "other")
    write(mirror.target / "file" / "inner")
    mirror.sync(delete=True, delete_before=True)
    mirror.check(delete=True, delete_before=True)


def test_deleting_first_still_needs_a_whole_source(mirror):
    write(mirror.target / "old")
    mirror.source.mkdir(exist_ok=True)
    with pytest.raises(SafetyLimit):
        mirror.sync(delete=True, delete_before=True)
