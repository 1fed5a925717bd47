"""Which commands are one operation, what is asked before something is gone for good, and what is
said of the trash.

Lives elsewhere: what clients say of their verbs (../test_operations.py), undo and trash
(test_trash_commands.py).
"""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from ftpclient.cli import main, operations
from ftpclient.cli.app import App
from ftpclient.connection.client_id import in_force
from ftpclient.shell.running import run_line
from ftpclient.transfer import retry
from ftpwire.frames import Kind
from ftpwire.messages import (
    List,
    Listed,
    ListTrash,
    Move,
    Operation,
    Page,
    Put,
    Remove,
    Removed,
    Stat,
    TrashedOperation,
    TrashPage,
)
from tests.ftpclient.operations_support import NAME, TrashServer
from tests.lying_server import dir_entry, file_entry


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)


@contextmanager
def app_of(fake, server, *, interactive: bool):
    address = fake(server).address
    app = App(server=str(address), plaintext=True, interactive=interactive, given_password="secret")
    try:
        app.client.connect()
        yield app
    finally:
        app.close()
        app.interrupt.close()


@pytest.fixture
def shell(fake):
    """A shell on such a server: runs a line, and has the server."""
    stack = []

    def make(interactive=True, **options):
        server = TrashServer(**options)
        context = app_of(fake, server, interactive=interactive)
        app = context.__enter__()
        stack.append(context)

        def run(line: str) -> int:
            if interactive:
                return run_line(app, line)
            return main.run(app, shlex.split(line))

        return SimpleNamespace(run=run, server=server, app=app)

    yield make
    for context in stack:
        context.__exit__(None, None, None)


def of_requests(server, kind):
    """For each request of a kind the operation that it belongs to."""
    found = []
    for reported in server.reported:
        current = None
        for one in reported:
            if isinstance(one, Operation):
                current = one
            elif isinstance(one, kind):
                found.append((one, current))
    return found


# which is one --------------------------------------------------------------------------------


def test_a_line_of_the_shell_is_one_operation(shell):
    one = shell()
    one.server.entry = lambda path: None if path == b"/d" else file_entry(path)
    assert one.run("rm a b; mv c d && rm e") == 0
    (operation,) = one.server.operations
    assert operation.words == "rm a b; mv c d && rm e" and operation.keep
    assert [request.number for request in one.server.requests()] == [1, 2, 3, 4]
    one.run("rm f")
    assert [operation.words for operation in one.server.operations[1:]] == ["rm f"]
    assert {operation.id for operation in one.server.operations} <= one.app.shell.operations


def test_outside_of_it_each_command_is_one(shell):
    one = shell(interactive=False)
    one.run("rm a 'b c'")
    one.run("rm d")
    assert [operation.words for operation in one.server.operations] == ["rm a b\\ c", "rm d"]


def test_a_password_is_in_no_words(shell):
    one = shell()
    one.run("rm secret.txt a")
    (operation,) = one.server.operations
    assert operation.words == "rm …"


@pytest.mark.parametrize("command", ["undo", "restore", "trash"])
def test_what_takes_back_is_one_by_itself(command):
    app = App()
    with operations.running(app, lambda: "the line"):
        line = in_force(app)
        with operations.running(app, lambda: command, apart=True):
            assert in_force(app) is not line
        assert in_force(app) is line


def test_a_line_is_undone_as_a_whole(app, run):
    """With a whole server."""
    for path in "abc":
        app.client.write(f"/{path}", path.encode())
    assert run("rm a; mv b c")[0] == 0
    assert run("ls")[1] == "c\n"
    assert run("undo -y")[0] == 0
    assert run("ls")[1].split() == ["a", "b", "c"]
    assert app.client.read("/c") == b"c"
    newest = app.client.trash()[0]
    assert newest.words == "undo -y" and newest.undoes


def test_words_name_the_group_of_a_command(app, run):
    app.client.write("/a", b"a")
    assert run("rm a")[0] == 0
    removed = app.client.trash()[0].name.rpartition("-")[2]
    assert run(f"trash restore {removed}")[0] == 0
    assert app.client.trash()[0].words == f"trash restore {removed}"


# for good ------------------------------------------------------------------------------------


