"""--retry-for, and what is shown while there is no connection or nothing moves."""

from __future__ import annotations

import os
import re
import socket

import pytest

from ftpclient.cli.app import App
from ftpclient.cli.main import run as run_command
from ftpclient.cli.printer import Complaining, Printer
from ftpclient.transfer import retry
from ftpclient.transfer.report import Result
from tests.system.proxy import Proxy

MIB = 2**20


@pytest.fixture
def made(monkeypatch):
    monkeypatch.setenv("FTP_PASSWORD", "secret")
    app = App(plaintext=True)
    yield app
    app.close()
    app.interrupt.close()


@pytest.fixture
def at(made, capfd):
    """Runs a command line of `ftp` at an address; gives status, output and complaints."""

    def run(address: str, *words: object) -> tuple[int, str, str]:
        line = ["-s", f"alice@{address}", "--plaintext", *map(str, words)]
        status = run_command(made, line)
        return status, *capfd.readouterr()

    return run


@pytest.fixture
def nobody() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


# the option --------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["put", "get", "sync"])
def test_by_default_a_first_contact_fails_at_once(at, nobody, tmp_path, verb):
    (tmp_path / "d").mkdir()
    words = (tmp_path / "d", ":/d") if verb == "sync" else (tmp_path / "d", "/d")
    status, _, complaint = at(nobody, verb, *words)
    assert status == 4
    assert "reconnecting" not in complaint
    assert complaint.count("\n") == 1


@pytest.mark.system
@pytest.mark.parametrize("verb", ["put", "get", "sync"])
def test_when_it_is_written_a_first_contact_is_waited_for(at, nobody, tmp_path, verb, monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.05)
    waits = []
    real = retry.Patience.pause
    monkeypatch.setattr(
        retry.Patience, "pause", lambda self: (waits.append(self._retry_for), real(self))
    )
    (tmp_path / "d").mkdir()
    words = (tmp_path / "d", ":/d") if verb == "sync" else (tmp_path / "d", "/d")
    status, _, complaint = at(nobody, verb, "--retry-for", "1s", *words)
    assert status == 4
    assert len(waits) > 2 and set(waits) == {1.0}
    assert complaint.count("reconnecting") == 1
    assert complaint.splitlines()[-1].startswith(f"ftp: {nobody}: connection refused")


def test_zero_is_written_to_never_try_again(at, server, tmp_path):
    (tmp_path / "f").write_bytes(bytes(3 * MIB))
    with Proxy(server.address) as proxy:
        proxy.cut_at("up", MIB)
        status, _, complaint = at(proxy.address, "put", "--retry-for", "0", tmp_path / "f", "/f")
    assert status == 4
    assert "reconnecting" not in complaint
    hint = "run the same command to start over"
    assert re.search(rf"stopped at \d\.\d of 3\.0 MiB: {hint}\n$", complaint)


@pytest.mark.parametrize("flag", [(), ("--no-resume",)])
@pytest.mark.parametrize("received", [MIB, 5 * MIB])
@pytest.mark.parametrize("verb", ["get", "sync"])
def test_a_second_run_is_said_to_resume_only_if_bytes_are_kept(
    at, server, tmp_path, verb, received, flag
):
    (server.settings.root / "alice" / "d").mkdir()
    (server.settings.root / "alice" / "d" / "f").write_bytes(os.urandom(9 * MIB))
    target = tmp_path / "here"
    target.mkdir()
    words = (":/d", target) if verb == "sync" else ("/d/f", target)
    with Proxy(server.address) as proxy:
        proxy.cut_at("down", received)
        status, _, complaint = at(proxy.address, verb, *flag, "--retry-for", "0", *words)
    assert status == 4
    kept = list(target.iterdir())
    resumes = bool(kept) and not flag
    assert bool(kept) == (received > 4 * MIB)
    hint = f"run the same command to {'resume' if resumes else 'start over'}"
    assert re.search(rf"stopped at \d\.\d of 9\.0 MiB: {hint}\n$", complaint)


def test_what_a_device_has_taken_is_not_resumed(at, server):
    (server.settings.root / "alice" / "f").write_bytes(bytes(9 * MIB))
    with Proxy(server.address) as proxy:
        proxy.cut_at("down", 5 * MIB)
        status, _, complaint = at(proxy.address, "get", "--retry-for", "0", "/f", "/dev/null")
    assert status == 4
    assert complaint.endswith(" of 9.0 MiB: run the same command to start over\n")


def test_quarter_of_an_hour_otherwise(server, at, made, tmp_path):
    (tmp_path / "f").write_bytes(b"x")
    assert at(server.address, "put", tmp_path / "f", "/f")[0] == 0
    assert made.known_client.retry_for == 15 * 60
    assert made.known_client.retries is None


def test_the_count_is_still_a_bound(at, server, tmp_path, monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.01)
    (tmp_path / "f").write_bytes(bytes(3 * MIB))
    with Proxy(server.address) as proxy:
        proxy.cut_at("up", *range(MIB, 99 * MIB, MIB))
        status, _, complaint = at(proxy.address, "put", "--retries", "2", tmp_path / "f", "/f")
    assert status == 4
    assert complaint.count("reconnecting") == 2


@pytest.mark.parametrize("verb", ["put", "get", "sync"])
def test_help_shows_one_of_them(at, verb, nobody):
    status, out, _ = at(nobody, verb, "--help")
    assert status == 0
    assert "--retry-for TIME" in out and "--retries" not in out


@pytest.mark.parametrize("text", ["5", "5x", "-1", "", "1h30m"])
def test_what_is_no_time(at, nobody, tmp_path, text):
    status, _, complaint = at(nobody, "put", f"--retry-for={text}", tmp_path, "/f")
    assert status == 2
    assert "is not a duration" in complaint


# what is shown -----------------------------------------------------------------------------


def test_in_a_pipe_the_wait_is_printed_sparsely(made, capfd):
    printer = Printer(made)
    for second in range(600):
        printer.waiting(float(second), 4.2)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "ftp: no connection for 5 s, next try in 5 s"
    assert 8 <= len(lines) <= 16
    printer.regained()
    printer.waiting(6.0, 4.0)
    assert capfd.readouterr().err == "ftp: no connection for 6 s, next try in 4 s\n"


@pytest.mark.parametrize("silent", ["quiet", "as_json"])
def test_or_not_at_all(made, capfd, silent):
    setattr(made, silent, True)
    Printer(made).waiting(100.0, 4.0)
    assert capfd.readouterr() == ("", "")


def test_of_files_that_were_stored_together_only_remarks_are_shown(made, capsys):
    printer = Complaining(made)
    printer.all_stored([Result(b"a", b"/a", 1, "done"), Result(b"b", b"/b", 1, "done")])
    assert capsys.readouterr() == ("", "")
    printer.all_stored(
        [Result(b"a", b"/a", 1, "done"), Result(b"b", b"/b", 1, "done", remark="it grew")]
    )
    assert capsys.readouterr() == ("", "ftp: b: it grew\n")
