"""chmod, touch, ln and rmdir, as they are typed, on a real server."""

from __future__ import annotations

import json
import os
import re
import time

import pytest

from ftpclient.client import Client
from ftpclient.transfer import attributes, spool
from ftpwire import messages
from ftpwire.messages import Copied, Problem


def mode(path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.fixture
def tree(files):
    """A small tree."""
    (files / "d" / "e").mkdir(parents=True)
    for name in ("d/f", "d/e/g"):
        (files / name).write_text(name)
        (files / name).chmod(0o644)
    (files / "d").chmod(0o755)
    (files / "d" / "e").chmod(0o755)
    return files


# chmod --------------------------------------------------------------------------------------


def test_chmod(run, tree):
    assert run("chmod 600 d/f d/e/g") == (0, "", "")
    assert mode(tree / "d/f") == mode(tree / "d/e/g") == 0o600
    assert run("chmod u+x,g+r d/*") == (0, "", "")
    assert mode(tree / "d/f") == 0o740
    status, out, err = run("chmod --json 755 d/f")
    one, summary = map(json.loads, out.splitlines())
    assert (status, one["path"], one["mode"], err) == (0, "/d/f", "0755", "")
    assert (summary["done"], summary["failed"], summary["status"]) == (1, 0, 0)


def test_setgid_of_directories(run, tree):
    assert run("chmod 2775 d") == (0, "", "")
    assert mode(tree / "d") == 0o2775
    assert run("chmod 755 d") == (0, "", "")  # as GNU chmod
    assert mode(tree / "d") == 0o2755
    assert run("chmod u-w d")[0] == 0
    assert mode(tree / "d") == 0o2555
    assert run("chmod u+w,g-s d")[0] == 0
    assert mode(tree / "d") == 0o755
    assert run("chmod --json -R g+s d")[0] == 0
    assert [mode(tree / name) for name in ("d", "d/e", "d/f")] == [0o2755, 0o2755, 0o644]
    assert run("chmod -R 00755 d")[0] == 0
    assert [mode(tree / name) for name in ("d", "d/e", "d/f")] == [0o755] * 3
    assert run("mkdir -m 2770 new") == (0, "", "")
    assert mode(tree / "new") == 0o2770


@pytest.mark.parametrize(
    ("line", "status", "why"),
    [
        pytest.param("chmod u+s d", 2, "keeps no setuid", id="setuid"),
        pytest.param("chmod 4755 d/f", 2, "keeps no setuid", id="setuid-octal"),
        pytest.param("chmod +t d", 2, "keeps no setuid or sticky", id="sticky"),
        pytest.param("chmod g+s d/f", 1, "/d/f: only a directory can have setgid", id="file"),
        pytest.param("chmod 2755 d/f", 1, "/d/f: only a directory can have setgid", id="octal"),
        pytest.param("mkdir -m 1777 new", 2, "keeps no setuid or sticky", id="mkdir"),
    ],
)
def test_special_bits_that_are_refused(run, tree, line, status, why):
    found, _, said = run(line)
    assert found == status, said
    assert why in said
    assert mode(tree / "d") == 0o755 and mode(tree / "d/f") == 0o644


def test_chmod_of_a_link_changes_what_it_leads_to(run, tree):
    (tree / "link").symlink_to("d/f")
    assert run("chmod u-w link")[0] == 0
    assert mode(tree / "d/f") == 0o444


def test_chmod_of_a_tree_leaves_links_alone(run, tree):
    (tree / "outside").write_text("")
    (tree / "outside").chmod(0o640)
    (tree / "d" / "link").symlink_to("../outside")
    (tree / "top").symlink_to("d")
    assert run("chmod -R a+X,go-r d") == (0, "", "")
    assert [mode(tree / name) for name in ("d", "d/e", "d/f", "d/e/g")] == [
        0o711,
        0o711,
        0o600,
        0o600,
    ]
    assert mode(tree / "outside") == 0o640
    assert run("chmod -R 700 top") == (0, "", "")  # what it leads to, and no more
    assert [mode(tree / name) for name in ("d", "d/e", "d/f")] == [0o700, 0o711, 0o600]


def test_chmod_of_a_tree_can_close_and_open_it(plain_user, run, tree):
    assert run("chmod -R a-rwx d") == (0, "", "")
    assert mode(tree / "d") == 0
    assert run("chmod -R u+rwX d")[0] == 1  # d is open now; d/e could not be listed yet
    assert mode(tree / "d") == 0o700
    assert run("chmod -R u+rwX d") == (0, "", "")
    assert [mode(tree / name) for name in ("d/e", "d/f", "d/e/g")] == [0o700, 0o600, 0o600]


def test_chmod_of_a_tree_reports_what_it_did_and_changes_only_what_differs(run, tree, app):
    (tree / "d/f").chmod(0o600)
    reported = run("chmod -R --json go-rwx d")[1]
    paths = [json.loads(line)["path"] for line in reported.splitlines()[:-1]]
    assert sorted(paths) == ["/d", "/d/e", "/d/e/g"]
    assert paths.index("/d/e/g") < paths.index("/d/e") < paths.index("/d")


def test_chmod_of_a_large_tree_keeps_little_in_memory(run, files, monkeypatch):
    monkeypatch.setattr(spool, "_RUN", 7)
    (files / "d").mkdir()
    for number in range(100):
        (files / "d" / f"{number:03}").touch(0o644)
    assert run("chmod -R 600 d") == (0, "", "")
    assert {mode(path) for path in (files / "d").iterdir()} == {0o600}


def test_a_failure_in_a_tree_does_not_stop_the_rest(run, tree, monkeypatch):
    real = attributes._SetCall
    submit = attributes.Connection.submit

    def astray(self, call, request, cost=0):
        if isinstance(call, real) and request.path == b"/d/f":
            request = messages.SetAttributes(b"/d/gone", request.mode)
        submit(self, call, request, cost)

    monkeypatch.setattr(attributes.Connection, "submit", astray)
    status, _, err = run("chmod -R 700 d")
    assert status == 1
    assert err == "ftp: /d/gone: no such file or directory\n"
    assert mode(tree / "d/e/g") == mode(tree / "d/e") == 0o700


@pytest.mark.parametrize(
    ("line", "status", "complaint"),
    [
        pytest.param("chmod 600 nope", 5, "/nope: no such file or directory", id="not-found"),
        pytest.param("chmod u+x nope", 5, "/nope: no such file or directory", id="symbolic"),
        pytest.param("chmod -R 600 nope", 5, "/nope: no such file or directory", id="tree"),
        pytest.param(
            "chmod d/f 600", 2, "'d/f' is not a mode: write 644, u+x or go-w", id="wrong-order"
        ),
        pytest.param(
            "chmod 4755 d/f",
            2,
            "4755: the server keeps no setuid or sticky bit (g+s is for directories)",
            id="setuid",
        ),
        pytest.param(
            "chmod -x d/f",
            2,
            "unknown option -x: did you mean a-x? (see chmod --help)",
            id="like-an-option",
        ),
        pytest.param(
            "chmod -r 600 d",
            2,
            "unknown option -r: did you mean a-r, or -R (to recurse into directories)? "
            "(see chmod --help)",
            id="small-r",
        ),
        pytest.param(
            "chmod 600",
            2,
            "missing argument: chmod MODE PATH... (see chmod --help)",
            id="bare",
        ),
    ],
)
def test_chmod_refuses(run, tree, line, status, complaint):
    assert run(line) == (status, "", f"ftp: {complaint}\n")
    assert mode(tree / "d/f") == 0o644


# touch --------------------------------------------------------------------------------------


def test_touch_makes_empty_files_and_sets_times(run, tree):
    before = time.time_ns()
    os.utime(tree / "d/f", ns=(0, 10**18))
    assert run("touch new d/f d") == (0, "", "")
    assert (tree / "new").read_bytes() == b""
    assert (tree / "d/f").read_text() == "d/f"
    for name in ("new", "d/f", "d"):
        assert (tree / name).stat().st_mtime_ns >= before - 10**9


@pytest.mark.parametrize(
    ("options", "seconds"),
    [
        pytest.param("-d 2020-01-02T03:04:05Z", 1577934245, id="utc"),
        pytest.param("-d 2020-01-02T03:04:05+01:00", 1577930645, id="zone"),
        pytest.param("-d @12345", 12345, id="seconds"),
        pytest.param("-d @-1", -1, id="before-1970"),
        pytest.param("-d '2020-01-02 03:04'", None, id="local"),
        pytest.param("-d 2020-01-02T03:04:00", None, id="local-iso"),
        pytest.param("-t 202001020304", None, id="stamp"),
        pytest.param("-t 2001020304", None, id="stamp-of-two-digits"),
        pytest.param("-mt 202001020304.00", None, id="stamp-with-seconds"),
    ],
)
def test_touch_with_a_time(run, files, options, seconds):
    if seconds is None:
        seconds = int(time.mktime((2020, 1, 2, 3, 4, 0, 0, 0, -1)))
    (files / "old").touch()
    assert run(f"touch {options} new old") == (0, "", "")
    for name in ("new", "old"):
        assert (files / name).stat().st_mtime_ns == seconds * 10**9


@pytest.mark.parametrize("name", ["n[1].txt", "d[1]/n?"])
def test_touch_makes_a_name_with_brackets(run, files, name):
    (files / "d[1]").mkdir()
    assert run(f"touch {name}") == (0, "", "")
    assert (files / name).read_bytes() == b""
    assert run("touch -c [no]* */n[2]") == (0, "", "")
    assert {*files.glob("[!.]*"), *files.glob("d*/*")} == {files / "d[1]", files / name}


def test_touch_of_a_pattern_touches_what_it_matches(run, files):
    for name in ("n1", "n2"):
        (files / name).touch()
    assert run("touch -d @7 n[12]") == (0, "", "")
    assert sorted(one.name for one in files.glob("n*")) == ["n1", "n2"]
    assert {one.stat().st_mtime for one in files.glob("n*")} == {7}


def test_touch_with_another_files_time(run, files):
    (files / "a").touch()
    os.utime(files / "a", ns=(0, 123_456_789_012_345_678))
    status, out, _ = run("touch -r a b --json")
    assert status == 0
    assert json.loads(out.splitlines()[0])["path"] == "/b"
    assert (files / "b").stat().st_mtime_ns == 123_456_789_012_345_678


@pytest.mark.parametrize(
    ("line", "status", "complaint"),
    [
        pytest.param("touch nope/x", 5, "/nope: no such directory", id="no-directory"),
        pytest.param("touch nope/", 5, "/nope: no such file or directory", id="slash"),
        pytest.param("touch broken", 5, "/broken: no such file or directory", id="broken-link"),
        pytest.param("touch -d soon x", 2, None, id="no-date"),
        pytest.param(
            "touch -d @x x", 2, "'@x': write @ and the seconds since 1970", id="no-seconds"
        ),
        pytest.param("touch -t 2020 x", 2, None, id="no-stamp"),
        pytest.param(
            "touch -t 202013010000 x",
            2,
            "'202013010000' is not a time: month must be in 1..12",
            id="no-month",
        ),
        pytest.param(
            "touch -d @1 -t 202001010000 x", 2, "-d, -t and -r cannot be used together", id="2"
        ),
    ],
)
def test_touch_refuses(run, files, line, status, complaint):
    (files / "broken").symlink_to("nowhere")
    found, out, err = run(line)
    assert (found, out, err.count("\n")) == (status, "", 1)
    if complaint is not None:
        assert err == f"ftp: {complaint}\n"
    assert not (files / "x").exists()


def test_touch_without_making(run, files):
    assert run("touch -c new") == (0, "", "")
    assert not (files / "new").exists()


# ln -----------------------------------------------------------------------------------------


def test_ln(run, tree):
    assert run("ln -s d/f link") == (0, "", "")
    assert os.readlink(tree / "link") == "d/f"
    assert run("ln -s /any/where d") == (0, "", "")
    assert os.readlink(tree / "d/where") == "/any/where"
    assert run("ln -s x y z d/e/") == (0, "", "")
    assert {name: os.readlink(tree / "d/e" / name) for name in "xyz"} == {n: n for n in "xyz"}
    assert run("ln -s d/e") == (0, "", "")
    assert os.readlink(tree / "e") == "d/e"


def test_ln_replaces_only_on_request(run, tree):
    (tree / "link").symlink_to("old")
    assert run("ln -s new link") == (
        1,
        "",
        "ftp: /link: already exists (a symbolic link; -f replaces it)\n",
    )
    assert os.readlink(tree / "link") == "old"
    assert run("ln -sf new link") == (0, "", "")
    assert os.readlink(tree / "link") == "new"


def test_ln_at_a_link_to_a_directory(run, tree):
    (tree / "current").symlink_to("d")
    assert run("ln -sf f2 current") == (0, "", "")
    assert os.readlink(tree / "d/f2") == "f2"
    assert run("ln -sfn d/e current") == (0, "", "")
    assert os.readlink(tree / "current") == "d/e"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        pytest.param(
            "ln d/f other",
            "there are no hard links: ln -s makes a symbolic link, cp a copy",
            id="hard",
        ),
        pytest.param("ln -s", "missing argument: ln TARGET... NAME (see ln --help)", id="nothing"),
    ],
)
def test_ln_of_another_kind(run, tree, line, complaint):
    assert run(line) == (2, "", f"ftp: {complaint}\n")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        pytest.param("ln -s a b nope", "nope: not a directory", id="several-into-nothing"),
        pytest.param("ln -s .. d", "..: give the link a name", id="no-name"),
        pytest.param("ln -s '' x", "a link's target must have 1 to 4096 bytes", id="empty"),
        pytest.param("ln -sfn x d", "/d: a directory is there", id="directory"),
    ],
)
def test_ln_refuses(run, tree, line, complaint):
    assert run(line) == (1, "", f"ftp: {complaint}\n")


