"""`ftpd why` says what a client is told, with the same words."""

from __future__ import annotations

import pytest

from tests.system.programs import clean_environment, program


@pytest.fixture
def ask(programs, server):
    """Asks about bob on the running server; the reason, and the record."""

    def why(*question: str):
        command = [*program("ftpd"), "why", "bob", *question, "--json", "--root", str(server.root)]
        env = clean_environment(server.root.parent)
        return programs.run(command, status=None, cwd=server.root.parent, env=env).record

    return why


@pytest.mark.parametrize(
    ("options", "command", "question", "status"),
    [
        pytest.param(
            *(("--permit", "read-only"), ("put", "-", "/x"), ("put", "/x"), 6), id="permissions"
        ),
        pytest.param(
            *(("--permit", "/x=upload-only"), ("ls", "/x"), ("ls", "/x"), 6), id="drop-box"
        ),
        pytest.param(
            *(("--permit", "no-delete"), ("rm", "-r", "/d"), ("rm", "-r", "/d"), 6), id="no-delete"
        ),
        pytest.param(
            *(("--quota", "3"), ("put", "{five}", "/x"), ("put", "/x", "5"), 7), id="quota"
        ),
        pytest.param(
            *(("--max-files", "1"), ("put", "{five}", "/x"), ("put", "/x", "5"), 7),
            id="files-quota",
        ),
        pytest.param(
            *(("--permit", "all"), ("get", "/x", "{five}"), ("get", "/x"), 5), id="nothing-there"
        ),
        pytest.param(
            *(("--permit", "/d=upload-only"), ("get", "/d/x"), ("get", "/d/x"), 6),
            id="get-from-a-drop-box",
        ),
        pytest.param(
            *(("--permit", "/d=none"), ("mv", "/d", "/e"), ("mv", "/d", "/e"), 6), id="hidden"
        ),
    ],
)
def test_the_reason_is_the_one_that_the_client_is_told(
    server, ask, tmp_path, options, command, question, status
):
    five = tmp_path / "five"
    five.write_bytes(b"12345")
    bob = server.add_user("bob")
    bob.run("mkdir", "/d")
    server.admin.run("user", "set", "bob", *options)

    told = bob.run(*(word.format(five=five) for word in command), status=status, given=b"12345")

    answer = ask(*question)
    assert answer["allowed"] is False
    assert answer["reason"] in told.err


def test_a_link_is_fetched_as_one_unless_it_is_to_be_followed(server, ask, tmp_path):
    bob = server.add_user("bob")
    (tmp_path / "link").symlink_to("nowhere")
    bob.run("put", tmp_path / "link", "/link")
    assert ask("get", "/link")["allowed"]
    bob.run("get", "/link", tmp_path / "got")
    assert (tmp_path / "got").readlink().name == "nowhere"

    answer = ask("get", "-L", "/link")
    told = bob.run("get", "-L", "/link", tmp_path / "again", status=5).err
    assert (answer["allowed"], answer["code"]) == (False, "not-found")
    assert answer["reason"] in told


def test_what_is_allowed_works(server, ask):
    bob = server.add_user("bob", "--permit", "/in=upload-only", "--quota", "10")
    bob.run("mkdir", "/in")
    assert ask("put", "/in/x", "5")["allowed"]
    assert ask("login", "127.0.0.1")["allowed"]
    bob.run("put", "-", "/in/x", given=b"12345")
    assert not ask("put", "/in/x", "5")["allowed"]
    assert ask("put", "/in/y", "5")["allowed"]
    assert not ask("put", "/in/y", "6")["allowed"]
