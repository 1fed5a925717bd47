"""The line of progress: what it says, and that it fits."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import signal
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import pytest

from ftpclient.cli import status_line
from ftpclient.cli.app import App
from ftpclient.cli.bars import Bars
from ftpclient.cli.headway import Headway, line
from ftpclient.cli.status_line import StatusLine
from ftpclient.transfer.report import Result
from ftpwire.cells import cells
from ftpwire.errors import NotFound
from tests.clock import Clock

MIB = 2**20
WIDTHS = [20, 25, 30, 40, 60, 80, 100, 200]


@pytest.fixture
def app():
    app = App()
    yield app
    app.interrupt.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def bars(app, clock) -> Bars:
    return Bars(app, clock)


def shown(bars: Bars, columns: int = 100) -> str:
    return line(bars.headway(), columns - 1)


def done(name: bytes, size: int = 0) -> Result:
    return Result(name, b"/" + name, size, "done")


def run(bars: Bars, clock: Clock, count: int, seconds: float = 1.0) -> None:
    """So many bytes come in so many seconds."""
    bars.headway()
    clock.now += seconds
    bars.advanced(count)


# what is counted -----------------------------------------------------------------------------


def test_one_file(bars, clock):
    bars.totals(1, 10 * MIB)
    bars.started(b"dir/report.pdf", 10 * MIB)
    bars.advanced(0)
    run(bars, clock, 4 * MIB, 2)
    assert shown(bars, 60) == " 40%    2.0 MiB/s     0:03  report.pdf"
    assert "    4.0 of 10.0 MiB  report.pdf" in shown(bars)
    assert "files" not in shown(bars)


def test_several_files_are_counted(bars):
    bars.totals(3, 30 * MIB)
    bars.started(b"one", 10 * MIB)
    bars.advanced(10 * MIB)
    bars.finished(done(b"one"))
    bars.started(b"two", 10 * MIB)
    bars.advanced(5 * MIB)
    assert shown(bars).startswith(" 50%  ")
    assert "  1/3 files    15.0 of 30.0 MiB  two" in shown(bars)


def test_small_files_are_named_when_they_are_done(bars):
    """What is under way of them isn't known: they come together."""
    bars.totals(1000, MIB)
    for number in range(500):
        bars.advanced(1024)
        bars.finished(done(b"dir/%d" % number, 1024))
    assert shown(bars).endswith("   500/1000 files      0.5 of 1.0 MiB  499")


def test_a_file_that_waits_for_its_answer_gives_its_place_to_the_next(bars):
    bars.totals(2, 20 * MIB)
    bars.started(b"two", 10 * MIB)
    bars.started(b"one", 10 * MIB)
    assert shown(bars).endswith("  one")
    bars.advanced(10 * MIB)
    assert shown(bars).endswith("  two")


def test_totals_add_up(bars):
    """A download hears of each tree when it comes to it."""
    bars.totals(2, MIB)
    bars.totals(3, MIB)
    assert "  0/5 files  " in shown(bars)


def test_without_totals_what_is_done_is_counted(bars):
    for name in (b"one", b"two"):
        bars.started(name, MIB)
        bars.advanced(MIB)
        bars.finished(done(name))
    bars.started(b"three", None)
    bars.advanced(10)
    assert shown(bars).startswith("  2.0 MiB  ")
    assert shown(bars).endswith("  2 files  three")


def test_standard_input_has_a_name(bars):
    bars.started(b"-", None)
    assert shown(bars).endswith("  input")


