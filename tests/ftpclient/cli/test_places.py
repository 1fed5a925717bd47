"""Words with a server in them: which are, what they mean, and that a command has one server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftpclient.cli import locations
from ftpclient.cli.app import App, UsageError
from ftpclient.connection.addresses import BadAddress, ServerAddress
from ftpclient.connection.servers import SavedServers, Server


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """Servers that were saved: files and two."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("FTP_SERVER", raising=False)
    for name, address in (("files", "al@files.net:99"), ("two", "al@two.net")):
        SavedServers().save(Server(ServerAddress.parse(address)), name)


@pytest.fixture
def app():
    app = App()
    yield app
    app.interrupt.close()


# which words are ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "server", "path"),
    [
        ("al@host:", "al@host", "/"),
        ("al@host:d/f", "al@host", "/d/f"),
        ("al@host:/d/f", "al@host", "/d/f"),
        ("al@host:~/d", "al@host", "/d"),
        ("al@host:12:30.sql", "al@host", "/12:30.sql"),
        ("al@[::1]:d", "al@[::1]", "/d"),
        ("al@host:a\nb", "al@host", "/a\nb"),
        ("files:", "files", "/"),
        ("files:2024", "files", "/2024"),
        ("files:a@b", "files", "/a@b"),
        ("ftpd://host/d", "ftpd://host", "/d"),
        ("FTPD://al@host:99/a b%20", "ftpd://al@host:99", "/a b%20"),
        ("ftpd://host", "ftpd://host", "/"),
    ],
)
def test_a_word_that_names_a_server(saved, word, server, path):
    found = locations.read(word)
    assert found is not None
    assert (found.word, found.server, found.path) == (word, server, path)


@pytest.mark.parametrize(
    "word",
    [
        *("", "a", "al@host", "/mail/al@host:2,S", "./al@host:/d", "./files:x", ":files:x"),
        *("db-12:30.sql", "host.net:/d", "unix:/s", "dir/al@host:x", "[::1]:x", "a b@host:x"),
    ],
)
def test_a_word_that_names_none(saved, word):
    assert locations.read(word) is None


@pytest.mark.parametrize(
    ("word", "reported"),
    [
        ("al@host:1234", "to give a port, write ftpd://al@host:1234/PATH"),
        ("al@host:99:/d", "to give a port, write ftpd://al@host:99/d"),
        ("sftp://host/d", "unknown scheme; write ftpd://host/d"),
        ("al@unix:/run/s", "name a Unix socket before the command: ftp -s al@unix:/run/s"),
    ],
)
def test_half_a_server_is_refused(saved, word, reported):
    with pytest.raises(UsageError, match=reported):
        locations.read(word)


@pytest.mark.parametrize(
    "word", ["al:s3cret@host:/d", "files:s3cret@host:d", "ftpd://a:s3cret@h/d"]
)
@pytest.mark.parametrize("read", [locations.read, locations.read_server, locations.of_connect])
def test_a_password_is_refused_and_not_repeated(saved, word, read):
    with pytest.raises(BadAddress) as caught:
        read(word)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "server", "path"),
    [
        ("files", "files", ""),
        ("files:www", "files", "/www"),
        ("host.net", "host.net", ""),
        ("host.net:99", "host.net:99", ""),
        ("host.net:/www", "host.net", "/www"),
        ("al@host:99", "al@host:99", ""),
        ("al@host:www", "al@host", "/www"),
        ("al@unix:/run/s", "al@unix:/run/s", ""),
        ("ftpd://host:99", "ftpd://host:99", ""),
        ("ftpd://host:99/www", "ftpd://host:99", "/www"),
    ],
)
def test_what_connect_takes(saved, word, server, path):
    found = locations.of_connect(word)
    assert (found.server, found.path) == (server, path)


@pytest.mark.parametrize("word", ["fe80::1", "host:x", "sftp://host/d", "al@host:99999"])
def test_what_connect_refuses(saved, word):
    with pytest.raises((BadAddress, UsageError)):
        locations.of_connect(word)


# one server for a command -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "used", "taken"),
    [
        (["/a", "b:c"], None, ["/a", "b:c"]),
        (["al@host:a", "al@host:/b"], "al@host", ["/a", "/b"]),
        (["files:a", "al@files.net:b"], None, None),
        (["ftpd://al@files.net:99/a", "files:b"], "ftpd://al@files.net:99", ["/a", "/b"]),
        (["ftpd://files.net:99/a", "files:b"], None, ["/a", "/b"]),  # files is the default: used
    ],
)
def test_the_server_of_a_command(saved, app, words, used, taken):
    if taken is None:
        with pytest.raises(UsageError, match="are on two"):
            locations.taken(app, words)
    else:
        SavedServers().make_default("two" if used else "files")
        assert locations.taken(app, words) == taken
    assert app.server == used


def test_the_other_words_say_it_as_well(saved, app):
    with pytest.raises(UsageError, match="write files:/b for a path there"):
        locations.taken(app, ["files:a", "/b"])
    app.server = "files"  # then there is no doubt about them
    assert locations.taken(app, ["files:a", "/b"]) == ["/a", "/b"]


