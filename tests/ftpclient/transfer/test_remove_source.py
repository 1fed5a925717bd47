"""--remove-source: what goes once it has arrived, and what stays.

Lives elsewhere: programs that are killed meanwhile (tests/system/test_remove_source.py).
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from ftpclient.transfer import file_upload, partial_file, removal
from ftpclient.transfer.file_download import FileDownload
from ftpclient.transfer.report import Listener, Result
from ftpclient.transfer.spool import Spool
from ftpclient.transfer.tree_download import TreeDownload
from ftpserver.serving import opening
from ftpserver.storage.permissions import Permissions
from ftpserver.workspace.workspace import Workspace
from ftpwire.errors import ConnectionLost, Forbidden, SourceChanged
from ftpwire.messages import IF_SAME


def grow(root: Path, *names: str, size: int = 1) -> Path:
    """Files below a root; what ends with a slash is an empty directory."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(name[-1].encode() * size)
    return root


def names(root: Path) -> list[str]:
    found = (os.path.relpath(path, root) for path in root.rglob("*"))
    return sorted(name for name in found if not name.startswith(".ftpd"))


class Recording(Listener):
    """Keeps results; ``meanwhile`` is called with each that is done."""

    def __init__(self, meanwhile=lambda result: None) -> None:
        self.results: list[Result] = []
        self._meanwhile = meanwhile

    def finished(self, result: Result) -> None:
        self.results.append(result)
        if result.status == "done":
            self._meanwhile(result)

    @property
    def codes(self) -> list[tuple[str, str]]:
        return sorted(
            (os.path.basename(os.fsdecode(r.source)), r.error.code)
            for r in self.results
            if r.error is not None
        )


class Ends:
    """A source and a target, one of which is on the server."""

    def __init__(self, client, files: Path, place: Path, up: bool) -> None:
        self.client, self.up = client, up
        here, there = place / "here", files / "there"
        self.source, self.target = (here, there) if up else (there, here)
        self.source.mkdir()
        self.names = (here, "/there") if up else ("/there", here)

    def move(self, reported: Listener | None = None, name: str = "", **options):
        source, target = self.names
        if name:
            source = f"{source}/{name}"
        transfer = self.client.put if self.up else self.client.get
        options.setdefault("recursive", True)
        return transfer(source, target, remove_source=True, listener=reported, **options)


@pytest.fixture(params=["put", "get"])
def ends(client, files, tmp_path, request) -> Ends:
    return Ends(client, files, tmp_path, request.param == "put")


def test_a_tree_has_moved(ends):
    grow(ends.source, "a", "empty", "d/e/f", "d/g", "d/none/", size=3)
    (ends.source / "empty").write_bytes(b"")
    grow(ends.source, "large", size=5 * 2**20)
    os.symlink("nowhere", ends.source / "d" / "link")
    summary = ends.move()
    assert (summary.failed, summary.exit_code) == (0, 0)
    assert not ends.source.exists()
    expected = ["a", "d", "d/e", "d/e/f", "d/g", "d/link", "d/none", "empty", "large"]
    assert names(ends.target) == expected
    assert (ends.target / "d" / "e" / "f").read_bytes() == b"fff"
    assert os.readlink(ends.target / "d" / "link") == "nowhere"


def test_over_several_connections(ends):
    grow(ends.source, *(f"d{n}/{m}" for n in range(20) for m in "abcde"))
    assert ends.move(parallel=3).exit_code == 0
    assert not ends.source.exists()
    assert len(list(ends.target.rglob("?"))) == 100


def test_more_than_are_removed_at_once(ends, monkeypatch):
    grow(ends.source, *(f"f{n}" for n in range(100)))
    assert ends.move().exit_code == 0
    assert not ends.source.exists()
    assert len(names(ends.target)) == 100


def test_what_was_there_already_goes_too(ends):
    """It is compared by digest: the next try after one that was cut."""
    grow(ends.source, "a", "d/b")
    if ends.up:
        ends.client.put(*ends.names, recursive=True)
    else:  # by the server, which keeps digests of what it stored
        ends.source.rename(ends.target)
        ends.client.put(ends.target, "/there", recursive=True)
    summary = ends.move(into=False)
    assert (summary.unchanged, summary.exit_code) == (2, 0)
    assert not ends.source.exists()
    assert names(ends.target) == ["a", "d", "d/b"]


def test_what_was_not_transferred_stays(ends):
    grow(ends.source, "a", "b.o", "d/c.o", "e/f", "e/none/")
    grow(ends.target, "e/f", size=7)
    reported = Recording()
    ends.move(reported, exclude=["*.o", "none"], overwrite="never", into=False)
    assert names(ends.source) == ["b.o", "d", "d/c.o", "e", "e/f", "e/none"]
    assert reported.codes == [("f", "exists")]


def test_only_those_of_a_list(ends):
    grow(ends.source, "a", "b", "d/e/f", "d/g", "x/y")
    ends.move(files_from=["a", "d/e/f", "x"])
    assert names(ends.source) == ["b", "d", "d/g"]
    assert names(ends.target) == ["a", "d", "d/e", "d/e/f", "x", "x/y"]


