"""What a log-in is proven with: the order, the file of tokens, netrc; on real servers."""

from __future__ import annotations

import threading
import time

import pytest

from ftpclient.client import Client
from ftpclient.connection import opening
from ftpclient.connection.addresses import ServerAddress
from ftpclient.connection.credentials import Credential, SavedToken, SavedTokens
from ftpwire import messages
from ftpwire.errors import CommandError, LoginRefused, RegistrationClosed
from ftpwire.frames import Kind
from ftpwire.messages import Hello, LoggedIn, Login, LoginToken, Remark

ALICE = ServerAddress("127.0.0.1", 1234, "alice")


@pytest.fixture
def remarks():
    return []


@pytest.fixture
def log_in(connect, remarks):
    """Connects to a server with whatever there is."""

    def connected(server, **options):
        values = {"password": None, "remark": remarks.append}
        return connect(server, **values | options)

    return connected


def save_token(server, secret: str | None = None, **fields) -> str:
    """Save a token for alice at a server; its id."""
    made = server.service.tokens.issue(server.accounts.get("alice"), "test")
    host, port = server.server_address[:2]
    values = {"id": made.id, "secret": secret or made.secret, "plaintext": True}
    SavedTokens().save(ServerAddress(host, port, "alice"), SavedToken(**values | fields))
    return made.id


def write_netrc(tmp_path, text: str, mode: int = 0o600):
    path = tmp_path / "user" / ".netrc"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


# the file of tokens ------------------------------------------------------------------------


def test_tokens_are_kept_by_address(tmp_path):
    tokens = SavedTokens()
    assert tokens.get(ALICE) is None
    tokens.save(ALICE, SavedToken("id", "secret", 5))
    tokens.save(ServerAddress("h", 1, "bob"), SavedToken("other", "secret 2"))
    assert tokens.get(ALICE) == SavedToken("id", "secret", 5)
    for other in ("alice@127.0.0.1:1235", "bob@127.0.0.1", "alice@localhost"):
        assert tokens.get(ServerAddress.parse(other)) is None
    tokens.forget(ALICE)
    tokens.forget(ALICE)
    assert tokens.get(ALICE) is None
    assert tokens.get(ServerAddress("h", 1, "bob")).id == "other"


def test_the_file_of_tokens_is_private(tmp_path):
    tokens = SavedTokens()
    tokens.save(ALICE, SavedToken("id", "secret"))
    path = tokens._file.path
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(CommandError, match="others can read it"):
        tokens.get(ALICE)


def test_a_damaged_file_of_tokens_reveals_no_secret(tmp_path):
    tokens = SavedTokens()
    tokens.save(ALICE, SavedToken("id", "secret"))
    path = tokens._file.path
    path.write_text('{"tokens": {"ftpt_hunter2": "ftpt_hunter2"}}')
    path.chmod(0o600)
    with pytest.raises(CommandError) as caught:
        tokens.get(ALICE)
    assert "hunter2hunter2" not in str(caught.value)


def test_no_repr_shows_a_secret():
    for one in (Credential("alice", "hunter2hunter2"), SavedToken("id", "hunter2hunter2")):
        assert "hunter2hunter2" not in repr(one) and "hunter2hunter2" not in f"{one!s}"