def test_a_word_against_options_and_environment(saved, app, monkeypatch):
    monkeypatch.setenv("FTP_SERVER", "al@two.net")
    assert locations.taken(app, ["files:a"]) == ["/a"]
    assert app.server == "files"  # the word wins
    with pytest.raises(UsageError, match="is on another server"):
        locations.taken(app, ["two:a"])
    app.use("two")
    with pytest.raises(UsageError, match="-s names al@two.net:1234, but files:a is on another"):
        locations.taken(app, ["files:a"])


def test_in_the_shell(saved, app):
    app.server, app.interactive = "files", True
    app.shell.patterns = {"al@[::1]:*": "al@[[]::1]:[*]", "files:a*b*": "files:a[*]b*"}
    assert locations.taken(app, ["files:a*b*", "c"]) == ["/a*b*", "c"]
    assert app.pattern("/a*b*") == "/a[*]b*"
    with pytest.raises(UsageError, match="two:x is not on this shell's server"):
        locations.taken(app, ["two:x"])


# on a server --------------------------------------------------------------------------------


@pytest.fixture
def alice(at_a_command_line, server):
    """Somebody whose only servers are those that words name: ``home`` is saved."""
    alice = at_a_command_line(server)
    config = alice.home / "config" / "ftp-client"
    config.mkdir(parents=True)
    entry = {"address": f"alice@{alice.server}", "plaintext": server.settings.plaintext}
    (config / "servers.json").write_text(json.dumps({"servers": {"home": entry}}))
    return alice.at("")


def test_commands_take_the_server_from_their_words(alice, server):
    there: Path = server.settings.root / "alice"
    (alice.home / "f").write_text("text")
    url = f"ftpd://alice@{server.server_address[0]}:{server.server_address[1]}"
    alice.run("mkdir", "-p", "home:d/e", f"{url}/g")
    alice.run("put", "f", "home:")
    alice.run("put", "f", f"{url}/d/x:y")
    alice.run("put", "-t", "home:g", "f")
    assert (there / "f").read_text() == (there / "d" / "x:y").read_text() == "text"
    assert alice.run("ls", "home:").text == "d/\nf\ng/\n"
    assert alice.run("cat", "home:f", "home:/d/x:y").text == "texttext"
    alice.run("touch", "-d", "2001-01-01", "home:t")
    alice.run("touch", "-r", "home:t", "home:f")
    assert alice.run("find", "home:d", "-newer", "home:f", "-type", "f").text == "/d/x:y\n"
    alice.run("get", "home:d/x:y", ".")
    assert (alice.home / "x:y").read_text() == "text"
    alice.run("cp", "home:f", "home:d")
    alice.run("mv", "-t", "home:g", "home:d/f", "home:t")
    alice.run("ln", "-s", "home:x", "home:link")
    assert (there / "link").readlink() == Path("home:x")
    assert {path.name for path in (there / "g").iterdir()} == {"f", "t"}
    alice.run("sync", "home:g", "copy")
    alice.run("sync", "copy", f"{url}/again")
    assert (there / "again" / "f").read_text() == "text"
    for command in ("hash", "stat", "du", "tree", "head", "tail", "chmod u+x", "rm", "kept"):
        name = "home:" if command in ("du", "tree", "kept") else "home:f"
        alice.run(*command.split(), name, status=5 if command == "kept" else 0)
    alice.run("rm", "-r", "home:", status=2)
    assert not (there / "f").exists()


@pytest.mark.parametrize(
    ("words", "reported"),
    [
        (["cp", "home:f", "."], "use ftp get or ftp put to transfer files"),
        (["rm", "home:f", "/d"], "write home:/d for a path there"),
        (["get", "home:f", "home:g"], "the target of get is local"),
        (["put", "home:f", "home:g"], "get downloads it, cp copies it on the server"),
        (["put", "f", "other:"], "write USER@other: or ftpd://other/"),
        (["sync", "home:a", "home:b"], "are both on a server"),
        (["sync", "home:a", ":b"], "are both on a server"),
        (["-s", "nobody@127.0.0.1:9", "ls", "home:"], "-s names nobody@127.0.0.1:9"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_what_is_refused_before_a_connection(alice, words, reported):
    (alice.home / "f").touch()
    ended = alice.run(*words, status=2)
    assert ended.text == "" and reported in ended.err


@pytest.mark.parametrize(
    "words", [["get", "host.net:/f"], ["get", "host.net:f"], ["put", "f", "host.net:/f"]]
)
def test_a_host_that_is_not_saved_is_a_name_and_the_error_says_so(at_a_command_line, server, words):
    alice = at_a_command_line(server)
    (alice.home / "f").touch()
    reported = "(to name a server, write USER@host.net:PATH or ftpd://host.net/PATH)"
    assert reported in alice.run(*words, status=5).err


def test_a_file_here_that_only_looks_like_one(alice, server):
    (alice.home / "home:f").write_text("mine")
    alice.run("put", "home:f", "home:")
    assert (server.settings.root / "alice" / "home:f").read_text() == "mine"
    alice.run("get", "home:./home:f", "./home:copy")
    assert (alice.home / "home:copy").read_text() == "mine"


@pytest.mark.parametrize("command", [[], ["connect"]], ids=["alone", "connect"])
def test_a_server_is_connected_to(alice, server, command):
    (server.settings.root / "alice" / "d").mkdir(parents=True, exist_ok=True)
    assert alice.run(*command, "home:d", given=b"pwd\n").text == "/d\n"
    assert alice.run(*command, "home", given=b"pwd\n").text == "/\n"
    alice.run(*command, "home:nope", given=b"pwd\n", status=5)
