"""Each row of docs/copying.md is so: its column for `ftp` is run, by the row's id.

A row gets a test by ``@row("its-id")``. A row without a test fails; so does a test without a row.
"""

from __future__ import annotations

import os
import re
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from ftpclient.cli import rehearsal
from ftpclient.transfer import removal, waiting
from ftpwire import standard
from tests import sparse
from tests.conftest import as_plain_user
from tests.ftpclient.transfer.named_support import (
    Reading,
    make_null,
    unauthenticated,
    usable,
    writing,
)

TABLE = Path(__file__).parents[3] / "docs" / "copying.md"
IDS = re.findall(r'^\| <a id="([^"]+)"></a>', TABLE.read_text(), re.M)


@dataclass
class World:
    """A shell in ``here``, on a server whose home is ``there``."""

    here: Path
    there: Path
    run: Callable[[str], tuple[int, str, str]]
    monkeypatch: pytest.MonkeyPatch

    def does(self, line: str, status: int = 0) -> str:
        """Run a line; its complaints."""
        got, _, err = self.run(line)
        assert got == status, f"{line}: {got} {err}"
        return err

    def file(self, name: str, data: bytes = b"data") -> Path:
        """A file here."""
        return write(self.here / name, data)

    def stored(self, name: str, data: bytes = b"data") -> Path:
        """A file on the server."""
        return write(self.there / name, data)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, ns=(10**18 + 1, 10**18 + 1))
    return path


ROWS: dict[str, Callable[[World], None]] = {}


def row(name: str) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """The function is the test of this row."""

    def add(test: Callable[[World], None]) -> Callable[[World], None]:
        assert name not in ROWS
        ROWS[name] = test
        return test

    return add


@pytest.fixture
def world(run, local, files, monkeypatch) -> World:
    return World(local, files, run, monkeypatch)


@pytest.mark.parametrize("name", IDS)
def test_the_row_is_so(name, world):
    assert name in ROWS, "this row of docs/copying.md has no test"
    ROWS[name](world)


def test_the_table_and_its_tests_are_the_same():
    assert len(set(IDS)) == len(IDS)
    assert ROWS.keys() == set(IDS)


def is_file(path: Path, data: bytes = b"data") -> bool:
    return stat.S_ISREG(path.lstat().st_mode) and path.read_bytes() == data


def root_only() -> None:
    if os.geteuid() != 0:
        pytest.skip("makes nodes and other users' links")


def device(path: Path) -> Path:
    root_only()
    if not usable(make_null(path)):
        pytest.skip("no device can be opened here")
    return path


# operands ----------------------------------------------------------------------------------


@row("into-directory")
def _(w: World) -> None:
    w.file("f")
    (w.there / "d").mkdir()
    (w.here / "e").mkdir()
    w.does("put f /d")
    w.does("get /d/f e")
    w.does("cp /d/f /")
    assert is_file(w.there / "d" / "f") and is_file(w.here / "e" / "f") and is_file(w.there / "f")


@row("new-directory")
def _(w: World) -> None:
    w.file("f")
    w.does("put f /a/b/")
    w.does("get /a/b/f c/d/")
    w.does("cp /a/b/f /e/f/")
    assert is_file(w.there / "a" / "b" / "f") and is_file(w.here / "c" / "d" / "f")
    assert is_file(w.there / "e" / "f" / "f")


@row("slash-after-file")
def _(w: World) -> None:
    w.file("f")
    w.stored("there")
    os.mkfifo(w.here / "fifo")
    w.does("put f /there/", 1)
    w.does("get /there f/", 1)
    w.does("get /there fifo/", 1)
    w.does("cp /there /there/", 1)
    assert is_file(w.here / "f") and is_file(w.there / "there")


@row("several-need-directory")
def _(w: World) -> None:
    for name in "ab":
        w.file(name)
        w.stored(name)
    for line in ("put a b /c", "get /a /b c", "cp /a /b /c"):
        w.does(line, 1)
    assert not (w.there / "c").exists() and not (w.here / "c").exists()