# rmdir --------------------------------------------------------------------------------------


def test_rmdir(run, files):
    (files / "a").mkdir()
    (files / "b1").mkdir()
    (files / "b2").mkdir()
    assert run("rmdir a b*") == (0, "", "")
    assert not {"a", "b1", "b2"} & set(os.listdir(files))


@pytest.mark.parametrize(
    ("line", "status", "complaint"),
    [
        pytest.param("rmdir d", 1, "/d: directory not empty", id="not-empty"),
        pytest.param("rmdir d/f", 1, "/d/f: not a directory (rm removes files)", id="file"),
        pytest.param("rmdir link", 1, "/link: not a directory (rm removes files)", id="link"),
        pytest.param("rmdir nope", 5, "/nope: no such file or directory", id="not-found"),
    ],
)
def test_rmdir_removes_nothing_else(run, tree, line, status, complaint):
    (tree / "link").symlink_to("d/e")
    assert run(line) == (status, "", f"ftp: {complaint}\n")
    assert (tree / "d/f").exists() and (tree / "link").is_symlink()


# names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "status", "said"),
    [
        ("mkdir none/x", 5, "/none: no such directory (mkdir -p creates it)"),
        ("mkdir none/x/y", 5, "/none: no such directory (mkdir -p creates it)"),
        ("mkdir dir/none/x", 5, "/dir/none: no such directory (mkdir -p creates it)"),
        ("mkdir file/x", 1, "/file: not a directory"),
        ("mkdir link/x", 1, "/link: not a directory"),
        ("mkdir -p file/x", 1, "/file: not a directory"),
        ("mkdir dir", 1, "/dir: already exists (a directory)"),
        ("mkdir file", 1, "/file: already exists (a file)"),
        ("mkdir link", 1, "/link: already exists (a symbolic link)"),
        ("mkdir /", 1, "/: already exists (your home)"),
        ("ln -s x file", 1, "/file: already exists (a file; -f replaces it)"),
        ("ln -s x none/l", 5, "/none: no such directory"),
        ("ln -s x file/l", 1, "/file: not a directory"),
        ("touch none/x", 5, "/none: no such directory"),
        ("touch file/x", 1, "/file: not a directory"),
        ("cp file none/x", 5, "/none: no such directory"),
        ("cp none file", 5, "/none: no such file or directory"),
        ("mv file none/x", 5, "/none: no such directory"),
        ("mv none/x file", 5, "/none/x: no such file or directory"),
        ("mv -T file file/x", 1, "/file: not a directory"),
    ],
)
def test_what_prevents_a_creation_is_named(run, files, line, status, said):
    (files / "dir").mkdir()
    (files / "file").touch()
    (files / "link").symlink_to("file")
    assert run(line) == (status, "", f"ftp: {said}\n")