@pytest.mark.parametrize("change", ["larger", "rewritten", "replaced"])
def test_what_changed_meanwhile_stays(ends, change):
    """Between its arrival and its removal. It is a failure: the newer bytes were not moved."""
    grow(ends.source, "a", "b", size=10)

    def meanwhile(result: Result) -> None:
        path = ends.source / "a"
        if os.path.basename(result.source) != b"a":
            return
        if change == "larger":
            with path.open("ab") as file:
                file.write(b"more")
        elif change == "rewritten":
            path.write_bytes(b"0123456789")
        else:
            info = path.stat()
            other = path.with_name("other")
            other.write_bytes(b"9876543210")
            os.utime(other, ns=(info.st_mtime_ns + 1, info.st_mtime_ns + (0 if ends.up else 1)))
            os.replace(other, path)

    reported = Recording(meanwhile)
    summary = ends.move(reported)
    assert names(ends.source) == ["a"]
    assert (reported.codes, summary.exit_code) == ([("a", "source-changed")], 1)
    assert (ends.target / "a").read_bytes() == b"a" * 10


def test_the_link_goes_and_not_what_it_leads_to(ends):
    grow(ends.source, "real/a", "file")
    os.symlink("file", ends.source / "to-file")
    os.symlink("real", ends.source / "to-real")
    ends.move(name="to-file", into=False)
    assert ends.target.read_bytes() == b"e"
    ends.target.unlink()
    ends.move(name="to-real", into=False)
    assert names(ends.target) == ["a"]
    assert names(ends.source) == ["file", "real", "real/a"]


def test_a_link_to_a_directory_stays_if_something_failed(client, tmp_path, files):
    """Named once more, it leads to what is still to be done."""
    grow(tmp_path / "real", "a", ".ftpd-staging")
    os.symlink("real", tmp_path / "link")
    summary = client.put(tmp_path / "link", "/to", recursive=True, remove_source=True)
    assert summary.failed == 1
    assert os.path.islink(tmp_path / "link")
    assert names(tmp_path / "real") == ["a"]


def test_links_are_not_followed_in_trees(client, tmp_path):
    for transfer in (client.put, client.get):
        with pytest.raises(ValueError, match="copy_links"):
            transfer(tmp_path, "/x", recursive=True, copy_links=True, remove_source=True)
    with pytest.raises(ValueError, match="atomic"):
        client.put(tmp_path, "/x", recursive=True, atomic=True, remove_source=True)


def test_directories_that_somebody_is_in_stay(client, tmp_path, files):
    grow(files, "d/e/f")
    client.change_dir("/d/e")
    client.get("/d", tmp_path / "to", recursive=True, remove_source=True)
    assert names(files) == ["d", "d/e"]
    grow(files, "d/e/g")
    client.change_dir("/")
    client.get("/d/.", tmp_path / "to", recursive=True, remove_source=True)
    assert names(files) == ["d"]
    client.get("/", tmp_path / "all", recursive=True, remove_source=True)
    assert names(files) == []


def test_what_may_not_be_removed_is_reported(start_server, connect, tmp_path):
    server = start_server(durable=False)
    server.accounts.add("reader", "secret", permissions=Permissions.parse("no-delete"))
    client = connect(server, "reader")
    grow(server.settings.root / "reader", "d/a")
    reported = Recording()
    summary = client.get(
        "/d", tmp_path / "to", recursive=True, remove_source=True, listener=reported
    )
    assert (tmp_path / "to" / "a").exists()
    assert (server.settings.root / "reader" / "d" / "a").exists()
    assert reported.codes[0] == ("a", Forbidden.code)
    assert summary.exit_code == 1


# order ---------------------------------------------------------------------------------------


def test_the_server_has_it_before_it_goes(client, files, tmp_path, monkeypatch):
    """The control: with the removal before the answer, the name isn't there yet."""
    there = []
    remove = file_upload.remove_sent

    def look_first(source, info):
        there.append((files / "to" / os.fsdecode(os.path.basename(source))).exists())
        remove(source, info)

    monkeypatch.setattr(file_upload, "remove_sent", look_first)
    grow(tmp_path / "here", "a", "b", "c")
    client.put(tmp_path / "here", "/to", recursive=True, remove_source=True)
    assert there == [True, True, True]


def test_it_is_on_the_disk_here_before_the_server_removes_it(client, files, tmp_path, monkeypatch):
    """fsync of the file, the name, fsync of its directory; then the server is asked."""
    done = []
    fsync, place = os.fsync, partial_file.place
    ask = removal.remove_fetched
    here = threading.get_ident()

    def synced(fd):
        if threading.get_ident() == here:  # the server, which is in this process, syncs too
            done.append("directory" if os.path.isdir(f"/proc/self/fd/{fd}") else "file")
        fsync(fd)

    monkeypatch.setattr(partial_file.os, "fsync", synced)
    monkeypatch.setattr(
        partial_file, "place", lambda *args, **named: (done.append("name"), place(*args, **named))
    )
    monkeypatch.setattr(
        "ftpclient.transfer.file_download.remove_fetched",
        lambda *args: (done.append("asked"), ask(*args)),
    )
    grow(files, "a")
    client.get("/a", tmp_path / "a", remove_source=True)
    assert done == ["file", "name", "directory", "asked"]
    done.clear()
    grow(files, "b")
    client.get("/b", tmp_path / "b")
    assert done == ["name"]


