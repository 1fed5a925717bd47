"""Quotas as users and administrators meet them, by the real programs.

Refusals, races of two and exit statuses are in test_errors.py; the model is in
tests/ftpserver/storage/test_quota_model.py.
"""

from __future__ import annotations

import os

import pytest

from tests.system.programs import finish
from tests.system.proxy import Proxy

KIB, MIB = 1024, 1024 * 1024


def room(user) -> dict:
    return user.run("--json", "df").record


def test_room_that_one_of_32_has_goes_to_exactly_one(start_server, tmp_path):
    bob = start_server().add_user("bob", "--quota", "1MiB")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(700 * KIB))

    puts = [bob.start("put", source, f"/{number}") for number in range(32)]
    ended = [finish(running, status=None) for running in puts]

    assert sorted(run.status for run in ended) == [0] + [7] * 31
    assert room(bob)["used"] == 700 * KIB and room(bob)["held"] == 0


def test_a_resumed_upload_does_not_slip_past_the_limit(start_server, tmp_path, admin_of):
    """What an interrupted upload holds is its own; after the limit was lowered it is refused."""
    server = start_server()
    bob = server.add_user("bob", "--quota", "40MiB")
    large, other = tmp_path / "large", tmp_path / "other"
    large.write_bytes(os.urandom(30 * MIB))
    other.write_bytes(os.urandom(20 * MIB))
    with Proxy(server.reached) as proxy:
        proxy.cut_at("up", 20 * MIB)
        bob.at(proxy.address).run("put", "--retries", "0", large, "/large", status=4)

    assert room(bob)["held"] == 30 * MIB
    bob.run("put", other, "/other", status=7)
    admin_of(server).run("user", "set", "bob", "--quota", "25MiB")
    bob.run("put", other, "/other", status=7)
    before = room(bob)
    assert before["used"] + before["held"] == 30 * MIB

    resumed = bob.run("put", large, "/large", status=None)
    assert resumed.status == 0  # it had its room before the limit was lowered, and no byte more
    assert room(bob) | {"total": 25 * MIB, "used": 30 * MIB, "held": 0, "free": 0} == room(bob)
    bob.run("put", "-", "/one", given=b"1", status=7)
    bob.run("rm", "/large")
    bob.run("put", other, "/other")


def test_what_is_over_the_limit_is_not_sent_again_and_again(start_server, tmp_path):
    server = start_server()
    bob = server.add_user("bob", "--quota", "1MiB")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "fits").write_bytes(os.urandom(500 * KIB))
    (tree / "large").write_bytes(os.urandom(5 * MIB))
    with Proxy(server.reached) as proxy:
        far = bob.at(proxy.address)
        for _ in range(3):
            assert "needs 5.5 MiB" in far.run("sync", tree, ":/tree", status=7).err
            far.run("put", tree / "large", "/large", status=7)
        assert proxy.passed("up") < 64 * KIB
    assert not (server.home("bob") / "large").exists()


def test_nine_tenths_are_warned_of_and_a_limit_of_files_holds(start_server, admin_of):
    server = start_server()
    bob = server.add_user("bob", "--quota", "1MiB")
    assert "are used" not in bob.run("put", "-", "/a", given=bytes(500 * KIB)).err
    assert "are used" in bob.run("put", "-", "/b", given=bytes(450 * KIB)).err

    admin_of(server).run("user", "set", "bob", "--max-files", "3")
    bob.run("mkdir", "/d")
    refused = bob.run("put", "-", "/d/c", given=b"c", status=7)
    assert "3 files and directories" in refused.err
    bob.run("put", "-", "/a", given=b"replaced")
    bob.run("rm", "/b")
    bob.run("put", "-", "/d/c", given=b"c")


def test_recount_repairs_what_was_changed_behind_the_servers_back(start_server, admin_of):
    server = start_server()
    bob = server.add_user("bob", "--quota", "1MiB")
    bob.run("put", "-", "/a", given=bytes(500 * KIB))
    (server.home("bob") / "a").unlink()
    (server.home("bob") / "new").write_bytes(bytes(100))
    assert room(bob)["used"] == 500 * KIB

    admin = admin_of(server)
    assert admin.run("check", status=8).lines[0].startswith("used: bob")
    admin.run("recount", "bob")
    assert room(bob)["used"] == 100
    admin.run("check")


@pytest.fixture
def admin_of(programs, tmp_path):
    """Whoever looks after the accounts of a server."""
    from tests.system.programs import Admin

    return lambda server: Admin(programs, server.root, tmp_path)