@pytest.mark.parametrize("option", ["", "-f", "--purge", "--dry-run"])
def test_rm_refuses_directories(run, files, option):
    (files / "full" / "empty").mkdir(parents=True)
    (files / "link").symlink_to("full")
    for path in ("full", "full/empty"):
        advice = " (-r removes it, rmdir an empty one)"
        status, out, err = run(f"rm {option} {path}")
        assert (status, out) == (1, "")
        assert err.splitlines()[0] == f"ftp: /{path}: is a directory{advice}"
    failure = json.loads(run(f"rm {option} full/empty --json")[1].splitlines()[0])
    assert failure["error"] == "is-a-directory"
    assert (files / "full" / "empty").is_dir()
    assert run("rm link; rm -r full/empty; rmdir full")[0] == 0
    assert not (files / "full").exists() and not (files / "link").is_symlink()


def test_a_new_file_is_touched_without_further_questions(app, run, monkeypatch):
    requested = []
    monkeypatch.setattr(Client, "find", lambda *what, **how: requested.append(what))
    assert run("touch new") == (0, "", "") and not requested


@pytest.mark.parametrize("line", ["chmod 700 {}", "ln -s x {}/x", "touch {}/x", "rmdir {}"])
def test_names_are_shown_safely(run, files, line):
    status, out, err = run(line.format("'nope\x1b[31m*'"))
    assert (status, out) == (5, "")
    assert err.startswith("ftp: /nope\\x1b[31m*")
    assert re.search(r": no such (file or )?directory\n$", err)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mv -T /file /dir", "/dir: a directory is there, and it is not replaced"),
        ("mv -T /dir /file", "/file: a file is there, and a directory doesn't replace it"),
        ("cp -T /file /dir", "/dir: a directory is there"),
        ("cp -rT /dir /file", "/file: a file is there"),
        ("mv -T /dir /dir/x", "/dir: cannot be moved into itself"),
        ("cp -rT /dir /dir/x", "/dir: cannot be copied into itself"),
    ],
)
def test_what_is_not_replaced_is_named(run, files, line, said):
    (files / "dir").mkdir()
    (files / "file").write_text("text")
    assert run(line) == (1, "", f"ftp: {said}\n")
    assert (files / "file").read_text() == "text" and (files / "dir").is_dir()


