"""What was removed and replaced is got back by commands: trash, versions, restore, undo."""

from __future__ import annotations

import json
import os

import pytest

from ftpclient.cli import restored
from ftpclient.cli.app import App
from ftpclient.client import Client
from ftpclient.connection import client_id
from ftpserver.serving import opening
from ftpwire import messages


def put(user, path: str, data: bytes = b"some") -> None:
    user.run("put", "-", path, given=data)


@pytest.fixture
def files(user):
    """Files and a tree on the server."""
    for path in ("/a", "/b", "/d/e/f", "/d/g"):
        (user.on_server / path[1:]).parent.mkdir(parents=True, exist_ok=True)
    put(user, "/a", b"first")
    put(user, "/b", b"bee")
    put(user, "/d/e/f", b"deep")
    put(user, "/d/g", b"gee")
    user.run("trash", "empty")
    return user


def ids(user) -> list[str]:
    return [one["id"] for one in user.run("--json", "trash").records]


def there(user) -> set[str]:
    """All that is visible in the home."""
    walked = os.walk(user.on_server)
    found = {os.path.join(at, one) for at, below, files in walked for one in below + files}
    relative = {os.path.relpath(one, user.on_server) for one in found}
    return {one for one in relative if not one.startswith(".ftpd-")}


ALL = {"a", "b", "d", "d/e", "d/e/f", "d/g"}


# undo ----------------------------------------------------------------------------------------


def test_a_removal_is_undone_and_done_again(files):
    files.run("rm", "-r", "/d")
    assert there(files) == {"a", "b"}
    done = files.run("undo")
    assert "undo: rm -r /d (" in done.err and "/d is back" in done.err
    assert there(files) == ALL
    done = files.run("undo")
    assert there(files) == {"a", "b"}
    assert "redo: rm -r /d (undone " in done.err and "redone: /d" in done.err
    done = files.run("undo")
    assert there(files) == ALL
    assert "undo: redo of rm -r /d (" in done.err and "/d is back" in done.err


def test_a_replaced_file_is_back(files):
    put(files, "/a", b"second")
    assert files.run("cat", "/a").out == b"second"
    done = files.run("undo")
    assert "/a is back" in done.err and "files that put adds are never removed by undo" in done.err
    assert files.run("cat", "/a").out == b"first"


def test_a_move_is_undone(files):
    files.run("mv", "/a", "/b")
    assert there(files) == ALL - {"a"}
    files.run("undo")
    assert there(files) == ALL
    assert (files.run("cat", "/a").out, files.run("cat", "/b").out) == (b"first", b"bee")


def test_a_dry_run_changes_nothing(files):
    files.run("rm", "/a", "/b")
    done = files.run("undo", "-n")
    assert sorted(done.text.splitlines()) == ["restore    /a", "restore    /b"]
    assert "dry run: would restore 2 entries" in done.err
    assert there(files) == ALL - {"a", "b"}
    files.run("undo")
    done = files.run("undo", "-n")
    assert sorted(done.text.splitlines()) == ["redo       /a", "redo       /b"]
    assert "dry run: would redo 2 entries" in done.err
    assert there(files) == ALL
    files.run("undo")
    records = files.run("--json", "undo", "-n").records
    assert [one.get("status") for one in records[:-1]] == ["planned", "planned"]
    assert (records[-1]["dry_run"], records[-1]["done"]) == (True, 2)


def test_an_undone_restore_is_not_said_to_be_back(files):
    files.run("rm", "/a")
    done = files.run("restore", "/a")
    assert done.err == "/a is back\n"
    assert files.run("undo", "-n").text == "undo       /a\n"
    assert "undone: /a\n" in files.run("undo").err
    assert there(files) == ALL - {"a"}
    assert "redone: /a\n" in files.run("undo").err
    assert there(files) == ALL


def test_only_an_undo_reports_that_what_was_added_stays(files):
    put(files, "/a", b"second")
    assert files.run("restore", "/a").err == "/a is back\n"


