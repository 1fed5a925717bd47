"""What is named is what is moved: sources of one name, targets that were meant as sources, -t and
-T, and what rm, rmdir and mv refuse, as it is typed, on a real server."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ftpclient.cli import main
from ftpwire.messages import Get, Stat
from ftpwire.paths import RESERVED


def texts(directory: Path) -> dict[str, str]:
    """The files of a tree and what is in them."""
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not RESERVED & set(map(os.fsencode, path.parts))
    }


def fill(directory: Path, **files: str) -> None:
    """Make files; two underscores stand for a slash."""
    for name, text in files.items():
        path = directory / name.replace("__", "/").replace("_txt", ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def script(app, capfd):
    """Runs a command line of a script: no words are expanded, the current directory is /."""

    def run(*words: str) -> tuple[int, str, str]:
        app.interactive = False
        status = main.run(app, list(words))
        out, err = capfd.readouterr()
        return status, out, err

    return run


# several sources of one name -----------------------------------------------------------------


@pytest.mark.parametrize("command", ["mv", "cp", "cp -r"])
def test_the_second_source_of_one_name_is_refused_on_the_server(run, files, command):
    fill(files, A__f="one", B__f="two", C__g="three")
    (files / "all").mkdir()
    status, out, err = run(f"{command} /[AB]/f /C/g /all/")
    assert (status, out) == (1, "")
    assert err == "ftp: will not overwrite just-created '/all/f' with '/B/f'\n"
    assert texts(files / "all") == {"f": "one", "g": "three"}
    assert (files / "B" / "f").read_text() == "two"


def test_the_second_directory_of_one_name_is_refused_whole(run, files):
    fill(files, A__d__x="one", B__d__y="two")
    (files / "all").mkdir()
    assert run("cp -r /A/d /B/d /all")[0] == 1
    assert texts(files / "all") == {"d/x": "one"}


def test_what_was_not_there_has_made_nothing(run, files):
    fill(files, B__f="two")
    (files / "A").mkdir()
    (files / "all").mkdir()
    assert run("mv /A/f /B/f /all")[0] == 1
    assert texts(files / "all") == {"f": "two"}


@pytest.mark.parametrize("command", ["mv", "cp"])
def test_the_same_source_twice_is_done_once(run, files, command):
    fill(files, a="one", b="two")
    (files / "all").mkdir()
    assert run(f"{command} a '/b' a /all") == (0, "", "ftp: /a: named more than once\n")
    assert texts(files / "all") == {"a": "one", "b": "two"}


def test_no_clobber_loses_nothing_and_is_no_failure(run, files):
    fill(files, A__f="one", B__f="two")
    (files / "all").mkdir()
    assert run("cp -n /A/f /B/f /all") == (0, "", "ftp: skipped: /all/f: exists\n")
    assert texts(files / "all") == {"f": "one"}


def test_links_of_one_name(run, files):
    (files / "links").mkdir()
    status, _, err = run("ln -sf /A/f /B/f links")
    assert (status, err) == (1, "ftp: will not overwrite just-created '/links/f' with '/B/f'\n")
    assert os.readlink(files / "links" / "f") == "/A/f"


@pytest.mark.parametrize("line", ["put A/f B/f g /all/", "put [AB]/f g /all/"])
def test_put_refuses_the_second_file_of_one_name(run, files, local, line):
    fill(local, A__f="one", B__f="two", g="three")
    status, _, err = run(line)
    assert (status, err) == (1, "ftp: will not overwrite just-created '/all/f' with 'B/f'\n")
    assert texts(files / "all") == {"f": "one", "g": "three"}


def test_put_refuses_the_second_tree_of_one_name(run, files, local):
    fill(local, A__d__x="one", B__d__y="two", B__d__x="other")
    status, out, _ = run("put -r --json A/d B/d /all/")
    failed = [record for line in out.splitlines() if (record := json.loads(line)).get("error")]
    assert (status, [one["source"] for one in failed]) == (1, ["B/d"])
    assert texts(files / "all") == {"d/x": "one"}


@pytest.mark.parametrize(
    ("line", "there"),
    [
        pytest.param("put -r A/. B/f /all/", {"f": "one", "g": "more"}, id="contents-first"),
        pytest.param("put -r B/f A/. /all/", {"f": "two"}, id="contents-last"),
        pytest.param("put -r A/. B/. /all/", {"f": "one", "g": "more"}, id="contents-twice"),
        pytest.param(
            "put -r A/. B/h /all/", {"f": "one", "g": "more", "h": "new"}, id="nothing-in-common"
        ),
    ],
)
def test_put_of_contents_and_of_what_is_among_them(run, files, local, line, there):
    fill(local, A__f="one", A__g="more", B__f="two", B__h="new")
    assert run(line)[0] == ("B/h" not in line)
    assert texts(files / "all") == there


def test_put_of_a_missing_file_and_of_one_of_its_name(run, files, local):
    fill(local, B__f="two")
    assert run("put A/f B/f /all/")[0] == 1
    assert texts(files / "all") == {"f": "two"}


def test_put_of_one_name_counts_for_no_quota(start_server, connect, tmp_path):
    server = start_server(quota=1000)
    fill(tmp_path, A__f="x" * 600, B__f="y" * 600)
    client = connect(server)
    summary = client.put([tmp_path / "A/f", tmp_path / "B/f"], "/all/")
    assert (summary.done, summary.failed, summary.exit_code) == (1, 1, 1)


@pytest.mark.parametrize("line", ["get /A/f /B/f /g all/", "get '/[AB]/f' /g all/"])
def test_get_refuses_the_second_file_of_one_name(run, files, local, line):
    fill(files, A__f="one", B__f="two", g="three")
    line = line.replace("'", "")
    status, _, err = run(line)
    assert (status, err) == (1, "ftp: will not overwrite just-created 'all/f' with '/B/f'\n")
    assert texts(local / "all") == {"f": "one", "g": "three"}


def test_get_refuses_the_second_tree_of_one_name(run, files, local):
    fill(files, A__d__x="one", B__d__y="two")
    assert run("get -r /A/d /B/d all/")[0] == 1
    assert texts(local / "all") == {"d/x": "one"}


@pytest.mark.parametrize(
    ("line", "there"),
    [
        pytest.param("get -r /A/. /B/f all/", {"f": "one", "g": "more"}, id="contents-first"),
        pytest.param("get -r /B/f /A/. all/", {"f": "two"}, id="contents-last"),
        pytest.param("get -r /A/. /B/. all/", {"f": "one", "g": "more"}, id="contents-twice"),
    ],
)
def test_get_of_contents_and_of_what_is_among_them(run, files, local, line, there):
    fill(files, A__f="one", A__g="more", B__f="two", B__h="new")
    assert run(line)[0] == 1
    assert texts(local / "all") == there


def test_the_newer_of_one_name_is_refused_too(run, files, local):
    fill(files, A__f="one", B__f="two")
    os.utime(files / "A" / "f", (0, 0))
    assert run("get -u /A/f /B/f all/")[0] == 1
    assert texts(local / "all") == {"f": "one"}


# the last operand that was meant as a source -------------------------------------------------


def test_put_of_what_a_pattern_made_of_two_files_is_refused(script, files, local):
    fill(local, a_txt="one", b_txt="two")
    assert script("put", "a.txt", "b.txt") == (
        2,
        "",
        'ftp: b.txt exists locally, too: "put a.txt b.txt ./" sends both, '
        '"put -T a.txt b.txt" stores a.txt as b.txt\n',
    )
    assert texts(files) == {}
    assert script("put", "-T", "a.txt", "b.txt")[0] == 0
    assert texts(files) == {"b.txt": "one"}
    assert script("put", "a.txt", "b.txt", "./")[0] == 0
    assert texts(files) == {"a.txt": "one", "b.txt": "two"}


def test_get_of_what_is_on_the_server_twice_is_refused(script, files, local):
    fill(files, b_txt="two", c_txt="three")
    fill(local, b_txt="mine")
    assert script("get", "c.txt", "b.txt") == (
        2,
        "",
        'ftp: b.txt exists on the server, too: "get c.txt b.txt ./" fetches both, '
        '"get -T c.txt b.txt" stores c.txt as b.txt\n',
    )
    assert texts(local) == {"b.txt": "mine"}
    assert script("get", "-T", "c.txt", "b.txt")[0] == 0
    assert texts(local) == {"b.txt": "three"}
    assert script("get", "c.txt", "b.txt", "./")[0] == 0
    assert texts(local) == {"b.txt": "two", "c.txt": "three"}


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("put a.txt b.txt", id="two-files"),
        pytest.param("put d/a.txt d/b.txt", id="of-one-directory"),
        pytest.param("put ./a.txt b.txt", id="written-another-way"),
        pytest.param("put a.txt l.txt", id="a-link-to-a-file"),
        pytest.param("put -r d b.txt", id="a-directory-and-a-file"),
        pytest.param("put a.* b.txt", id="a-pattern"),
        pytest.param("put a.txt b.*", id="a-pattern-last"),
        pytest.param("get a.txt b.txt", id="get"),
        pytest.param("get d/a.txt d/b.txt", id="get-of-one-directory"),
        pytest.param("get a.* b.txt", id="get-a-pattern"),
        pytest.param("get a.txt b.*", id="get-a-pattern-last"),
        pytest.param("get -r d b.txt", id="get-a-directory-and-a-file"),
        pytest.param("get a.txt l.txt", id="get-a-link-to-a-file"),
    ],
)
def test_refused(run, files, local, line):
    for side in (files, local):
        fill(side, a_txt=side.name, b_txt=side.name, d__a_txt=side.name, d__b_txt=side.name)
        (side / "l.txt").symlink_to("b.txt")
    before = texts(files), texts(local)
    status, out, err = run(line)
    assert (status, out) == (2, "") and err.count("\n") == 1 and "too: " in err
    assert (texts(files), texts(local)) == before


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("put a.txt new.txt", id="nothing-of-that-name"),
        pytest.param("put a.txt a.txt", id="the-same-name"),
        pytest.param("put a.txt d/b.txt", id="another-directory"),
        pytest.param("put a.txt /b.txt", id="as-in-etc-hosts"),
        pytest.param("put -T a.txt b.txt", id="exactly"),
        pytest.param("put a.txt :b.txt", id="colon"),
        pytest.param("put a.txt e", id="a-directory"),
        pytest.param("put a.txt b.txt e/", id="three"),
        pytest.param("put -t e a.txt b.txt", id="directory-first"),
        pytest.param("get a.txt new.txt", id="get-nothing-of-that-name"),
        pytest.param("get a.txt a.txt", id="get-the-same-name"),
        pytest.param("get /a.txt b.txt", id="get-another-directory"),
        pytest.param("get -T a.txt b.txt", id="get-exactly"),
        pytest.param("get a.txt e", id="get-into-a-directory"),
        pytest.param("cp a.txt b.txt", id="cp"),
        pytest.param("mv a.txt b.txt", id="mv"),
    ],
)
def test_not_refused(run, files, local, line):
    for side in (files, local):
        fill(side, a_txt=side.name, b_txt=side.name, d__b_txt=side.name)
        fill(side, **{":b_txt": side.name})
        (side / "e").mkdir()
    assert run(line)[::2] == (0, "")


def test_a_source_that_is_missing_is_what_is_complained_about(run, files, local):
    fill(files, b_txt="two")
    fill(local, b_txt="two")
    assert run("put a.txt b.txt")[::2] == (5, "ftp: a.txt: no such local file or directory\n")
    assert run("get a.txt b.txt")[::2] == (5, "ftp: /a.txt: no such file or directory\n")


def test_standard_input_is_no_name(script, files, local, monkeypatch):
    fill(local, b_txt="two", piped="from a pipe")
    with open(local / "piped") as source:
        saved = os.dup(0)
        try:
            os.dup2(source.fileno(), 0)
            assert script("put", "-", "b.txt")[0] == 0
        finally:
            os.dup2(saved, 0)
            os.close(saved)
    assert texts(files) == {"b.txt": "from a pipe"}


def test_the_second_name_is_asked_for_in_the_same_round_trip(run, app, files, local, monkeypatch):
    """Both questions are sent before the first answer is waited for, and none is asked again."""
    fill(files, a_txt="one")
    connection = app.client.connection
    events: list[str] = []
    submit, result = connection.submit, connection.result

    def submitted(call, request, cost=0):
        events.append(type(request).__name__)
        submit(call, request, cost)

    def waited(call):
        events.append("wait")
        return result(call)

    monkeypatch.setattr(connection, "submit", submitted)
    monkeypatch.setattr(connection, "result", waited)
    assert run("get a.txt b.txt")[0] == 0
    assert events == [Stat.__name__, Stat.__name__, "wait", "wait", Get.__name__]


def test_answers_that_were_asked_ahead_do_not_stay(run, app, files, local):
    fill(files, a_txt="one", b_txt="two")
    assert run("get a.txt b.txt")[0] == 2
    (files / "a.txt").write_text("longer")
    assert app.client.stat("/a.txt", digest=True).size == 6
    local.chmod(0o755)
    (local / "e").mkdir()
    assert run("get a.txt b.txt/c/")[0] == 0
    assert (local / "b.txt/c/a.txt").read_text() == "longer"


# -t and -T -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["put", "get", "cp", "mv"])
@pytest.mark.parametrize("option", ["-t", "--target-directory"])
def test_target_directory(run, files, local, command, option):
    for side in (files, local):
        fill(side, a="one", b="two")
        (side / "e").mkdir()
    assert run(f"{command} {option} e a b")[::2] == (0, "")
    assert texts((local if command == "get" else files) / "e") == {"a": "one", "b": "two"}


@pytest.mark.parametrize(
    "command", ["put", "get", "cp", "mv", "put -r", "get -r", "put -r --atomic"]
)
@pytest.mark.parametrize("directory", ["none", "none/", "a"])
def test_target_directory_has_to_exist(run, files, local, command, directory):
    for side in (files, local):
        fill(side, a="one", d__b="two")
    before = texts(files), texts(local)
    kind = "local directory" if command.startswith("get") else "directory on the server"
    status, out, err = run(f"{command} -t {directory} d")
    assert (status, out, err) == (2, "", f"ftp: {directory}: no such {kind}\n")
    assert (texts(files), texts(local)) == before


@pytest.mark.parametrize("command", ["put -r", "get -r", "cp -r"])
def test_a_name_is_never_a_directory_to_go_into(run, files, local, command):
    source, target = (files, local) if command.startswith("get") else (local, files)
    fill(files if command == "cp -r" else source, d__new="one")
    (target / "e").mkdir()
    for option in ("-T", "--no-target-directory"):
        assert run(f"{command} {option} d e")[::2] == (0, "")
        assert texts(target / "e") == {"new": "one"}


def test_mv_to_a_name_does_not_go_into_a_directory(run, files):
    fill(files, d__new="one")
    (files / "e").mkdir()
    assert run("mv -T d e")[0] == 1
    assert run("mv -T d f")[0] == 0
    assert texts(files) == {"f/new": "one"}


@pytest.mark.parametrize("command", ["put", "get", "cp", "mv"])
def test_a_file_is_not_stored_as_a_directory(run, files, local, command):
    for side in (files, local):
        fill(side, f="one")
        (side / "e").mkdir()
    assert run(f"{command} -T f e")[0] == 1
    assert run(f"{command} -T f none/")[0] == 1
    for side in (files, local):
        assert texts(side) == {"f": "one"}


@pytest.mark.parametrize("command", ["put", "get", "cp", "mv"])
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        pytest.param("-T a", "-T needs exactly one SOURCE and one TARGET", id="alone"),
        pytest.param("-T a b c", "-T needs exactly one SOURCE and one TARGET", id="three"),
        pytest.param("-T -t e a", "-t and -T cannot be used together", id="both"),
        pytest.param("-t '' a", "-t needs an existing directory, not an empty path", id="empty"),
    ],
)
def test_targets_that_can_not_be_meant(run, files, local, command, words, complaint):
    assert run(f"{command} {words}") == (2, "", f"ftp: {complaint}\n")


@pytest.mark.parametrize("command", ["cp", "mv"])
def test_a_target_is_missing(run, command):
    assert run(f"{command} a") == (
        2,
        "",
        f"ftp: missing argument: {command} SOURCE... TARGET\n",
    )


@pytest.mark.parametrize("line", ["mput -t e a b", "mput -rt e a b"])
def test_mput_with_a_target_directory(run, files, local, line):
    fill(local, a="one", b="two")
    (files / "e").mkdir()
    assert run(line)[::2] == (0, "")
    assert texts(files) == {"e/a": "one", "e/b": "two"}


# what rm, rmdir and mv refuse ----------------------------------------------------------------


@pytest.fixture
def tree(files):
    """Three levels, with the shell in the second."""
    fill(files, top="0", d__f="1", d__e__g="2", d__e__deep__h="3")
    return files


NOT_TO_BE_REMOVED = (
    ". .. / ./ ../ // /. /.. ../.. ./. ../e */. /d /d/ /d/e /d/e/ /[d] /d/e/.. deep/. deep/.. "
    "deep/./"
).split()


@pytest.mark.parametrize("command", ["rm", "rm -r", "rm -rf", "rmdir", "mv"])
def test_the_current_directory_and_those_above_are_refused(run, tree, command):
    assert run("cd /d/e")[0] == 0

    def is_refused(word: str) -> None:
        before = texts(tree)
        status, out, err = run(f"{command} deep/h {word}" + (" /new" if command == "mv" else ""))
        assert (status, out) == (2, ""), word
        assert err.startswith(f"ftp: {word}: {command.split()[0]} refuses this path: ")
        assert texts(tree) == before, word

    for word in NOT_TO_BE_REMOVED:
        is_refused(word)
    (tree / "d" / "f").unlink()
    is_refused("/d/*")


@pytest.mark.parametrize("word", [".", "..", "/", "//", "/.", "/..", "d/.", "d/..", "./", "*/.."])
def test_scripts_are_at_the_top(script, tree, word):
    before = texts(tree)
    status, _, err = script("rm", "-rf", word)
    assert status == 2 and "rm refuses this path: " in err
    assert texts(tree) == before


@pytest.mark.parametrize("word", ["../x", "x", "/d/x", "/e"])
def test_neighbours_are_not_above(run, tree, word):
    assert run("cd /d/e")[0] == 0
    for name in ("d/x/y", "d/e/x/y", "e/y"):
        fill(tree, **{name.replace("/", "__"): "1"})
    assert run(f"rm -r {word}")[::2] == (0, "")


def test_the_home_itself_is_refused_to_the_api_as_well(client, tree):
    before = texts(tree)
    for path in ("/", ".", "/d/.."):
        with pytest.raises(Exception, match="the home itself cannot be removed"):
            client.remove(path, recursive=True)
        with pytest.raises(Exception, match="the home itself cannot be moved"):
            client.move(path, "/new")
    assert texts(tree) == before


# rm looks first ------------------------------------------------------------------------------


def test_one_missing_removes_nothing(run, tree):
    before = texts(tree)
    assert run("rm top nope d/f") == (
        5,
        "",
        "ftp: /nope: no such file or directory; "
        "nothing was removed (2 of 3 paths exist; -f removes those)\n",
    )
    assert texts(tree) == before
    assert run("rm -f top nope d/f") == (0, "", "")
    assert set(texts(tree)) == {"d/e/g", "d/e/deep/h"}


def test_several_missing_are_each_named(run, tree):
    before = texts(tree)
    status, _, err = run("rm -r no1 d no2* top/x")
    assert status == 5
    assert err == (
        "ftp: /no2*: nothing matches\n"
        "ftp: /no1: no such file or directory\n"
        "ftp: /top/x: not a directory\n"
        "ftp: nothing was removed (1 of 4 paths exist; -f removes those)\n"
    )
    assert texts(tree) == before


def test_a_pattern_that_matches_nothing_is_missing(run, tree):
    status, _, err = run("rm top nope*")
    assert status == 5
    assert err.startswith("ftp: /nope*: nothing matches; nothing was removed (1 of 2 paths exist")
    assert (tree / "top").exists()


def test_all_missing(run, tree):
    assert run("rm no1 no2") == (
        5,
        "",
        "ftp: /no1: no such file or directory\nftp: /no2: no such file or directory\n",
    )


def test_what_is_named_twice_is_removed_once(run, tree):
    assert run("rm top t* top") == (0, "", "")


@pytest.mark.parametrize(
    ("line", "requested"),
    [
        pytest.param("rm a", 0, id="one"),
        pytest.param("rm -f a b", 0, id="forced"),
        pytest.param("rm a b c", 1, id="three"),
    ],
)
def test_looking_costs_one_round_trip_at_most(run, app, files, monkeypatch, line, requested):
    fill(files, a="1", b="2", c="3")
    connection = app.client.connection
    events: list[str] = []
    submit, result = connection.submit, connection.result

    def submitted(call, request, cost=0):
        events.append(type(request).__name__)
        submit(call, request, cost)

    def waited(call):
        events.append("wait")
        return result(call)

    monkeypatch.setattr(connection, "submit", submitted)
    monkeypatch.setattr(connection, "result", waited)
    assert run(line)[::2] == (0, "")
    looked = events[: events.index("Remove")]
    assert looked == (["Stat"] * 3 + ["wait"] * 3 if requested else [])