@row("contents-of-directory")
def _(w: World) -> None:
    w.file("d/f")
    w.does("put -r d/. /e")
    w.does("get -r /e/. g")
    assert is_file(w.there / "e" / "f") and is_file(w.here / "g" / "f")


@row("directory-again")
def _(w: World) -> None:
    w.file("d/f")
    for _ in range(2):
        w.does("put -r d /e")
        w.does("get -r /e g")
        w.does("cp -r /e /h")
    assert is_file(w.there / "e" / "d" / "f") and is_file(w.here / "g" / "e" / "f")
    assert is_file(w.there / "h" / "e" / "f")


@row("directory-without-r")
def _(w: World) -> None:
    w.file("d/f")
    w.stored("d/f")
    for line in ("put d /e", "get /d e", "cp /d /e"):
        assert "use -r" in w.does(line, 1)


@row("one-missing")
def _(w: World) -> None:
    w.file("a")
    w.stored("a")
    for line in ("put a missing /d/", "get /a /missing d/"):
        assert "missing: no such file" in w.does(line, 1)
    assert is_file(w.there / "d" / "a") and is_file(w.here / "d" / "a")


@row("two-of-one-name")
def _(w: World) -> None:
    w.file("one/f", b"first")
    w.file("two/f", b"second")
    w.file("g")
    (w.there / "d").mkdir()
    assert "will not overwrite just-created" in w.does("put one/f two/f g /d", status=1)
    assert (w.there / "d" / "f").read_bytes() == b"first"
    assert (w.there / "d" / "g").exists()


@row("named-twice")
def _(w: World) -> None:
    w.file("f")
    (w.there / "d").mkdir()
    assert "named more than once" in w.does("put f f /d")
    assert (w.there / "d" / "f").read_bytes() == b"data"


@row("last-operand-is-a-source")
def _(w: World) -> None:
    w.file("a", b"of a")
    w.file("b", b"of b")
    w.stored("c", b"of c")
    w.stored("d", b"of d")
    assert "b exists locally, too" in w.does("put a b", status=2)
    assert not (w.there / "b").exists()
    assert "d exists on the server, too" in w.does("get c d", status=2)
    assert not (w.here / "d").exists()


@row("exact-target")
def _(w: World) -> None:
    w.file("f")
    (w.there / "d").mkdir()
    w.does("put -T f /d", status=1)
    assert list((w.there / "d").iterdir()) == []
    w.does("put -T f /name")
    assert (w.there / "name").read_bytes() == b"data"


@row("target-directory")
def _(w: World) -> None:
    w.file("f")
    w.does("put -t /missing f", status=2)
    assert not (w.there / "missing").exists()
    (w.there / "d").mkdir()
    w.does("put -t /d f")
    assert (w.there / "d" / "f").exists()


# links -------------------------------------------------------------------------------------


@row("named-link")
def _(w: World) -> None:
    w.file("f")
    (w.here / "l").symlink_to("f")
    w.stored("g", b"there")
    (w.there / "m").symlink_to("g")
    w.does("put l /")
    w.does("get /m")
    assert is_file(w.there / "l") and is_file(w.here / "m", b"there")


@row("named-link-r")
def _(w: World) -> None:
    w.file("d/f")
    (w.here / "l").symlink_to("d")
    w.does("put -r l /e")
    (w.there / "m").symlink_to("e")
    w.does("get -r /m g")
    for path in (w.there / "e", w.here / "g"):
        assert not path.is_symlink() and is_file(path / "f")


@row("named-link-slash")
def _(w: World) -> None:
    w.file("d/f")
    (w.here / "l").symlink_to("d")
    w.does("put -r l/ /e")
    (w.there / "m").symlink_to("e")
    w.does("get -r /m/ g")
    for path in (w.there / "e", w.here / "g"):
        assert not path.is_symlink() and is_file(path / "f")


