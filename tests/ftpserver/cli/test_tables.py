"""Tables on terminals of all widths, and in pipes."""

from __future__ import annotations

import pytest

from ftpserver.cli import tables
from ftpserver.cli.tables import Column
from ftpwire.cells import cells

COLUMNS = (
    Column("NAME", is_cut=True),
    Column("USED", right=True),
    Column("STATE", rank=1, color=lambda text: "" if text == "open" else tables.RED),
    Column("HOME", rank=2, is_cut=True),
)
ROWS = [
    ("alice", "57.0 MiB", "open", "/srv/ftpd/home/alice"),
    ("日本語", "1.0 KiB", "disabled", "/srv/elsewhere/and-far/away"),
]


def drawn(width: int) -> list[str]:
    return list(tables.lines(COLUMNS, ROWS, width))


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")


def test_columns_are_aligned_by_cells():
    assert drawn(80) == [
        "NAME        USED  STATE     HOME",
        "alice   57.0 MiB  open      /srv/ftpd/home/alice",
        "日本語   1.0 KiB  disabled  /srv/elsewhere/and-far/away",
    ]


def test_long_texts_are_cut_first_and_then_columns_are_left_out():
    assert drawn(45)[1:] == [
        "alice   57.0 MiB  open      /srv/ftp…me/alice",
        "日本語   1.0 KiB  disabled  /srv/els…far/away",
    ]
    assert drawn(30) == [
        "NAME        USED  STATE",
        "alice   57.0 MiB  open",
        "日本語   1.0 KiB  disabled",
    ]
    assert drawn(20) == ["NAME        USED", "alice   57.0 MiB", "日本語   1.0 KiB"]


@pytest.mark.parametrize("width", range(1, 70))
def test_nothing_is_wider_than_the_terminal(width):
    assert max(map(cells, drawn(width))) <= width


def test_colours(monkeypatch):
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b" not in drawn(80)[1]
    assert "  \x1b[31mdisabled\x1b[0m  " in drawn(80)[2]


def test_fields_in_a_pipe(capsys):
    tables.print_fields("a", 0, None, "", "b\tc\nd\x1b[m")
    assert capsys.readouterr().out == "a\t0\t-\t-\tb\\tc\\nd\\x1b[m\n"


def test_nothing_to_show(capsys):
    tables.print_table(COLUMNS, [], "no accounts")
    assert capsys.readouterr().out == "no accounts\n"
