"""Help of `ftpd`, and hints for those who know other tools."""

from __future__ import annotations

from itertools import chain
from types import SimpleNamespace

import click
import pytest

from ftpserver.cli.help import SECTIONS
from ftpserver.cli.main import cli


def groups(command: click.Command, words: str = "ftpd"):
    if isinstance(command, click.Group):
        yield pytest.param(command, id=words)
        for name, one in command.commands.items():
            yield from groups(one, f"{words} {name}")


def test_every_command_is_in_one_section():
    assert sorted(chain.from_iterable(SECTIONS.values())) == sorted(cli.commands)


@pytest.mark.parametrize("group", list(groups(cli)))
def test_no_summary_is_cut_off(group):
    for name, command in group.commands.items():
        assert not command.get_short_help_str(66).endswith("..."), name


def test_help_shows_the_sections(ftpd):
    status, out, _ = ftpd("--help", with_root=False)
    assert status == 0
    for title, names in SECTIONS.items():
        assert f"{title}:" in out
        assert all(f"\n  {name} " in out for name in names)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("user add x --pass secret", "use --password-stdin"),
        ("user add x --password=secret", "use --password-stdin"),
        ("user passwd x -p secret", "use --password-stdin"),
        ("user add x --readonly", "did you mean --permit read-only?"),
        ("user add x --qouta 1", "no option --qouta: did you mean --quota?"),
        ("user set x --home /x", "a home stays where it is"),
        ("adduser x", "did you mean ftpd user add?"),
        ("usr list", "no command usr: did you mean user?"),
        ("start -p 1", "did you mean --port?"),
        ("start --daemon", "ftpd service prints a unit"),
        ("--root x start", "say ftpd COMMAND --root"),
        ("--nonsense start", "no option --nonsense (see ftpd --help)"),
        ("user remvoe x", "no command remvoe (see ftpd user --help)"),
        ("user ad x", "no command ad (see ftpd user --help)"),
        ("user disabel x", "no command disabel: did you mean disable?"),
        ("why", "Missing argument 'USER'. (see ftpd why --help)"),
        ("drain --timeout soon", "'soon' is not a duration"),
        ("user set alice --dir /x", "a home stays where it is: export the account"),
        ("stop --grace nan", "'nan' is not a duration"),
        ("stop --grace -1", "out of range"),
    ],
)
def test_what_other_tools_call_it(ftpd, arguments, told):
    status, out, err = ftpd(*arguments.split(), with_root=False)
    assert (status, out) == (2, "")
    assert told in " ".join(err.split())
    assert "secret" not in err


@pytest.mark.parametrize(("duration", "sent"), [("90", 90.0), ("10m", 600.0), ("1.5", 1.5)])
def test_durations_have_units(ftpd, monkeypatch, duration, sent):
    asked = []
    server = SimpleNamespace(stop=asked.append, drain=asked.append)
    monkeypatch.setattr("ftpserver.cli.control._end", lambda root, end, *_: end(server))
    assert ftpd("stop", "--grace", duration)[0] == 0
    assert ftpd("drain", "--timeout", duration)[0] == 0
    assert asked == [sent, sent]


def test_no_option_is_a_double_negation(ftpd):
    assert "--no-no" not in ftpd("start", "--help")[1]
