"""What a sync leaves out, and what it keeps: filters of any kind, --existing, --ignore-existing,
--copy-links, several connections.

Lives elsewhere: what patterns match and lists of paths (../transfer), the command line (../cli).
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ftpclient.sync.job import Options
from ftpclient.sync.local_replica import LocalReplica
from ftpclient.sync.remote_replica import RemoteReplica
from ftpclient.transfer.job import Transfer
from ftpclient.transfer.pool import ConnectionPool
from ftpclient.transfer.report import Listener, Result

OLD, NEW = 1_500_000_000, 1_600_000_000
LARGE = 10


@dataclass(frozen=True)
class File:
    """A file: its size, and whether it changed long ago."""

    size: int
    old: bool


Tree = dict[str, Any]
"""Names, and what has them: a `File` or a directory."""

_FILES = st.builds(File, st.sampled_from([1, 2, LARGE, LARGE + 1]), st.booleans())
_TREES = st.recursive(
    st.dictionaries(st.sampled_from("abcd"), _FILES, max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), _FILES | inner, max_size=4),
    max_leaves=8,
)


@dataclass(frozen=True)
class Chosen:
    """Options of a sync, and what they leave out, by a rule of its own.

    Attributes:
        patterns: NAME, NAME/ or /NAME, or with ! before.
    """

    patterns: tuple[str, ...] = ()
    max_size: int | None = None
    min_age: bool = False
    max_age: bool = False
    listed: frozenset[str] | None = None
    existing: bool = False
    ignore_existing: bool = False

    def options(self) -> Options:
        middle = time.time() - (OLD + NEW) / 2
        return Options(
            delete=True,
            force=True,
            patterns=tuple((True, pattern) for pattern in self.patterns),
            max_size=self.max_size,
            min_age=middle if self.min_age else None,
            max_age=middle if self.max_age else None,
            files_from=None if self.listed is None else sorted(self.listed),
            existing=self.existing,
            ignore_existing=self.ignore_existing,
        )

    def leaves_out(self, path: str, what: File | Tree, source: Tree) -> bool:
        is_directory = isinstance(what, dict)
        if isinstance(what, File):
            if self.max_size is not None and what.size > self.max_size:
                return True
            if (self.min_age and not what.old) or (self.max_age and what.old):
                return True
        if self.listed is not None and not self._is_listed(path, is_directory, source):
            return True
        out = False
        for pattern in self.patterns:
            name = pattern.removeprefix("!")
            if name.endswith("/") and not is_directory:
                continue
            name = name.removesuffix("/")
            if path == name[1:] if name.startswith("/") else path.rpartition("/")[2] == name:
                out = not pattern.startswith("!")
        return out

    def _is_listed(self, path: str, is_directory: bool, source: Tree) -> bool:
        assert self.listed is not None
        there = {one for one in self.listed if find(source, one) is not None}
        return any(
            path == one
            or path.startswith(one + "/")
            or (is_directory and one.startswith(path + "/"))
            for one in there
        )


def find(tree: Tree, path: str) -> File | Tree | None:
    found: Any = tree
    for name in path.split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def filtered(what: File | Tree, path: str, chosen: Chosen, source: Tree) -> File | Tree:
    """What becomes of something new."""
    if isinstance(what, File):
        return what
    below = {name: (f"{path}/{name}", one) for name, one in what.items()}
    return {
        name: filtered(one, at, chosen, source)
        for name, (at, one) in below.items()
        if not chosen.leaves_out(at, one, source)
    }


def kept(what: File | Tree, path: str, chosen: Chosen, source: Tree) -> File | Tree | None:
    """What is left of something that the source hasn't."""
    if chosen.leaves_out(path, what, source):
        return what
    if isinstance(what, File):
        return None
    left = {name: kept(one, f"{path}/{name}", chosen, source) for name, one in what.items()}
    return {name: one for name, one in left.items() if one is not None} or None


def mirrored(here: Tree, there: Tree, chosen: Chosen, source: Tree, above: str = "") -> Tree:
    """What the target has afterwards: the rules of docs/sync.md, written down once more."""
    result: Tree = {}
    for name in here.keys() | there.keys():
        path = f"{above}/{name}" if above else name
        new, old = here.get(name), there.get(name)
        left: File | Tree | None
        if new is None:
            assert old is not None
            left = kept(old, path, chosen, source)
        elif chosen.leaves_out(path, new, source):
            left = old
        elif old is None:
            left = None if chosen.existing else filtered(new, path, chosen, source)
        elif isinstance(new, dict) and isinstance(old, dict):
            left = mirrored(new, old, chosen, source, path)
        elif isinstance(new, dict) or isinstance(old, dict):
            stays = chosen.existing or chosen.ignore_existing
            stays = stays or chosen.leaves_out(path, old, source)
            stays = stays or kept(old, path, chosen, source) is not None
            left = old if stays else filtered(new, path, chosen, source)
        else:
            left = old if chosen.ignore_existing else new
        if left is not None:
            result[name] = left
    return result


