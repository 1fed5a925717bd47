"""Accounts by `ftpd user`, also while the server runs: who may log in, and with how much room."""

from __future__ import annotations

import stat
import subprocess

import pytest

from tests.system.programs import Admin, clean_environment, eventually, finish, program

MIB = 1024 * 1024


def add(admin, name, *options, password=b"secret\n", status=0):
    return admin.run(
        "user", "add", "--password-stdin", *options, "--", name, given=password, status=status
    )


# adding ------------------------------------------------------------------------------------


def test_an_account_works_as_soon_as_it_was_added(server):
    bob = server.add_user("bob")

    assert bob.run("whoami").lines == ["bob"]
    bob.run("put", "-", "hello", given=b"hello")
    assert (server.home("bob") / "hello").read_bytes() == b"hello"
    assert stat.S_IMODE(server.home("bob").stat().st_mode) == 0o700


def test_users_do_not_see_each_other(server, alice):
    bob = server.add_user("bob")
    alice.run("put", "-", "mine", given=b"alice's")

    assert bob.run("ls").out == b""
    told = bob.run(
        "cat", "/mine", "../alice/mine", "/../alice/mine", "../../root/alice/mine", status=5
    )
    assert len(told.err.splitlines()) == 4


def test_adding_prints_a_record(admin):
    record = add(admin, "bob", "--quota", "10MiB", "--json").record

    assert record["name"] == "bob" and record["home"] == str(admin.root / "bob")
    assert (record["total"], record["free"]) == (10 * MIB, 10 * MIB)
    assert (record["used"], record["held"]) == (0, 0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("Alice", id="capital"),
        pytest.param("-x", id="leading-dash"),
        pytest.param(".ftpd", id="leading-dot"),
        pytest.param("..", id="dots"),
        pytest.param("a/b", id="slash"),
        pytest.param("a b", id="space"),
        pytest.param("a\nb", id="newline"),
        pytest.param("bob\n", id="trailing-newline"),
        pytest.param("\x1b[31m", id="escape"),
        pytest.param("ä", id="not-ascii"),
        pytest.param("\udcff", id="not-utf-8"),
        pytest.param("a" * 33, id="too-long"),
    ],
)
def test_a_name_that_cannot_be(admin, name):
    told = add(admin, name, status=1).complaint

    assert told.startswith("ftpd: ") and told.isprintable()
    assert not admin.root.exists()


def test_a_name_that_is_taken(admin):
    add(admin, "bob")

    assert "bob" in add(admin, "bob", status=1).complaint


@pytest.mark.parametrize("name", ["0", "a" * 32, "a.b-c_d", "con"])
def test_a_name_that_can_be(admin, name):
    assert add(admin, name, "--json").record["name"] == name


def test_of_several_who_add_the_same_name_one_does(admin, programs):
    command = [*program("ftpd"), "user", "add", "bob", "--root", str(admin.root)]
    runs = [
        programs.start(
            command,
            env=clean_environment(admin.place, FTPD_PASSWORD=f"password {number}"),
            cwd=admin.place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for number in range(4)
    ]
    statuses = sorted(finish(run, status=None).status for run in runs)

    assert statuses == [0, 1, 1, 1]


# passwords ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(b"\n", id="empty"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"x" * 1025 + b"\n", id="too-long"),
        pytest.param("ä".encode() * 513 + b"\n", id="too-many-bytes"),
        pytest.param(b"caf\xe9\n", id="not-utf-8"),
    ],
)
def test_a_password_that_cannot_be(admin, given):
    assert "password" in add(admin, "bob", password=given, status=1).complaint

    assert admin.run("user", "list").out == b""


@pytest.mark.parametrize(
    "password",
    [
        pytest.param(b" two words  and spaces ", id="spaces"),
        pytest.param("pässwörd 🔑".encode(), id="utf-8"),
        pytest.param(b"x" * 1024, id="longest"),
    ],
)
def test_a_password_is_the_first_line_that_was_given(server, admin, password):
    add(admin, "bob", password=password + b"\nsecond line, not part of it\n")
    bob = server.user("bob", "wrong")

    bob.run("whoami", status=3)
    bob.options = (*server.options, "--password-stdin")
    assert bob.run("whoami", given=password + b"\n").lines == ["bob"]


