"""Tab in the shell, with a server that lies: it ends, and nothing odd is on the screen.

Lives here: listings without end, silence, names that would draw on the terminal.
Lives elsewhere: what Tab offers (test_completion.py), listings elsewhere (test_server_listings.py).
"""

from __future__ import annotations

import itertools

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from ftpclient.cli.app import App
from ftpclient.connection import protocol
from ftpclient.shell import completion
from ftpclient.shell.completion import ShellCompleter
from ftpclient.shell.lexer import tokens
from ftpclient.shell.running import run_line
from ftpwire import paths
from ftpwire.messages import (
    KEPT,
    LIST_PREFIX,
    KeptUpload,
    KeptUploads,
    List,
    ListKept,
    Page,
    Problem,
)
from tests.lying_server import LyingServer, dir_entry, file_entry
from tests.peer import Frame, Peer


@pytest.fixture
def shell(fake, connect, monkeypatch):
    """Makes the shell of somebody who is connected to a lying server."""
    monkeypatch.setattr(protocol, "_CANCEL_SECONDS", 0.05)
    apps = []

    def make(server: LyingServer) -> App:
        app = App(interactive=True)
        apps.append(app)
        app._client = connect(fake(server), interrupt=app.interrupt)
        return app

    yield make
    for app in apps:
        app.interrupt.close()


def offered(app: App, text: str) -> list[tuple[str, str]]:
    """What is shown, and what comes into the line."""
    completer = ShellCompleter(app)
    found = completer.get_completions(Document(text), CompleteEvent(completion_requested=True))
    return [(one.display_text, one.text) for one in found]


def without_end(make):
    """Answers a listing for ever, with what is made of a number."""

    def ask(peer: Peer, requested: Frame) -> bool:
        if not isinstance(requested.message, List | ListKept):
            return False
        for number in itertools.count():
            peer.reply(requested, make(number))
        return True

    return ask


ENDLESS = {
    "names": lambda number: Page(b"", [file_entry(b"%d-%d" % (number, one)) for one in range(50)]),
    "the-same-name": lambda number: Page(b"", [file_entry(b"name")]),
    "hidden-names": lambda number: Page(b"", [file_entry(b".%d" % number)]),
    "nothing": lambda number: Page(),
    "problems": lambda number: Page(b"", [], [Problem(b"%d" % number, "failed", "no")]),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_listing_without_end(shell, monkeypatch, kind):
    monkeypatch.setattr(completion, "_PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(completion, "_MOST_NAMES", 500)
    app = shell(LyingServer(ask=without_end(ENDLESS[kind])))
    assert len(offered(app, "ls ")) <= 500
    app.interrupt.check()
    assert run_line(app, "pwd") == 0  # the next line works, over a new connection if need be


def test_a_long_listing_needs_no_patience(shell, monkeypatch):
    """Names enough end it, before the time does."""
    monkeypatch.setattr(completion, "_PATIENCE_SECONDS", 1000.0)
    monkeypatch.setattr(completion, "_MOST_NAMES", 500)
    app = shell(LyingServer(ask=without_end(ENDLESS["names"])))
    assert len(offered(app, "ls ")) == 500


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_listing_without_end_of_other_names_than_asked_for(shell, monkeypatch, kind):
    """The server claims to filter, and does not: nothing is offered, and the wait is as short."""
    monkeypatch.setattr(completion, "_PATIENCE_SECONDS", 0.1)
    server = LyingServer(
        ask=without_end(ENDLESS[kind]), greet=lambda peer: peer.greet(features=[LIST_PREFIX])
    )
    app = shell(server)
    assert offered(app, "ls x") == []
    app.interrupt.check()
    assert run_line(app, "pwd") == 0


def test_kept_uploads_without_end(shell, monkeypatch):
    monkeypatch.setattr(completion, "_PATIENCE_SECONDS", 0.1)
    uploads = KeptUploads([KeptUpload(b"/name", 1, 2, 3, 4)])
    server = LyingServer(
        ask=without_end(lambda number: uploads), greet=lambda peer: peer.greet(features=[KEPT])
    )
    app = shell(server)
    assert len(offered(app, "kept --drop ")) <= 1
    assert run_line(app, "pwd") == 0


@pytest.mark.parametrize("words", ["ls ", "get ", "cd "])
def test_silence(shell, monkeypatch, words):
    monkeypatch.setattr(completion, "_PATIENCE_SECONDS", 0.05)
    app = shell(LyingServer(ask=lambda peer, requested: isinstance(requested.message, List)))
    assert offered(app, words) == []
    assert run_line(app, "pwd") == 0


ODD = [
    b"\x1b]0;title\x07",
    b"\x1b[2Jcleared",
    b"\x9b2J",
    b"two\nlines",
    b"back\b\b\b\bspace",
    b"\xff\xfe",
    "\u202eright to left".encode(),
    b"'; rm -r * ;'",
    b"$(reboot)",
    b"-r",
]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("make", [file_entry, dir_entry])
def test_odd_names(shell, name, make):
    """What is shown draws nothing; what comes into the line is one word, which means the name."""
    app = shell(LyingServer(pages=[Page(b"", [make(name), make(b"\x1bother")], [], True)]))
    found = offered(app, "ls ")
    assert len(found) == 2
    for shown, written in found:
        assert shown.isprintable(), shown
        assert written.isprintable(), written
    words = [[token.what for token in tokens("ls " + written)] for _, written in found]
    assert [len(line) for line in words] == [2, 2]
    assert paths.to_text(name) in [line[1].text.rstrip("/").removeprefix("./") for line in words]


@pytest.mark.parametrize("name", [b"../../etc", b"a/b", b"/etc/passwd", b"..", b"a\0b"])
def test_names_that_are_none(shell, name):
    app = shell(LyingServer(pages=[Page(b"", [file_entry(name)], [], True)]))
    assert offered(app, "ls ") == []