def test_what_is_downloaded_is_called_by_its_path(files):
    put(files, "/a", b"second")
    files.run("rm", "-r", "/d")
    record = files.run("--json", "get", "--at", "1", "/a", "got").records[0]
    assert (record["path"], record["target"]) == ("/a", "got")
    [mine, *_] = ids(files)
    records = files.run("--json", "trash", "get", mine, "tree").records
    got = [files.run("--json", "trash", "get", mine, path, "one").records[0] for path in FILES]
    assert [one["path"] for one in got] == FILES
    for line in (["get", "--at", "1", "/d/e/f", "f"], ["trash", "get", mine, "/d/e/f", "f"]):
        assert files.run("--json", *line).records[0]["path"] == "/d/e/f"
    assert records[-1]["summary"]


FILES = ["/d/e/f", "/d/g"]


def test_nothing_to_undo(files):
    done = files.run("undo", status=5)
    assert done.err == "ftp: nothing to undo: the trash is empty\n"


def test_what_another_client_did_is_not_ones_last_command(files, at_a_command_line):
    files.run("rm", "/a")
    (files.home / "config" / "ftp-client" / "client-id").write_text("ff" * 8 + "\n")
    client_id._kept.cache_clear()
    files.run("undo", status=5)
    [one] = ids(files)
    files.run("undo", one)
    assert there(files) == ALL


def test_in_a_conflict_the_rest_is_done(files):
    files.run("rm", "/a", "/b")
    put(files, "/a", b"another")
    [mine] = [one["id"] for one in files.run("--json", "trash").records if one["kept"]]
    done = files.run("undo", mine, status=12)
    assert "/a: " in done.err and "/b is back" in done.err
    assert f"ftp undo {mine} --force replaces what is in the way; --beside" in done.err
    assert files.run("cat", "/a").out == b"another"
    done = files.run("--json", "undo", mine, status=12)
    assert [one["error"] for one in done.records[:-1]] == ["conflict"]
    assert done.records[-1]["unchanged"] == 1
    looked = files.run("undo", mine, "--beside", "-n")
    assert looked.text == "restore    /a.restored-1\n"
    done = files.run("undo", mine, "--beside")
    assert "/a.restored-1 is back\n" in done.err
    assert there(files) == ALL | {"a.restored-1"}
    assert files.run("cat", "/a.restored-1").out == b"first"


def test_undo_again_goes_on_where_something_was_in_the_way(files):
    files.run("rm", "/a", "/b")
    files.on_server.joinpath("a").write_bytes(b"another")
    assert "/b is back" in files.run("undo", status=12).err
    done = files.run("undo", status=12)
    assert "undo: rm /a /b (" in done.err and "already restored: 1 entry" in done.err
    assert there(files) == ALL
    assert "/a is back" in files.run("undo", "--force").err
    assert files.run("cat", "/a").out == b"first"
    assert "redone: /a" in files.run("undo").err
    assert files.run("cat", "/a").out == b"another"


def test_what_is_in_the_way_is_replaced_by_force(files):
    files.run("rm", "/a")
    [mine] = ids(files)
    put(files, "/a", b"another")
    files.run("undo", mine, "--force")
    assert files.run("cat", "/a").out == b"first"
    files.run("undo")
    assert files.run("cat", "/a").out == b"another"


def test_options_that_exclude_each_other(files):
    files.run("rm", "/a")
    for command in (["undo"], ["trash", "restore", *ids(files)]):
        done = files.run(*command, "--force", "--beside", status=2)
        assert "cannot be used together" in done.err


def test_the_limits_are_in_the_help(user):
    text = user.run("undo", "--help").text
    for words in ("put, cp, sync and mkdir added", "chmod, touch and ln", "rm --purge", "get"):
        assert words in text


# trash ---------------------------------------------------------------------------------------


