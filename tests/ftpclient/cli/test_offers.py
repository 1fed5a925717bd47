"""What the Tab key of bash, zsh and fish is answered: servers, names there, files here."""

from __future__ import annotations

import socket
import threading

import pytest
from click.shell_completion import get_completion_class

from ftpclient.cli import offers, trashed
from ftpclient.cli.app import App
from ftpclient.cli.main import remote
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.credentials import SavedToken, SavedTokens
from ftpclient.connection.servers import SavedServers, Server
from ftpserver.serving import opening
from ftpwire import completion


@pytest.fixture
def tab(tmp_path, monkeypatch, capfd):
    """Completes a line in a shell; what is offered."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("FTP_SERVER", "FTP_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(offers, "SECONDS", 60.0)  # on a busy machine, too
    completion.register()
    app = App()

    def complete(line: str, shell: str = "bash") -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("COMP_WORDBREAKS", " ")
        monkeypatch.setenv("COMP_LINE", line)
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", words[-1] if shell == "fish" else str(len(words) - 1))
        found = get_completion_class(shell)
        assert found is not None
        answer = found(remote, {"obj": app}, "ftp", "_FTP_COMPLETE").complete()
        out, err = capfd.readouterr()
        assert (out, err) == ("", "")
        return answer.split("\n") if answer else []

    yield complete
    app.interrupt.close()


@pytest.fixture
def saved(tab, client, files):
    """A saved server ``files`` with a token, which is the default, and some names there."""
    made = client.issue_token("tests")
    SavedServers().save(Server(client.address, client.address.path is None), "files")
    SavedTokens().save(client.address, SavedToken(made.id, made.token, None, plaintext=True))
    for name in ("/docs", "/docs/a b", "/docs/.hidden", "/d;x"):
        client.make_dir(name)
    for name in ("tab\there", "b"):
        (files / "docs" / name).touch()


def test_names_on_the_server(saved, tab):
    assert tab("ftp ls /do") == ["part,/docs/"]
    assert tab("ftp ls d") == ["part,d\\;x/", "part,docs/"]
    assert tab("ftp rm /docs/") == [
        "part,/docs/a\\ b/",
        "plain,/docs/b",
        "plain,$'/docs/tab\\011here'",
    ]
    assert tab("ftp cat /docs/.") == ["part,/docs/.hidden/"]
    assert tab("ftp cat files:docs/b") == ["plain,files:docs/b"]
    assert tab("ftp find / -newer /docs/b") == ["plain,/docs/b"]
    assert tab("ftp mv /docs/b files:d") == ["part,files:d\\;x/", "part,files:docs/"]
    assert tab("ftp sync x :/docs/a") == ["part,:/docs/a\\ b/"]
    assert tab("ftp get /nope/") == []


def test_a_link_that_leads_nowhere_is_offered_as_a_name(saved, tab, files):
    (files / "docs" / "broken").symlink_to("nowhere")
    assert tab("ftp rm /docs/b") == ["plain,/docs/b", "plain,/docs/broken"]
    assert tab("ftp rm /docs/a") == ["part,/docs/a\\ b/"]


def test_many_names_that_begin_otherwise_hide_none(saved, tab, files, monkeypatch):
    """Of a server that filters, only what fits is counted."""
    monkeypatch.setattr(offers, "_MOST", 3)
    for number in range(20):
        (files / "docs" / f"other-{number}").touch()
    assert tab("ftp rm /docs/b") == ["plain,/docs/b"]
    assert len(tab("ftp rm /docs/other")) == 3
    monkeypatch.setattr(opening, "FEATURES", [])
    assert set(tab("ftp rm /docs/a")) <= {"part,/docs/a\\ b/"}, "as far as it was read"


def test_names_for_zsh_and_fish(saved, tab):
    assert tab("ftp ls /docs/", "zsh") == [
        *("part", "/docs/a b/", "/docs/a b/"),
        *("plain", "/docs/b", "/docs/b"),
    ]
    assert tab("ftp ls /docs/", "fish") == ["part,/docs/a b/", "plain,/docs/b"]


def test_what_lies_in_the_trash(saved, tab, client):
    for text in (b"one", b"two", b"three"):
        client.write("/text", text)
    client.remove("/docs/b")
    found = client.trash()
    ids = list(trashed.short_ids(found).values())
    for line in ("undo ", "trash ls ", "trash restore ", "trash empty "):
        assert [one.split(",")[1] for one in tab(f"ftp {line}")] == ids, line
    assert [one.split(",")[1] for one in tab(f"ftp undo {ids[0]}")] == [ids[0]]
    [reported] = [one for one in tab(f"ftp undo {ids[0]}", "fish") if ids[0] in one]
    assert reported.endswith((" s ago)", "(just now)"))
    for line in ("cat text --at ", "restore text --at ", "get text --at "):
        assert [one.split(",")[1] for one in tab(f"ftp {line}")] == ["1", "2"], line
    assert tab("ftp cat --at ") == []


def test_only_names_that_help_shows_are_offered(tab):
    offered = {one.split(",")[1] for one in tab("ftp put -")}
    assert offered >= {"-r", "--recursive", "--no-resume", "--no-versions", "--json", "--help"}
    assert not offered & {"-R", "-a", "--archive", "-c", "--resume", "-p", "--accept-new", "-q"}
    assert "plain,put" in tab("ftp pu") and "plain,pwd" not in tab("ftp p")
    assert tab("ftp hel") == []


def test_saved_servers_and_files_here(saved, tab, tmp_path):
    assert tab("ftp cat fi") == ["part,files:"]
    assert "plain,files" in tab("ftp fi")
    assert tab("ftp put fi") == ["part,files:"]
    (tmp_path / "here" / "figure").touch()
    assert tab("ftp put fi") == ["file,"]
    assert tab("ftp put figure files:do") == ["part,files:docs/"]
    assert tab("ftp get /docs/b fi") == ["file,"]
    assert tab("ftp put ") == ["file,"]


def test_options_have_their_help(tab):
    assert tab("ftp put --atom", "fish")[0].startswith(
        "plain,--atomic\tReplace the whole directory "
    )
    assert tab("ftp put --atom", "zsh")[2].startswith("--atomic  -- Replace the whole directory ")


@pytest.mark.parametrize(
    "line", ["ftp rm --bogus x ", "ftp ls ftpd://", "ftp ls al:pw@host:x", "ftp x y "]
)
def test_a_line_that_is_wrong_has_nothing_and_says_nothing(tab, line):
    assert tab(line) == []


def test_without_a_token_no_server_is_asked(tab, monkeypatch):
    """Not with a password of the environment, either."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        monkeypatch.setenv("FTP_PASSWORD", "secret")
        monkeypatch.setenv("FTP_SERVER", f"alice@127.0.0.1:{listening.getsockname()[1]}")
        assert tab("ftp --plaintext ls /") == []
        with pytest.raises(BlockingIOError):
            listening.accept()


