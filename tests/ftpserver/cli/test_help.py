"""Hints of `ftpd` for those who know other tools. Its pages of help: tests/test_help.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        ("user add x --pass secret", "use --password-stdin"),
        ("user add x --password=secret", "use --password-stdin"),
        ("user passwd x -p secret", "use --password-stdin"),
        ("user add x --readonly", "did you mean --permit read-only?"),
        ("user add x --qouta 1", "unknown option --qouta: did you mean --quota?"),
        ("user set x --home /x", "a home cannot be changed"),
        ("adduser x", "did you mean ftpd user add?"),
        ("usr list", "unknown command 'usr': did you mean user?"),
        ("start -p 1", "did you mean --port?"),
        ("start --daemon", "ftpd service prints a systemd unit"),
        ("--root x start", "option --root goes after the command: ftpd COMMAND --root"),
        ("--nonsense start", "unknown option --nonsense (see ftpd --help)"),
        ("user remvoe x", "unknown command 'remvoe' (see ftpd user --help)"),
        ("user ad x", "unknown command 'ad' (see ftpd user --help)"),
        ("user disabel x", "unknown command 'disabel': did you mean disable?"),
        ("why", "missing argument: ftpd why USER "),
        ("drain --timeout soon", "'soon' is not a duration"),
        ("user set alice --dir /x", "a home cannot be changed: export the account"),
        ("stop --grace nan", "'nan' is not a duration"),
        ("stop --grace -1", "out of range"),
    ],
)
def test_what_other_tools_call_it(ftpd, arguments, reported):
    status, out, err = ftpd(*arguments.split(), with_root=False)
    assert (status, out) == (2, "")
    assert reported in " ".join(err.split())
    assert "secret" not in err


@pytest.mark.parametrize(("duration", "sent"), [("90", 90.0), ("10m", 600.0), ("1.5", 1.5)])
def test_durations_have_units(ftpd, monkeypatch, duration, sent):
    requested = []
    server = SimpleNamespace(stop=requested.append, drain=requested.append)
    monkeypatch.setattr("ftpserver.cli.control._end", lambda root, end, *_: end(server))
    assert ftpd("stop", "--grace", duration)[0] == 0
    assert ftpd("drain", "--timeout", duration)[0] == 0
    assert requested == [sent, sent]


def test_no_option_is_a_double_negation(ftpd):
    assert "--no-no" not in ftpd("start", "--help", "--all")[1]