def test_the_trash_is_listed_newest_first(files):
    files.run("rm", "/a")
    files.run("rm", "-r", "/d")
    lines = files.run("trash").text.splitlines()
    assert [line.split("  ")[0] for line in lines] == ids(files)
    assert "rm -r /d" in lines[0] and "until " in lines[0]
    assert "rm /a     1 file, 5 B" in lines[1]
    detailed = files.run("trash", "-l").text.splitlines()
    assert detailed[1::2] == [line for line in detailed if line.startswith(" " * 6)]
    assert [line.split()[:2] for line in detailed[1::2]] == [["removed", "/d/"], ["removed", "/a"]]
    assert files.run("trash", "ls").text == files.run("trash").text


def test_the_trash_of_a_path_and_of_a_time(files):
    files.run("rm", "/a")
    files.run("rm", "-r", "/d")
    assert "rm /a" in files.run("trash", "--user-path", "/a").text
    assert files.run("trash", "--path", "/a").text.count("\n") == 1
    assert files.run("trash", "--since", "1h").text.count("\n") == 2
    assert files.run("trash", "--since", "now").text == ""
    assert "not a time" in files.run("trash", "--since", "soon", status=2).err
    [line] = files.run("trash", "-l", "--path", "/d").text.splitlines()[1:]
    assert "removed    /d/" in line


def test_what_an_operation_has_changed(files):
    files.run("rm", "/a", "/b")
    [mine] = ids(files)
    assert set(files.run("trash", "ls", mine).text.splitlines()) == {
        "removed    /a  (5 B)",
        "removed    /b  (3 B)",
    }
    assert files.run("trash", mine).text == files.run("trash", "ls", mine).text
    assert files.run("trash", mine.upper()).text == files.run("trash", "ls", mine).text
    done = files.run("trash", mine[:2], status=2)
    assert f"{mine[:2]}: neither a command of trash nor an ID (ftp trash lists them)" in done.err
    done = files.run("trash", "/d", status=2)
    assert (
        "neither a command of trash nor an ID (to list what was at a path: ftp trash --path /d)"
        in done.err
    )
    for word, meant in (
        ("list", "ftp trash ls"),
        ("purge", "ftp trash empty"),
        ("resto", "restore"),
    ):
        assert f"did you mean {meant}?" in files.run("trash", word, status=2).err
    assert "missing argument: trash restore ID" in files.run("trash", "restore", status=2).err


def test_a_tree_is_looked_at_without_restoring(files):
    files.run("rm", "-r", "/d")
    [mine] = ids(files)
    listed = {line.split()[-1] for line in files.run("trash", "ls", mine, "/d").text.splitlines()}
    assert listed == {"e/", "g"}
    listed = {one["path"] for one in files.run("--json", "trash", "ls", mine, "/d").records}
    assert listed == {"/d/e", "/d/g"}
    assert files.run("--json", "trash", "ls", mine, "/d/g").record["path"] == "/d/g"
    assert files.run("trash", "ls", mine, "/d/g").text.split()[-1] == "g"
    assert files.run("trash", "cat", mine, "/d/e/f").out == b"deep"
    files.run("trash", "get", mine, "/d/e/f", ".")
    assert (files.home / "f").read_bytes() == b"deep"
    files.run("trash", "get", mine, "copy")
    assert (files.home / "copy" / "e" / "f").read_bytes() == b"deep"
    assert files.run("trash", "get", mine, "/d/g", "-").out == b"gee"
    for line in (["cat", mine], ["cat", mine, "/d"], ["get", mine, "/d", "-"]):
        done = files.run("trash", *line, status=1)
        assert "/d: a directory (trash get downloads it)" in done.err
    assert there(files) == {"a", "b"}


def test_a_part_of_an_operation_is_restored(files):
    files.run("rm", "-r", "/d", "/a")
    [mine] = ids(files)
    files.run("trash", "restore", mine, "/d/e/f")
    assert there(files) == {"b", "d", "d/e", "d/e/f"}
    files.run("trash", "restore", mine, "/a", "--to", "/elsewhere")
    assert there(files) == {"b", "d", "d/e", "d/e/f", "elsewhere", "elsewhere/a"}
    assert (
        "not found in this operation" in files.run("trash", "restore", mine, "/none", status=5).err
    )