def test_many_at_once_lose_no_token(tmp_path):
    addresses = [ServerAddress("h", port, "alice") for port in range(1, 17)]
    threads = [
        threading.Thread(target=SavedTokens().save, args=(address, SavedToken("i", "s")))
        for address in addresses
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(SavedTokens().get(address) for address in addresses)


# the order ---------------------------------------------------------------------------------


def test_a_saved_token_opens_the_session(server, log_in, remarks):
    token_id = save_token(server)
    client = log_in(server)
    assert client.user == "alice" and remarks == []
    assert [one.current for one in client.tokens() if one.id == token_id] == [True]


def test_what_was_given_comes_before_the_token(server, log_in, monkeypatch):
    save_token(server, secret="ftpt_not-any-more")
    assert log_in(server, password="secret").user == "alice"
    monkeypatch.setenv("FTP_PASSWORD", "secret")
    assert log_in(server).password == "secret"


def test_a_given_password_is_the_only_one_tried(server, log_in, monkeypatch):
    save_token(server)
    for password in ("wrong", ""):
        with pytest.raises(LoginRefused):
            log_in(server, password=password)
    monkeypatch.setenv("FTP_PASSWORD", "wrong")
    with pytest.raises(LoginRefused):
        log_in(server, password=lambda: "secret")


def test_a_refused_token_falls_back_and_says_so_once(server, log_in, remarks):
    save_token(server, secret="ftpt_revoked")
    client = log_in(server, password=lambda: "secret")
    assert client.user == "alice"
    (remark,) = remarks
    assert "refused" in remark and "ftp login" in remark
    client._connection.give_up()
    client.connect()
    assert len(remarks) == 1, "what was accepted is used from then on"


def test_a_refused_token_with_nothing_else_is_the_refusal(server, log_in, remarks):
    save_token(server, secret="ftpt_revoked")
    with pytest.raises(LoginRefused, match="log in again with ftp login"):
        log_in(server)
    assert remarks == []
    assert SavedTokens().get(ServerAddress("127.0.0.1", server.server_address[1], "alice"))


def test_an_expired_token_is_not_sent(server, log_in, remarks, caplog):
    save_token(server, expires=int(time.time()) - 1)
    assert log_in(server, password=lambda: "secret").user == "alice"
    assert "expired" in remarks[0]
    assert "refused" not in caplog.text


def test_without_anything_it_says_what_can_be_done(server, log_in):
    with pytest.raises(LoginRefused) as caught:
        log_in(server)
    for way in ("FTP_PASSWORD", "--password-stdin", "ftp login"):
        assert way in str(caught.value)


def test_a_token_of_tls_never_travels_without(server, log_in, remarks, caplog):
    save_token(server, plaintext=False)
    assert log_in(server, password=lambda: "secret").user == "alice"
    assert "TLS" in remarks[0] and "refused" not in caplog.text


def test_a_token_file_that_others_can_read_is_passed_over(server, log_in, remarks):
    save_token(server)
    SavedTokens()._file.path.chmod(0o644)
    assert log_in(server, password=lambda: "secret").user == "alice"
    assert "chmod 600" in remarks[0]


# netrc -------------------------------------------------------------------------------------


def test_netrc_has_the_password(server, log_in, tmp_path, remarks):
    write_netrc(tmp_path, "machine 127.0.0.1 login alice password secret\n")
    assert log_in(server).user == "alice" and remarks == []


def test_netrc_comes_after_the_token_and_before_asking(server, log_in, tmp_path, remarks):
    write_netrc(tmp_path, "machine 127.0.0.1 login alice password secret\n")
    token_id = save_token(server)
    assert [one.id for one in log_in(server).tokens() if one.current] == [token_id]
    save_token(server, secret="ftpt_revoked")
    assert log_in(server, password=lambda: pytest.fail("asked")).user == "alice"
    assert len(remarks) == 1


def test_netrc_names_the_user_where_nobody_else_does(server, connect, tmp_path):
    write_netrc(tmp_path, "machine 127.0.0.1 login alice password secret\n")
    assert connect(server, user=None, password=None).user == "alice"


@pytest.mark.parametrize(
    ("text", "mode", "remark"),
    [
        pytest.param("machine elsewhere login alice password secret", 0o600, "", id="host"),
        pytest.param("machine 127.0.0.1 login bob password secret", 0o600, "", id="user"),
        pytest.param("default login alice password secret", 0o600, "", id="default"),
        pytest.param("machine 127.0.0.1 login alice password secret", 0o644, "chmod", id="mode"),
        pytest.param("machine 127.0.0.1 frobnicate", 0o600, "be read", id="damaged"),
        pytest.param("machine 127.0.0.1 login alice", 0o600, "", id="no-password"),
    ],
)
def test_netrc_that_is_not_for_this(server, log_in, tmp_path, remarks, text, mode, remark):
    write_netrc(tmp_path, text + "\n", mode)
    with pytest.raises(LoginRefused, match="no password"):
        log_in(server)
    assert [remark in one for one in remarks] == ([True] if remark else [])
    assert not any("secret" in one for one in remarks)


def test_netrc_may_be_elsewhere(server, log_in, tmp_path, monkeypatch):
    write_netrc(tmp_path, "machine 127.0.0.1 login alice password wrong\n")
    other = tmp_path / "other"
    other.write_text("machine 127.0.0.1 login alice password secret\n")
    other.chmod(0o600)
    monkeypatch.setenv("NETRC", str(other))
    assert log_in(server).user == "alice"


# on the wire -------------------------------------------------------------------------------


@pytest.fixture
def tls_server(start_server):
    return start_server(plaintext=False)


@pytest.mark.parametrize("password", [None, "secret"])
def test_the_log_in_goes_out_with_hello(tls_server, log_in, monkeypatch, password):
    """One round trip less: the client has sent both before it reads anything."""
    if password is None:
        save_token(tls_server, plaintext=False)
    log_in(tls_server, password="secret").close()  # pins the key
    flushed = []
    real = opening._Opening._say_hello

    def counted(self, channel, early):
        flush = channel.flush
        monkeypatch.setattr(
            channel, "flush", lambda d: (flushed.append(len(channel._out)), flush(d))
        )
        return real(self, channel, early)

    monkeypatch.setattr(opening._Opening, "_say_hello", counted)
    client = log_in(tls_server, password=password)
    assert client.user == "alice"
    request = LoginToken("alice", "x" * 48) if password is None else Login("alice", password)
    greeting = len(messages.encode_hello(Hello()))
    assert len(flushed) == 1 and flushed[0] > len(messages.encode(request)) + greeting


def test_a_server_that_hashes_before_its_hello_is_no_farther_away(tls_server, log_in, monkeypatch):
    """The TLS handshake tells, too, how far away it is."""
    start = opening._Opening._start

    def quick(self, context):
        channel = start(self, context)
        assert 0 < self._handshake < opening.CONNECT_SECONDS
        self._handshake = 0.0
        return channel

    monkeypatch.setattr(opening._Opening, "_start", quick)
    assert log_in(tls_server, password="secret").connection.round_trip == 0.0


@pytest.mark.parametrize("is_token", [True, False])
def test_without_tls_the_log_in_waits_for_hello(fake, is_token):
    """The server may turn out to speak TLS only, and what was sent could be read by anybody."""
    seen = []

    def script(peer):
        peer.read()
        with pytest.raises(TimeoutError):
            peer.socket.settimeout(0.2)
            peer.socket.recv(1)
        peer.socket.settimeout(30)
        peer.frame(Kind.REPLY, 0, messages.encode_hello(Hello(max_requests=9, max_unanswered=99)))
        login = peer.read()
        seen.append(login.message)
        peer.reply(login, LoggedIn("alice"))

    server = fake(script)
    credential = Credential("alice", "ftpt_x", is_token=is_token)
    connection = opening.connect(server.address, plaintext=True, credential=credential)
    connection.log_in(credential)
    assert connection.user == "alice"
    connection.close()
    assert seen == [credential.request()]


def test_nothing_goes_to_a_server_whose_key_has_changed(tls_server, log_in, tmp_path, caplog):
    save_token(tls_server, plaintext=False)
    log_in(tls_server, password="secret").close()
    known = tmp_path / "known_hosts"
    known.write_text(known.read_text().replace("SHA256:", "SHA256:x"))
    caplog.clear()
    with pytest.raises(Exception, match="HAS CHANGED"):
        log_in(tls_server)
    assert "logged in" not in caplog.text and "refused" not in caplog.text


def test_tls_is_resumed_within_a_process(tls_server, log_in):
    first = log_in(tls_server, password="secret")
    second = log_in(tls_server, password="secret")
    again = log_in(tls_server, password="secret")
    assert not first.connection.channel.tls.object.session_reused
    assert second.connection.channel.tls.object.session_reused
    assert again.connection.channel.tls.object.session_reused


def test_a_resumed_session_is_compared_with_the_pin(tls_server, log_in, tmp_path):
    log_in(tls_server, password="secret").close()
    known = tmp_path / "known_hosts"
    known.write_text(known.read_text().replace("SHA256:", "SHA256:x"))
    with pytest.raises(Exception, match="HAS CHANGED"):
        log_in(tls_server, password="secret")


@pytest.mark.parametrize(
    ("user", "secret"),
    [
        ("x" * 65, "y"),
        ("alice", "x" * 1025),
        ("alice", "ä" * 600),
        ("\udcff", "x"),
        ("a", "\udcff"),
    ],
)
def test_what_no_server_could_accept_is_not_sent(user, secret):
    with pytest.raises(LoginRefused):
        Credential(user, secret).request()
    assert isinstance(Credential("alice", "ä" * 512).request(), Login)


def test_remarks_of_the_server_are_reported_once(fake, connect, remarks):
    def script(peer):
        peer.greet()
        for text in ("90 % of the room are used", "90 % of the room are used", "another"):
            peer.frame(Kind.NOTICE, 0, Remark(text))
        peer.reply(peer.read(), LoggedIn("alice"))

    client = connect(fake(script), remark=remarks.append)
    client.connection.ask(messages.WhoAmI())
    assert remarks == ["90 % of the room are used", "another"]


def test_a_server_that_never_stops_talking(fake, connect, remarks):
    def script(peer):
        peer.greet()
        for number in range(1000):
            peer.frame(Kind.NOTICE, 0, Remark(f"{number} " + "x" * 10_000))
        peer.reply(peer.read(), LoggedIn("alice"))

    client = connect(fake(script), remark=remarks.append)
    client.connection.ask(messages.WhoAmI())
    assert len(remarks) == 20 and max(map(len, remarks)) <= 500


def test_the_name_that_a_server_reports_is_harmless(fake, connect):
    def script(peer):
        peer.read()
        peer.frame(Kind.REPLY, 0, messages.encode_hello(Hello(max_requests=9, max_unanswered=99)))
        peer.reply(peer.read(), LoggedIn("\x1b]0;owned\x07" + "x" * 10_000))

    client = connect(fake(script))
    assert client.user.isprintable() and len(client.user) < 300


def test_a_slow_typist_gets_a_new_connection(server, connect, monkeypatch):
    """The server gives up who doesn't log in; the user may be looking for the password."""
    monkeypatch.setattr("ftpclient.connection.dialer._QUICK_ANSWER", 0.0)

    def ask():
        for session in list(server.service.sessions):
            session.abort()
        return "secret"

    assert connect(server, password=ask).user == "alice"


def unauthenticated_client(server) -> Client:
    host, port = server.server_address[:2]
    return Client(ServerAddress(host, port, "carol"), plaintext=True)


def test_registering_asks_once_the_server_is_trusted(start_server):
    server = start_server(open_registration=True)
    fresh = unauthenticated_client(server)
    fresh.register(lambda: "her-own-one")
    assert fresh.user == "carol" and fresh.password == "her-own-one"
    fresh._connection.give_up()
    fresh.connect()
    fresh.close()


def test_a_closed_registration_is_reported(server):
    fresh = unauthenticated_client(server)
    for invitation in (None, "wrong", "x" * 200):
        with pytest.raises(RegistrationClosed):
            fresh.register("hers", invitation)
    assert not (server.settings.root / "carol").exists()
