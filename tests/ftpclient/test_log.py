"""The logger ``ftpclient``: connections and losses, never a secret."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from ftpclient import Client
from ftpclient.transfer import retry
from ftpwire.errors import ConnectionLost, LoginRefused
from tests.ftpclient.aio.async_support import Blocking

PASSWORD = "a-secret-of-alice"


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.DEBUG, "ftpclient")
    return lambda: [r.getMessage() for r in caplog.records if r.name == "ftpclient"]


def test_it_reports_connections(start_server, connect, logged):
    server = start_server(plaintext=False)
    client = connect(server)
    endpoint = client.address.endpoint
    client.close()
    assert logged() == [
        f"{endpoint}: connected (TLSv1.3)",
        f"{endpoint}: logged in as alice",
        f"{endpoint}: closed",
    ]


def test_it_reports_losses_and_reconnects(client, files, logged, monkeypatch):
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)
    (files / "a").write_bytes(b"abc")
    client.connection.cut()
    assert client.read("/a") == b"abc"
    said = "\n".join(logged())
    assert ": lost: " in said
    assert ": reconnecting" in said
    assert said.count(": connected (no TLS)") == 1


def test_it_reveals_no_secret(start_server, connect, logged, caplog):
    server = start_server()
    server.accounts.set_password("alice", PASSWORD)
    with pytest.raises(LoginRefused):
        connect(server, password="a-wrong-secret")
    client = connect(server, password=PASSWORD)
    token = client.issue_token("for a test").token
    client.change_password(PASSWORD, PASSWORD + "-2")
    with client.open("/a-private-name", "wb") as file:
        file.write(b"private contents")
    client.close()
    said = "\n".join(logged())
    assert "logged in as alice" in said
    for secret in (PASSWORD, "a-wrong-secret", token, "private"):
        assert secret not in said
        assert secret not in repr(client)


def test_it_is_silent_by_itself():
    """Nothing goes to stderr, and a program that asks for the log gets it."""
    code = (
        "import logging, ftpclient\n"
        "ftpclient.Client\n"
        "handlers = logging.getLogger('ftpclient').handlers\n"
        "assert [type(one) for one in handlers] == [logging.NullHandler], handlers\n"
        "from ftpclient.connection import log\n"
        "logging.getLogger('ftpclient').setLevel('DEBUG')\n"
        "log.info('not %s', 'shown')\n"
        "logging.basicConfig(level='INFO', format='%(name)s %(message)s')\n"
        "log.info('%s', 'shown')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "ftpclient shown\n"


def test_who_does_not_log_does_not_pay():
    code = (
        "import sys\n"
        "from ftpclient.client import Client\n"
        "from ftpclient.connection import log\n"
        "log.info('nobody hears this')\n"
        "assert 'logging' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_client_is_imported_lazily():
    assert Client.__module__ == "ftpclient.client"


def test_it_reports_the_same_of_asyncio(server, connect, files, logged):
    client = connect(server, kind=Blocking)
    client.write("/a", b"abc")  # in a thread, which shares the connection
    assert client.read("/a") == b"abc"
    assert len(logged()) == 2
    client.close()
    endpoint = f"127.0.0.1:{server.server_address[1]}"
    assert logged() == [
        f"{endpoint}: connected (no TLS)",
        f"{endpoint}: logged in as alice",
        f"{endpoint}: closed",
    ]
    client = connect(server, kind=Blocking)
    client.whoami()
    for session in list(server.service.sessions):
        session.channel.cut()
    with pytest.raises(ConnectionLost):
        client.whoami()
    assert sum(": lost: " in line for line in logged()) == 1
