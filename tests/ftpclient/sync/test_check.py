"""Checks: what is told of any two trees, and that nothing is changed.

Lives elsewhere: the command line (../cli/test_check_command.py), how much memory it takes
(tests/system/test_memory.py).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftpclient import CheckOptions, CheckSummary, Finding, Listener
from ftpclient.sync import diff
from ftpclient.sync.job import Options
from ftpclient.transfer.placing import partial_name
from ftpserver.storage.permissions import Permissions
from ftpwire.errors import InvalidPath, NotFound, StoredFileDamaged

OLD, NEW = 1_500_000_000, 1_600_000_000


@dataclass(frozen=True)
class File:
    """A file or, with a target, a link."""

    data: bytes = b""
    mode: int = 0o644
    time: int = OLD
    target: bytes | None = None

    @property
    def type(self) -> str:
        return "file" if self.target is None else "link"


@dataclass(frozen=True)
class Folder:
    below: dict[bytes, Any]
    mode: int = 0o755
    type: str = "dir"


_NAMES = st.sampled_from([b"a", b"a-b", b"\xff*", b"new\nline"])
_FILES = st.builds(
    File,
    st.sampled_from([b"", b"x", b"y", b"xx"]),
    st.sampled_from([0o644, 0o600]),
    st.sampled_from([OLD, NEW]),
    st.sampled_from([None, None, None, b"a", b"/b"]),
)
_TREES = st.recursive(
    st.dictionaries(_NAMES, _FILES, max_size=3),
    lambda inner: st.dictionaries(
        _NAMES, _FILES | st.builds(Folder, inner, st.sampled_from([0o755, 0o700])), max_size=3
    ),
    max_leaves=8,
)
_PATTERNS = st.lists(st.sampled_from([b"a", b"a/", b"new*"]), max_size=2, unique=True)


def plant(root: Path, tree: dict[bytes, Any]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, what in tree.items():
        path = root / os.fsdecode(name)
        if isinstance(what, Folder):
            plant(path, what.below)
            path.chmod(what.mode)
        elif what.target is not None:
            os.symlink(what.target, path)
        else:
            path.write_bytes(what.data)
            path.chmod(what.mode)
            os.utime(path, (what.time, what.time))


def out(patterns: list[bytes], name: bytes, what: File | Folder) -> bool:
    """Whether a name is left out: the patterns of this test, by a rule of its own."""
    is_directory = isinstance(what, Folder)
    return (
        (b"a" in patterns and name == b"a")
        or (b"a/" in patterns and name == b"a" and is_directory)
        or (b"new*" in patterns and name.startswith(b"new"))
    )


def told_apart(ours: File | Folder, theirs: File | Folder, *, size_only: bool) -> str:
    """Why two things differ; empty when they don't."""
    if ours.type != theirs.type:
        return "type"
    if isinstance(ours, Folder) or isinstance(theirs, Folder):
        return "mode" if ours.mode != theirs.mode else ""
    if ours.target != theirs.target:
        return "target"
    if ours.target is not None:
        return ""
    if len(ours.data) != len(theirs.data):
        return "size"
    if ours.data != theirs.data and not size_only:
        return "digest"
    return "mode" if ours.mode != theirs.mode else ""


def findings(
    here: dict[bytes, Any],
    there: dict[bytes, Any],
    *,
    up: bool,
    size_only: bool = False,
    one_way: bool = False,
    patterns: list[bytes],
    above: bytes = b"",
) -> list[tuple[bytes, str, str]]:
    """What a plain comparison of two trees in memory says."""
    result = []
    for name in sorted(here.keys() | there.keys()):
        path = above + b"/" + name if above else name
        ours, theirs = here.get(name), there.get(name)
        first = (ours or theirs) if up else (theirs or ours)
        if out(patterns, name, first):
            continue
        if ours is None or theirs is None:
            if not (one_way and (ours is None) == up):
                result.append((path, "only-there" if ours is None else "only-here", ""))
            continue
        why = told_apart(ours, theirs, size_only=size_only)
        result.append((path, "differs" if why else "same", why))
        if isinstance(ours, Folder) and isinstance(theirs, Folder):
            result += findings(
                ours.below,
                theirs.below,
                up=up,
                size_only=size_only,
                one_way=one_way,
                patterns=patterns,
                above=path,
            )
    return result


