"""What accounts with permissions are told, and that `ftpd why` says it in the same words."""

from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner

from ftpserver.cli.main import cli
from ftpserver.storage.permissions import Permissions
from tests.ftpclient.cli.command_lines import CommandLine
from tests.system import trees
from tests.system.proxy import Proxy

MIB = 2**20


@pytest.fixture
def bob(start_server, at_a_command_line) -> CommandLine:
    return at_a_command_line(start_server(durable=False), "bob")


def permit(user: CommandLine, rules: str) -> None:
    user.running.accounts.change(user.name, permissions=Permissions.parse(rules))


@pytest.fixture
def tree(tmp_path):
    """A small tree with what trees have."""
    top = tmp_path / "tree"
    (top / "dir" / "deep").mkdir(parents=True)
    (top / "empty").mkdir()
    for number in range(5):
        (top / "dir" / f"file {number}").write_bytes(os.urandom(number * 100))
    (top / "dir" / "deep" / "large").write_bytes(os.urandom(5 * MIB))
    (top / "link").symlink_to("dir/deep")
    return top


def test_the_same_tree_can_be_put_into_a_drop_box_again(bob, tree):
    permit(bob, "upload-only")
    bob.run("put", "-r", tree, "/")
    (tree / "new").write_bytes(b"came later")
    bob.run("put", "-r", tree, "/")
    trees.same(tree, bob.on_server / "tree")

    (tree / "new").write_bytes(b"has changed")
    reported = bob.run("put", "-r", tree, "/", status=1)
    assert reported.err.count("cannot be replaced") == 1
    assert (bob.on_server / "tree" / "new").read_bytes() == b"came later"


def test_an_upload_into_a_drop_box_is_resumed(bob, tmp_path):
    permit(bob, "upload-only")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(24 * MIB))
    with Proxy(bob.server) as proxy:
        proxy.cut_at("up", 20 * MIB)
        bob.at(proxy.address).run("put", "--retries", "0", source, "/file", status=4)
    assert not (bob.on_server / "file").exists()
    with Proxy(bob.server) as proxy:
        bob.at(proxy.address).run("put", source, "/file")
        assert proxy.passed("up") < 22 * MIB
    trees.same(source, bob.on_server / "file")


def test_who_asks_for_what_is_in_a_drop_box_is_informed_the_rule(bob):
    bob.run("mkdir", "/in")
    permit(bob, "/in=upload-only")
    bob.run("put", "-", "/in/file", given=b"x")
    for verb in ("get", "cat"):
        reported = bob.run(verb, "/in/file", status=6).complaint
        assert reported.endswith(
            "upload-only below /in: /in/file cannot be read (rule: /in=upload-only)"
        )
    missing = bob.run("get", "/in/nothing", status=6).complaint
    assert missing == reported.replace("/in/file", "/in/nothing"), "whether it is there is not told"


def test_who_may_only_read_changes_no_mode_time_or_link(bob):
    bob.run("put", "-", "/file", given=b"some bytes")
    before = (bob.on_server / "file").stat()
    permit(bob, "read-only")
    for words in (
        "chmod 777 /file",
        "chmod -R 700 /",
        "touch /file",
        "touch /new",
        "ln -s file /link",
    ):
        reported = bob.run(*words.split(), status=6).err.splitlines()
        assert reported and all("rule: " in line for line in reported)
    after = (bob.on_server / "file").stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert bob.run("ls", "/").lines == ["file"]


@pytest.mark.parametrize("rights", ["upload-only", "none"])
def test_what_may_not_be_listed_is_reported_by_whatever_reads_trees(bob, rights):
    """Not all was seen: that is the status of a partial failure, and the rest is there."""
    bob.run("mkdir", "/d", "/d/in")
    bob.run("put", "-", "/d/in/file", given=b"x")
    bob.run("put", "-", "/d/file", given=b"other")
    permit(bob, f"/d/in={rights}")
    for words in ("get -r /d got", "du /d", "find /d", "chmod -R go-w /d"):
        reported = bob.run(*words.split(), status=1)
        closed = [line for line in reported.err.splitlines() if "cannot be listed" in line]
        assert len(closed) == 1 and closed[0].startswith("ftp: /d/in: "), (words, reported.err)
    assert sorted(os.listdir(bob.home / "got")) == (
        ["file", "in"] if rights == "upload-only" else ["file"]
    )
    assert bob.run("find", "/d", status=1).lines[:1] == ["/d"]
    refused = bob.run("rm", "-r", "/d", status=6)
    assert f"(rule: /d/in={rights})" in refused.err
    assert (bob.on_server / "d" / "in" / "file").exists()
    bob.run("ls", "/d")


# why ---------------------------------------------------------------------------------------


def why(bob: CommandLine, *question: str) -> dict:
    """What `ftpd why` answers about bob."""
    root = str(bob.running.settings.root)
    requested = CliRunner().invoke(cli, ["why", "bob", *question, "--json", "--root", root])
    return json.loads(requested.output)


@pytest.mark.parametrize(
    ("changes", "command", "question", "status"),
    [
        ({"permissions": "read-only"}, "put - /x", "put /x", 6),
        ({"permissions": "/x=upload-only"}, "ls /x", "ls /x", 6),
        ({"permissions": "no-delete"}, "rm -r /d", "rm -r /d", 6),
        ({"quota": 3}, "put five /x", "put /x 5", 7),
        ({"max_files": 1}, "put five /x", "put /x 5", 7),
        ({"quota": None}, "get /x five", "get /x", 5),
        ({"permissions": "/d=upload-only"}, "get /d/x", "get /d/x", 6),
        ({"permissions": "/d=none"}, "mv /d /e", "mv /d /e", 6),
    ],
)
def test_the_reason_is_the_one_that_the_client_gets(bob, changes, command, question, status):
    (bob.home / "five").write_bytes(b"12345")
    bob.run("mkdir", "/d")
    if "permissions" in changes:
        permit(bob, changes["permissions"])
    else:
        bob.running.accounts.change("bob", **changes)
    reported = bob.run(*command.split(), status=status, given=b"12345")
    answer = why(bob, *question.split())
    assert answer["allowed"] is False
    assert answer["reason"] in reported.err


def test_a_link_is_followed_unless_it_is_to_be_fetched_itself(bob):
    (bob.on_server / "link").symlink_to("nowhere")
    assert why(bob, "get", "--links", "/link")["allowed"]
    bob.run("get", "--links", "/link", "got")
    assert (bob.home / "got").readlink().name == "nowhere"
    answer = why(bob, "get", "/link")
    reported = bob.run("get", "/link", "again", status=5).err
    assert (answer["allowed"], answer["code"]) == (False, "not-found")
    assert answer["reason"] in reported


def test_what_is_allowed_works(bob):
    bob.run("mkdir", "/in")
    permit(bob, "/in=upload-only")
    bob.running.accounts.change("bob", quota=10)
    assert why(bob, "put", "/in/x", "5")["allowed"]
    assert why(bob, "login", "127.0.0.1")["allowed"]
    bob.run("put", "-", "/in/x", given=b"12345")
    assert not why(bob, "put", "/in/x", "5")["allowed"]
    assert why(bob, "put", "/in/y", "5")["allowed"]
    assert not why(bob, "put", "/in/y", "6")["allowed"]
