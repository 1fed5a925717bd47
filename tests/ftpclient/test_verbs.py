"""Verbs without a connection: what is asked, and what becomes of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from ftpclient import verbs
from ftpclient.connection.advice import advised
from ftpclient.transfer.sources import NoTargetDirectory
from ftpwire.errors import (
    Forbidden,
    FtpError,
    InvalidPath,
    IsADirectory,
    NotADirectory,
    NotFound,
    TooMany,
)
from ftpwire.messages import (
    Copied,
    Copy,
    Done,
    Entry,
    Found,
    Hash,
    Hashed,
    LoggedIn,
    MakeDir,
    MakeLink,
    Message,
    Move,
    Remove,
    Removed,
    RevokeToken,
    SetAttributes,
    Space,
    SpaceInfo,
    Stat,
    WhoAmI,
)

FILE, DIR = (Entry(b"/x", kind, 1, 0o644, 0) for kind in ("file", "dir"))
MISSING, UNREPORTED = NotFound("no such file"), Forbidden("may not be looked at")


class Server:
    """Answers in order, and notes what it was asked."""

    def __init__(self, *answers: Message | FtpError) -> None:
        self._answers = list(answers)
        self.requested: list[Message] = []

    async def ask(self, request):
        self.requested.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, FtpError):
            raise answer
        return answer

    async def ask_from_a_loop(self, request):
        await asyncio.sleep(0)
        return await self.ask(request)


DRIVERS: dict[str, Callable] = {
    "client": lambda server, verb: verbs.run(verb(server.ask)),
    "loop": lambda server, verb: asyncio.run(verb(server.ask_from_a_loop)),
}


@pytest.fixture(params=DRIVERS)
def drive(request) -> Callable:
    """Runs a verb as `Client` does, and as `AsyncClient` does."""
    return DRIVERS[request.param]


@pytest.mark.parametrize(
    ("verb", "requested", "answer", "result"),
    [
        (verbs.whoami, WhoAmI(), LoggedIn("alice"), "alice"),
        (verbs.space, Space(), SpaceInfo(1, 2), SpaceInfo(1, 2)),
        (lambda ask: verbs.stat(ask, b"/x", follow=True), Stat(b"/x", True), Found(DIR), DIR),
        (lambda ask: verbs.find(ask, b"/x", follow=False), Stat(b"/x"), MISSING, None),
        (lambda ask: verbs.exists(ask, b"/x", follow=False), Stat(b"/x"), Found(FILE), True),
        (lambda ask: verbs.exists(ask, b"/x", follow=True), Stat(b"/x", True), MISSING, False),
        (lambda ask: verbs.is_dir(ask, b"/x"), Stat(b"/x", True), Found(FILE), False),
        (lambda ask: verbs.is_dir(ask, b"/x"), Stat(b"/x", True), Found(DIR), True),
        (lambda ask: verbs.is_dir(ask, b"/x"), Stat(b"/x", True), MISSING, False),
        (lambda ask: verbs.directory(ask, b"/x"), Stat(b"/x", True), Found(DIR), b"/x"),
        (lambda ask: verbs.hashed(ask, b"/x"), Hash(b"/x"), Hashed(bytes(32), 1), None),
        (
            lambda ask: verbs.make_dir(ask, b"/x", parents=True, mode=0o700),
            MakeDir(b"/x", 0o700, True),
            Done(),
            None,
        ),
        (
            lambda ask: verbs.make_link(ask, b"/x", "to", True),
            MakeLink(b"/x", b"to", overwrite="always"),
            Done(),
            None,
        ),
        (
            lambda ask: verbs.set_attributes(ask, b"/x", None, 5, True),
            SetAttributes(b"/x", None, 5, True, True),
            Done(),
            None,
        ),
        (
            lambda ask: verbs.remove(ask, b"/x", recursive=True, final=False, file_only=True),
            Remove(b"/x", True, file_only=True),
            Removed(1, 2, 3),
            Removed(1, 2, 3),
        ),
        (
            lambda ask: verbs.move(ask, b"/x", b"/y", "never"),
            Move(b"/x", b"/y", "never"),
            Done(),
            None,
        ),
        (
            lambda ask: verbs.copy(ask, b"/x", b"/y", True, recursive=True, links=True),
            Copy(b"/x", b"/y", True, "always", True),
            Copied(1, 2, 3),
            Copied(1, 2, 3),
        ),
        (lambda ask: verbs.revoke_token(ask, "id"), RevokeToken("id"), Done(), None),
    ],
)
def test_one_request_and_its_answer(drive, verb, requested, answer, result):
    server = Server(answer)
    found = drive(server, verb)
    assert server.requested == [requested]
    assert found == (answer if isinstance(answer, Hashed) else result)


@pytest.mark.parametrize(
    ("verb", "answers", "error"),
    [
        (lambda ask: verbs.stat(ask, b"/x", follow=False), [MISSING], NotFound),
        (lambda ask: verbs.find(ask, b"/x", follow=False), [UNREPORTED], Forbidden),
        (lambda ask: verbs.directory(ask, b"/x"), [Found(FILE)], NotADirectory),
        (lambda ask: verbs.make_link(ask, b"/x", "", "never"), [], InvalidPath),
        (lambda ask: verbs.make_link(ask, b"/x", "a" * 4097, "never"), [], InvalidPath),
        (lambda ask: verbs.make_link(ask, b"/x", "a", "older"), [], ValueError),
        (lambda ask: verbs.move(ask, b"/x", b"/y", "older"), [], ValueError),
        (lambda ask: verbs.revoke_token(ask, "x" * 65), [], NotFound),
        (lambda ask: verbs.whoami(ask), [IsADirectory("whatever it says")], IsADirectory),
    ],
)
def test_errors_come_out_as_they_are(drive, verb, answers, error):
    server = Server(*answers)
    with pytest.raises(error):
        drive(server, verb)
    assert len(server.requested) == len(answers), "what cannot be sent isn't"


@pytest.mark.parametrize(
    ("typed", "there", "several", "into", "result", "made"),
    [
        (b"x", Found(DIR), False, None, True, False),
        (b"x", Found(DIR), True, None, True, False),
        (b"x", Found(FILE), False, None, False, False),
        (b"x", MISSING, False, None, False, False),
        (b"x", MISSING, True, None, NotADirectory, False),
        (b"x", Found(FILE), True, None, NotADirectory, False),
        (b"x/", Found(DIR), True, None, True, True),
        (b"x/", MISSING, False, None, True, True),
        (b"x/", Found(FILE), False, None, NotADirectory, False),
        (b"x", Found(DIR), True, True, True, False),
        (b"x/", MISSING, False, True, NoTargetDirectory, False),
        (b"x", Found(FILE), False, True, NoTargetDirectory, False),
        (b"x", None, False, False, False, False),
        (b"x", None, True, False, NotADirectory, False),
    ],
)
def test_where_things_go(drive, typed, there, several, into, result, made):
    server = Server(*([] if there is None else [there]), Done())

    def verb(ask):
        return verbs.make_target(ask, typed, b"/x", several=several, into=into)

    if isinstance(result, bool):
        assert drive(server, verb) is result
    else:
        with pytest.raises(result):
            drive(server, verb)
    looked = [] if there is None else [Stat(b"/x", True)]
    assert server.requested == looked + [MakeDir(b"/x", parents=True)] * made


def test_a_verb_of_client_that_waits_for_a_loop_is_a_mistake():
    server = Server(LoggedIn("alice"))
    with pytest.raises(RuntimeError, match="event loop"):
        verbs.run(verbs.whoami(server.ask_from_a_loop))


# what to type, behind what a server says ---------------------------------------------------


def run(verb):
    return asyncio.run(verb)


@pytest.mark.parametrize(
    ("error", "reported"),
    [
        pytest.param(IsADirectory("/a: a directory", path=b"/a"), " (use -r)", id="source"),
        pytest.param(IsADirectory("/b: a directory", path=b"/b"), "", id="target"),
        pytest.param(IsADirectory("/a: a directory (use -r)"), "", id="older-server"),
        pytest.param(NotFound("/a: no", path=b"/a"), "", id="another-error"),
    ],
)
def test_a_copy_of_a_directory_reports_the_option(error, reported):
    server = Server(error)
    with pytest.raises(type(error)) as caught:
        run(verbs.copy(server.ask, b"/a", b"/b", True, recursive=False, links=False))
    assert str(caught.value) == f"{error}{reported}"
    assert caught.value.path == error.path


def test_too_many_tokens_report_where_they_are_listed():
    server = Server(TooMany("there are 64 tokens: revoke one first"))
    with pytest.raises(TooMany, match=r"first \(ftp token list\)$"):
        run(verbs.issue_token(server.ask, "x", None))


@pytest.mark.parametrize("text", ["no such thing", "no such thing (do this)"])
def test_advice_is_given_once(text):
    error = advised(NotFound(text, path=b"/x"), " (do this)")
    assert (str(error), error.path) == ("no such thing (do this)", b"/x")
