"""ftpserver.testing: a server for the tests of others, and nothing of the user's own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ftpclient import Client, HostKeyChanged, LoginRefused, QuotaExceeded, UnknownHost
from ftpserver.testing import PASSWORD, server
from ftpserver.testing.plugin import ftp_server
from tests.conftest import state_of_tree

__all__ = ["ftp_server"]


@pytest.fixture(autouse=True)
def temporary_files(tmp_path, monkeypatch) -> None:
    """Servers for tests have their files below pytest's directory as well."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_client_finds_it_by_itself():
    with server() as there:
        with Client() as client:
            assert client.whoami() == "alice"
            client.write("/a", b"abc")
        assert (there.home / "a").read_bytes() == b"abc"
        assert there.home.parent == there.root
        root = there.root
    assert not root.exists()
    assert "FTP_SERVER" not in os.environ


def test_the_users_own_settings_are_left_alone(tmp_path, monkeypatch):
    config = tmp_path / "user" / "config"
    config.mkdir(parents=True)
    (tmp_path / "user" / ".netrc").write_text("machine 127.0.0.1 login alice password wrong\n")
    monkeypatch.setenv("FTP_PASSWORD", "the user's own")
    monkeypatch.setenv("FTP_SERVER", "files.example.net")
    monkeypatch.setenv("FTP_SERVER_KEY", "SHA256:" + "a" * 43)
    before = state_of_tree(tmp_path / "user")
    environ = dict(os.environ)
    with server() as there:
        with Client() as client:
            client.whoami()
        with Client(there.address, password=there.password, fingerprint=there.fingerprint) as one:
            one.whoami()
        with Client(there.address, password=there.password, accept_new=True) as one:
            one.whoami()
    assert dict(os.environ) == environ
    assert state_of_tree(tmp_path / "user") == before


def test_two_of_them(tmp_path):
    with server() as one, server(user="bob", password="another-secret", environ=False) as other:
        with Client() as first:
            assert first.whoami() == "alice"
        with pytest.raises(UnknownHost):
            Client(other.address, password=other.password).connect()
        with Client(
            other.address, password=other.password, known_hosts=other.known_hosts
        ) as second:
            assert second.whoami() == "bob"
        with pytest.raises(HostKeyChanged):
            Client(
                other.address, known_hosts=other.known_hosts, fingerprint=one.fingerprint
            ).connect()


def test_an_exception_ends_it_as_well(monkeypatch):
    monkeypatch.setenv("FTP_SERVER", "files.example.net")
    with pytest.raises(KeyError), server():
        raise KeyError("of the test")
    assert os.environ["FTP_SERVER"] == "files.example.net"


def test_a_root_that_stays(tmp_path):
    root = tmp_path / "root"
    for expected in (None, b"abc"):
        with server(root), Client() as client:
            assert client.exists("/a") == (expected is not None)
            client.write("/a", b"abc")
    assert (root / "alice" / "a").read_bytes() == b"abc"


def test_settings_and_accounts():
    with server(plaintext=True, quota=1000, max_user_sessions=1) as there:
        assert there.fingerprint is None
        with Client(plaintext=True) as client:
            assert client.space().total == 1000
            with pytest.raises(QuotaExceeded):
                client.write("/a", bytes(2000))
        address = there.add_user("bob", "another-secret", quota=5)
        with Client(address, password="another-secret", plaintext=True) as client:
            assert client.space().total == 5
        with pytest.raises(LoginRefused):
            Client(address, password=PASSWORD, plaintext=True).connect()
    with pytest.raises(TypeError), server(no_such_setting=1):
        pass


def test_a_unix_socket_alone(tmp_path):
    with server(no_tcp=True, unix=str(tmp_path / "socket")) as there:
        assert there.address == f"alice@unix:{tmp_path}/socket"
        with Client() as client:
            client.write("/a", b"abc")
        assert (there.home / "a").read_bytes() == b"abc"


def test_the_programs_use_it_too(tmp_path):
    with server(environ=False) as there:
        done = subprocess.run(
            [sys.executable, "-c", "from ftpclient.cli.main import main; main()", "whoami"],
            env=os.environ | there.environ,
            capture_output=True,
            text=True,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert "alice" in done.stdout


def test_the_fixture(ftp_server):
    with Client() as client:
        client.write("/a", b"abc")
    assert (ftp_server.home / "a").read_bytes() == b"abc"


def test_the_plugin_costs_next_to_nothing_until_it_is_used():
    heavy = ("argon2", "sqlalchemy", "ftpserver.daemon.server", "ftpclient")
    code = (
        "import sys, ftpserver.testing.plugin\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_no_plugin_is_loaded_by_itself():
    """What is installed beside pytest is loaded in every run of it."""
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert "pytest11" not in text