def test_a_pattern_chooses_what_is_restored(files):
    put(files, "/d/[1]", b"odd")
    files.run("rm", "-r", "/a", "/b", "/d")
    mine = ids(files)[0]
    assert "/b is back" in files.run("trash", "restore", mine, "b*").err
    assert (
        "/x*: not found in this operation"
        in files.run("trash", "restore", mine, "x*", status=5).err
    )
    assert "/d/[1] is back" in files.run("trash", "restore", mine, "/d/[1]").err
    assert there(files) == {"b", "d", "d/[1]"}
    assert "/a is back" in files.run("trash", "restore", mine, "[a-c]").err


def test_the_trash_is_emptied(files):
    files.run("rm", "/a")
    files.run("rm", "/b")
    first = ids(files)[1]
    done = files.run("--json", "trash", "empty", first).record
    assert (done["operations"], done["files"], done["size"]) == (1, 1, 5)
    assert len(ids(files)) == 1
    files.run("trash", "empty", "--older", "1h")
    assert len(ids(files)) == 1
    assert "freed (1 entry purged)" in files.run("trash", "empty").err
    assert ids(files) == []
    assert "nothing to purge" in files.run("trash", "empty").err
    assert (
        "cannot be used together"
        in files.run("trash", "empty", first, "--older", "1h", status=2).err
    )
    assert "not an ID" in files.run("trash", "empty", "x", status=2).err
    assert "not a duration" in files.run("trash", "empty", "--older", "x", status=2).err


# versions ------------------------------------------------------------------------------------


@pytest.fixture
def written(files):
    """A file that was written three times."""
    put(files, "/a", b"second")
    put(files, "/a", b"the third")
    return files


def test_versions_are_listed(written):
    lines = written.run("versions", "/a").text.splitlines()
    assert [line.split()[0] for line in lines] == ["#1", "#2"]
    assert "6 B" in lines[0] and "replaced by put - /a" in lines[0]
    assert [one["size"] for one in written.run("--json", "versions", "/a").records] == [6, 5]
    assert "no earlier version is kept" in written.run("versions", "/b", status=5).err
    written.run("rm", "-r", "/d")
    assert "removed by rm -r /d" in written.run("versions", "/d/e/f").text


def test_an_earlier_version_is_read(written):
    assert written.run("cat", "--at", "1", "/a").out == b"second"
    assert written.run("cat", "--at", "#2", "/a").out == b"first"
    assert written.run("cat", "--at", "now", "/a").out == b"the third"
    assert "no version 3: 2 are kept" in written.run("cat", "--at", "3", "/a", status=5).err
    assert "none is kept" in written.run("cat", "--at", "1", "/b", status=5).err
    assert "no version from that time" in written.run("cat", "--at", "1h", "/a", status=5).err
    assert "is not a time" in written.run("cat", "--at", "soon", "/a", status=2).err
    written.run("rm", "-r", "/d")
    assert written.run("cat", "--at", "1", "/d/e/f").out == b"deep"


def test_an_earlier_version_is_fetched(written):
    written.run("get", "--at", "2", "/a", "old")
    assert (written.home / "old").read_bytes() == b"first"
    (written.home / "here").mkdir()
    written.run("get", "--at", "1", "/a", "here")
    assert (written.home / "here" / "a").read_bytes() == b"second"
    assert written.run("get", "--at", "1", "/a", "-").out == b"second"
    written.run("rm", "-r", "/d")
    written.run("get", "--at", "1", "/d/g", ".")
    assert (written.home / "g").read_bytes() == b"gee"
    assert "one SOURCE" in written.run("get", "--at", "1", "/a", "/b", ".", status=2).err
    assert (
        "cannot be used with -r" in written.run("get", "-r", "--at", "1", "/a", ".", status=2).err
    )