@row("matched-link")
def _(w: World) -> None:
    w.file("f")
    (w.here / "link").symlink_to("f")
    w.does("put lin* /d/")
    (w.there / "link").symlink_to("d/link")
    (w.here / "e").mkdir()
    w.does("get /lin* e")
    assert is_file(w.there / "d" / "link") and is_file(w.here / "e" / "link")


@row("dangling-link")
def _(w: World) -> None:
    (w.here / "l").symlink_to("nowhere")
    (w.there / "m").symlink_to("nowhere")
    for line in ("put l /", "get /m", "cp /m /n", "cp -r /m /n"):
        w.does(line, 5)
    assert not os.path.lexists(w.there / "l") and not os.path.lexists(w.there / "n")


@row("option-links")
def _(w: World) -> None:
    (w.here / "l").symlink_to("nowhere")
    w.does("put --links l /")
    w.does("get --links /l m")
    w.does("cp --links /l /n")
    for path in (w.there / "l", w.here / "m", w.there / "n"):
        assert os.readlink(path) == "nowhere"


@row("option-copy-links")
def _(w: World) -> None:
    w.file("d/f")
    (w.here / "d" / "l").symlink_to("f")
    w.does("put -rL d /e")
    (w.there / "e" / "m").symlink_to("f")
    w.does("get -rL /e g")
    assert is_file(w.there / "e" / "l") and is_file(w.here / "g" / "m")


@row("links-and-copy-links")
def _(w: World) -> None:
    w.file("f")
    w.does("put --links -L f /", 2)
    w.does("get --links -L /f", 2)


@row("link-in-tree")
def _(w: World) -> None:
    w.file("d/f")
    (w.here / "d" / "l").symlink_to("f")
    w.does("put -r d /e")
    w.does("get -r /e g")
    w.does("cp -r /e /h")
    for directory in (w.there / "e", w.here / "g", w.there / "h"):
        assert os.readlink(directory / "l") == "f"


@row("other-users-link")
def _(w: World) -> None:
    root_only()
    unauthenticated(w.here / "in" / "l", w.file("f"))
    assert "-L to follow it" in w.does("put in/l /", 6)
    assert not os.path.lexists(w.there / "l")
    w.does("put -L in/l /")
    assert is_file(w.there / "l")


@row("cp-link")
def _(w: World) -> None:
    w.stored("d/f")
    (w.there / "l").symlink_to("d")
    (w.there / "m").symlink_to("d/f")
    w.does("cp -r /l /copied")
    w.does("cp /m /n")
    w.does("cp -r /m /o")
    assert not (w.there / "copied").is_symlink() and is_file(w.there / "copied" / "f")
    assert is_file(w.there / "n") and is_file(w.there / "o")


@row("cat-hash-link")
def _(w: World) -> None:
    w.stored("f")
    (w.there / "l").symlink_to("f")
    assert w.run("cat /l")[:2] == (0, "data")
    assert w.run("hash /l")[1].split()[0] == w.run("hash /f")[1].split()[0]


@row("mv-rm-link")
def _(w: World) -> None:
    w.stored("d/f").chmod(0o644)
    for name in "lmk":
        (w.there / name).symlink_to("d")
    w.does("mv /l /n")
    w.does("rm -r /m")
    (w.there / "t").mkdir()
    (w.there / "t" / "l").symlink_to("../d/f")
    w.does("chmod -R 700 /t")
    assert os.readlink(w.there / "n") == "d" and not os.path.lexists(w.there / "m")
    assert is_file(w.there / "d" / "f")
    assert (w.there / "d" / "f").stat().st_mode & 0o777 == 0o644


@row("sync-roots")
def _(w: World) -> None:
    w.file("d/f")
    (w.here / "l").symlink_to("d")
    w.does("sync l :/e")
    (w.there / "m").symlink_to("e")
    w.does("sync :/m g")
    assert is_file(w.there / "e" / "f") and is_file(w.here / "g" / "f")


@row("put-over-link")
def _(w: World) -> None:
    w.file("f")
    w.stored("real", b"old")
    (w.there / "l").symlink_to("real")
    w.does("put f /l")
    assert is_file(w.there / "l") and is_file(w.there / "real", b"old")


