"""The account from Python: registering, passwords and tokens, with clients of either kind."""

from __future__ import annotations

import time

import pytest

from ftpclient import Client
from ftpwire.errors import CommandError, LoginRefused, NameTaken, RegistrationClosed
from tests.ftpclient.aio.async_support import Blocking

KINDS = pytest.mark.parametrize("kind", [Client, Blocking], ids=["threads", "asyncio"])


@pytest.fixture(params=[Client, Blocking], ids=["threads", "asyncio"])
def client(request, server, connect):
    """A client of either kind, logged in as alice."""
    return connect(server, kind=request.param)


def test_a_client_issues_lists_and_revokes(client, server):
    made = client.issue_token("n" * 200, 60)
    assert 0 <= made.expires - time.time() <= 61
    (listed,) = client.tokens()
    assert (listed.id, listed.name, listed.current) == (made.id, "n" * 64, False)
    client.revoke_token(made.id)
    assert client.tokens() == []
    for wrong in (made.id, "x" * 100, ""):
        with pytest.raises(CommandError):
            client.revoke_token(wrong)


def test_a_client_changes_its_password_and_goes_on(client, server, connect):
    other = connect(server)
    client.change_password("secret", "another-one")
    assert list(client.list_dir("/")) == []
    client.close() if isinstance(client, Client) else client.run(client.client.close())
    client.connect()
    assert client.password == "another-one" and client.whoami() == "alice"
    with pytest.raises(LoginRefused):
        connect(server)
    other.close()


def test_a_wrong_old_password_changes_nothing(client, server, connect):
    with pytest.raises(LoginRefused):
        client.change_password("wrong", "another-one")
    assert connect(server).user == "alice"


@pytest.fixture
def unauthenticated_client(request, tmp_path):
    """Makes a client of a kind, for a name that has no account yet."""
    made = []

    def make(server, kind, name):
        client = kind(f"{name}@{server.address}", plaintext=True)
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@KINDS
def test_a_client_registers_and_is_logged_in(start_server, unauthenticated_client, kind):
    server = start_server(open_registration=True)
    bob = unauthenticated_client(server, kind, "bob")
    bob.register(lambda: "a long password")
    assert bob.whoami() == "bob" and bob.password == "a long password"
    bob.make_dir("/d")
    assert (server.settings.root / "bob" / "d").is_dir()
    with pytest.raises(NameTaken):
        unauthenticated_client(server, kind, "bob").register("a long password")
    assert bob.whoami() == "bob"


@KINDS
def test_where_registration_is_closed(server, unauthenticated_client, kind):
    with pytest.raises(RegistrationClosed):
        unauthenticated_client(server, kind, "bob").register("a long password")