def test_a_file_that_starts_again_is_counted_once(bars):
    bars.started(b"file", 2 * MIB)
    bars.advanced(MIB)
    bars.started(b"file", 2 * MIB)
    bars.advanced(MIB // 2)
    assert shown(bars).startswith(" 25%")


def test_files_of_several_connections_each_have_their_own_bytes(bars):
    turn = threading.Barrier(2)

    def transfer(name: bytes, count: int) -> None:
        bars.started(name, 10 * MIB)
        turn.wait(60)
        bars.advanced(count)

    threads = [
        threading.Thread(target=transfer, args=(name, count))
        for name, count in ((b"one", MIB), (b"two", 2 * MIB))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shown(bars).startswith("  3.0 MiB  ")
    bars.started(b"one", 10 * MIB)  # again: its own bytes are taken off
    assert shown(bars).startswith("  2.0 MiB  ")


# rate and time -------------------------------------------------------------------------------


def test_what_an_earlier_try_has_left_is_no_speed(bars, clock):
    bars.totals(1, 1000 * MIB)
    bars.started(b"film", 1000 * MIB)
    run(bars, clock, 900 * MIB, 0.1)
    run(bars, clock, MIB)
    run(bars, clock, MIB)
    assert shown(bars, 60).startswith(" 90%  975.2 KiB/s     1:43")


def test_the_rate_is_of_the_last_seconds(bars, clock):
    bars.totals(1, 1000 * MIB)
    bars.started(b"film", 1000 * MIB)
    bars.advanced(0)
    for _ in range(20):
        run(bars, clock, 9 * MIB)
    for _ in range(11):
        run(bars, clock, MIB)
    assert "   1.0 MiB/s  " in shown(bars, 60)


@pytest.mark.parametrize(
    ("rate", "wide", "narrow"),
    [
        (None, "-:--", "-:--"),
        (2**30 / 5, "0:05", "0:05"),
        (2**30 / 754, "12:34", "12:34"),
        (2**30 / 3723, "1:02:03", "1h02m"),
        (2**30 / 100_000, "27:46:40", "27h"),
        (2**30 / 1_000_000, "11d 13h", "11d"),
        (1, "> 99d", "999d"),
    ],
)
def test_the_time_left(rate, wide, narrow):
    headway = Headway(0, 2**30, rate=rate)
    assert line(headway, 50).endswith(f"  {wide}")
    assert line(headway, 19).endswith(f" {narrow}")


def test_nothing_moves(bars, clock):
    bars.started(b"film", 10 * MIB)
    run(bars, clock, MIB)
    clock.now += 4
    assert "stalled" not in shown(bars)
    clock.now += 8.5
    assert "  stalled 12 s  " in shown(bars)
    assert shown(bars, 20) == " 10% stalled 12 s"
    bars.advanced(MIB)
    assert "stalled" not in shown(bars)


def test_a_file_that_waits_for_its_answer_alone_has_not_stalled(bars, clock):
    bars.started(b"film", 10 * MIB)
    bars.advanced(10 * MIB)
    clock.now += 60
    assert "stalled" not in shown(bars)


def test_without_a_connection(bars, clock):
    """A speed would be that of a moment long ago."""
    bars.started(b"film", 10 * MIB)
    run(bars, clock, MIB)
    bars.waiting(12.0, 3.4)
    assert shown(bars) == " 10% no connection for 12 s, next try in 4 s"
    assert shown(bars, 30) == " 10% offline 12 s"
    bars.waiting(12.0, 0.0)
    assert shown(bars) == " 10% no connection for 12 s, trying now"
    bars.regained()
    assert "connection" not in shown(bars)


# the width -----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize(
    "name", [b"x" * 255, "…".encode() * 80, b"\x1b[31m\n" * 20, "日本".encode()]
)
@pytest.mark.parametrize("size", [None, 0, 10 * MIB, 1023 * 2**40])
def test_it_fits(bars, clock, columns, name, size):
    if size is not None:
        bars.totals(123_456, size)
    bars.started(name, size)
    bars.advanced(0)
    run(bars, clock, 999 * MIB)
    text = shown(bars, columns)
    assert cells(text) < columns
    assert "\x1b" not in text
    bars.waiting(123_456.0, 30.0)
    assert cells(shown(bars, columns)) < columns


@pytest.mark.parametrize("columns", WIDTHS)
def test_what_counts_is_always_there(columns):
    headway = Headway(995 * MIB, 1000 * MIB, rate=999.9 * 1024, name="film", files="1/2 files")
    begin, *others = line(headway, columns - 1).split()
    assert begin == "99%"
    assert ("999.9K/s" if columns < 27 else "999.9") in others
    assert "0:06" in others


def test_the_end_of_a_name_stays(bars):
    bars.started(b"a-name-of-many-letters-and-more.tar.gz", 10)
    assert shown(bars, 60).endswith("  a-name-of-many-…and-more.tar.gz")
    assert shown(bars, 40).endswith("  a-nam…ar.gz")


def test_colours_are_only_in_the_bar():
    headway = Headway(MIB, 2 * MIB, name="film")
    colored = line(headway, 99, colored=True)
    assert colored.replace("\x1b[36m", "").replace("\x1b[0m", "") == line(headway, 99)
    assert line(headway, 59, colored=True) == line(headway, 59)


# drawing it ----------------------------------------------------------------------------------


class FakeTerminal(io.StringIO):
    """What is written to a terminal."""

    def isatty(self) -> bool:
        return True

    def written(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture(autouse=True)
def still(monkeypatch):
    """The line is drawn when a test says so."""
    monkeypatch.setattr(status_line, "_EVERY_SECONDS", 3600)
    monkeypatch.setenv("COLUMNS", "30")


@contextmanager
def terminal() -> Iterator[FakeTerminal]:
    """Has both streams write to one terminal."""
    screen = FakeTerminal()
    with redirect_stdout(screen), redirect_stderr(screen):
        yield screen


DRAWN = "\x1b[?7l\rhere\x1b[J\x1b[?7h\r"
ERASED = "\r \x1b[J\r"


def test_the_cursor_stays_before_it_and_it_never_wraps():
    with terminal() as screen:
        with StatusLine(lambda width: "here" if width == 29 else "wrong") as drawn:
            drawn.draw()
            assert screen.written() == DRAWN
        assert screen.written() == ERASED
        assert sys.stdout is screen and sys.stderr is screen


def test_the_width_is_that_of_the_moment(monkeypatch):
    with terminal() as screen, StatusLine(str) as drawn:
        for columns in ("30", "20", "200"):
            monkeypatch.setenv("COLUMNS", columns)
            drawn.draw()
            assert f"\r{int(columns) - 1}\x1b" in screen.written()


def test_a_variable_does_not_hide_that_the_terminal_has_changed(monkeypatch):
    one, other = pty.openpty()
    try:
        with open(other, "w", closefd=False) as real, redirect_stderr(real):
            with redirect_stdout(io.StringIO()), StatusLine(str) as drawn:
                for columns in (47, 25):
                    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
                    drawn.draw()
                    assert f"\r{columns - 1}\x1b".encode() in os.read(one, 1000)
    finally:
        os.close(one)
        os.close(other)


def test_what_is_printed_comes_above_it():
    with terminal() as screen, StatusLine(lambda width: "here") as drawn:
        drawn.draw()
        screen.written()
        print("a line")
        assert screen.written() == f"{ERASED}a line\n"
        drawn.draw()
        print("half", end="", file=sys.stderr)
        drawn.draw()
        assert screen.written() == f"{DRAWN}{ERASED}half"
        print(" and half", file=sys.stderr)
        drawn.draw()
        assert screen.written() == f" and half\n{DRAWN}"


def test_ctrl_z_takes_it_away_before_the_program_stops(monkeypatch):
    before = signal.getsignal(signal.SIGTSTP)
    with terminal() as screen, StatusLine(lambda width: "here") as drawn:
        seen = []

        def stop(process: int, number: int) -> None:
            drawn.draw()  # as the thread may do at this moment
            seen.append((number, signal.getsignal(signal.SIGTSTP), screen.written()))

        drawn.draw()
        screen.written()
        monkeypatch.setattr(os, "kill", stop)
        signal.raise_signal(signal.SIGTSTP)
        assert seen == [(signal.SIGTSTP, signal.SIG_DFL, ERASED)]
        drawn.draw()
        assert screen.written() == DRAWN
        assert signal.getsignal(signal.SIGTSTP) not in (signal.SIG_DFL, before)
    assert signal.getsignal(signal.SIGTSTP) is before


def test_output_that_goes_elsewhere_is_left_alone():
    pipe = io.StringIO()
    with (
        terminal() as screen,
        redirect_stdout(pipe),
        StatusLine(lambda width: "here") as drawn,
    ):
        assert sys.stdout is pipe
        drawn.draw()
        screen.written()
        print("result")
        assert pipe.getvalue() == "result\n"
        assert screen.written() == ""


def test_a_failure_is_reported_beside_it(app):
    with terminal() as screen, Bars(app) as bars:
        bars.totals(2, MIB)
        bars.finished(Result(b"gone", b"/gone", 0, "failed", error=NotFound("gone: not there")))
    assert "ftp: gone: not there\n" in screen.written()