@dataclass
class Recording(Listener):
    findings: list[Finding] = field(default_factory=list)

    def found(self, finding: Finding) -> None:
        self.findings.append(finding)

    @property
    def lines(self) -> list[tuple[bytes, str, str]]:
        return [(one.path, one.state, one.error or one.why) for one in self.findings]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    here=_TREES,
    there=_TREES,
    like=st.booleans(),
    size_only=st.booleans(),
    one_way=st.booleans(),
    patterns=_PATTERNS,
)
@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_any_two_trees(
    client, files, tmp_path, up, here, there, like, size_only, one_way, patterns
):
    """The states are those of a plain comparison in memory."""
    number = len(os.listdir(tmp_path))
    local, remote = tmp_path / f"here{number}", files / f"there{number}"
    if like:
        there = {**here, **dict(list(there.items())[:1])}
    plant(local, here)
    plant(remote, there)
    names = (local, f":/there{number}") if up else (f":/there{number}", local)
    excluded = tuple((True, os.fsdecode(pattern)) for pattern in patterns)
    options = {"size_only": size_only, "one_way": one_way, "patterns": excluded}
    wanted = findings(here, there, up=up, size_only=size_only, one_way=one_way, patterns=patterns)

    reported = Recording()
    summary = client.check(*names, CheckOptions(**options, same=True), listener=reported)
    assert reported.lines == wanted
    assert summary.same == sum(state == "same" for _, state, _ in wanted)
    assert summary.differences == len(wanted) - summary.same
    assert summary.exit_code == (1 if summary.differences else 0)

    reported = Recording()
    again = client.check(*names, CheckOptions(**options), listener=reported)
    assert reported.lines == [one for one in wanted if one[1] != "same"]
    assert again.same == summary.same


@dataclass
class Ends:
    """Two trees, and a check of them."""

    here: Path
    there: Path
    up: bool
    check: Callable[..., tuple[CheckSummary, Recording]]

    @property
    def first(self) -> Path:
        return self.here if self.up else self.there

    @property
    def second(self) -> Path:
        return self.there if self.up else self.here


@pytest.fixture(params=[True, False], ids=["up", "down"])
def ends(client, files, tmp_path, request) -> Ends:
    here, there, up = tmp_path / "here", files / "there", request.param
    here.mkdir()
    there.mkdir()

    def check(**options: Any) -> tuple[CheckSummary, Recording]:
        reported = Recording()
        names = (here, ":/there") if up else (":/there", here)
        return client.check(*names, CheckOptions(**options), listener=reported), reported

    return Ends(here, there, up, check)


def test_what_sync_has_mirrored_is_the_same(client, ends):
    tree = {
        b"d": Folder({b"f": File(b"x" * 300_000, 0o640), b"l": File(target=b"f")}, 0o775),
        b"e": File(),
    }
    plant(ends.first, tree)
    names = (ends.here, ":/there") if ends.up else (":/there", ends.here)
    client.sync(*names, Options())
    summary, reported = ends.check()
    assert (reported.lines, summary.same, summary.exit_code) == ([], 4, 0)


def test_nothing_is_changed(ends, tmp_path):
    """Neither of the trees is, nor the time of anything in them."""
    plant(ends.here, {b"d": Folder({b"f": File(b"x")}), b"only": File(b"1"), b"t": File(b"12")})
    plant(
        ends.there, {b"d": Folder({b"f": File(b"y")}), b"t": Folder({b"x": File()}), b"o": File()}
    )
    before = snapshots(ends)
    ends.check()
    ends.check(size_only=True)
    assert snapshots(ends) == before


def snapshots(ends: Ends) -> list[tuple[str, int, int, int]]:
    return [
        (str(path), info.st_mode, info.st_size, info.st_mtime_ns)
        for root in (ends.here, ends.there)
        for path in sorted([root, *root.rglob("*")])
        for info in [path.lstat()]
    ]


@pytest.mark.parametrize("side", ["here", "there", "both"])
def test_what_can_not_be_read(plain_user, ends, side):
    """It is told once, and so is not what is in it; the rest is compared."""
    for root in (ends.here, ends.there):
        plant(
            root,
            {b"d": Folder({b"f": File(b"x")}), b"f": File(b"x"), b"g": File(root.name.encode())},
        )
    closed = [root for root in (ends.here, ends.there) if side in (root.name, "both")]
    for root in closed:
        (root / "d").chmod(0)
        (root / "f").chmod(0)
    summary, reported = ends.check(same=True)
    for root in closed:
        (root / "d").chmod(0o755)
    assert reported.lines == [
        (b"d", "unreadable", "forbidden"),
        (b"f", "unreadable", "forbidden"),
        (b"g", "differs", "size"),
    ]
    assert (summary.unreadable, summary.differ, summary.exit_code) == (2, 1, 1)


@pytest.mark.parametrize("rights", ["upload-only", "none"])
def test_what_may_not_be_listed(server, connect, ends, tmp_path, rights):
    for root in (ends.here, ends.there):
        plant(root, {b"in": Folder({b"f": File(b"x")}), b"f": File(b"x")})
    server.accounts.change("alice", permissions=Permissions.parse(f"/there/in={rights}"))
    client, reported = connect(server), Recording()
    names = (ends.here, ":/there") if ends.up else (":/there", ends.here)
    summary = client.check(*names, listener=reported)
    assert reported.lines == [(b"in", "unreadable", "forbidden")]
    assert (summary.same, summary.exit_code) == (1, 1)


