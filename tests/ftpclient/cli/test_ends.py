"""`head` and `tail`: which bytes are printed, and a file that is followed."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpclient.cli.commands import ends
from ftpwire.errors import Interrupted
from tests.system.proxy import Proxy

TEXT = b"".join(b"%d\n" % number for number in range(30_000))


@pytest.fixture
def text(user):
    return stored(user, TEXT)


def stored(user, data, name="text"):
    user.on_server.mkdir(exist_ok=True)
    path = user.on_server / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("head",), b"".join(TEXT.splitlines(True)[:10])),
        (("tail",), b"".join(TEXT.splitlines(True)[-10:])),
        (("head", "-n", "20000"), b"".join(TEXT.splitlines(True)[:20_000])),
        (("tail", "-n", "20000"), b"".join(TEXT.splitlines(True)[-20_000:])),
        (("head", "-n", "1000000"), TEXT),
        (("tail", "-n", "1000000"), TEXT),
        (("head", "-c", "70000"), TEXT[:70_000]),
        (("tail", "-c", "70000"), TEXT[-70_000:]),
        (("head", "-c", "1MiB"), TEXT),
        (("tail", "-c", "1MiB"), TEXT),
        (("head", "-n", "0"), b""),
        (("head", "-3"), b"0\n1\n2\n"),
        (("tail", "-2"), b"29998\n29999\n"),
        (("tail", "-n", "0"), b""),
        (("head", "-c", "0"), b""),
        (("tail", "-c", "0"), b""),
    ],
)
def test_the_ends_of_a_file(user, text, words, expected):
    assert user.run(*words, "/text").out == expected


@settings(max_examples=40, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=3).filter(lambda line: b"\n" not in line), max_size=9),
    ended=st.booleans(),
    count=st.integers(0, 10),
    window=st.integers(1, 7),
)
def test_windows_make_no_difference(lines, ended, count, window):
    """Against a plain reading of the whole: lines that end at, before and behind a window."""
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    whole = _lines_of(data)  # splitlines knows other ends than that
    app = OneFile(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ends, "_FIRST", window)
        patch.setattr(ends, "_write", app.written.extend)
        ends._head(app, b"/f", ends._Amount(count))
        begin = ends._beginning_of_tail(app, b"/f", len(data), ends._Amount(count))
    assert bytes(app.written) == b"".join(whole[:count])
    assert data[begin:] == b"".join(whole[len(whole) - count if count < len(whole) else 0 :])


def _lines_of(data):
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


class OneFile:
    """Stands for the App, its client, and a piece of the one file that there is."""

    def __init__(self, data):
        self.client = self
        self.written = bytearray()
        self._content = data

    def fetch_range(self, path, offset, length):
        self.data = bytearray(self._content[offset : offset + length])
        return self


def test_several_files_have_headings(user, text):
    stored(user, b"one\ntwo", "b")
    shown = user.run("head", "-n1", "/b", "/text").out
    assert shown == b"==> /b <==\none\n\n==> /text <==\n0\n"
    assert user.run("-q", "tail", "-n1", "/b", "/text").out == b"two29999\n"


@pytest.mark.parametrize("command", ["head", "tail"])
def test_what_is_no_file_is_reported_and_the_rest_is_printed(user, text, command):
    (user.on_server / "dir").mkdir()
    os.symlink("text", user.on_server / "link")
    reported = user.run(command, "-n", "1", "/nope", "/dir", "/link", status=1)
    assert b"==> /link <==\n" in reported.out
    assert "/nope: no such file" in reported.err and "/dir: not a file" in reported.err
    assert user.run(command, "/nope", status=5).out == b""


@pytest.mark.parametrize("words", [("-n", "1", "-c", "1"), ("-n", "-1"), ("-c", "x")])
def test_what_can_not_be_meant(user, words):
    assert "ftp: " in user.run("head", *words, "/x", status=2).err


@pytest.fixture
def meanwhile(monkeypatch):
    """What happens while `tail -f` waits: one step each time; then Ctrl-C."""
    steps = []

    def wait(seconds, interrupt):
        if not steps:
            raise Interrupted("interrupted")
        steps.pop(0)()

    monkeypatch.setattr(ends, "wait_for", wait)
    return steps.append


def appended(path, data):
    with path.open("ab") as opened:
        opened.write(data)


def replaced(path, data):
    beside = path.with_name("beside")
    beside.write_bytes(data)
    beside.rename(path)


def test_what_is_added_is_printed(user, meanwhile):
    path = stored(user, b"one\n")
    meanwhile(lambda: appended(path, b"two\n"))
    meanwhile(lambda: None)
    meanwhile(lambda: appended(path, b"x" * 200_000 + b"\n"))
    reported = user.run("tail", "-f", "/text", status=130)
    assert reported.out == b"one\ntwo\n" + b"x" * 200_000 + b"\n"
    assert "printing it" not in reported.err


def test_a_file_that_is_cut_replaced_or_removed(user, meanwhile):
    path = stored(user, b"one\ntwo\n")
    meanwhile(lambda: os.truncate(path, 0))
    meanwhile(lambda: appended(path, b"after\n"))
    meanwhile(lambda: replaced(path, b"another, and longer\n"))
    meanwhile(path.unlink)
    meanwhile(lambda: None)
    meanwhile(lambda: path.write_bytes(b"back\n"))
    reported = user.run("tail", "-f", "/text", status=130)
    assert reported.out == b"one\ntwo\nafter\nanother, and longer\nback\n"
    for why in ("became shorter", "was replaced", "exists again"):
        assert reported.err.count(f"/text {why}; printing it from the beginning") == 1
    assert reported.err.count("was removed; waiting for it") == 1


def test_a_file_that_leaves_while_it_is_read(user, meanwhile, monkeypatch):
    """It may have been there a moment before. A directory in its place is waited out, too."""
    path, other = stored(user, b"one\n"), stored(user, b"1\n", "other")
    check = ends._check_file

    def leave(app, remote):
        entry = check(app, remote)
        if entry.size == 8:
            path.unlink()
        return entry

    monkeypatch.setattr(ends, "_check_file", leave)
    meanwhile(lambda: (appended(path, b"two\n"), appended(other, b"2\n")))
    meanwhile(path.mkdir)
    meanwhile(path.rmdir)
    meanwhile(lambda: path.write_bytes(b"back\n"))
    reported = user.run("tail", "-q", "-f", "/text", "/other", status=130)
    assert reported.out == b"one\n1\n2\nback\n"
    reported = user.run("tail", "-f", "/text", status=130)
    assert reported.out == b"back\n"


def test_several_files_are_followed(user, meanwhile):
    one, two = stored(user, b"1\n", "one"), stored(user, b"2\n", "two")
    meanwhile(lambda: (appended(one, b"1b\n"), appended(two, b"2b\n")))
    meanwhile(lambda: appended(two, b"2c\n"))
    assert user.run("tail", "-f", "/one", "/two", status=130).out == (
        b"==> /one <==\n1\n\n==> /two <==\n2\n\n==> /one <==\n1b\n\n==> /two <==\n2b\n2c\n"
    )


def test_a_lost_connection_is_made_again(user, meanwhile):
    path = stored(user, b"one\n")
    with Proxy(user.server) as proxy:
        meanwhile(proxy.cut_newest)
        meanwhile(lambda: appended(path, b"two\n"))
        reported = user.at(proxy.address).run("tail", "-f", "/text", status=130)
    assert reported.out == b"one\ntwo\n"