def test_a_password_can_come_from_the_environment(admin, programs, server):
    programs.run(
        [*program("ftpd"), "user", "add", "bob", "--root", str(admin.root)],
        env=clean_environment(admin.place, FTPD_PASSWORD="from the environment"),
        cwd=admin.place,
    )

    server.user("bob", "from the environment").run("ls")


def test_no_terminal_and_no_password(admin):
    assert "--password-stdin" in admin.run("user", "add", "bob", status=2).err
    assert admin.run("user", "list").out == b""


def test_a_new_password_counts_at_once(server, admin, alice):
    alice.run("ls")

    assert admin.run("user", "passwd", "alice", "--password-stdin", given=b"new\n").lines == [
        "password of alice changed"
    ]

    alice.run("ls", status=3)
    alice.password = "new"
    alice.run("ls")


def test_no_password_is_shown_anywhere(server, admin, alice):
    passwords = [alice.password, "another password"]
    shown = alice.run("--debug", "-v", "ls").err
    alice.password = passwords[1]
    shown += alice.run("ls", status=3).err
    shown += admin.run("user", "show", "alice", "--json").text

    for password in passwords:
        assert password not in shown + server.log


# room --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quota", "size"),
    [("0", 0), ("4096", 4096), ("10MiB", 10 * MIB), ("1.5G", 1536 * MIB), ("2TiB", 2**41)],
)
def test_a_size(admin, quota, size):
    assert add(admin, "bob", "--quota", quota, "--json").record["total"] == size


@pytest.mark.parametrize(
    "quota", ["ten", "-1", "1XB", "", "0x10", "9" * 30, "9" * 400, "8388608TiB"]
)
def test_a_size_that_cannot_be(admin, quota):
    assert "--quota" in add(admin, "bob", f"--quota={quota}", status=2).err
    assert not admin.root.exists()


def test_room_is_shown_as_it_is_used(server, admin):
    bob = server.add_user("bob", "--quota", "10MiB")
    bob.run("put", "-", "three", given=bytes(3 * MIB))

    assert admin.run("user", "list").lines[-1] == (
        f"bob  3.0 MiB of 10.0 MiB  {server.home('bob')}"
    )
    assert "3.0 MiB of 10.0 MiB, 7.0 MiB free" in admin.run("user", "show", "bob").text
    record = admin.run("user", "show", "bob", "--json").record
    assert (record["used"], record["held"], record["free"]) == (3 * MIB, 0, 7 * MIB)


def test_what_an_upload_holds_is_shown(server, admin, alice):
    upload = alice.start("put", "-", "file")
    upload.stdin.write(bytes(MIB))
    eventually(server.staged, "an upload under way")

    assert eventually(lambda: admin.run("user", "show", "alice", "--json").record["held"])

    finish(upload, given=b"")
    assert admin.run("user", "show", "alice", "--json").record["held"] == 0


# listing -----------------------------------------------------------------------------------


def test_lists_are_sorted_and_the_same_as_records(admin):
    add(admin, "zoe", "--quota", "1GiB")
    add(admin, "bob")

    lines = admin.run("user", "list").lines
    records = admin.run("user", "list", "--json").records

    assert [line.split()[0] for line in lines] == ["bob", "zoe"]
    assert [record["name"] for record in records] == ["bob", "zoe"]
    assert [record["total"] for record in records] == [None, 1024 * MIB]
    assert "unlimited" in lines[0] and "1.0 GiB" in lines[1]
    shown = admin.run("user", "show", "zoe", "--json").record
    assert shown == records[1] | {"tokens": 0, "sessions": None}


@pytest.mark.parametrize("verb", ["show", "passwd", "remove"])
def test_nobody_of_that_name(admin, verb):
    add(admin, "somebody")
    assert "nobody" in admin.run("user", verb, "nobody", status=5).complaint


# removing ----------------------------------------------------------------------------------


