"""`status`: the server, the account, its token, and its space."""

from __future__ import annotations


def test_by_password_without_tls(user):
    reported = user.run("status")
    assert reported.lines[:4] == [
        f"server: {user.server}",
        "  user: alice",
        "   key: none: WITHOUT ENCRYPTION (--plaintext)",
        " login: by password",
    ]
    assert reported.lines[4].startswith(" space: total unlimited, used 0 B")


def test_by_a_token_with_tls(start_server, at_a_command_line):
    server = start_server(plaintext=False)
    alice = at_a_command_line(server)
    alice.run("login", f"alice@{alice.server}", "--name", "home", "--expires", "30d")
    alice.password = ""
    alice.server = ""
    record = alice.run("--json", "status").record
    assert record["name"] == "home" and record["user"] == "alice" and record["encrypted"] is True
    assert record["fingerprint"].startswith("SHA256:") and record["token_expires"].endswith("Z")
    lines = alice.run("status").lines
    assert lines[0].startswith("server: home (") and lines[2] == f"   key: {record['fingerprint']}"
    assert lines[3] == f" login: by token {record['token']}, until {record['token_expires']}"


def test_it_takes_one_round_trip_after_the_log_in(user, monkeypatch):
    from ftpclient.connection.connection import Connection

    requested = []
    submit = Connection.submit

    def noted(self, call, request, *rest, **more):
        requested.append(type(request).__name__)
        return submit(self, call, request, *rest, **more)

    monkeypatch.setattr(Connection, "submit", noted)
    user.run("status")
    assert requested.count("ListTokens") == requested.count("Space") == 1
