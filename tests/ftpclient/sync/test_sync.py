"""Mirroring trees in both directions, on a real server in this process."""

from __future__ import annotations

import os
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import SHUT_RDWR, SO_LINGER, SOL_SOCKET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftpclient.cli import main
from ftpclient.cli.app import App
from ftpclient.connection.interrupt import Interrupt
from ftpclient.sync.job import Options, SyncSummary
from ftpclient.transfer.listing import Listing
from ftpclient.transfer.placing import partial_name
from ftpclient.transfer.report import Listener, Result
from ftpserver.storage.digest_xattr import digest_by_name
from ftpserver.storage.permissions import Permissions
from ftpwire import digests, paths
from ftpwire.errors import (
    BadMessage,
    ConnectionLost,
    Interrupted,
    InvalidPath,
    NotADirectory,
    NotFound,
    QuotaExceeded,
    SafetyLimit,
)
from ftpwire.frames import Kind
from ftpwire.messages import Entry, Found, List, Listed, Page
from tests.system import trees

TIME = 1_600_000_000_123_456_789


@dataclass
class Recording(Listener):
    """Keeps all that a sync tells."""

    results: list[Result] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def remark(self, text: str) -> None:
        self.remarks.append(text)

    def finished(self, result: Result) -> None:
        self.results.append(result)

    @property
    def actions(self) -> list[tuple[str, str]]:
        """What was done, or is planned: action and path, sorted."""
        return sorted(
            (r.step.action, os.fsdecode(r.step.path))
            for r in self.results
            if r.step is not None and r.status in ("done", "planned")
        )

    @property
    def errors(self) -> list[tuple[str, str, str]]:
        """What was not done: status, code and path."""
        return sorted(
            (r.status, r.error.code, os.fsdecode(r.step.path))
            for r in self.results
            if r.error is not None and r.step is not None
        )


class Mirror:
    """A tree, and what it is mirrored to: `up` to the server, or `down` from it."""

    def __init__(self, client, files: Path, place: Path, direction: str) -> None:
        self.client = client
        here, there = place / "here", files / "there"
        self.upload = direction == "up"
        self.source, self.target = (here, there) if self.upload else (there, here)
        self.source.mkdir(parents=True)
        self.reported = Recording()
        self._names = (str(here), ":/there") if self.upload else (":/there", str(here))

    def sync(self, **options) -> SyncSummary:
        """Mirror; what was told is in `told`."""
        confirm = options.pop("confirm", None)
        self.reported = Recording()
        return self.client.sync(
            *self._names, Options(**options), listener=self.reported, confirm=confirm
        )

    def check(self, **options) -> None:
        """The trees are the same, and a second sync has nothing to do."""
        trees.same(self.source, self.target)
        summary = self.sync(**options)
        assert self.reported.results == []
        assert summary.sent == summary.attributes == summary.size == summary.exit_code == 0


@pytest.fixture(params=["up", "down"])
def mirror(client, files, tmp_path, request) -> Mirror:
    return Mirror(client, files, tmp_path, request.param)


@pytest.fixture
def up(client, files, tmp_path) -> Mirror:
    return Mirror(client, files, tmp_path, "up")


@pytest.fixture
def down(client, files, tmp_path) -> Mirror:
    return Mirror(client, files, tmp_path, "down")


