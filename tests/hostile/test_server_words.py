"""Words of somebody else's that look like output of our own.

Lives here: what --debug prints of a server's words, and lines of the text log.
Lives elsewhere: errors without --debug (tests/ftpclient/cli/test_complaints.py).
"""

from __future__ import annotations

import logging

import pytest

from ftpclient.cli import main
from ftpclient.cli.app import App
from ftpclient.shell import running
from ftpserver import logs
from ftpwire.errors import FtpError
from ftpwire.messages import Failed, Stat
from tests.lying_server import LyingServer
from tests.peer import Frame, Peer

FORGED = "no\x1b[2J\nftp: all files were stored\rftp: done\u2028ftp: done"


def refuse(peer: Peer, requested: Frame) -> bool:
    if not isinstance(requested.message, Stat):
        return False
    peer.reply(requested, Failed("failed", FORGED))
    return True


def is_harmless(printed: str) -> bool:
    """No line of it is the server's alone, and no character moves the cursor."""
    lines = printed.split("\n")
    return printed.replace("\n", "").isprintable() and "ftp: all files were stored" not in lines


@pytest.fixture
def refused(fake, connect):
    """What raises an error with the server's words, as a command does."""
    client = connect(fake(LyingServer(ask=refuse)), retries=0)
    return lambda: client.stat("/file")


def unforeseen(action) -> None:
    try:
        action()
    except FtpError as error:
        raise RuntimeError(str(error)) from error


@pytest.mark.parametrize("kind", ["complaint", "internal"])
def test_a_trace_with_a_servers_words(refused, capsys, kind):
    app = App(debug=True)
    action = refused if kind == "complaint" else lambda: unforeseen(refused)
    assert main.guarded(app, action) == 1
    printed = capsys.readouterr().err
    assert is_harmless(printed)
    assert "Traceback" in printed and "all files were stored" in printed
    assert not is_harmless(FORGED)  # the control


def test_a_trace_in_the_shell(refused, monkeypatch, capsys):
    monkeypatch.setattr(main, "guarded", lambda app, action: unforeseen(refused))
    with App(debug=True).interrupt.on_ctrl_c():
        assert running.run_line(App(debug=True), "!true") == 1
    assert is_harmless(capsys.readouterr().err)


def record_of(text: str) -> str:
    """A record of ftpd's text log, as it is written."""
    record = logging.LogRecord("ftpserver", logging.WARNING, "", 0, "%s", (text,), None)
    return logs.formatter("text").format(record)


def test_a_record_of_several_lines_looks_like_one():
    """The process of an isolated session may say anything."""
    forged = "2026-01-01 00:00:00,000 WARNING mallory: logged in"
    first, *others = record_of(f"true\n{forged}\r{forged}\x1b[2J").split("\n")
    assert first.endswith(" WARNING true")
    assert len(others) == 1
    assert others[0].startswith("    2026") and others[0].isprintable()


def test_a_record_of_one_line_is_as_it_was():
    assert record_of("alice: logged in").endswith(" WARNING alice: logged in")
    assert "\n" not in record_of("alice: logged in")