def test_the_name_of_an_interrupted_download_does_not_count(ends):
    (ends.here / os.fsdecode(partial_name([b"f"]))).write_bytes(b"part")
    os.mkfifo(ends.here / "fifo")
    (ends.there / "fifo").write_bytes(b"")
    _, reported = ends.check()
    assert reported.lines == [(b"fifo", "differs", "type")]


def test_ignore_files_hold_when_asked_for(ends):
    for root in (ends.here, ends.there):
        plant(root, {b".ftpignore": File(b"*.o\n"), b"a.o": File(root.name.encode())})
    assert ends.check()[1].lines == [(b"a.o", "differs", "size")]
    assert ends.check(ignore_files=True)[1].lines == []


def test_more_files_than_are_compared_together(client, ends, monkeypatch):
    monkeypatch.setattr(diff, "_PAIRS", 3)
    plant(ends.here, {b"%d" % number: File(b"x") for number in range(8)})
    plant(ends.there, {b"%d" % number: File(b"x", time=NEW) for number in range(8)})
    (ends.here / "7").write_bytes(b"y")
    summary, reported = ends.check()
    assert reported.lines == [(b"7", "differs", "digest")]
    assert summary.same == 7
    assert ends.check(size_only=True)[0].same == 8
    names = (ends.here, ":/there") if ends.up else (":/there", ends.here)
    assert client.sync(*names, Options(dry_run=True)).sent == 8
    assert client.sync(*names, Options(dry_run=True, checksum=True)).sent == 1
    client.sync(*names, Options(size_only=True))
    assert client.sync(*names, Options(dry_run=True)).unchanged == 8


def test_a_damaged_file_on_the_server(ends, monkeypatch):
    """Where that is seen, the status says so."""
    from ftpclient.sync.remote_reader import RemoteReader

    for root in (ends.here, ends.there):
        plant(root, {b"f": File(b"x"), b"g": File(root.name.encode())})

    def damaged(reader, entry, requested):
        raise StoredFileDamaged("/there/f: damaged on the server's disk")

    monkeypatch.setattr(RemoteReader, "digest_of", damaged)
    summary, reported = ends.check()
    assert reported.lines == [
        (b"f", "unreadable", "stored-file-damaged"),
        (b"g", "differs", "size"),
    ]
    assert summary.exit_code == 8


# two files, roots -----------------------------------------------------------------------------


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_two_files(client, files, tmp_path, up):
    plant(tmp_path, {b"a": File(b"one"), b"to-a": File(target=b"a"), b"d": Folder({b"b": File()})})
    plant(files, {b"b": File(b"one"), b"c": File(b"two", 0o600), b"d": Folder({b"a": File(b"1")})})

    def check(local: str, remote: str) -> tuple[list[tuple[bytes, str, str]], int]:
        reported = Recording()
        names = (tmp_path / local, f":{remote}") if up else (f":{remote}", tmp_path / local)
        summary = client.check(*names, CheckOptions(same=True), listener=reported)
        return reported.lines, summary.exit_code

    assert check("a", "/b") == ([(b"a" if up else b"b", "same", "")], 0)
    assert check("to-a", "/b") == ([(b"to-a" if up else b"b", "same", "")], 0)
    assert check("a", "/c") == ([(b"a" if up else b"c", "differs", "digest")], 1)
    assert check("a", "/d") == ([(b"a", "differs", "size")], 1)
    assert check("d", "/b") == ([(b"b", "differs", "size")], 1)
    for local, remote in (("a", "/no"), ("no", "/b"), ("d", "/c"), ("to-a", "/d")):
        with pytest.raises(NotFound):
            check(local, remote)


def test_both_on_one_side(client, tmp_path):
    for names in ((":/a", ":/b"), ("a", "b")):
        with pytest.raises(InvalidPath, match="begin with a colon"):
            client.check(*names)


# sync by sizes --------------------------------------------------------------------------------


def test_sync_by_sizes_alone(client, files, tmp_path):
    plant(tmp_path / "s", {b"a": File(b"xx", 0o600, NEW), b"b": File(b"xxx")})
    plant(files / "t", {b"a": File(b"yy"), b"b": File(b"yy")})
    summary = client.sync(tmp_path / "s", ":/t", Options(size_only=True))
    assert (summary.sent, summary.attributes) == (1, 2)  # a file, and the root
    assert (files / "t" / "a").read_bytes() == b"yy"
    info = (files / "t" / "a").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime) == (0o600, NEW)
    assert (files / "t" / "b").read_bytes() == b"xxx"
    assert client.sync(tmp_path / "s", ":/t", Options(size_only=True)).attributes == 0
    with pytest.raises(ValueError, match="exclude each other"):
        Options(size_only=True, checksum=True)
