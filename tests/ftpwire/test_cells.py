"""Texts measured and cut by the columns of a terminal."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import termios

import pytest

from ftpwire import cells
from ftpwire.cells import begun, padded, shortened

FAMILY = "\U0001f469\u200d\U0001f469\u200d\U0001f467"
FLAG = "\U0001f3f3\ufe0f\u200d\U0001f308"


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("", 0),
        ("plain", 5),
        ("täglich", 7),
        ("ta\u0308glich", 7),
        ("日本語", 6),
        ("한글", 4),
        ("\u1112\u1161\u11ab", 2),
        ("\U0001f600", 2),
        (FAMILY, 2),
        (FLAG, 2),
        ("a\x1bb日", 4),
    ],
)
def test_cells(text, width):
    assert cells.cells(text) == width


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [
        pytest.param("short", 10, "short", id="short"),
        pytest.param("0123456789", 10, "0123456789", id="just"),
        pytest.param("a-long-name.tar.gz", 10, "a-lon…r.gz", id="long"),
        pytest.param("a-long-name.tar.gz", 9, "a-lo…r.gz", id="odd"),
        pytest.param("a-long-name.jpeg", 9, "a-l….jpeg", id="ending"),
        pytest.param("name.a-long-ending", 9, "name…ding", id="no-ending"),
        pytest.param(".a-long-name", 9, ".a-l…name", id="hidden"),
        pytest.param("日本語のとても長い名前.png", 10, "日本….png", id="wide"),
        pytest.param("e\u0301" * 9, 5, "e\u0301e\u0301…e\u0301e\u0301", id="accents"),
        pytest.param(FAMILY * 9, 6, f"{FAMILY}…{FAMILY}", id="joined"),
        pytest.param("name", 2, "n…", id="tiny"),
        pytest.param("name", 0, "", id="none"),
    ],
)
def test_shortened(text, width, short):
    assert shortened(text, width) == short
    assert cells.cells(short) <= width


@pytest.mark.parametrize("text", ["a-long-name.tar.gz", "日本語のとても" * 3, FAMILY * 5, FLAG * 5])
@pytest.mark.parametrize("width", range(1, 12))
def test_nothing_is_wider_than_it_may_be(text, width):
    assert cells.cells(begun(text, width)) <= width
    assert cells.cells(shortened(text, width)) <= width
    assert cells.cells(shortened(text, width, width // 3)) <= width


def test_begun():
    assert begun("日本語", 6) == "日本語"
    assert begun("日本語", 5) == "日本…"
    assert begun("日本語", 4) == "日…"


def test_padded():
    assert padded("日", 4) + "|" == "日  |"
    assert padded("日", 4, right=True) + "|" == "  日|"
    assert padded("long", 2) == "long"


@pytest.mark.parametrize(("typed", "columns"), [("33", 33), ("0", 80), ("-1", 80), ("", 80)])
def test_columns_of_what_is_no_terminal(monkeypatch, typed, columns):
    monkeypatch.setenv("COLUMNS", typed)
    assert cells.columns_of(io.StringIO()) == columns


def test_columns_of_a_terminal(monkeypatch):
    """COLUMNS is what somebody wants, until the terminal changes its size."""
    one, other = pty.openpty()
    try:
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 47, 0, 0))
        with open(other, "w", closefd=False) as terminal:
            monkeypatch.delenv("COLUMNS", raising=False)
            assert cells.columns_of(terminal) == cells.columns_of(terminal, now=True) == 47
            monkeypatch.setenv("COLUMNS", "33")
            assert cells.columns_of(terminal) == 33
            assert cells.columns_of(terminal, now=True) == 47
            fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 0, 0, 0, 0))
            assert cells.columns_of(terminal, now=True) == 33
    finally:
        os.close(one)
        os.close(other)
