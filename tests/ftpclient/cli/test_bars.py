"""Progress bars: what they say, and that they fit."""

from __future__ import annotations

import re
import threading

import pytest
from rich.cells import cell_len

from ftpclient.cli.app import App
from ftpclient.cli.bars import Bars
from ftpclient.cli.render import shortened
from ftpclient.transfer.report import Result
from ftpwire.errors import NotFound

MIB = 2**20
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def app():
    app = App()
    yield app
    app.interrupt.close()


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    """Sets the terminal's columns."""

    def columns(number: int) -> None:
        monkeypatch.setenv("COLUMNS", str(number))
        monkeypatch.setenv("LINES", "24")

    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    columns(80)
    return columns


def done(name: bytes, size: int = 0) -> Result:
    return Result(name, b"/" + name, size, "done")


def drawn(capsys) -> list[str]:
    """All lines that were drawn, without colours."""
    text = _ESCAPES.sub("", capsys.readouterr().err)
    return [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def last(capsys, count: int) -> list[str]:
    """What stood there at the end."""
    return drawn(capsys)[-count:]


def test_one_file_has_one_bar(app, capsys):
    with Bars(app) as bars:
        bars.totals(1, 10 * MIB)
        bars.started(b"dir/report.pdf", 10 * MIB)
        bars.advanced(5 * MIB)
    (line,) = last(capsys, 1)
    assert line.startswith("report.pdf ━")
    assert " 5.0 MiB/10.0 MiB " in line
    assert not any("files" in line for line in drawn(capsys))


def test_several_files_have_a_bar_for_all(app, capsys):
    with Bars(app) as bars:
        bars.totals(3, 30 * MIB)
        bars.started(b"one", 10 * MIB)
        bars.advanced(10 * MIB)
        bars.finished(done(b"one"))
        bars.started(b"two", 10 * MIB)
        bars.advanced(5 * MIB)
    total, file = last(capsys, 2)
    assert total.startswith("1/3 files ━")
    assert " 15.0 MiB/30.0 MiB " in total
    assert file.startswith("two       ━")
    assert " 5.0 MiB/10.0 MiB " in file


def test_small_files_count_for_the_total_only(app, capsys):
    with Bars(app) as bars:
        bars.totals(1000, MIB)
        for number in range(500):
            bars.advanced(1024)
            bars.finished(done(b"%d" % number, 1024))
    (line,) = last(capsys, 1)
    assert line.startswith("500/1000 files ━")
    assert " 500.0 KiB/1.0 MiB " in line


def test_small_files_after_a_large_one_are_not_counted_with_it(app, capsys):
    with Bars(app) as bars:
        bars.totals(101, 20 * MIB)
        bars.started(b"large", 10 * MIB)
        bars.advanced(4 * MIB)
        bars.advanced(6 * MIB)
        for number in range(100):
            bars.advanced(MIB // 100)
            bars.finished(done(b"%d" % number, MIB // 100))
    total, file = last(capsys, 2)
    assert total.startswith("100/101 files ") and " 11.0 MiB/20.0 MiB " in total
    assert file.startswith("large ") and " 10.0 MiB/10.0 MiB" in file


def test_a_file_that_waits_for_its_answer_gives_its_line_to_the_next(app, capsys):
    with Bars(app) as bars:
        bars.totals(2, 20 * MIB)
        bars.started(b"one", 10 * MIB)
        bars.advanced(10 * MIB)
        bars.started(b"two", 10 * MIB)
        bars.advanced(MIB)
        drawn(capsys)
    total, file = last(capsys, 2)
    assert total.startswith("0/2 files ") and " 11.0 MiB/20.0 MiB " in total
    assert file.startswith("two ") and " 1.0 MiB/10.0 MiB" in file


def test_totals_add_up(app, capsys):
    """A download hears of each tree when it comes to it."""
    with Bars(app) as bars:
        bars.totals(2, MIB)
        bars.totals(3, MIB)
    assert last(capsys, 1)[0].startswith("0/5 files ")


def test_without_totals_what_is_done_is_counted(app, capsys):
    with Bars(app) as bars:
        for name in (b"one", b"two"):
            bars.started(name, MIB)
            bars.advanced(MIB)
            bars.finished(done(name))
        bars.started(b"three", None)
        bars.advanced(10)
    total, file = last(capsys, 2)
    assert total.startswith("2 files ")
    assert " 2.0 MiB " in total
    assert file.startswith("three   ")
    assert " 10 B" in file


def test_standard_input_has_a_name(app, capsys):
    with Bars(app) as bars:
        bars.started(b"-", None)
    assert last(capsys, 1)[0].startswith("input ")


def test_a_file_that_starts_again_has_one_bar(app, capsys):
    with Bars(app) as bars:
        bars.started(b"file", 2 * MIB)
        bars.advanced(MIB)
        bars.started(b"file", 2 * MIB)
        bars.advanced(MIB // 2)
        bars.started(b"other", MIB)
    total, file, other = last(capsys, 3)
    assert " 512.0 KiB" in total
    assert file.startswith("file ") and " 512.0 KiB/2.0 MiB" in file
    assert other.startswith("other ")


def test_files_of_several_connections_each_have_their_own_bytes(app, capsys):
    turn = threading.Barrier(2)

    def transfer(name: bytes, count: int) -> None:
        with lock:
            bars.started(name, 10 * MIB)
        turn.wait(60)
        with lock:
            bars.advanced(count)
        turn.wait(60)

    lock = threading.Lock()
    with Bars(app) as bars:
        threads = [
            threading.Thread(target=transfer, args=(name, count))
            for name, count in ((b"one", MIB), (b"two", 2 * MIB))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = last(capsys, 3)
    assert any(line.startswith("one ") and " 1.0 MiB/10.0 MiB" in line for line in lines)
    assert any(line.startswith("two ") and " 2.0 MiB/10.0 MiB" in line for line in lines)
    assert any(" files " in line and " 3.0 MiB" in line for line in lines), lines


def test_a_failure_is_told_beside_the_bars(app, capsys):
    with Bars(app) as bars:
        bars.totals(2, MIB)
        bars.finished(Result(b"gone", b"/gone", 0, "failed", error=NotFound("gone: not there")))
    assert "ftp: gone: not there" in drawn(capsys)


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_bars_fit(app, capsys, terminal, columns):
    """With room for what the terminal itself shows of Ctrl-C."""
    terminal(columns)
    with Bars(app) as bars:
        bars.totals(123_456, 1023 * 2**40)
        bars.started(b"x" * 255, 1023 * MIB)
        bars.advanced(1022 * MIB)
        bars.started("…".encode() * 80, 1023 * 2**30)
        bars.advanced(1022 * 2**30)
        bars.started(b"\x1b[31m\n" * 20, None)
    lines = drawn(capsys)
    assert max(map(cell_len, lines)) <= columns - 3
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        pytest.param("short", 10, "short", id="short"),
        pytest.param("0123456789", 10, "0123456789", id="just"),
        pytest.param("a-long-name.tar.gz", 10, "a-lon…r.gz", id="long"),
        pytest.param("a-long-name.tar.gz", 9, "a-lo…r.gz", id="odd"),
    ],
)
def test_shortened(text, width, short):
    assert shortened(text, width) == short