def test_a_removed_account_is_out_and_its_files_stay(server, admin, alice):
    alice.run("put", "-", "kept", given=b"kept")

    assert str(server.home()) in admin.run("user", "remove", "alice").text

    alice.run("ls", status=3)
    assert (server.home() / "kept").read_bytes() == b"kept"
    assert admin.run("user", "list").out == b""


def test_an_upload_of_a_removed_account_is_refused(server, admin, alice):
    upload = alice.start("put", "-", "file")
    upload.stdin.write(bytes(MIB))
    eventually(server.staged, "an upload under way")

    admin.run("user", "remove", "alice")

    assert finish(upload, status=None, given=b"more").status != 0
    assert not (server.home() / "file").exists()
    eventually(lambda: not server.staged(), "staging is cleaned")


def test_a_home_with_contents_is_handed_over_only_on_purpose(server, admin, alice):
    alice.run("put", "-", "kept", given=b"12345")
    admin.run("user", "remove", "alice")

    told = add(admin, "alice", status=1).complaint
    assert "--home" in told

    home = str(server.home())
    assert add(admin, "alice", "--home", home, "--json").record["used"] == 5
    alice.password = "secret"
    assert alice.run("cat", "kept").out == b"12345"


def test_a_home_elsewhere(server, admin, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "below").mkdir(parents=True)
    (elsewhere / "below" / "file").write_bytes(b"12345")

    record = add(admin, "bob", "--home", str(elsewhere), "--quota", "10", "--json").record

    assert (record["home"], record["used"], record["free"]) == (str(elsewhere), 5, 5)
    bob = server.user("bob", "secret")
    assert bob.run("cat", "below/file").out == b"12345"
    bob.run("put", "-", "more", given=b"123456", status=7)
    bob.run("put", "-", "more", given=b"12345")
    assert not server.home("bob").exists()


@pytest.mark.parametrize("arguments", [["list"], ["show", "x"], ["remove", "x"]])
def test_a_root_that_is_no_root(programs, tmp_path, arguments):
    (tmp_path / "file").write_bytes(b"")
    ended = programs.run(
        [*program("ftpd"), "user", *arguments, "--root", str(tmp_path / "file" / "root")],
        status=1,
        cwd=tmp_path,
        env=clean_environment(tmp_path),
    )

    assert "no server was ever started here" in ended.complaint


def test_sessions_and_tokens_are_counted(server, admin, alice):
    alice.run("login", alice.server)
    shell = alice.start("connect")

    def shown():
        return admin.run("user", "show", "alice", "--json").record

    eventually(lambda: shown()["sessions"] == 1, "the shell is logged in")
    assert shown()["tokens"] == 1
    assert "1 now, unlimited" in admin.run("user", "show", "alice").text
    finish(shell, given=b"")
    eventually(lambda: shown()["sessions"] == 0, "it has left")


# as an administrator has it ------------------------------------------------------------------


def test_changes_hold_for_the_next_log_in(server, admin, alice):
    admin.run("user", "disable", "alice")
    alice.run("ls", status=3)
    admin.run("user", "enable", "alice")
    alice.run("ls")
    admin.run("user", "set", "alice", "--quota", "3")
    alice.run("put", "-", "four", given=b"four", status=7)
    admin.run("user", "rename", "alice", "anna")
    alice.run("ls", status=3)
    server.user("anna", alice.password).run("whoami")


def test_a_removed_home_is_gone_and_its_name_free(server, admin):
    bob = server.add_user("bob")
    bob.run("put", "-", "file", given=b"12345")
    refused = admin.run("user", "remove", "bob", "--delete-home", status=2)
    assert "--yes" in refused.err
    assert bob.run("cat", "file").out == b"12345"

    admin.run("user", "remove", "bob", "--delete-home", "--yes")

    assert not server.home("bob").exists()
    bob.run("ls", status=3)
    assert server.add_user("bob").run("ls").out == b""


def test_accounts_move_to_another_root(server, admin, alice, start_server, tmp_path, programs):
    lines = admin.run("user", "export").out
    other = Admin(programs, tmp_path / "other", tmp_path)
    assert other.run("user", "import", given=lines).lines == ["1 added"]

    elsewhere = start_server(root=tmp_path / "other")
    elsewhere.user("alice", alice.password).run("ls")
