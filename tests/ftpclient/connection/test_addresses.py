"""Servers as people write them."""

from __future__ import annotations

import getpass

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
        ("ftpd://host", "host", 1234, None),
        ("ftpd://host/", "host", 1234, None),
        ("FTPD://alice@host:99/", "host", 99, "alice"),
        (" ftpd://alice@[::1]:99", "::1", 99, "alice"),
        ("ftpd://%C3%BCnal@host", "host", 1234, "ünal"),
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
        "ftp://alice@host",
        "ftpd://",
        "ftpd:///",
        "ftpd://@host",
        "ftpd://host/path",
        "ftpd://host//",
        "ftpd://a%40b@host",
        "ftpd://a%2fb@host",
        "ftpd:alice@host",
        "//alice@host",
        "a/b@host",
        "alice@::1",
        "ftpd://::1",
        "unix:",
        "alice:@unix:/run/ftpd.sock",
        "@unix:/run/ftpd.sock",
    ],
)
def test_what_is_no_server(text):
    with pytest.raises(BadAddress) as caught:
        ServerAddress.parse(text)
    assert caught.value.exit_code == 2
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("ftp://alice@host:21/d", "the scheme must be ftpd://, e.g. ftpd://alice@host:21"),
        ("https://host", "the scheme must be ftpd://, e.g. ftpd://host"),
        ("ftpd://alice@host/d/e", "it cannot have a path: write ftpd://alice@host"),
        ("alice@::1", "write brackets: alice@[::1], followed by :PORT if needed"),
        ("fe80::1", "write brackets: [fe80::1], followed by :PORT if needed"),
        (
            "ftpd://al@fe80::1%eth0",
            "write brackets: al@[fe80::1%eth0], followed by :PORT if needed",
        ),
        (
            "ho st",
            "write [USER@]HOST[:PORT], ftpd://[USER@]HOST[:PORT] or [USER@]unix:PATH",
        ),
    ],
)
def test_what_to_write_instead(text, advice):
    with pytest.raises(BadAddress) as caught:
        ServerAddress.parse(text)
    assert str(caught.value) == f"{text!r} is not a server: {advice}"


WITH_PASSWORDS = [
    "ftpd://user:s3cret@host",
    "ftpd://user:s3cret@host:99/d",
    "FTP://user:s3cret@host",
    "user:s3cret@host",
    "user:s3cret@[::1]:99",
    "user:s3cret@unix:/run/ftpd.sock",
    "user:s3@cret@host",
    "user:a/s3cret@host",
]


@pytest.mark.parametrize("text", WITH_PASSWORDS)
def test_a_password_is_refused_and_not_repeated(text):
    with pytest.raises(BadAddress) as caught:
        ServerAddress.parse(text)
    assert "FTP_PASSWORD" in str(caught.value)
    assert "s3" not in str(caught.value) and "cret" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["unix:a@b", "al@host:/d@e", "host:/d@e", ":/d@e", "host:99/d@e", "ftpd://al@host/d:e@f"],
)
def test_what_has_no_password(text):
    addresses.check_no_password(text)


@pytest.mark.parametrize(
    ("address", "endpoint", "shown"),
    [
        (ServerAddress("host", 1, "alice"), "host:1", "alice@host:1"),
        (ServerAddress("::1", 99, "alice"), "[::1]:99", "alice@[::1]:99"),
        (ServerAddress("host"), "host:1234", "me@host:1234"),
    ],
)
def test_showing(monkeypatch, address, endpoint, shown):
    monkeypatch.setattr(getpass, "getuser", lambda: "me")
    assert (address.endpoint, str(address)) == (endpoint, shown)


@pytest.mark.parametrize("error", [KeyError("uid"), OSError("no user")])
def test_a_user_without_a_name(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(getpass, "getuser", fail)
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
    assert ServerAddress.parse(str(address)) == address._replace(user=address.login)


def test_a_relative_socket_is_meant_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ServerAddress.parse("unix:sock").path == f"{tmp_path}/sock"