def write(path: Path, data: bytes | str = b"some bytes", *, time: int = TIME) -> Path:
    """A file with a fixed time, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    os.utime(path, ns=(time, time))
    return path


def link(path: Path, target: str) -> None:
    os.symlink(target, path)
    os.utime(path, ns=(TIME, TIME), follow_symlinks=False)


def some_tree(root: Path) -> None:
    """Files, links and directories with this and that."""
    write(root / "file", "its bytes")
    write(root / "empty", b"")
    write(root / "d" / "inner" / "deep", "x" * 300_000).chmod(0o640)
    write(root / "d" / "tool").chmod(0o755)
    (root / "d" / "nothing").mkdir()
    (root / "closed").mkdir()
    link(root / "link", "d/inner")
    link(root / "dangling", "/no where")
    (root / "closed").chmod(0o555)
    for name in ("d/inner", "d/nothing", "d", "closed", "."):
        os.utime(root / name, ns=(TIME, TIME))


def actions(text: str) -> list[tuple[str, str]]:
    """As `Told.actions`, from lines."""
    return sorted((one.split()[0], one.split()[1]) for one in text.split(","))


# the same in the end -------------------------------------------------------------------------


def test_a_new_tree(mirror):
    some_tree(mirror.source)

    summary = mirror.sync()

    assert (summary.sent, summary.directories, summary.failed) == (6, 5, 0)
    assert summary.size == 9 + 300_000 + 10
    mirror.check()


def test_a_tree_into_an_empty_directory(mirror):
    some_tree(mirror.source)
    mirror.target.mkdir()

    assert mirror.sync(delete=True).directories == 4
    mirror.check(delete=True)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(lambda s: write(s / "file", "longer bytes"), "act file", id="size"),
        pytest.param(lambda s: write(s / "file", "its bytez", time=5), "act file", id="time"),
        pytest.param(lambda s: os.utime(s / "file", ns=(1, TIME + 1)), "act file", id="one-ns"),
        pytest.param(lambda s: (s / "file").chmod(0o600), "attributes file", id="mode"),
        pytest.param(lambda s: (s / "d").chmod(0o700), "attributes d", id="directory-mode"),
        pytest.param(lambda s: s.chmod(0o750), "attributes ", id="root-mode"),
        pytest.param(lambda s: write(s / "d/tool", b"other"), "act d/tool", id="deeper"),
        pytest.param(lambda s: write(s / "empty", b"not any more"), "act empty", id="filled"),
        pytest.param(
            lambda s: os.utime(s / "closed", ns=(1, 2)), "attributes closed", id="directory-time"
        ),
    ],
)
def test_only_what_differs(mirror, change, expected):
    some_tree(mirror.source)
    mirror.sync()
    change(mirror.source)

    summary = mirror.sync()

    action, _, path = expected.partition(" ")
    if expected == "attributes " and not mirror.upload:
        # no server sets the mode of a directory that was named
        assert mirror.reported.actions == []
        return
    assert mirror.reported.actions == [
        (action.replace("act", "put" if mirror.upload else "get"), path)
    ]
    assert summary.unchanged == (5 if path in ("file", "empty", "d/tool") else 6)
    mirror.check()


def test_a_link_is_compared_by_its_target(mirror):
    some_tree(mirror.source)
    mirror.sync()
    (mirror.source / "link").unlink()
    link(mirror.source / "link", "d/other")
    os.utime(mirror.source, ns=(TIME, TIME))

    mirror.sync()

    assert os.readlink(mirror.target / "link") == "d/other"
    assert len(mirror.reported.results) == 1
    os.utime(mirror.source / "link", ns=(3, 3), follow_symlinks=False)
    mirror.sync()
    assert mirror.reported.results == []


def test_new_things_in_a_closed_directory(plain_user, mirror):
    some_tree(mirror.source)
    mirror.sync()
    (mirror.source / "closed").chmod(0o755)
    write(mirror.source / "closed" / "new" / "file")
    (mirror.source / "closed" / "new").chmod(0o500)
    (mirror.source / "closed").chmod(0o555)

    mirror.sync()
    mirror.check()

    (mirror.source / "closed").chmod(0o755)
    (mirror.source / "closed" / "new").chmod(0o755)
    (mirror.source / "closed" / "new" / "file").unlink()
    (mirror.source / "closed" / "new").rmdir()
    (mirror.source / "closed").chmod(0o555)
    assert mirror.sync(delete=True).deleted == 2
    mirror.check(delete=True)


def test_extra_things_stay_without_delete(mirror):
    some_tree(mirror.source)
    mirror.sync()
    write(mirror.target / "extra")
    write(mirror.target / "more" / "of" / "it")
    (mirror.target / "d" / "tool").unlink()

    mirror.sync()

    assert (mirror.target / "extra").exists() and (mirror.target / "more/of/it").exists()
    assert (mirror.target / "d" / "tool").exists()


def test_delete(mirror):
    some_tree(mirror.source)
    mirror.sync()
    write(mirror.target / "extra", "12345")
    write(mirror.target / "more" / "of" / "it", "123")
    (mirror.target / "more").chmod(0o500)
    link(mirror.target / "d" / "link", "..")
    write(mirror.target / "d" / "inner" / "extra", "1")

    summary = mirror.sync(delete=True)

    assert [one for one in mirror.reported.actions if one[0] == "delete"] == actions(
        "delete extra,delete more,delete d/link,delete d/inner/extra"
    )
    assert summary.deleted == 6
    assert {r.step.count for r in mirror.reported.results if r.step.path == b"more"} == {3}
    mirror.check(delete=True)


def test_many_files_in_one_directory(mirror):
    """More than one page of a listing, and more than are looked at between two polls."""
    mirror.source.mkdir(exist_ok=True)
    for number in range(2500):
        (mirror.source / f"a name that is not short {number}").touch()

    assert mirror.sync().sent == 2500
    mirror.check()


def test_into_the_home_itself(client, files, tmp_path):
    some_tree(tmp_path / "here")
    before = stat.S_IMODE(files.stat().st_mode) if files.exists() else 0o700

    client.sync(tmp_path / "here", ":/", Options(delete=True))

    assert stat.S_IMODE(files.stat().st_mode) == before
    reported = Recording()
    client.sync(tmp_path / "here", ":/", Options(delete=True), listener=reported)
    assert reported.results == []
    client.sync(":/", tmp_path / "back", listener=reported)
    assert trees.names(tmp_path / "back") == trees.names(tmp_path / "here")


def test_relative_remote_paths_start_at_the_current_directory(client, files, tmp_path):
    write(tmp_path / "here" / "file")
    client.make_dir("/work")
    client.change_dir("/work")

    client.sync(str(tmp_path / "here"), ":site/new")

    assert (files / "work" / "site" / "new" / "file").exists()


def test_roots_that_are_links_are_followed(client, files, tmp_path):
    write(tmp_path / "here" / "file")
    link(tmp_path / "to-here", "here")
    client.make_dir("/real")
    link(files / "to-real", "real")

    client.sync(tmp_path / "to-here", ":/to-real")

    assert (files / "real" / "file").exists() and (files / "to-real").is_symlink()
    (tmp_path / "back").mkdir()
    link(tmp_path / "to-back", "back")
    client.sync(":/to-real", tmp_path / "to-back")
    assert (tmp_path / "back" / "file").exists() and (tmp_path / "to-back").is_symlink()


@pytest.mark.parametrize(
    ("source", "target", "error"),
    [
        pytest.param("HERE/none", ":/there", NotFound, id="no-local-source"),
        pytest.param(":/none", "HERE/new", NotFound, id="no-remote-source"),
        pytest.param("HERE/file", ":/there", NotADirectory, id="local-file"),
        pytest.param(":/file", "HERE/new", NotADirectory, id="remote-file"),
        pytest.param("HERE", ":/file", NotADirectory, id="to-a-remote-file"),
        pytest.param(":/", "HERE/file", NotADirectory, id="to-a-local-file"),
        pytest.param(":/", "HERE/dangling", NotFound, id="to-a-dangling-link"),
        pytest.param("HERE", "HERE", InvalidPath, id="both-local"),
        pytest.param(":/a", ":/b", InvalidPath, id="both-remote"),
        pytest.param("HERE", ":", InvalidPath, id="nothing-after-the-colon"),
        pytest.param("", ":/b", InvalidPath, id="nothing-local"),
    ],
)
def test_roots_that_can_not_be(client, files, tmp_path, source, target, error):
    write(tmp_path / "here" / "file")
    link(tmp_path / "here" / "dangling", "nowhere")
    write(files / "file")
    client.whoami()
    client.list_dir("/").__next__()
    before = trees.names(tmp_path / "here"), trees.names(files)

    with pytest.raises(error):
        client.sync(*(one.replace("HERE", str(tmp_path / "here")) for one in (source, target)))

    assert (trees.names(tmp_path / "here"), trees.names(files)) == before
    assert client.whoami() == "alice"


# any tree ------------------------------------------------------------------------------------

_names = st.sampled_from([b"a", b"b", b"c", b"\xff", b"a\nb", b"-n", b" ", b"*", "é".encode()])
_content = st.one_of(
    st.tuples(st.just("file"), st.sampled_from([b"", b"x", b"y", b"xx"]), st.integers(1, 3)),
    st.tuples(st.just("link"), st.sampled_from([b"a", b"../b", b"/etc"]), st.just(1)),
    st.tuples(st.just("dir"), st.just(b""), st.integers(1, 3)),
)
_trees = st.dictionaries(st.lists(_names, min_size=1, max_size=3).map(b"/".join), _content)


def plant(root: bytes, tree: dict[bytes, tuple[str, bytes, int]]) -> None:
    """Make what can be made of a random tree."""
    os.makedirs(root, exist_ok=True)
    for path in sorted(tree):
        kind, data, variant = tree[path]
        full = root + b"/" + path
        try:
            os.makedirs(os.path.dirname(full), exist_ok=True)
            if kind == "dir":
                os.mkdir(full)
            elif kind == "link":
                os.symlink(data, full)
            else:
                with open(full, "xb") as file:
                    file.write(data)
        except OSError:
            continue  # something else is in its way
        if kind != "link":
            os.chmod(full, (0o644, 0o600, 0o755)[variant - 1] | (0o700 if kind == "dir" else 0))
    for directory, _, files in os.walk(root, topdown=False):
        for name in [*files, b"."]:
            path = os.path.join(directory, name)
            variant = (tree.get(os.path.relpath(path, root)) or ("", b"", 1))[2]
            os.utime(path, ns=(variant, variant * 10**9 + variant), follow_symlinks=False)


@settings(
    max_examples=settings().max_examples // 2,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(first=_trees, second=_trees, checksum=st.booleans())
@pytest.mark.parametrize("direction", ["up", "down"])
def test_any_tree(client, files, tmp_path, direction, first, second, checksum):
    number = len(os.listdir(tmp_path))
    here, there = tmp_path / f"here{number}", files / f"there{number}"
    source, target = (here, there) if direction == "up" else (there, here)
    names = (here, f":/there{number}") if direction == "up" else (f":/there{number}", here)
    plant(os.fsencode(source), first)
    plant(os.fsencode(target), second)
    options = Options(delete=True, force=True, checksum=checksum)
    reported = Recording()

    summary = client.sync(*names, options, listener=reported)

    assert summary.failed == 0, reported.errors
    # of links, only the target is compared
    found = [line for line in trees.differences(source, target) if not is_about_link(target, line)]
    if not checksum:  # files of the same size and time are taken for the same
        found = [line for line in found if not line.endswith(": other bytes")]
    assert not found
    reported = Recording()
    client.sync(*names, options, listener=reported)
    assert reported.results == []


def is_about_link(root: Path, line: str) -> bool:
    shown = line.rpartition(": mtime")[0]
    return bool(shown) and os.path.islink(os.fsencode(root) + b"/" + eval(shown))


# planning ------------------------------------------------------------------------------------


def test_a_dry_run_changes_nothing(mirror):
    some_tree(mirror.source)
    mirror.sync()
    write(mirror.source / "new" / "file")
    write(mirror.source / "file", "changed")
    (mirror.source / "d" / "tool").chmod(0o700)
    (mirror.source / "d" / "inner" / "deep").unlink()
    write(mirror.source / "closed-no-more", "1")
    before = trees.names(mirror.target), mirror.target.stat().st_mtime_ns

    planned = mirror.sync(delete=True, dry_run=True)
    plan = mirror.reported.actions

    assert {r.status for r in mirror.reported.results} == {"planned"}
    assert (trees.names(mirror.target), mirror.target.stat().st_mtime_ns) == before
    done = mirror.sync(delete=True)
    assert mirror.reported.actions == plan
    assert (planned.sent, planned.size, planned.deleted) == (done.sent, done.size, done.deleted)
    assert planned.dry_run and not done.dry_run
    mirror.check(delete=True)


def test_a_dry_run_makes_no_root(mirror):
    some_tree(mirror.source)
    mirror.sync(dry_run=True)
    assert not mirror.target.exists()
    assert ("mkdir", "") in mirror.reported.actions


@pytest.mark.parametrize("options", [{}, {"delete": True}, {"checksum": True}], ids=str)
def test_a_second_run_asks_nothing_about_files(mirror, monkeypatch, options):
    for number in range(50):
        write(mirror.source / f"d{number % 5}" / f"file{number}", str(number))
    mirror.sync()
    requests = []
    submit = type(mirror.client.connection).submit

    def counting(self, call, request, cost=0):
        requests.append(type(request).__name__)
        submit(self, call, request, cost)

    monkeypatch.setattr(type(mirror.client.connection), "submit", counting)
    if options.get("checksum") and not mirror.upload:
        mirror.sync(checksum=True)  # what no client has stored has no digest yet
        requests.clear()
    mirror.sync(**options)
    assert requests == ["Stat", "List"]


def test_troubles_do_not_keep_the_rest(mirror):
    os.mkfifo(mirror.source / "fifo")
    write(mirror.source / "file")

    summary = mirror.sync()

    assert mirror.reported.errors == [("skipped", "not-regular", "fifo")]
    assert (summary.skipped, summary.sent, summary.exit_code) == (1, 1, 0)
    assert not os.path.lexists(mirror.target / "fifo")


def test_a_fifo_spares_what_has_its_name(mirror):
    os.mkfifo(mirror.source / "name")
    write(mirror.target / "name")
    write(mirror.target / "other")

    mirror.sync(delete=True)

    assert (mirror.target / "name").is_file() and not (mirror.target / "other").exists()


def test_update_leaves_newer_files(mirror):
    write(mirror.source / "older", "source", time=TIME)
    write(mirror.target / "older", "target!", time=TIME + 1)
    write(mirror.source / "newer", "source", time=TIME)
    write(mirror.target / "newer", "target!", time=TIME - 1)
    write(mirror.source / "same", "source", time=TIME)
    write(mirror.target / "same", "target!", time=TIME)

    summary = mirror.sync(update=True)

    assert (mirror.target / "older").read_text() == "target!"
    assert (mirror.target / "newer").read_text() == "source"
    assert (mirror.target / "same").read_text() == "source"
    assert mirror.reported.errors == [("skipped", "not-newer", "older")]
    assert summary.exit_code == 0


# digests -------------------------------------------------------------------------------------


def test_checksum_finds_what_times_hide(mirror):
    write(mirror.source / "d" / "file", "one")
    mirror.sync()
    write(mirror.source / "d" / "file", "two")
    write(mirror.source / "same", "same")
    write(mirror.target / "same", "same", time=TIME + 1)

    mirror.sync(dry_run=True)
    assert ("attributes", "d") not in mirror.reported.actions
    mirror.sync(checksum=True)

    verb = "put" if mirror.upload else "get"
    assert (verb, "d/file") in mirror.reported.actions
    assert ("attributes", "same") in mirror.reported.actions
    assert (mirror.target / "d" / "file").read_text() == "two"
    mirror.check(checksum=True)


def test_checksum_uses_the_kept_digest(up, monkeypatch):
    write(up.source / "file", "one")
    up.sync()
    (up.target / "file").write_bytes(b"two")  # behind the server's back
    os.utime(up.target / "file", ns=(TIME, TIME))

    up.sync(checksum=True)
    assert up.reported.results == []  # its digest is believed: `ftpd scrub` finds this

    write(up.target / "file", "two", time=TIME + 1)  # a stale digest is not
    up.sync(checksum=True)
    assert ("put", "file") in up.reported.actions


def test_a_new_time_keeps_the_digest(up):
    write(up.source / "file", "bytes")
    up.sync()
    write(up.source / "file", "bytes", time=TIME + 5)

    up.sync(checksum=True)

    assert up.reported.actions == [("attributes", "file")]
    fd = os.open(up.target, os.O_RDONLY)
    try:
        kept = digest_by_name(fd, b"file", (up.target / "file").stat())
    finally:
        os.close(fd)
    assert kept == digests.digest(b"bytes")


def test_a_file_that_can_not_be_hashed(plain_user, up):
    write(up.source / "file", "bytes")
    write(up.source / "other", "bytes")
    up.sync()
    (up.source / "file").chmod(0o000)

    summary = up.sync(checksum=True)

    assert up.reported.errors == [("failed", "forbidden", "file")]
    assert summary.exit_code == 6


# renamed files -------------------------------------------------------------------------------


def test_a_renamed_file_is_moved(up):
    write(up.source / "old" / "name", "x" * 1000).chmod(0o640)
    write(up.source / "stays")
    up.sync()
    inode = (up.target / "old" / "name").stat().st_ino
    (up.source / "new").mkdir()
    (up.source / "old" / "name").rename(up.source / "new" / "other")

    summary = up.sync(delete=True)

    assert (up.target / "new" / "other").stat().st_ino == inode
    assert (summary.renamed, summary.sent, summary.deleted, summary.size) == (1, 0, 0, 0)
    assert ("rename", "new/other") in up.reported.actions
    up.check(delete=True)


def test_a_renamed_file_with_other_attributes(up):
    write(up.source / "old", "x" * 1000)
    up.sync()
    (up.source / "old").unlink()
    write(up.source / "new", "x" * 1000, time=TIME + 7).chmod(0o600)

    assert up.sync(delete=True).renamed == 1
    up.check(delete=True)
    assert up.client.stat("/there/new", digest=True).digest == digests.digest(b"x" * 1000)


def test_a_renamed_directory(up):
    for number in range(5):
        write(up.source / "old" / f"f{number}", f"same size {number}")
    write(up.source / "old" / "gone", "another")
    up.sync()
    (up.source / "old" / "gone").unlink()
    (up.source / "old").rename(up.source / "new")

    summary = up.sync(delete=True, max_delete=2)

    assert (summary.renamed, summary.sent, summary.deleted) == (5, 0, 2)
    up.check(delete=True)


def test_renamed_files_with_the_same_bytes_keep_their_names(up):
    for name in ("a/one", "a/two", "a/three"):
        write(up.source / name, "equal")
    up.sync()
    (up.source / "a").rename(up.source / "b")

    assert up.sync(delete=True).renamed == 3
    moved = {(r.source, r.target) for r in up.reported.results if r.step.action == "rename"}
    assert moved == {(b"/there/a/" + n, b"/there/b/" + n) for n in (b"one", b"two", b"three")}


@pytest.mark.parametrize(
    "options",
    [pytest.param({}, id="without-delete"), pytest.param({"delete": True}, id="empty-files")],
)
def test_not_taken_for_renamed(up, options):
    data = b"" if options else b"x"
    write(up.source / "old", data)
    up.sync()
    (up.source / "old").rename(up.source / "new")

    assert up.sync(**options).renamed == 0
    assert (up.target / "new").exists()


@pytest.mark.parametrize("excludes", [False, True])
def test_what_stays_in_a_directory_that_is_not_all_known_is_no_rename(
    server, up, connect, excludes
):
    """It isn't deleted, and so it doesn't count as one deletion less: another one would pass."""
    write(up.target / "old" / "closed" / "file")
    write(up.target / "old" / "deep" / "name", "the same bytes")
    write(up.target / "extra")
    write(up.source / "new", "the same bytes")
    server.accounts.change("alice", permissions=Permissions.parse("/there/old/closed=none"))
    up.client = connect(server)
    up.client.hash("/there/old/deep/name")
    patterns = ((True, "nothing"),) if excludes else ()  # what may go of it goes one by one then
    count = "2 entries" if excludes else "1 entry"
    with pytest.raises(SafetyLimit, match=f"^{count} would be deleted"):
        up.sync(delete=True, max_delete=0, patterns=patterns)
    requested = []
    up.sync(
        delete=True, patterns=patterns, confirm=lambda plan: requested.append(plan.doomed) or True
    )
    assert not (up.target / "extra").exists()
    assert (up.target / "old" / "closed" / "file").exists()
    assert (up.target / "new").read_text() == "the same bytes"
    assert (up.target / "old" / "deep" / "name").exists() is not excludes
    assert requested


def test_what_is_in_the_way_is_no_rename(up):
    write(up.source / "thing" / "file", "the same bytes")
    up.sync()
    (up.source / "thing" / "file").rename(up.source / "file")
    (up.source / "thing").rmdir()
    (up.source / "file").rename(up.source / "thing")

    summary = up.sync(delete=True)

    assert (summary.renamed, summary.sent, summary.deleted) == (0, 1, 2)
    up.check(delete=True)


def test_a_rename_that_fails_is_sent(up, monkeypatch):
    write(up.source / "old", "x" * 1000)
    up.sync()
    (up.source / "old").rename(up.source / "new")
    submit = type(up.client.connection).submit

    def too_late(self, call, request, cost=0):
        if type(request).__name__ == "Move":
            (up.target / "old").unlink()
        submit(self, call, request, cost)

    monkeypatch.setattr(type(up.client.connection), "submit", too_late)
    summary = up.sync(delete=True)

    assert (summary.renamed, summary.sent, summary.failed) == (0, 1, 0)
    up.check(delete=True)


# types ---------------------------------------------------------------------------------------


def make(path: Path, kind: str) -> None:
    if kind == "dir":
        write(path / "inside" / "file", "12")
        write(path / "beside", "345")
    elif kind == "link":
        link(path, "elsewhere")
    else:
        write(path, "a file's bytes")


@pytest.mark.parametrize("kinds", ["file dir", "dir file", "dir link", "link dir", "file link",
                                   "link file"])  # fmt: skip
def test_another_type(mirror, kinds):
    before, after = kinds.split()
    write(mirror.source / "other")
    make(mirror.source / "thing", before)
    mirror.sync()
    trees.remove(mirror.source / "thing") if before == "dir" else (mirror.source / "thing").unlink()
    make(mirror.source / "thing", after)
    write(mirror.source / "other", "also changed")

    summary = mirror.sync()

    assert mirror.reported.errors == [("failed", "exists", "thing")]
    assert "--delete" in str(summary.first_error)
    assert summary.exit_code == 1
    assert (mirror.target / "other").read_text() == "also changed"
    assert mirror.sync(delete=True).failed == 0
    mirror.check(delete=True)


def test_a_special_file_is_replaced(mirror):
    write(mirror.source / "thing")
    mirror.target.mkdir()
    os.mkfifo(mirror.target / "thing")

    assert mirror.sync().failed == 1
    assert mirror.sync(delete=True).failed == 0
    mirror.check(delete=True)


def test_another_type_counts_as_deletion(mirror):
    make(mirror.source / "thing", "file")
    make(mirror.target / "thing", "dir")

    with pytest.raises(SafetyLimit, match="4 entries"):
        mirror.sync(delete=True, max_delete=3)
    assert (mirror.target / "thing" / "beside").exists()
    assert mirror.sync(delete=True, max_delete=4).deleted == 4


# what is left out ----------------------------------------------------------------------------


def test_left_out_means_neither_sent_nor_deleted(mirror):
    for root in (mirror.source, mirror.target):
        write(root / "keep.tmp", root.name)
        write(root / "cache" / "x", root.name)
        write(root / f"only-{root.name}.tmp")
        write(root / f"only-{root.name}.txt")
        write(root / f"d-{root.name}" / "x.tmp")
        write(root / f"d-{root.name}" / "x.txt")

    mirror.sync(delete=True, patterns=((True, "*.tmp"), (True, "cache/")))

    here, there = mirror.source.name, mirror.target.name
    assert trees.names(mirror.target) == {
        name.encode()
        for name in (
            "keep.tmp",
            "cache",
            "cache/x",
            f"only-{there}.tmp",
            f"only-{here}.txt",
            f"d-{there}",
            f"d-{there}/x.tmp",
            f"d-{here}",
            f"d-{here}/x.txt",
        )
    }
    assert (mirror.target / "keep.tmp").read_text() == there


def test_include_after_exclude(mirror):
    write(mirror.source / "a.tmp")
    write(mirror.source / "b.tmp")
    mirror.sync(patterns=((True, "*.tmp"), (False, "b.tmp")))
    assert trees.names(mirror.target) == {b"b.tmp"}


def test_ftpignore_files(mirror):
    write(mirror.source / ".ftpignore", "*.o\n/top\n")
    write(mirror.source / "a.o")
    write(mirror.source / "top")
    write(mirror.source / "d" / ".ftpignore", "!b.o\nlocal\n")
    write(mirror.source / "d" / "a.o")
    write(mirror.source / "d" / "b.o")
    write(mirror.source / "d" / "top")
    write(mirror.source / "d" / "local")
    write(mirror.source / "e" / "local")
    for name in ("x.o", "d/y.o", "f/z.o", "f/other"):
        write(mirror.target / name)

    mirror.sync(delete=True)

    kept = {b"x.o", b"d/y.o", b"f", b"f/z.o"}
    assert trees.names(mirror.target) == kept | {
        b".ftpignore",
        b"d",
        b"d/.ftpignore",
        b"d/b.o",
        b"d/top",
        b"e",
        b"e/local",
    }
    mirror.sync(delete=True)
    assert mirror.reported.results == []


def test_an_ftpignore_file_of_the_target_means_nothing(mirror):
    write(mirror.source / "a.o")
    write(mirror.target / ".ftpignore", "*.o")
    mirror.sync()
    assert (mirror.target / "a.o").exists()


def test_an_ftpignore_file_that_is_a_link_means_nothing(mirror):
    write(mirror.source / "rules", "*.o")
    link(mirror.source / ".ftpignore", "rules")
    write(mirror.source / "a.o")
    mirror.sync()
    assert (mirror.target / "a.o").exists()


def test_an_ftpignore_file_that_is_too_large(mirror):
    write(mirror.source / "d" / ".ftpignore", b"x\n" * 600_000)
    write(mirror.source / "d" / "secret")
    write(mirror.source / "other")
    write(mirror.target / "d" / "extra")

    summary = mirror.sync()

    assert trees.names(mirror.target) == {b"d", b"d/extra", b"other"}
    assert summary.failed == 1
    with pytest.raises(SafetyLimit):
        write(mirror.target / "more")
        mirror.sync(delete=True)


def test_a_directory_in_the_way_with_something_to_keep(mirror):
    write(mirror.source / "thing")
    write(mirror.target / "thing" / "keep.tmp")
    write(mirror.target / "thing" / "extra")
    write(mirror.source / "other")

    summary = mirror.sync(delete=True, patterns=((True, "*.tmp"),))

    assert mirror.reported.errors == [("failed", "exists", "thing")]
    assert trees.names(mirror.target) >= {b"thing/keep.tmp", b"thing/extra", b"other"}
    assert summary.exit_code == 1


# safety --------------------------------------------------------------------------------------


@contextmanager
def nothing_changes(mirror: Mirror) -> Iterator[None]:
    before = trees.names(mirror.target)
    times = mirror.target.stat().st_mtime_ns
    yield
    assert (trees.names(mirror.target), mirror.target.stat().st_mtime_ns) == (before, times)


def test_max_delete(mirror):
    write(mirror.source / "new")
    for number in range(3):
        write(mirror.target / f"d{number}" / "file")

    with nothing_changes(mirror), pytest.raises(SafetyLimit, match="6 entries.*--max-delete is 5"):
        mirror.sync(delete=True, max_delete=5)
    with nothing_changes(mirror), pytest.raises(SafetyLimit):
        mirror.sync(delete=True, max_delete=5, force=True)
    with nothing_changes(mirror), pytest.raises(SafetyLimit):
        mirror.sync(delete=True, max_delete=5, dry_run=True)
    assert mirror.sync(delete=True, max_delete=6).deleted == 6
    mirror.check(delete=True, max_delete=0)


def test_an_empty_source(mirror):
    write(mirror.target / "file")

    with nothing_changes(mirror), pytest.raises(SafetyLimit, match="is empty") as raised:
        mirror.sync(delete=True)
    assert raised.value.exit_code == 11
    assert mirror.sync().exit_code == 0
    assert mirror.sync(delete=True, force=True).deleted == 1


def test_an_empty_source_and_an_empty_target(mirror):
    mirror.target.mkdir()
    assert mirror.sync(delete=True).exit_code == 0


def test_a_source_of_which_all_is_left_out_is_empty(mirror):
    write(mirror.source / "a.tmp")
    write(mirror.target / "file")
    with nothing_changes(mirror), pytest.raises(SafetyLimit, match="is empty"):
        mirror.sync(delete=True, patterns=((True, "*.tmp"),))


def test_an_unreadable_source(plain_user, mirror):
    write(mirror.source / "closed" / "file")
    write(mirror.source / "new")
    write(mirror.target / "closed" / "file")
    write(mirror.target / "closed" / "other")
    write(mirror.target / "extra")
    (mirror.source / "closed").chmod(0o000)

    with nothing_changes(mirror), pytest.raises(SafetyLimit, match="part of"):
        mirror.sync(delete=True)
    assert mirror.reported.errors == [("failed", "forbidden", "closed")]

    summary = mirror.sync()
    assert (mirror.target / "new").exists()
    assert summary.exit_code == 1
    (mirror.target / "closed").chmod(0o700)
    assert mirror.sync(delete=True, force=True).deleted == 1
    (mirror.target / "closed").chmod(0o700)
    assert trees.names(mirror.target / "closed") == {b"file", b"other"}
    (mirror.source / "closed").chmod(0o700)


def done(mirror: Mirror) -> set[tuple[str, str]]:
    """What was done but for modes and times."""
    return {one for one in mirror.reported.actions if one[0] != "attributes"}


@pytest.mark.parametrize("rights", ["upload-only", "none"])
def test_what_may_not_be_listed_is_not_taken_for_empty(server, mirror, connect, rights):
    """Nothing in it is deleted, or sent again; and what else would be deleted from here stays."""
    for root in (mirror.source, mirror.target):
        write(root / "in" / "file", f"of {root.name}")
        write(root / "in" / "deep" / "more", f"of {root.name}")
    write(mirror.source / "new")
    write(mirror.target / "extra")
    server.accounts.change("alice", permissions=Permissions.parse(f"/there/in={rights}"))
    mirror.client = connect(server)
    if mirror.upload:
        assert mirror.sync(delete=True).exit_code == 1
        assert done(mirror) == {("delete", "extra"), ("put", "new")}
    else:
        with pytest.raises(SafetyLimit, match="part of .* could not be read"):
            mirror.sync(delete=True)
        assert mirror.reported.actions == []
    assert mirror.reported.errors == [("failed", "forbidden", "in")]
    assert (mirror.target / "in" / "file").read_text() == f"of {mirror.target.name}"
    assert (mirror.target / "in" / "deep" / "more").exists()
    if not mirror.upload:
        assert mirror.sync(delete=True, force=True).exit_code == 1
        assert done(mirror) == {("delete", "extra"), ("get", "new")}
        assert (mirror.target / "in" / "deep" / "more").exists()
    summary = mirror.sync(delete=True, patterns=((True, "in"),))
    assert (summary.exit_code, mirror.reported.errors) == (0, [])


def test_an_unreadable_target(plain_user, mirror):
    write(mirror.source / "closed" / "file")
    write(mirror.source / "new")
    write(mirror.target / "closed" / "file")
    write(mirror.target / "extra")
    (mirror.target / "closed").chmod(0o000)

    summary = mirror.sync(delete=True)

    (mirror.target / "closed").chmod(0o700)
    assert ("failed", "forbidden", "closed") in mirror.reported.errors
    assert (summary.sent, summary.deleted, summary.exit_code) == (1, 1, 1)


def test_nothing_is_deleted_after_a_failed_transfer(plain_user, up):
    write(up.source / "good")
    write(up.source / "bad").chmod(0o000)
    write(up.target / "extra")

    summary = up.sync(delete=True)

    assert (up.target / "extra").exists() and (up.target / "good").exists()
    assert up.reported.errors == [("failed", "forbidden", "bad"), ("failed", "safety-limit", "")]
    assert summary.exit_code == 11
    assert up.sync(delete=True, force=True).deleted == 1


def test_confirming(mirror):
    write(mirror.source / "new")
    write(mirror.target / "extra", "12345")
    seen = []

    def answer(plan):
        seen.append((plan.doomed, plan.doomed_size, [step.path for step in plan.deletions]))
        return len(seen) > 1

    with nothing_changes(mirror), pytest.raises(SafetyLimit, match="nothing was changed"):
        mirror.sync(delete=True, confirm=answer)
    assert mirror.sync(delete=True, confirm=answer).deleted == 1
    assert seen == [(1, 5, [b"extra"])] * 2
    mirror.sync(delete=True, confirm=answer)
    assert len(seen) == 2  # nothing to delete, nothing to ask


def test_what_can_not_fit_is_refused_at_once(start_server, connect, tmp_path):
    server = start_server(quota=1000)
    client = connect(server)
    write(tmp_path / "here" / "a", "x" * 600)
    client.sync(tmp_path / "here", ":/there")
    write(tmp_path / "here" / "b", "y" * 300)
    write(tmp_path / "here" / "c", "y" * 300)

    with pytest.raises(QuotaExceeded, match="600 B needed, 400 B free of a quota of "):
        client.sync(tmp_path / "here", ":/there")
    assert trees.names(server.settings.root / "alice" / "there") == {b"a"}
    (tmp_path / "here" / "c").unlink()
    assert client.sync(tmp_path / "here", ":/there").sent == 1


# odd things ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b"\xff\xfe", id="no-text"),
        pytest.param(b"a\nb", id="newline"),
        pytest.param(b"\x1b[31mred", id="escape"),
        pytest.param(b" ", id="blank"),
        pytest.param(b"n" * 255, id="longest"),
        pytest.param(b"-rf", id="option"),
        pytest.param(b":colon", id="colon"),
        pytest.param(b"back\\slash", id="backslash"),
        pytest.param(b"...", id="dots"),
    ],
)
def test_odd_names(mirror, name):
    write(mirror.source / os.fsdecode(name) / os.fsdecode(name))
    mirror.sync()
    mirror.check(delete=True)
    write(mirror.target / os.fsdecode(name) / "extra")
    mirror.sync(delete=True)
    mirror.check(delete=True)


@pytest.mark.parametrize("name", [".ftpd-staging", ".ftpd-trash"])
def test_the_reserved_name_is_passed_over(up, name):
    write(up.source / "d" / name)
    write(up.source / "d" / "file")

    summary = up.sync(delete=True)

    assert up.reported.errors == [("skipped", "invalid-path", f"d/{name}")]
    assert (summary.exit_code, trees.names(up.target)) == (0, {b"d", b"d/file"})


@pytest.mark.parametrize("name", [".ftpd-staging", ".ftpd-trash"])
def test_a_local_directory_with_the_reserved_name_can_be_deleted(down, name):
    write(down.source / "file")
    write(down.target / name / "file")
    assert down.sync(delete=True).deleted == 2
    down.check(delete=True)


def test_times_beyond_what_can_be_reported(mirror):
    late = 2**63 + 10**9
    write(mirror.source / "late")
    (mirror.source / "d").mkdir()
    os.utime(mirror.source / "d", ns=(late, late))
    os.utime(mirror.source / "late", ns=(late, late))
    if (mirror.source / "late").stat().st_mtime_ns != late:
        pytest.skip("this file system has no such times")

    summary = mirror.sync()

    assert summary.failed == (1 if mirror.upload else 0)
    assert (mirror.target / "d").stat().st_mtime_ns == 2**63 - 1
    if mirror.upload:
        assert mirror.reported.errors == [("failed", "failed", "late")]


def test_deep_trees(mirror):
    deep = mirror.source
    for _ in range(200):
        deep = deep / "d"
    write(deep / "file")
    mirror.sync()
    mirror.check()


def test_what_an_interrupted_download_has_left(up, down_after=TIME):
    recent = os.fsdecode(partial_name((b"file",)))
    write(up.source / recent, time=2**62)
    write(up.source / "file")
    up.sync()
    assert trees.names(up.target) == {b"file"}


def test_partial_files_are_spared_for_a_day(down):
    recent = os.fsdecode(partial_name((b"one",)))
    old = os.fsdecode(partial_name((b"two",)))
    write(down.source / "file")
    (down.target).mkdir()
    (down.target / recent).write_bytes(b"half")
    write(down.target / old)

    assert down.sync(delete=True).deleted == 1
    assert trees.names(down.target) == {b"file", os.fsencode(recent)}


def test_links_in_the_destination_are_not_followed(down, canary):
    write(down.source / "d" / "secret", "from the server")
    write(down.source / "d" / "inside" / "deeper", "from the server")
    down.target.mkdir()
    os.symlink(canary, down.target / "d")

    assert down.sync().failed == 1
    assert down.sync(delete=True).failed == 0

    assert not (down.target / "d").is_symlink()
    down.check(delete=True)
    os.symlink(canary, down.target / "extra")
    (down.target / "more").mkdir()
    os.symlink(canary, down.target / "more" / "link")
    assert down.sync(delete=True).deleted == 3


@pytest.mark.parametrize("name", [b"..", b"../x", b"a/b", b".", b"", b"/etc/x", b"a\0b"])
@pytest.mark.parametrize("kind", ["file", "dir", "link"])
def test_a_server_that_sends_bad_names(fake, connect, tmp_path, canary, name, kind):
    def script(peer):
        peer.greet()
        while True:
            request = peer.read()
            if type(request.message) is List:
                bad = Entry(name, kind, 1, 0o755, TIME, b"x" if kind == "link" else None)
                peer.reply(request, Page(b"", [bad], complete=True))
                peer.frame(Kind.END, request.request_id, Listed())
            else:
                peer.reply(request, Found(Entry(b"/", "dir", 0, 0o755, TIME)))

    client = connect(fake(script))
    (tmp_path / "here").mkdir()
    before = trees.names(tmp_path)
    with pytest.raises(BadMessage):
        client.sync(":/there", tmp_path / "here")
    assert trees.names(tmp_path) == before


# interrupted ---------------------------------------------------------------------------------


class At(Listener):
    """Does something after so many results."""

    def __init__(self, count: int, action) -> None:
        self.left = count
        self.action = action
        self.remarks: list[str] = []

    def finished(self, result: Result) -> None:
        self.left -= 1
        if self.left == 0:
            self.action()

    def remark(self, text: str) -> None:
        self.remarks.append(text)


def reset(client) -> None:
    """Lose its connection, as by a reset: the server hears of that as soon as it is closed."""
    socket = client.connection.channel.socket
    socket.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    socket.shutdown(SHUT_RDWR)


@pytest.mark.parametrize("direction", ["up", "down"])
def test_ctrl_c(server, connect, files, tmp_path, direction):
    interrupt = Interrupt()
    try:
        client = connect(server, interrupt=interrupt)
        mirror = Mirror(client, files, tmp_path, direction)
        for number in range(500):
            write(mirror.source / f"d{number % 30}" / f"file{number}", str(number))
        write(mirror.target / "extra")
        listener = At(100, interrupt.set)

        with pytest.raises(Interrupted):
            client.sync(*mirror._names, Options(delete=True), listener=listener)
        client.settle_interrupt()

        assert (mirror.target / "extra").exists()
        assert client.whoami() == "alice"
        assert mirror.sync(delete=True).deleted == 1
        mirror.check(delete=True)
    finally:
        interrupt.close()


@pytest.mark.parametrize("direction", ["up", "down"])
def test_ctrl_c_while_comparing(server, connect, files, tmp_path, direction, monkeypatch):
    interrupt = Interrupt()
    try:
        client = connect(server, interrupt=interrupt)
        mirror = Mirror(client, files, tmp_path, direction)
        for number in range(300):
            write(mirror.source / f"d{number}" / "file", str(number))
        polls = iter(range(10**6))
        poll = Listing.poll

        def interrupted(self):
            if next(polls) == 5:
                interrupt.set()
            poll(self)

        mirror.target.mkdir()
        monkeypatch.setattr(Listing, "poll", interrupted)
        with pytest.raises(Interrupted):
            mirror.sync()
        client.settle_interrupt()
        assert trees.names(mirror.target) == set()
        assert mirror.sync().sent == 300
    finally:
        interrupt.close()


def test_a_lost_connection_is_made_again(mirror):
    for number in range(200):
        write(mirror.source / f"d{number % 7}" / f"file{number}", str(number) * 10_000)
    write(mirror.target / "extra")
    client = mirror.client
    listener = At(20, lambda: reset(client))

    summary = client.sync(*mirror._names, Options(delete=True), listener=listener)

    assert len(listener.remarks) == 1 and summary.exit_code == 0
    assert summary.deleted == 1
    mirror.check(delete=True)


def test_a_connection_that_is_lost_for_good(start_server, connect, tmp_path):
    server = start_server()
    client = connect(server, retries=0)
    for number in range(300):
        write(tmp_path / "here" / f"file{number}", str(number))
    listener = At(10, lambda: reset(client))

    with pytest.raises(ConnectionLost):
        client.sync(tmp_path / "here", ":/there", listener=listener)


# the listing -----------------------------------------------------------------------------------


def test_a_listing_is_read_ahead(client, files):
    for number in range(300):
        (files / "there" / f"d{number:03}").mkdir(parents=True)
    listing = Listing(client.connection, List(paths.RemotePath(b"/there"), recursive=True))
    listing.finish()  # most of it had to go to disk

    found = [
        (path, [name for name, _ in inside.items()]) for path, inside, _ in listing.directories()
    ]

    assert found[0][0] == b""
    assert sorted(found[0][1]) == [b"d%03d" % number for number in range(300)]
    assert [path for path, _ in found[1:]] == found[0][1]
    listing.close()


def test_a_listing_that_is_abandoned(client, files):
    for number in range(300):
        (files / "there" / f"d{number:03}").mkdir(parents=True)
    listing = Listing(client.connection, List(paths.RemotePath(b"/there"), recursive=True))
    next(iter(listing))
    listing.close()
    assert client.whoami() == "alice"


def test_a_slow_local_disk_does_not_stop_the_listing(client, files, tmp_path, monkeypatch):
    """While there is long work here, what the server sends is taken in all the same."""
    for number in range(400):
        (files / "there" / f"d{number:03}").mkdir(parents=True)
    for number in range(200):
        write(tmp_path / "here" / "a" / f"d{number}" / "file")
    done = threading.Event()
    poll = Listing.poll

    def watched(self):
        poll(self)
        if self.done:
            done.set()

    monkeypatch.setattr(Listing, "poll", watched)
    client.sync(tmp_path / "here", ":/there")
    assert done.is_set()


# the command -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        pytest.param(["./site", "/www"], "did you mean ftp sync ./site :/www?", id="to-the-server"),
        pytest.param(["/www", "LOCAL"], "did you mean ftp sync :/www LOCAL?", id="from-the-server"),
        pytest.param([":/a", ":/b"], "did you mean ftp cp -r /a /b?", id="both-remote"),
        pytest.param(
            ["./site", "host.net:/www"],
            "host.net is not a saved server: write USER@host.net:/www or ftpd://host.net/www",
            id="as-in-rsync",
        ),
        pytest.param(["./site", ":"], "nothing follows the colon", id="only-a-colon"),
        pytest.param(["", ":/www"], "an empty path", id="empty"),
        pytest.param(["./site"], "missing argument: sync SRC DST", id="one-path"),
        pytest.param(["-z", "a", ":b"], "not compressed", id="z"),
        pytest.param(["-c", "a", ":b"], "did you mean --checksum", id="c"),
        pytest.param(["--delete-after", "a", ":b"], "did you mean --delete (", id="delete-after"),
        pytest.param(["--chekcsum", "a", ":b"], "--checksum", id="typing-error"),
        pytest.param(
            ["--max-delete", "3", "a", ":b"], "--max-delete needs --delete", id="max-delete-alone"
        ),
        pytest.param(["--force", "a", ":b"], "--force needs --delete", id="force-alone"),
        pytest.param(["--exclude", "/", "a", ":b"], "not a valid pattern", id="no-pattern"),
        pytest.param(["--exclude"], "requires an argument", id="no-value"),
    ],
)
def test_usage(tmp_path, capfd, arguments, meant):
    words = [str(tmp_path) if word == "LOCAL" else word for word in arguments]
    app = App()
    try:
        assert main.run(app, ["sync", *words]) == 2
    finally:
        app.interrupt.close()
    assert meant.replace("LOCAL", str(tmp_path)) in capfd.readouterr().err


@pytest.mark.parametrize("name", ["rsync", "mirror"])
def test_other_names(tmp_path, capfd, name):
    app = App()
    try:
        assert main.run(app, [name, "a", ":b"]) == 2
    finally:
        app.interrupt.close()
    assert "did you mean ftp sync?" in capfd.readouterr().err