def test_purge_keeps_nothing_of_that_command_alone(shell):
    one = shell()
    assert one.run("rm a; rm --purge b; rm c") == 0
    (a, line), (b, final), (c, again) = of_requests(one.server, Remove)
    assert [one.path for one in (a, b, c)] == [b"/a", b"/b", b"/c"]
    assert line == again and line.keep and not final.keep and final.id != line.id
    assert b.final and not a.final and final.words == "rm --purge b"


@pytest.mark.parametrize(
    ("line", "keep"), [("put f /", True), ("put --no-versions f /", False)], ids=["put", "final"]
)
def test_put_keeps_versions_by_default(shell, local, line, keep):
    (local / "f").write_text("x")
    one = shell(interactive=False)
    one.server.entry = lambda path: dir_entry(path) if path == b"/" else None
    assert one.run(line) == 0
    ((_, operation),) = of_requests(one.server, Put)
    assert operation.keep is keep


@pytest.fixture
def terminal(monkeypatch):
    """Somebody is at it, and says this."""

    def answering(answer: str = "") -> list[str]:
        requested = []
        monkeypatch.setattr(App, "can_ask", True)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)

        def yes_or_no(self, question):
            requested.append(question)
            return answer == "yes"

        monkeypatch.setattr(App, "yes_or_no", yes_or_no)
        return requested

    return answering


ALL = "Purge /a and everything in it (yes/no)? "
SEVERAL = "Purge 4 paths (yes/no)? "
QUESTIONS = [
    pytest.param("rm a", False, None, id="one"),
    pytest.param("rm -r a", False, ALL, id="older-tree"),
    pytest.param("rm -r a", True, None, id="tree-with-trash"),
    pytest.param("rm -r --purge a", True, ALL, id="purged-tree"),
    pytest.param("rm a b c", False, None, id="three"),
    pytest.param("rm a b c d", False, SEVERAL, id="four"),
    pytest.param("rm --purge a b c d", True, SEVERAL, id="four-purged"),
    pytest.param("rm -rf a", False, None, id="forced"),
    pytest.param("rm -ry --purge a", True, None, id="yes"),
]


@pytest.mark.parametrize(("line", "trash", "question"), QUESTIONS)
def test_much_that_would_be_gone_for_good_is_asked_about(shell, terminal, line, trash, question):
    requested = terminal("no")
    one = shell(trash=trash)
    status = one.run(line)
    assert requested == ([] if question is None else [question])
    assert status == (0 if question is None else 11)
    assert bool(one.server.requests(Remove)) is (question is None)


def test_of_an_account_without_a_trash_it_is_asked_as_well(shell, terminal):
    requested = terminal("no")
    one = shell(final=True)
    assert one.run("rm -r a") == 11
    assert requested == [ALL] and not one.server.requests(Remove)


def test_who_says_yes_has_it_removed(shell, terminal):
    terminal("yes")
    one = shell(trash=False)
    assert one.run("rm -r a") == 0
    assert len(one.server.done) == 1


def test_nobody_is_asked_in_a_script(shell, terminal):
    requested = terminal("no")
    one = shell(trash=False)
    one.app.shell.batch = True
    assert one.run("rm -r a") == 0 and not requested


# what is said --------------------------------------------------------------------------------


def listing(server, *, kept: int = 1):
    """Have the newest operation listed."""

    def list_trash(peer, requested):
        message = requested.message
        if not isinstance(message, ListTrash):
            return False
        said = server.operations[-1]
        server.reported[-1].append(message)
        reported = TrashedOperation(
            NAME,
            0,
            said.words,
            said.client,
            2**33,
            1,
            kept,
            5,
            1,
            True,
            False,
            b"/a",
            None,
            said.id,
        )
        peer.reply(requested, TrashPage([reported]))
        peer.frame(Kind.END, requested.request_id, Listed())
        return True

    server.other = list_trash


def test_on_a_terminal_it_is_said_how_to_have_it_back(shell, terminal, capsys):
    terminal()
    one = shell()
    listing(one.server)
    assert one.run("rm a b") == 0
    assert capsys.readouterr().err == "in the trash until Mar 16: undo brings it back\n"
    assert one.run("rm -q a") == 0
    assert one.run("rm --purge a") == 0
    assert capsys.readouterr().err == ""