# special files -----------------------------------------------------------------------------


@row("named-fifo")
def _(w: World) -> None:
    os.mkfifo(w.here / "fifo")
    with writing(w.here / "fifo", b"data"):
        w.does("put fifo /f")
    assert is_file(w.there / "f")


@row("named-descriptor")
def _(w: World) -> None:
    read, write_end = os.pipe()
    os.write(write_end, b"data")
    os.close(write_end)
    try:
        w.does(f"put /dev/fd/{read} /f")
    finally:
        os.close(read)
    assert is_file(w.there / "f")


@row("named-device")
def _(w: World) -> None:
    device(w.here / "null")
    w.does("put null /f")
    assert is_file(w.there / "f", b"")


@row("endless-device")
def _(w: World) -> None:
    root_only()
    os.mknod("zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    if not usable(w.here / "zero"):
        pytest.skip("no device can be opened here")
    assert "may have no end" in w.does("put zero /f", 1)
    assert not (w.there / "f").exists()


@row("named-socket")
def _(w: World) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        w.does("put socket /f", 1)
        w.does("put -r socket /f", 1)


@row("size-0")
def _(w: World) -> None:
    w.does("put /proc/cpuinfo /f")
    assert (w.there / "f").read_bytes().startswith(b"processor")


@row("fifo-in-tree")
def _(w: World) -> None:
    w.file("d/f")
    os.mkfifo(w.here / "d" / "fifo")
    assert "skipped" in w.does("put -r d /e")
    assert os.listdir(w.there / "e") == ["f"]


@row("special-on-server")
def _(w: World) -> None:
    os.mkfifo(w.there / "fifo")
    w.does("get /fifo", 1)
    w.does("cat /fifo", 1)
    w.does("cp /fifo /f", 1)


@row("fifo-without-writer")
def _(w: World) -> None:
    w.monkeypatch.setattr(waiting, "SAY_AFTER_SECONDS", 0.0)
    os.mkfifo(w.here / "fifo")
    assert "waiting for a writer" in interrupted(w, "put fifo /f")


def interrupted(w: World, line: str) -> str:
    """Run a line that says what it waits for, and is stopped then; its complaints."""
    from ftpclient.cli.printer import Printer

    real = Printer.remark

    def remark(printer: Printer, text: str) -> None:
        real(printer, text)
        printer._app.interrupt.set()

    w.monkeypatch.setattr(Printer, "remark", remark)
    return w.does(line, 130)


@row("closed-input")
def _(w: World) -> None:
    w.stored("keep", b"good")
    w.monkeypatch.setattr(standard, "_closed", {0})
    assert "standard input is closed" in w.does("put - /keep", 1)
    assert "standard input is closed" in w.does("put /dev/stdin /keep", 1)
    assert is_file(w.there / "keep", b"good")


@row("no-empty")
def _(w: World) -> None:
    w.stored("keep", b"good")
    w.file("empty", b"")
    os.mkfifo(w.here / "fifo")
    assert "empty, so it is not stored" in w.does("put --no-empty empty /keep", 1)
    with writing(w.here / "fifo", b""):
        w.does("put --no-empty fifo /keep", 1)
    with open(os.devnull, "rb") as nothing:
        before = os.dup(0)
        os.dup2(nothing.fileno(), 0)
        try:
            assert "standard input: empty" in w.does("put --no-empty - /keep", 1)
        finally:
            os.dup2(before, 0)
            os.close(before)
    assert is_file(w.there / "keep", b"good")


# targets -----------------------------------------------------------------------------------


@row("to-fifo")
def _(w: World) -> None:
    w.stored("f")
    os.mkfifo(w.here / "fifo")
    reading = Reading(w.here / "fifo")
    w.does("get /f fifo")
    assert reading.result() == b"data"
    assert (w.here / "fifo").is_fifo()


@row("to-device")
def _(w: World) -> None:
    w.stored("f")
    device(w.here / "null")
    w.does("get /f null")
    assert (w.here / "null").is_char_device()


@row("to-descriptor")
def _(w: World) -> None:
    w.stored("f")
    with open(w.here / "out", "wb", buffering=0) as out:
        out.write(b"before ")
        w.does(f"get /f /dev/fd/{out.fileno()}")
    assert is_file(w.here / "out", b"before data")
    assert w.run("get /f /dev/stdout")[:2] == (0, "data")


@row("to-node-options")
def _(w: World) -> None:
    w.stored("f")
    os.mkfifo(w.here / "fifo")
    for option in ("-n", "-u"):
        reading = Reading(w.here / "fifo")
        w.does(f"get {option} /f fifo")
        assert reading.result() == b"data"


@row("to-fifo-without-reader")
def _(w: World) -> None:
    w.monkeypatch.setattr(waiting, "SAY_AFTER_SECONDS", 0.0)
    w.stored("f")
    os.mkfifo(w.here / "fifo")
    assert "waiting for a reader" in interrupted(w, "get /f fifo")


@row("to-socket")
def _(w: World) -> None:
    w.stored("f")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        w.does("get /f socket", 1)
        assert (w.here / "socket").is_socket()


@row("to-link")
def _(w: World) -> None:
    w.stored("f")
    with w.file("d/real", b"old").open("rb") as opened:
        (w.here / "l").symlink_to("d/real")
        w.does("get /f l")
        assert opened.read() == b"old"
    assert (w.here / "l").is_symlink() and is_file(w.here / "d" / "real")


@row("to-dangling-link")
def _(w: World) -> None:
    w.stored("f")
    (w.here / "l").symlink_to("nowhere")
    w.does("get /f l", 5)
    assert os.listdir(w.here) == ["l"]


@row("to-other-users-link")
def _(w: World) -> None:
    root_only()
    w.stored("f")
    unauthenticated(w.here / "in" / "l", w.file("real", b"old"))
    w.does("get /f in/l", 6)
    assert is_file(w.here / "real", b"old")
    w.does("get -L /f in/l")
    assert is_file(w.here / "real")


@row("to-own-name")
def _(w: World) -> None:
    w.stored("f")
    w.stored("g")
    os.mkfifo(w.here / "f")
    w.file("real", b"old")
    (w.here / "g").symlink_to("real")
    reading = Reading(w.here / "f")
    w.does("get /f")
    assert reading.result() == b"data"
    w.does("get /g .")
    assert (w.here / "g").is_symlink() and is_file(w.here / "real")


@row("to-matched-name")
def _(w: World) -> None:
    w.stored("f")
    w.stored("g")
    os.mkfifo(w.here / "f")
    w.file("real", b"old")
    (w.here / "g").symlink_to("real")
    w.does("get /* .", 1)
    assert (w.here / "f").is_fifo() and is_file(w.here / "g")
    assert is_file(w.here / "real", b"old")


@row("to-link-in-tree")
def _(w: World) -> None:
    w.stored("d/f")
    w.file("real", b"old")
    (w.here / "d").mkdir()
    (w.here / "d" / "f").symlink_to("../real")
    w.does("get -r /d .")
    assert is_file(w.here / "d" / "f") and is_file(w.here / "real", b"old")


@row("to-fifo-in-tree")
def _(w: World) -> None:
    w.stored("d/f")
    (w.here / "d").mkdir()
    os.mkfifo(w.here / "d" / "f")
    w.does("get -r /d .")
    assert is_file(w.here / "d" / "f")


@row("to-forbidden")
def _(w: World) -> None:
    w.stored("f")
    w.file("d/real", b"old")
    (w.here / "d").chmod(0o555)
    (w.here / "l").symlink_to("d/real")
    with as_plain_user():
        w.does("get /f l", 6)
        w.does("get /f d/new", 6)
    (w.here / "d").chmod(0o755)
    assert is_file(w.here / "d" / "real", b"old")


# metadata ----------------------------------------------------------------------------------


@row("mode-and-time")
def _(w: World) -> None:
    w.file("d/f").chmod(0o640)
    (w.here / "d").chmod(0o750)
    os.utime(w.here / "d", ns=(10**18 + 7, 10**18 + 7))
    w.does("put -r d /e")
    w.does("get -r /e g")
    w.does("cp -r /e /h")
    for copy in (w.there / "e", w.here / "g", w.there / "h"):
        for name in ("", "f"):
            info, source = (copy / name).stat(), (w.here / "d" / name).stat()
            assert (info.st_mode, info.st_mtime_ns) == (source.st_mode, source.st_mtime_ns)


@row("setuid")
def _(w: World) -> None:
    w.file("f").chmod(0o7755)
    w.stored("g").chmod(0o7755)
    w.does("put f /")
    w.does("get /g")
    for path in (w.there / "f", w.here / "g"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o755


@row("stream-mode")
def _(w: World) -> None:
    os.mkfifo(w.here / "fifo", 0o600)
    os.utime(w.here / "fifo", ns=(1, 1))
    with writing(w.here / "fifo", b"data"):
        w.does("put fifo /f")
    assert stat.S_IMODE((w.there / "f").stat().st_mode) == 0o644
    assert (w.there / "f").stat().st_mtime_ns > 10**18


@row("size-0-mode")
def _(w: World) -> None:
    w.does("put /proc/cpuinfo /f")
    assert stat.S_IMODE((w.there / "f").stat().st_mode) == 0o444


@row("node-untouched")
def _(w: World) -> None:
    w.stored("f", b"")
    os.mkfifo(w.here / "fifo", 0o600)
    os.utime(w.here / "fifo", ns=(10**17, 10**17))
    reading = Reading(w.here / "fifo")
    w.does("get /f fifo")
    reading.result()
    info = (w.here / "fifo").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (0o600, 10**17)


@row("through-link-mode")
def _(w: World) -> None:
    w.stored("f").chmod(0o640)
    w.file("real", b"old").chmod(0o600)
    (w.here / "l").symlink_to("real")
    w.does("get /f l")
    info = (w.here / "real").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (0o640, 10**18 + 1)


@row("hard-links")
def _(w: World) -> None:
    os.link(w.file("d/f"), w.here / "d" / "g")
    w.does("put -r d /e")
    assert (w.there / "e" / "f").stat().st_nlink == 1
    assert is_file(w.there / "e" / "f") and is_file(w.there / "e" / "g")


@row("holes")
def _(w: World) -> None:
    sparse.need_holes(w.here)
    data = sparse.make(w.here / "f", [(False, 4096), (True, 2**20), (False, 4096)])
    w.does("put f /")
    w.does("cp /f /copy")
    w.does("get /f g")
    for path in (w.there / "f", w.there / "copy", w.here / "g"):
        assert path.read_bytes() == data and sparse.taken(path) < 2**18
        assert sparse.holes_of(path) == [(4096, 4096 + 2**20)]


@row("extended-attributes")
def _(w: World) -> None:
    path = w.file("f")
    try:
        os.setxattr(path, "user.colour", b"red")
    except OSError:
        pytest.skip("there are no extended attributes here")
    w.does("put f /")
    w.does("get /f g")
    assert "user.colour" not in os.listxattr(w.there / "f") + os.listxattr(w.here / "g")


# parts of a tree, moving, looking first -------------------------------------------------------


def grow(w: World) -> None:
    for name in ("d/a.o", "d/a.c", "d/e/b.o", "d/e/b.c"):
        w.file(name)


@row("exclude")
def _(w: World) -> None:
    grow(w)
    (w.here / "list").write_text("*.o\n!b.o\n")
    w.does("put -rT -x *.o --include b.o d /one")
    w.does("put -rT --exclude-from list d /two")
    for name in ("one", "two"):
        assert listing(w.there / name) == ["a.c", "e", "e/b.c", "e/b.o"]
    w.does("get -rT -x e /one back")
    assert listing(w.here / "back") == ["a.c"]


def listing(root: Path) -> list[str]:
    return sorted(
        str(path.relative_to(root)) for path in root.rglob("*") if ".ftpd-staging" not in path.parts
    )


@row("ignore-files")
def _(w: World) -> None:
    grow(w)
    (w.here / "d" / ".ftpignore").write_text("*.o\n")
    w.does("put -rT d /all")
    assert {".ftpignore", "a.o", "e/b.o"} <= set(listing(w.there / "all"))
    w.does("put -rT --ignore-files d /some")
    assert listing(w.there / "some") == [".ftpignore", "a.c", "e", "e/b.c"]


@row("files-from")
def _(w: World) -> None:
    grow(w)
    w.file("d/#x")
    (w.here / "list").write_text("a.c\n#x\ne\n")
    w.does("put --files-from list d /new")
    assert listing(w.there / "new") == ["#x", "a.c", "e", "e/b.c", "e/b.o"]
    w.does("put --files-from list d /new")
    assert listing(w.there / "new" / "d") == ["#x", "a.c", "e", "e/b.c", "e/b.o"]
    (w.here / "list").write_bytes(b"e/b.c\0#x")
    w.does("get -0 --files-from list /new back")
    assert listing(w.here / "back") == ["#x", "e", "e/b.c"]


@row("files-from-missing")
def _(w: World) -> None:
    grow(w)
    (w.here / "list").write_text("nope\na.c\n")
    assert "d/nope" in w.does("put --files-from list d /new", 1)
    assert listing(w.there / "new") == ["a.c"]


@row("files-from-outside")
def _(w: World) -> None:
    grow(w)
    for path in ("/etc/passwd", "e/../../x"):
        (w.here / "list").write_text(f"a.c\n{path}\n")
        assert "list:2: " in w.does("put --files-from list d /new", 2)
    assert listing(w.there) == []


@row("remove-source")
def _(w: World) -> None:
    grow(w)
    w.does("put -r --remove-source d /new")
    assert not (w.here / "d").exists()
    assert len(listing(w.there / "new")) == 5
    w.does("get -r --remove-source-files /new back")
    assert not (w.there / "new").exists()
    assert len(listing(w.here / "back")) == 5


@row("remove-source-changed")
def _(w: World) -> None:
    source = w.file("a")
    remove = removal.remove_sent

    def rewritten_before(path: bytes, info: os.stat_result) -> None:
        source.write_bytes(b"newer")
        remove(path, info)

    w.monkeypatch.setattr("ftpclient.transfer.file_upload.remove_sent", rewritten_before)
    assert "changed meanwhile" in w.does("put --remove-source a /a", 1)
    assert (source.read_bytes(), (w.there / "a").read_bytes()) == (b"newer", b"data")


@row("remove-source-link")
def _(w: World) -> None:
    w.file("real")
    os.symlink("real", w.here / "link")
    w.does("put --remove-source link /a")
    assert listing(w.here) == ["real"]
    assert "cannot be used together" in w.does("put -r -L --remove-source real /b", 2)


@row("remove-source-stream")
def _(w: World) -> None:
    os.mkfifo(w.here / "fifo")
    with writing(w.here / "fifo", b"bytes"):
        w.does("put --remove-source fifo /a")
    assert stat.S_ISFIFO((w.here / "fifo").stat().st_mode)
    w.does("put --remove-source - /b", 2)
    w.does("get --remove-source /a -", 2)
    assert listing(w.there) == ["a"]


@row("dry-run")
def _(w: World) -> None:
    w.file("a")
    w.stored("b")
    for line in ("put a /b", "get /b a", "cp /b /c", "mv /b /c", "rm /b", "put -r . /new"):
        w.does(f"{line} --dry-run")
    w.does("put nope /b --dry-run", 5)
    assert (listing(w.here), listing(w.there)) == (["a"], ["b"])


@row("n-is-no-clobber")
def _(w: World) -> None:
    w.file("d/a", b"new")
    w.stored("d/a", b"old")
    terminal = SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: True))
    w.monkeypatch.setattr(rehearsal, "sys", terminal)
    assert "--dry-run shows" in w.does("put -rn d /")
    assert (w.there / "d" / "a").read_bytes() == b"old"
