"""Options that `ftpd` refuses before it does anything: one line, the status, and no root made."""

from __future__ import annotations

import json

import pytest

from ftpserver.cli import main, start
from tests.json_document import words_of


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Runs an `ftpd start` that may not start; returns what it says."""
    monkeypatch.setattr(start, "serve", lambda *_, **__: pytest.fail("it must not start"))

    def run(*options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            root = str(tmp_path / "none")
            main.cli.main(["start", "--root", root, *options], prog_name="ftpd")
        assert ended.value.code == 2
        assert not (tmp_path / "none").exists()
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5"])
def test_what_is_no_number_of_workers(refused, value):
    assert "or auto" in refused("--workers", value)


def test_sessions_in_processes_of_their_own_take_no_workers(refused):
    reported = refused("--workers", "2", "--isolation", "process")
    assert "workers" in reported and "isolation" in reported


@pytest.mark.parametrize("quota", ["ten", "1XB", "", "0x10", "9" * 400, "8388608TiB"])
def test_a_quota_that_cannot_be(ftpd, root, quota):
    status, out, err = ftpd("user", "add", "bob", "--password-stdin", f"--quota={quota}")
    assert (status, out) == (2, "")
    assert "--quota" in err
    assert not (root / ".ftpd").exists()


def test_no_terminal_and_no_password(ftpd, root):
    status, out, err = ftpd("user", "add", "bob")
    assert (status, out) == (2, "")
    assert "--password-stdin" in err
    assert not (root / "bob").exists()


def test_lists_are_sorted(ftpd):
    for name in ("zoe", "bob"):
        ftpd("user", "add", name, "--password-stdin", stdin=b"correct-horse\n")
    assert [line.split()[0] for line in ftpd("user", "list")[1].splitlines()] == ["bob", "zoe"]


WRONG = {
    "option": (["user", "set", "alice", "--quota", "5"], "--quota: '5' has no unit: write "),
    "argument": (["completion", "tcsh"], "SHELL: 'tcsh' is not one of 'bash', 'zsh', 'fish' (see"),
    "event": (["log", "--event", "logn"], "unknown event logn: did you mean login? (see ftpd log"),
    "one too many": (["user", "list", "x"], "unexpected argument: x (see ftpd user list --help)"),
    "two too many": (["user", "list", "x", "y"], "unexpected arguments: x y (see"),
    "delete": (["user", "del", "alice"], "unknown command 'del': did you mean ftpd user remove?"),
    "create": (["user", "create", "bob"], "unknown command 'create': did you mean ftpd user add?"),
    "users": (["users"], "unknown command 'users': did you mean ftpd user list? (see ftpd --help)"),
}


@pytest.mark.parametrize(("words", "reported"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_reported_in_one_line(ftpd, words, reported):
    status, out, err = ftpd(*words, with_root=False)
    assert (status, out) == (2, "")
    assert err.startswith(f"ftpd: {reported}") and err.count("\n") == 1


@pytest.mark.parametrize("words", sorted(words_of(main.cli, "")))
def test_an_unknown_option_of_every_command_is_an_object(ftpd, words):
    status, out, err = ftpd(*words.split(), "--no-such-option", "--json", with_root=False)
    assert (status, out) == (2, "")
    reported = json.loads(err)
    assert (reported["error"], reported["exit"], reported["path"]) == ("usage", 2, None)
    assert reported["message"].startswith("unknown option --no-such-option")
