"""What is shown before a question is asked."""

from __future__ import annotations

import pytest

from ftpclient.cli import proposal
from ftpclient.cli.app import App
from ftpwire.cells import cells


@pytest.fixture
def app():
    app = App()
    yield app
    app.interrupt.close()


@pytest.fixture
def shown(app, monkeypatch, capsys):
    """Shows things at a width; gives the lines."""

    def show(columns, things, total=None):
        monkeypatch.setenv("COLUMNS", str(columns))
        proposal.show(app, things, len(things) if total is None else total)
        return capsys.readouterr().err.splitlines()

    return show


def test_it_is_sorted_and_bounded(shown):
    things = [(b"/%04d" % number, f"/{number:04}", "1 B") for number in range(1254, 0, -1)]
    lines = shown(80, things)
    assert lines[:2] == ["  /0001  (1 B)", "  /0002  (1 B)"]
    assert len(lines) == proposal.SHOWN + 1
    assert lines[-1] == "  … and 1,234 more"


def test_what_is_not_there_is_counted(shown):
    assert shown(80, [(b"/a", "/a", "")], 3) == ["  /a", "  … and 2 more"]


@pytest.mark.parametrize("columns", [24, 30, 60])
def test_names_are_cut_and_sizes_are_not(shown, columns):
    name = "/日本語/" + "very-long/" * 20 + "file.tar.gz"
    (line,) = shown(columns, [(b"", name, "12.3 MiB")])
    assert line.startswith("  /日") and line.endswith(".gz  (12.3 MiB)"[-12:])
    assert cells(line) < columns
