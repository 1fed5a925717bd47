"""Quotas as users and administrators meet them, by the real programs.

The exit status is in test_errors.py, refusals and races are in
tests/ftpclient/cli/test_exit_statuses.py, the model is in
tests/ftpserver/storage/test_quota_model.py.
"""

from __future__ import annotations

import os

import pytest

from tests.system.programs import finish

KIB, MIB = 1024, 1024 * 1024


def space(user) -> dict:
    return user.run("--json", "df").record


def test_space_that_one_of_8_has_goes_to_exactly_one(start_server, tmp_path):
    bob = start_server().add_user("bob", "--quota", "1MiB")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(700 * KIB))

    puts = [bob.start("put", source, f"/{number}") for number in range(8)]
    ended = [finish(running, status=None) for running in puts]

    assert sorted(run.status for run in ended) == [0] + [7] * 7
    assert space(bob)["used"] == 700 * KIB and space(bob)["held"] == 0


def test_recount_repairs_what_was_changed_behind_the_servers_back(start_server, admin_of):
    server = start_server()
    bob = server.add_user("bob", "--quota", "1MiB")
    bob.run("put", "-", "/a", given=bytes(500 * KIB))
    (server.home("bob") / "a").unlink()
    (server.home("bob") / "new").write_bytes(bytes(100))
    assert space(bob)["used"] == 500 * KIB

    admin = admin_of(server)
    assert admin.run("check", status=8).lines[0].startswith("used: bob")
    admin.run("recount", "bob")
    assert space(bob)["used"] == 100
    admin.run("check")


@pytest.fixture
def admin_of(programs, tmp_path):
    """Whoever looks after the accounts of a server."""
    from tests.system.programs import Admin

    return lambda server: Admin(programs, server.root, tmp_path)