def test_outside_of_a_shell_the_command_is_named_whole(shell, terminal, capsys):
    terminal()
    one = shell(interactive=False)
    listing(one.server)
    assert one.run("rm a") == 0
    assert "ftp undo brings it back" in capsys.readouterr().err


@pytest.mark.parametrize("kept", [0, 1])
def test_mv_says_so_where_it_has_replaced_something(shell, terminal, capsys, kept):
    terminal()
    one = shell()
    one.server.entry = lambda path: dir_entry(path) if path == b"/" else file_entry(path)
    listing(one.server, kept=kept)
    assert one.run("mv a b") == 0
    assert ("undo brings it back" in capsys.readouterr().err) is bool(kept)
    assert len(one.server.requests(Move)) == 1


def test_without_a_terminal_nothing_is_said_or_asked(shell, capsys):
    one = shell()
    one.server.entry = lambda path: file_entry(path)
    assert one.run("rm a; mv b c") == 0
    assert capsys.readouterr().err == ""
    assert one.server.requests(ListTrash) == []


def test_nothing_is_said_of_what_was_not_kept(shell, terminal, capsys):
    """The server itself tells why not."""
    terminal()
    one = shell()
    one.server.answer = lambda message: Removed(1, 0, 5)
    assert one.run("rm a b") == 0
    assert capsys.readouterr().err == ""
    assert one.server.requests(ListTrash) == []


def test_json_reports_where_it_is(shell, capsys):
    one = shell()
    assert one.run("rm --json a") == 0
    row, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert (row["operation"], row["trashed"], row["files"]) == (NAME, True, 1)
    assert (summary["deleted"], summary["bytes"]) == (1, 5)


# lost answers --------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_rm_of_many_survives_losses(shell, capsys, lost):
    one = shell(lose=dict.fromkeys(range(1, 40, 4), lost))
    names = [str(number) for number in range(25)]
    one.server.entry = lambda path: file_entry(path)
    assert one.run(f"rm {' '.join(names)}") == 0
    assert [request.path for request in one.server.done] == [f"/{name}".encode() for name in names]
    assert "reconnecting" in capsys.readouterr().err


@pytest.mark.parametrize("lost", ["request", "answer"])
def test_find_delete_survives_losses(shell, capsys, lost):
    """The requests are under way together: those that were answered are not sent again."""
    names = [b"%03d" % number for number in range(60)]
    one = shell(lose=dict.fromkeys(range(5, 90, 7), lost))
    one.server.pages[:] = [Page(b"", [file_entry(name) for name in names], [], True)]
    assert one.run("find / -type f -delete") == 0
    assert sorted(request.path for request in one.server.done) == [b"/" + name for name in names]
    assert len({operation.id for operation in one.server.operations}) == 1
    capsys.readouterr()


def test_find_delete_with_an_older_server_ends_by_a_loss(shell, capsys):
    one = shell(trash=False, lose={1: "answer"})
    one.server.pages[:] = [Page(b"", [file_entry(b"%d" % n) for n in range(4)], [], True)]
    assert one.run("find / -type f -delete") == 4
    assert len(one.server.reported) == 1


def test_what_is_asked_before_survives_losses_too(shell, capsys):
    """The connection is lost at each question in turn, and the command is done once."""
    for line in ("mv a d", "rm a b", "cp a b d/", "ln -s a b d", "rmdir d", "rm x*"):
        whole = shell()
        requested = _answering(whole.server, lose=None)
        assert whole.run(line) == 0, line
        for number in range(len(requested)):
            one = shell()
            _answering(one.server, lose=number)
            assert one.run(line) == 0, f"{line}: at question {number} of {len(requested)}"
            assert [type(a) for a in one.server.done] == [type(a) for a in whole.server.done]
    capsys.readouterr()


def _answering(server, *, lose: int | None) -> list:
    """Have one question's connection end. What the server was asked comes into the list."""
    requested = []
    server.entry = lambda path: dir_entry(path) if path in (b"/", b"/d") else file_entry(path)
    server.pages[:] = [Page(b"", [file_entry(b"xa"), file_entry(b"xb")], [], True)]

    def count(peer, request):
        if isinstance(request.message, (Stat, List)):
            requested.append(request.message)
            if len(requested) - 1 == lose:
                raise EOFError
        return False

    server.other = count
    return requested