# cp -----------------------------------------------------------------------------------------


def test_cp_says_what_of_a_tree_could_not_be_copied(run, tree):
    os.mkfifo(tree / "d" / "e" / "pipe")
    status, out, err = run("cp -r d copy")
    assert (status, out) == (1, "")
    first, last = err.splitlines()
    assert first.startswith("ftp: /copy/e/pipe: not a regular file")
    assert last == "ftp: /d: not copied completely"


@pytest.mark.parametrize(
    ("options", "answer", "expected"),
    [
        ("", Copied(0, 1, 0, [Problem(b"f", "forbidden", "no")], 7), ["/c/f: no", "7 more"]),
        ("-n", Copied(0, 1, 0, [Problem(b"f", "exists", "is there")], 7, 8), []),
        ("-n", Copied(0, 1, 0, [Problem(b"f", "forbidden", "no")], 9, 8), ["/c/f: no", "1 more"]),
        ("-n", Copied(0, 1, 0, [Problem(b"f", "exists", "is there")]), []),
    ],
    ids=["more", "all-left", "some-left", "older-server"],
)
def test_cp_reports_more_problems_than_the_answer_has(run, monkeypatch, options, answer, expected):
    """What -n left is no failure, whether the answer names it or only counts it."""
    monkeypatch.setattr(Client, "copy", lambda self, *args, **named: answer)
    status, _, err = run(f"cp -r {options} d /c")
    assert status == (1 if expected else 0)
    lines = err.splitlines()
    if expected:
        assert lines.pop() == "ftp: /d: not copied completely"
    assert len(lines) == len(expected)
    for line, words in zip(lines, expected, strict=True):
        assert words in line