def plant(root: Path, tree: Tree, fill: bytes) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name, what in tree.items():
        if isinstance(what, dict):
            plant(root / name, what, fill)
        else:
            moment = OLD if what.old else NEW
            (root / name).write_bytes(fill * what.size)
            os.utime(root / name, (moment, moment))


def read(root: Path) -> Tree:
    found: Tree = {}
    for path in root.iterdir():
        if path.is_dir():
            found[path.name] = read(path)
        else:
            info = path.stat()
            found[path.name] = File(info.st_size, int(info.st_mtime) == OLD)
    return found


_PATTERNS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "!"]),
    st.sampled_from(["", "/"]),
    st.sampled_from("abcd"),
    st.sampled_from(["", "/"]),
)
_LISTED = st.lists(st.sampled_from("abcd"), min_size=1, max_size=3).map("/".join)
_CHOSEN = st.builds(
    Chosen,
    patterns=st.lists(_PATTERNS, max_size=3).map(tuple),
    max_size=st.sampled_from([None, None, 1, LARGE]),
    min_age=st.booleans(),
    max_age=st.just(False),
    listed=st.none() | st.frozensets(_LISTED, max_size=3),
    existing=st.booleans(),
    ignore_existing=st.booleans(),
) | st.builds(Chosen, max_age=st.booleans(), patterns=st.lists(_PATTERNS, max_size=3).map(tuple))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(here=_TREES, there=_TREES, chosen=_CHOSEN)
@example(  # of what both have, the source's file decides
    here={"a": File(1, True), "b": File(LARGE, True)},
    there={"a": File(LARGE, True), "b": File(1, True)},
    chosen=Chosen(max_size=2),
)
@example(  # it is in the way of what is listed below it, and isn't listed itself
    here={"a": {"b": File(1, True)}},
    there={"a": File(2, True)},
    chosen=Chosen(listed=frozenset({"a/b"})),
)
@pytest.mark.parametrize("direction", ["up", "down"])
def test_what_is_left_out_is_never_deleted(client, files, tmp_path, direction, here, there, chosen):
    """Any trees, any filters, with --delete --force: the target is what the rules say."""
    number = len(os.listdir(tmp_path))
    local, remote = tmp_path / f"here{number}", files / f"there{number}"
    source, target = (local, remote) if direction == "up" else (remote, local)
    names = (local, f":/there{number}") if direction == "up" else (f":/there{number}", local)
    plant(source, here, b"s")
    plant(target, there, b"t")
    client.sync(*names, chosen.options())
    assert read(target) == mirrored(here, there, chosen, here)
    assert read(source) == here


@dataclass
class Recording(Listener):
    results: list[Result] = field(default_factory=list)

    def finished(self, result: Result) -> None:
        self.results.append(result)

    @property
    def errors(self) -> list[tuple[str, str, str]]:
        return sorted(
            (r.status, r.error.code, os.fsdecode(r.step.path))
            for r in self.results
            if r.error is not None and r.step is not None
        )


@pytest.fixture(params=["up", "down"])
def ends(client, files, tmp_path, request):
    """Source, target, and a function that syncs them."""
    local, remote = tmp_path / "here", files / "there"
    up = request.param == "up"
    source, target = (local, remote) if up else (remote, local)
    source.mkdir()

    def sync(**options):
        reported = Recording()
        names = (local, ":/there") if up else (":/there", local)
        return client.sync(*names, Options(**options), listener=reported), reported

    return source, target, sync


def test_one_of_a_list_that_is_missing(ends):
    source, target, sync = ends
    plant(source, {"a": File(1, True), "d": {"b": File(2, True)}}, b"s")
    plant(target, {"gone": File(1, True), "e": {"x": File(1, True)}}, b"t")
    summary, reported = sync(files_from=["d/b", "gone", "d/no"], delete=True)
    assert reported.errors == [("failed", "not-found", "d/no"), ("failed", "not-found", "gone")]
    assert summary.exit_code == 1
    assert read(target) == {
        "d": {"b": File(2, True)},
        "gone": File(1, True),
        "e": {"x": File(1, True)},
    }


def test_what_is_kept_is_reported(ends):
    source, target, sync = ends
    plant(source, {"a": File(1, True), "b": {"x": File(1, True)}, "c": File(5, True)}, b"s")
    plant(target, {"a": File(2, True), "b": File(1, True)}, b"t")
    summary, reported = sync(ignore_existing=True, delete=True)
    assert reported.errors == [("skipped", "exists", "a"), ("skipped", "exists", "b")]
    assert (summary.sent, summary.skipped, summary.exit_code) == (1, 2, 0)


