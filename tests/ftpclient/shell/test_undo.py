"""undo in a shell: the last command of this shell, whatever else goes on."""

from __future__ import annotations

import pytest

from ftpclient.shell.running import run_line
from tests.ftpclient.shell.shell_support import shell_of


@pytest.fixture
def named(files):
    """Some remote files."""
    for name in ("a", "b", "c"):
        (files / name).write_text(name)
    return files


def test_a_shell_undoes_its_own_last_command(run, named, connect, server):
    run("rm a")
    connect(server).remove("/b")  # newer, and of this program
    status, _, err = run("undo")
    assert status == 0 and "undo: rm a (" in err
    assert (named / "a").exists() and not (named / "b").exists()
    run("undo")
    assert not (named / "a").exists()


def test_without_a_command_of_its_own_it_is_the_last_one_of_the_program(
    run, named, connect, server
):
    connect(server).remove("/b")
    assert run("undo")[0] == 0
    assert (named / "b").exists()


def test_a_line_is_undone_as_a_whole(run, named):
    run("rm a; rm b && mv c d")
    assert {path.name for path in named.iterdir() if path.name[0] != "."} == {"d"}
    status, _, err = run("undo")
    assert status == 0 and "undo: rm a; rm b && mv c d (" in err and "3 entries (" in err
    assert {path.name for path in named.iterdir() if path.name[0] != "."} == {"a", "b", "c"}


def test_undo_in_the_same_line(run, named):
    assert run("rm a; undo; ls -1 a")[0] == 0
    assert (named / "a").exists()


def test_another_shell_has_its_own(run, named, server, local):
    run("rm a")
    with shell_of(server) as other:
        run_line(other, "rm b")
        run_line(other, "undo")
        assert (named / "b").exists() and not (named / "a").exists()
        assert run("undo")[0] == 0
        assert (named / "a").exists()