def test_a_lost_connection_loses_nothing(client, files, tmp_path, monkeypatch):
    """Cut while removals are under way: the same transfer goes on, and ends with all of it."""
    grow(files, *(f"d/{n}" for n in range(70)))
    cut = []
    settle = FileDownload._remove_fetched

    def cut_once(download):
        if download._fetched and not cut:
            cut.append(True)
            download.connection.cut()
        settle(download)

    monkeypatch.setattr(FileDownload, "_remove_fetched", cut_once)
    summary = client.get("/d", tmp_path / "to", recursive=True, remove_source=True)
    assert cut and summary.exit_code == 0
    assert names(files) == []
    assert len(names(tmp_path / "to")) == 70


def test_what_was_sent_is_known_by_its_inode_size_and_time(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    info = path.stat()
    copy = tmp_path / "b"
    copy.write_bytes(b"1")
    os.utime(copy, ns=(info.st_atime_ns, info.st_mtime_ns))
    os.replace(copy, path)
    with pytest.raises(SourceChanged):
        removal.remove_sent(os.fsencode(path), info)
    removal.remove_sent(os.fsencode(path), path.stat())
    removal.remove_sent(os.fsencode(path), info)  # gone already
    assert not path.exists()


def test_what_is_noted_is_closed_when_the_connection_is_gone(client, files, tmp_path, monkeypatch):
    """The directories that may have become empty are kept in a temporary file."""
    grow(files, "d/e/f", "d/g/h")
    closed, close = [], Spool.close
    made, begin = [], Spool.__init__

    def noted(spool, *args, **named):
        made.append(spool)
        begin(spool, *args, **named)

    monkeypatch.setattr(Spool, "__init__", noted)
    monkeypatch.setattr(Spool, "close", lambda spool: (closed.append(id(spool)), close(spool)))
    note = TreeDownload._note_emptied

    def cut(tree, parts):
        note(tree, parts)
        tree._download.connection.cut()

    monkeypatch.setattr(TreeDownload, "_note_emptied", cut)
    client.retry_for = 0
    with pytest.raises(ConnectionLost):
        client.get("/d", tmp_path / "to", recursive=True, remove_source=True)
    assert {id(spool) for spool in made} <= set(closed)


@pytest.mark.parametrize("able", [True, False], ids=["if-same", "older-server"])
def test_the_server_is_informed_what_it_may_remove(
    start_server, connect, tmp_path, monkeypatch, able
):
    """An older one doesn't know that, and is asked just before."""
    if not able:
        rest = [one for one in opening.FEATURES if one != IF_SAME]
        monkeypatch.setattr(opening, "FEATURES", rest)
    server = start_server(durable=False)
    client = connect(server)
    client.write("/a", b"12")
    client.make_link("/link", "a")
    entry = client.stat("/a")
    requested = []
    remove = Workspace.remove_later

    def noted(workspace, request, **named):
        requested.append(request)
        return remove(workspace, request, **named)

    monkeypatch.setattr(Workspace, "remove_later", noted)
    client.get("/link", tmp_path / "to", remove_source=True)
    client.get("/a", tmp_path / "to", remove_source=True)
    link, file = requested
    assert (file.size, file.mtime_ns) == ((2, entry.mtime_ns) if able else (None, None))
    assert link.only_if_same == able
    assert not client.exists("/a")


@pytest.mark.parametrize("make", [False, True], ids=["again", "named-by-a-link"])
def test_a_directory_that_is_the_servers_own(client, files, tmp_path, make):
    """Served by this machine, or mounted here: what arrives is what would be removed."""
    grow(files, "a", "d/b", "large", size=5 * 2**20)
    here = files
    if make:
        here = tmp_path / "mounted"
        here.symlink_to(files)
    client.put([files / "large"], "/", resume=True)  # so the server has its digest
    before = names(files)
    for name, target in (("a", "/a"), ("large", "/large"), ("d", "/d")):
        reported = Recording()
        client.put(
            here / name, target, remove_source=True, recursive=True, into=False, listener=reported
        )
        client.get(
            target, here / name, remove_source=True, recursive=True, into=False, listener=reported
        )
        assert [result.error.code for result in reported.results] == ["invalid-path"] * 2, name
    assert names(files) == before
    summary = client.get(["/a", "/d/b"], here, remove_source=True)  # only one stays where it is
    assert (summary.done, summary.failed) == (1, 1)
    assert names(files) == ["a", "b", "d", "large"]
