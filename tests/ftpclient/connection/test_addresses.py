"""Servers as people write them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ftpclient.connection import addresses
from ftpclient.connection.addresses import BadAddress, ServerAddress


@pytest.mark.parametrize(
    ("text", "host", "port", "user"),
    [
        ("localhost", "localhost", 1234, None),
        ("example.net", "example.net", 1234, None),
        ("example.net:22", "example.net", 22, None),
        ("alice@example.net", "example.net", 1234, "alice"),
        ("alice@example.net:65535", "example.net", 65535, "alice"),
        (" alice@host ", "host", 1234, "alice"),
        ("10.0.0.1:1", "10.0.0.1", 1, None),
        ("[::1]", "::1", 1234, None),
        ("[::1]:99", "::1", 99, None),
        ("bob@[fe80::1%eth0]:99", "fe80::1%eth0", 99, "bob"),
        ("[10.0.0.1]:99", "10.0.0.1", 99, None),
        ("ünal@bücher.example", "bücher.example", 1234, "ünal"),
        ("a:b@host", "host", 1234, "a:b"),
    ],
)
def test_parsing(text, host, port, user):
    assert ServerAddress.parse(text) == ServerAddress(host, port, user)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "@host",
        "alice@",
        "alice@:99",
        ":99",
        "host:",
        "host:0",
        "host:65536",
        "host:123456",
        "host:http",
        "host:-1",
        "host:+1",
        "host:１２",
        "host:1 2",
        "ho st",
        "ho\nst",
        "::1",
        "fe80::1",
        "[::1",
        "::1]",
        "[]",
        "[::1]x",
        "[::1]99",
        "a@b@c",
        "alice@bob@host:99",
        "host/path",
        "ftp://host",
        "unix:",
        "@unix:/run/ftpd.sock",
    ],
)
def test_what_is_no_server(text):
    with pytest.raises(BadAddress) as caught:
        ServerAddress.parse(text)
    assert caught.value.exit_code == 2
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("address", "endpoint", "shown"),
    [
        (ServerAddress("host", 1, "alice"), "host:1", "alice@host:1"),
        (ServerAddress("::1", 99, "alice"), "[::1]:99", "alice@[::1]:99"),
        (ServerAddress("host"), "host:1234", "me@host:1234"),
    ],
)
def test_showing(monkeypatch, address, endpoint, shown):
    monkeypatch.setattr(addresses.getpass, "getuser", lambda: "me")
    assert (address.endpoint, str(address)) == (endpoint, shown)


@pytest.mark.parametrize("error", [KeyError("uid"), OSError("no user")])
def test_a_user_without_a_name(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(addresses.getpass, "getuser", fail)
    assert ServerAddress("host").login == "anonymous"


names = st.text(st.characters(codec="utf-8", exclude_characters="@:[]/ "), min_size=1).filter(
    lambda text: not any(character.isspace() for character in text)
)
sixes = st.ip_addresses(v=6).map(str)


@given(names | sixes, st.integers(1, 65535), names)
def test_what_is_shown_is_read_again(host, port, user):
    address = ServerAddress(host, port, user)
    assert ServerAddress.parse(str(address)) == address


@given(st.text(max_size=40))
@example("a@\x1b[31m")
def test_any_text_is_read_or_refused(text):
    try:
        address = ServerAddress.parse(text)
    except BadAddress as error:
        assert str(error).isprintable()
        return
    assert address.host and 0 < address.port < 65536
    assert not any(character.isspace() for character in address.endpoint)


@pytest.mark.parametrize(
    ("text", "user", "path"),
    [
        ("unix:/run/ftpd.sock", None, "/run/ftpd.sock"),
        ("alice@unix:/run/a b@c:1", "alice", "/run/a b@c:1"),
    ],
)
def test_unix_sockets(text, user, path):
    address = ServerAddress.parse(text)
    assert (address.user, address.path) == (user, path)
    assert address.endpoint == f"unix:{path}"
    assert ServerAddress.parse(str(address)) == replace(address, user=address.login)


def test_a_relative_socket_is_meant_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ServerAddress.parse("unix:sock").path == f"{tmp_path}/sock"