def test_json_reports_each_thing_and_the_totals(run, tree):
    status, out, err = run(f"mkdir --json d {'x' * 5000} new")
    there, never, made, summary = map(json.loads, out.splitlines())
    assert status == 1
    assert [there[key] for key in ("path", "status", "error")] == ["/d", "failed", "exists"]
    assert (never["path"], never["status"]) == ("x" * 5000, "failed")
    assert made == {"action": "mkdir", "path": "/new", "target": None} | DONE
    assert (summary["done"], summary["failed"], summary["status"]) == (1, 2, 1)
    complaints = [json.loads(line) for line in err.splitlines()]
    assert [one["path"] for one in complaints] == ["/d", never["path"]]
    moved, summary = map(json.loads, run("mv --json d/f new")[1].splitlines())
    assert moved == {"action": "move", "path": "/d/f", "target": "/new/f"} | DONE
    refused = run("rm -r --json d nope")
    assert (refused[0], refused[1], json.loads(refused[2])["path"]) == (5, "", "/nope")
    gone, summary = map(json.loads, run("rm -r --json d")[1].splitlines())
    assert [gone[key] for key in ("count", "files", "directories", "size")] == [None] * 4
    assert gone["trashed"] and gone["operation"] and summary["deleted"] == 1, "it isn't counted"
    (left_alone, summary) = map(json.loads, run("rm -f --json d")[1].splitlines())
    assert (left_alone["status"], left_alone["error"]) == ("skipped", "not-found")
    assert (summary["skipped"], summary["status"]) == (1, 0)
    assert run("rm -v --json -r new")[1].count("\n") == 2  # and no line for people


DONE = {"status": "done", "error": None}