def test_a_version_is_put_back_and_the_present_one_kept(written):
    written.run("restore", "/a", "--at", "2")
    assert written.run("cat", "/a").out == b"first"
    assert written.run("cat", "--at", "1", "/a").out == b"the third"
    written.run("restore", "/a")
    assert written.run("cat", "/a").out == b"the third"
    written.run("undo")
    assert written.run("cat", "/a").out == b"first"
    done = written.run("restore", "/a", "--at", "now")
    assert "already has this version" in done.err
    assert written.run("--json", "restore", "/a", "--at", "now").records[0]["status"] == "same"


def test_what_was_removed_is_restored_by_its_path(files):
    files.run("rm", "-r", "/d")
    files.run("restore", "/d/e/f")
    assert there(files) == {"a", "b", "d", "d/e", "d/e/f"}
    files.run("rm", "-r", "/d", "/b")
    files.run("restore", "/d")
    assert {"d", "d/e/f"} <= there(files)
    assert "/none: not in the trash" in files.run("restore", "/none", status=5).err


# an earlier server ---------------------------------------------------------------------------

COMMANDS = [
    *("trash", "trash -l", "trash ls 7f3a", "trash empty", "trash restore 7f3a"),
    *("trash get 7f3a x", "trash cat 7f3a", "versions /a", "restore /a", "undo", "undo 7f3a"),
    *("cat --at 1 /a", "get --at 1 /a x"),
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_without_a_trash(user, monkeypatch, command):
    without = [one for one in opening.FEATURES if one != messages.TRASH]
    monkeypatch.setattr(opening, "FEATURES", without)
    done = user.run(*command.split(), status=10)
    assert done.err == "ftp: this server keeps no trash\n"
    assert json.loads(user.run("--json", *command.split(), status=10).err)["exit"] == 10


def test_what_comes_to_the_trash_meanwhile_stays(files, monkeypatch):
    files.run("rm", "/a")
    [listed] = files.run("--json", "trash").records
    purge, requested = Client.purge, []

    def note(self, *args, **options):
        requested.append((args, options))
        return purge(self, *args, **options)

    monkeypatch.setattr(Client, "purge", note)
    files.run("trash", "empty")
    [(args, options)] = requested
    began = int(listed["operation"].partition("-")[0], 16) / 10**9
    assert args == () and began < options["before"] < began + 2


def test_of_several_ids_one_that_is_gone_is_reported(files, monkeypatch):
    files.run("rm", "/a")
    files.run("rm", "/b")
    found = ids(files)
    purge, gone = Client.purge, []

    def once(self, operation=None, **options):
        if not gone:
            gone.append(purge(self, operation))
        return purge(self, operation, **options)

    monkeypatch.setattr(Client, "purge", once)
    done = files.run("--json", "trash", "empty", *found, status=1)
    assert json.loads(done.err)["error"] == "expired" and done.record["operations"] == 1
    assert ids(files) == []


# hints ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "status", "hint"),
    [
        pytest.param(("undo", "ffffffff"), 5, "has this ID (ftp trash lists them)", id="id"),
        pytest.param(("trash", "cat", "x", "y"), 2, "(ftp trash lists them)", id="no-id"),
        pytest.param(("restore", "/no"), 5, "(ftp trash lists all operations)", id="path"),
        pytest.param(("cat", "/a", "--at", "7"), 5, "(ftp versions lists them)", id="version"),
    ],
)
def test_hints_name_commands_as_they_are_typed_here(files, words, status, hint):
    put(files, "/a", b"second")
    assert hint in files.run(*words, status=status).err


# questions -----------------------------------------------------------------------------------


@pytest.fixture
def requested(monkeypatch):
    """Somebody at a terminal, who answers with ``answer``; what was asked."""
    questions: list[str] = []

    def answer(app: App, question: str) -> bool:
        questions.append(question)
        return answers[0]

    answers = [False]
    monkeypatch.setattr(App, "can_ask", True)
    monkeypatch.setattr(App, "yes_or_no", answer)
    return questions, answers


