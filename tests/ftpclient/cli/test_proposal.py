"""What is shown before a question is asked, and which answers are taken."""

from __future__ import annotations

import io

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


@pytest.mark.parametrize(
    ("typed", "agreed", "complaints", "lists"),
    [
        pytest.param("y\n", True, 0, 0, id="y"),
        pytest.param("YES\n", True, 0, 0, id="yes"),
        pytest.param("n\n", False, 0, 0, id="n"),
        pytest.param("no\n", False, 0, 0, id="no"),
        pytest.param("\n", False, 0, 0, id="enter"),
        pytest.param("", False, 0, 0, id="end-of-input"),
        pytest.param("maybe\nlist\nyes\n", True, 2, 1, id="else"),
    ],
)
@pytest.mark.parametrize("has_list", [False, True], ids=["plain", "list"])
def test_answers(app, monkeypatch, capsys, typed, agreed, complaints, lists, has_list):
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    listed: list[bool] = []
    show_list = (lambda: listed.append(True)) if has_list else None
    assert app.yes_or_no("Go? ", show_list=show_list) is agreed
    assert len(listed) == lists * has_list
    err = capsys.readouterr().err
    wanted = "please answer yes, no or list\n" if has_list else "please answer yes or no\n"
    assert err.count(wanted) == complaints - lists * has_list
    assert err.count("Go? ") == complaints + 1


def test_an_unknown_key_needs_a_whole_yes(app, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\nyes\nn\n"))
    assert app._ask_trust("files.example", "SHA256:abc")
    assert capsys.readouterr().err.count("please answer yes or no\n") == 1
    assert not app._ask_trust("files.example", "SHA256:abc")