def test_a_target_that_is_not_there_is_not_made(ends):
    source, target, sync = ends
    plant(source, {"a": File(1, True)}, b"s")
    summary, _ = sync(existing=True)
    assert not target.exists()
    assert (summary.sent, summary.exit_code) == (0, 0)


def test_links_are_followed(ends, tmp_path):
    source, target, sync = ends
    plant(source, {"d": {"a": File(1, True)}, "f": File(3, False)}, b"s")
    os.symlink("d", source / "to-d")
    os.symlink("../f", source / "d" / "to-f")
    summary, reported = sync(copy_links=True)
    whole = {"a": File(1, True), "to-f": File(3, False)}
    assert read(target) == {"d": whole, "to-d": whole, "f": File(3, False)}
    assert not any(path.is_symlink() for path in target.rglob("*"))
    summary, reported = sync(copy_links=True, checksum=True)
    assert (reported.results, summary.exit_code) == ([], 0)


def test_a_link_that_leads_nowhere_or_round_and_round(ends):
    """They are told, and nothing is deleted because of them."""
    source, target, sync = ends
    plant(source, {"a": File(1, True), "d": {}}, b"s")
    plant(target, {"a": File(1, True), "extra": File(1, True)}, b"t")
    os.symlink("nowhere", source / "dangling")
    os.symlink("..", source / "d" / "up")
    summary, reported = sync(copy_links=True)
    assert [path for _, _, path in reported.errors] == ["d/up", "dangling"]
    assert summary.exit_code
    assert read(target)["extra"] == File(1, True)
    summary, reported = sync(copy_links=True, patterns=((True, "dangling"), (True, "up")))
    assert (reported.errors, summary.exit_code) == ([], 0)


def test_what_has_changed_since_it_was_found_is_not_deleted(ends, monkeypatch):
    source, target, sync = ends
    plant(source, {"kept": File(1, True)}, b"s")
    plant(target, {"gone": File(1, True), "new": File(1, True)}, b"t")
    (target / "link").symlink_to("gone")
    for replica in (RemoteReplica, LocalReplica):

        def change(self, step, remove=replica.remove):
            if step.path == b"new":
                (target / "new").write_bytes(b"another")
            if step.path == b"link":
                (target / "link").unlink()
                (target / "link").symlink_to("kept")
            remove(self, step)

        monkeypatch.setattr(replica, "remove", change)
    summary, reported = sync(delete=True)
    assert (summary.deleted, summary.exit_code) == (1, 1)
    assert reported.errors == [("failed", "source-changed", name) for name in ("link", "new")]
    assert (target / "new").read_bytes() == b"another"
    assert os.readlink(target / "link") == "kept"
    assert not (target / "gone").exists()


def test_several_connections(ends, monkeypatch):
    given_away = []
    give = ConnectionPool.give

    def watched(pool, job, **named):
        given_away.append(job)
        give(pool, job, **named)

    monkeypatch.setattr(ConnectionPool, "give", watched)
    source, target, sync = ends
    tree = {f"d{n}": {name: File(n + 1, True) for name in "abcd"} for n in range(10)}
    plant(source, tree, b"s")
    plant(target, {"extra": {"x": File(1, True)}, "d0": {"a": File(99, True)}}, b"t")
    summary, reported = sync(parallel=3, delete=True)
    assert read(target) == tree
    assert len(given_away) == 40
    assert (summary.sent, summary.deleted, summary.exit_code) == (40, 2, 0)
    summary, reported = sync(parallel=3, delete=True)
    assert reported.results == []


def test_the_end_of_the_job_over_several_connections(start_server, connect, tmp_path, monkeypatch):
    """No room for anything more: one of those who send finds it, while files are given to them."""
    monkeypatch.setattr(RemoteReplica, "check_space", lambda *args: None)
    give, number, over = ConnectionPool.give, count(), threading.Event()
    ended_by = Transfer.ended_by

    def tell_over(transfer, *args, **named):
        error = ended_by(transfer, *args, **named)
        if error is not None:
            over.set()
        return error

    def give_late(pool, job, **_):
        give(pool, job)  # each at once, also small ones
        if next(number) == 20:
            assert over.wait(60)
            give(pool, job)  # which some connection finds to be one too many
            for thread in pool._threads:
                thread.join(60)
            give(pool, job)

    monkeypatch.setattr(Transfer, "ended_by", tell_over)
    monkeypatch.setattr(ConnectionPool, "give", give_late)
    client = connect(start_server(durable=False, quota=5000))
    source = tmp_path / "here"
    plant(source, {f"f{n}": File(1000, True) for n in range(30)}, b"s")
    reported = Recording()
    summary = client.sync(source, ":/there", Options(parallel=2), listener=reported)
    assert summary.exit_code == 7
    assert [(status, code) for status, code, _ in reported.errors] == [("failed", "quota")]