def test_what_is_old_is_asked_about(files, requested, monkeypatch):
    questions, answers = requested
    files.run("rm", "/a")
    monkeypatch.setattr(restored, "_OLD_SECONDS", -1)
    done = files.run("undo", status=1)
    assert questions == ["It is older than 10 minutes. Undo it (yes/no)? "]
    assert "cancelled; nothing was changed" in done.err and "a" not in there(files)
    files.run("undo", "-n")
    files.run("undo", "-y")
    assert len(questions) == 1 and "a" in there(files)
    answers[0] = True
    files.run("undo")
    assert len(questions) == 2 and "a" not in there(files)


def test_what_another_client_did_is_asked_about(files, requested, monkeypatch):
    questions, _ = requested
    files.run("rm", "/a")
    [mine] = ids(files)
    monkeypatch.setattr(restored, "client_id", lambda: b"another!")
    files.run("undo", mine, status=1)
    assert questions == ["It was made by another client. Undo it (yes/no)? "]


def test_what_is_new_is_undone_at_once(files, requested):
    questions, _ = requested
    files.run("rm", "/a")
    files.run("undo")
    assert questions == [] and "a" in there(files)


def test_emptying_the_trash_is_asked_about(files, requested):
    questions, answers = requested
    files.run("trash", "empty")
    assert questions == []
    files.run("rm", "/a")
    files.run("rm", "/b")
    done = files.run("trash", "empty", status=1)
    assert questions == ["Purge 2 operations (2 files, 8 B) (yes/no)? "]
    assert "cancelled" in done.err and len(ids(files)) == 2
    files.run("trash", "empty", "-y", ids(files)[0])
    assert len(questions) == 1 and len(ids(files)) == 1
    answers[0] = True
    files.run("trash", "empty")
    assert questions[1] == "Purge 1 operation (1 file, 5 B) (yes/no)? " and not ids(files)


# names that a server chooses -----------------------------------------------------------------


def test_a_name_with_odd_characters(files):
    put(files, "/odd\x1b[31m\n", b"odd")
    files.run("rm", "/odd\x1b[31m\n")
    for command in (["trash"], ["trash", "-l"], ["trash", "ls", *ids(files)]):
        text = files.run(*command).text
        assert "\x1b" not in text and ("[31m" in text) and text.count("\n") <= 2
    files.run("trash", "get", *ids(files), ".")
    assert (files.home / "odd\x1b[31m\n").read_bytes() == b"odd"
    assert r"/odd\x1b[31m\n is back" in files.run("undo").err


# what was given up for room ------------------------------------------------------------------


def test_what_was_evicted_for_space_is_reported(files):
    files.running.accounts.change("alice", quota=100_000)
    files.run("rm", "/b")
    put(files, "/large", bytes(60_000))
    files.run("rm", "/large")
    put(files, "/new", bytes(80_000))
    lines = files.run("trash").text.splitlines()
    assert any("rm /large" in line and "purged for space (58.6 KiB)" in line for line in lines)
    done = files.run("undo", status=5)
    assert "rm /large: cannot be undone: the server has purged the old files" in done.err
    assert "b" not in there(files)  # nothing earlier is taken back instead
    gone = next(one for one in files.run("--json", "trash").records if one["given_up"])
    assert (gone["path"], gone["kept"], gone["given_up"]) == (None, 0, 60_000)
    done = files.run("undo", gone["id"], status=5)
    assert "purged to free space; 58.6 KiB cannot be brought back" in done.err


def test_several_entries_and_no_path(files):
    files.run("rm", "/a", "/b")
    (one, *_) = ids(files)
    done = files.run("trash", "get", one, "here", status=2)
    assert done.complaint == f"ftp: {one} has 2 entries: name a PATH (see ftp trash ls {one})"