def test_a_token_that_was_refused_is_not_tried_again(saved, tab, client, server, monkeypatch):
    """Each failure counts for a ban."""
    tries = []
    log_in = offers.Client.log_in
    monkeypatch.setattr(
        offers.Client, "log_in", lambda self, one: tries.append(one) or log_in(self, one)
    )
    assert tab("ftp ls /do") == ["part,/docs/"]
    client.revoke_token(SavedTokens().get(client.address).id)
    assert tab("ftp ls /do") == tab("ftp ls /do") == []
    assert len(tries) == 2
    made = client.issue_token("another")
    SavedTokens().save(client.address, SavedToken(made.id, made.token, None, plaintext=True))
    assert tab("ftp ls /do") == ["part,/docs/"]
    SavedTokens().save(client.address, SavedToken(made.id, made.token, 1, plaintext=True))
    assert tab("ftp ls /do") == []
    assert len(tries) == 3


def test_a_server_that_says_nothing_holds_up_nobody(tab, monkeypatch):
    monkeypatch.setattr(offers, "SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = ServerAddress.parse(f"al@127.0.0.1:{listening.getsockname()[1]}")
        SavedServers().save(Server(address), "files")
        SavedTokens().save(address, SavedToken("id", "token"))
        assert tab("ftp ls /") == []


def test_what_takes_long_is_left_behind():
    silent = threading.Event()
    try:
        assert offers.in_time(lambda interrupt: silent.wait() and [], 0.01) == []
    finally:
        silent.set()


def test_what_fails_has_nothing_to_offer():
    def fail(interrupt):
        raise RuntimeError

    assert offers.in_time(fail, 60) == []
