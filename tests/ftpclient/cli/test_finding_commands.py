"""find, tree, and the letters of ls, as they are typed, on a real server."""

from __future__ import annotations

import io
import json
import os
import sys

import pytest

from ftpclient.cli.aliases import ALIASES
from ftpclient.cli.removal import Removal
from ftpclient.connection.connection import Connection
from ftpclient.shell.running import run_line
from ftpwire.messages import List


@pytest.fixture
def run(run):
    """Runs a line; gives its status, the lines of its output, and its complaints."""

    def run_for_lines(line: str) -> tuple[int, list[str], str]:
        status, out, err = run(line)
        return status, out.splitlines(), err

    return run_for_lines


@pytest.fixture
def tree(files):
    """A small tree."""
    (files / "d" / "e").mkdir(parents=True)
    (files / ".hidden").touch()
    (files / "d" / "big.txt").write_bytes(b"x" * 2000)
    (files / "d" / "e" / "small.txt").write_bytes(b"x")
    (files / "d" / "e" / "prog").touch(0o755)
    (files / "d" / "link").symlink_to("e")
    os.utime(files / "d" / "big.txt", ns=(0, 10**18))
    return files


# find ---------------------------------------------------------------------------------------

EVERYTHING = {
    "/",
    "/.hidden",
    "/d",
    "/d/big.txt",
    "/d/link",
    "/d/e",
    "/d/e/small.txt",
    "/d/e/prog",
}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        pytest.param("find", EVERYTHING, id="everything"),
        pytest.param("find / -print", EVERYTHING, id="print"),
        pytest.param("find -name *.txt", {"/d/big.txt", "/d/e/small.txt"}, id="name"),
        pytest.param("find -name '*.txt' d/e", {"/d/e/small.txt"}, id="path-last"),
        pytest.param("find -iname SMALL*", {"/d/e/small.txt"}, id="iname"),
        pytest.param("find -path /d/*/p*", {"/d/e/prog"}, id="path"),
        pytest.param("find -type d", {"/", "/d", "/d/e"}, id="directories"),
        pytest.param("find -type l", {"/d/link"}, id="links"),
        pytest.param("find -type f -size +1k", {"/d/big.txt"}, id="size"),
        pytest.param("find d -size -2", {"/d/e/small.txt", "/d/e/prog"}, id="small"),
        pytest.param("find -mtime +1000", {"/d/big.txt"}, id="old"),
        pytest.param("find d -type f -mmin -60", {"/d/e/small.txt", "/d/e/prog"}, id="minutes"),
        pytest.param("find d -type d -newer d/big.txt", {"/d", "/d/e"}, id="newer"),
        pytest.param("find -maxdepth 1", {"/", "/.hidden", "/d"}, id="maxdepth-1"),
        pytest.param("find d -maxdepth 0", {"/d"}, id="maxdepth-0"),
        pytest.param("find -mindepth 3", {"/d/e/small.txt", "/d/e/prog"}, id="mindepth"),
        pytest.param(
            "find -mindepth 2 -maxdepth 2", {"/d/big.txt", "/d/link", "/d/e"}, id="one-depth"
        ),
        pytest.param("find d/big.txt", {"/d/big.txt"}, id="file"),
        pytest.param("find d/e/*", {"/d/e/small.txt", "/d/e/prog"}, id="patterns"),
        pytest.param("find d/link", {"/d/link"}, id="links-are-not-followed"),
        pytest.param("find -name nothing", set(), id="nothing"),
        pytest.param("find -x e", {"/", "/.hidden", "/d", "/d/big.txt", "/d/link"}, id="exclude"),
        pytest.param("find -x '*' -xdev", {"/"}, id="exclude-all"),
        pytest.param(
            "find d -maxdepth 1 --exclude 'e/'", {"/d", "/d/big.txt", "/d/link"}, id="-x-1"
        ),
        pytest.param(
            "find d -x '*' --include e --include '*.txt'",
            {"/d", "/d/e", "/d/e/small.txt", "/d/big.txt"},
            id="include",
        ),
        pytest.param("find d -x big.txt -empty", {"/d/e/prog"}, id="exclude-empty"),
    ],
)
def test_find(run, tree, line, found):
    status, out, err = run(line)
    assert (status, err) == (0, "")
    assert len(out) == len(set(out))
    assert {os.path.normpath(os.path.join("/", path)) for path in out} == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        pytest.param("find", [".", "./big.txt", "./e", "./link"], id="nothing"),
        pytest.param("find .", [".", "./big.txt", "./e", "./link"], id="dot"),
        pytest.param("find ./", ["./", "./big.txt", "./e", "./link"], id="dot-slash"),
        pytest.param("find e -name 's*' -mindepth 0", ["e/small.txt"], id="name"),
        pytest.param("find ../d/e -maxdepth 0", ["../d/e"], id="up"),
        pytest.param("find /d/e -maxdepth 0", ["/d/e"], id="absolute"),
        pytest.param(
            "find e/s* ./e/s* ../d/e/s* -maxdepth 0",
            ["../d/e/small.txt", "./e/small.txt", "e/small.txt"],
            id="patterns",
        ),
        pytest.param("find / -path './*'", [], id="path-of-another"),
        pytest.param("find . -path './b*'", ["./big.txt"], id="path"),
        pytest.param("find . -path '/d/b*'", ["./big.txt"], id="path-absolute"),
        pytest.param("find / e -name small.txt", ["/d/e/small.txt", "e/small.txt"], id="two"),
        pytest.param("find /d/e . -name small.txt -delete -print", ["/d/e/small.txt"], id="delete"),
    ],
)
def test_find_names_what_it_finds_as_its_start_was_typed(run, tree, line, found):
    """As find(1) does."""
    run("cd d")
    status, out, err = run(line if "-" in line else f"{line} -maxdepth 1")
    assert (status, sorted(out), err) == (0, found, "")


def test_of_what_is_left_out_no_failure_is_reported(plain_user, run, tree):
    (tree / "d" / "e").chmod(0)
    try:
        assert run("find /d -x e") == (0, ["/d", "/d/big.txt", "/d/link"], "")
        assert run("find /d -x e -empty") == (0, [], "")
        assert run("du -x e")[0] == 0
        assert run("find /d")[0] == 1
    finally:
        (tree / "d" / "e").chmod(0o755)


def test_find_in_other_forms(run, app, tree, capfd):
    assert run("find d/e/small.txt -ls")[1][0].startswith("-rw-")
    status, out, _ = run("find d/e -type f --json")
    assert status == 0
    assert {json.loads(line)["path"] for line in out} == {"/d/e/small.txt", "/d/e/prog"}
    (tree / "d" / "new\nline\x1b").touch()
    assert run("find / -name new*")[1] == ["/d/new\\nline\\x1b"]


def test_find_writes_raw_names(app, tree, monkeypatch):
    name = b"\xff\n"
    with open(os.path.join(os.fsencode(tree), name), "w"):
        pass
    out = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", out)
    assert run_line(app, "find / -maxdepth 1 -type f -0 -mindepth 1") == 0
    assert sorted(out.buffer.getvalue().split(b"\0")) == [b"", b"/.hidden", b"/" + name]


@pytest.mark.parametrize(
    ("line", "status", "complaint"),
    [
        pytest.param("find nope", 5, "/nope: no such file or directory", id="not-found"),
        pytest.param("find -newer nope", 5, "/nope: no such file or directory", id="newer"),
        pytest.param(
            "find -type x",
            2,
            "find: 'x' is not a type: use f (file), d (directory) or l (link)",
            id="x",
        ),
        pytest.param(
            "find -size x", 2, "find: 'x' is not a size: write +10M for more, -10M for less", id="s"
        ),
        pytest.param(
            "find / -exec rm {}",
            2,
            "unknown option -exec: -delete removes what was found; other commands take patterns: "
            "chmod 644 *.txt (see find --help)",
            id="exec",
        ),
        pytest.param(
            "find -L /",
            2,
            "-L isn't needed: links are not followed (see find --help)",
            id="follow",
        ),
        pytest.param("find -nam x", 2, None, id="misspelt"),
    ],
)
def test_find_refuses(run, tree, line, status, complaint):
    found, out, err = run(line)
    assert (found, out, err.count("\n")) == (status, [], 1)
    if complaint is not None:
        assert err == f"ftp: {complaint}\n"


def test_find_goes_on_behind_what_it_may_not_read(plain_user, run, tree):
    (tree / "d" / "e").chmod(0)
    (tree / "d" / "f").mkdir()
    (tree / "d" / "f" / "last").touch()
    try:
        status, out, err = run("find /")
        assert status == 1
        assert "/d/big.txt" in out and "/d/e" in out and "/d/e/prog" not in out
        assert err == "ftp: /d/e: permission denied\n"
        for line in ("tree", "ls -R"):
            status, out, err = run(line)
            assert status == 1
            assert err == "ftp: /d/e: permission denied\n"
            assert any(one.endswith("last") for one in out)
    finally:
        (tree / "d" / "e").chmod(0o700)


@pytest.mark.parametrize(
    ("words", "status", "found"),
    [
        ("-maxdepth 1", 0, ["/", "/.hidden", "/d"]),
        ("-maxdepth 2 -type d", 0, ["/", "/d", "/d/e", "/d/f"]),
        ("-maxdepth 3 -type d", 1, ["/", "/d", "/d/e", "/d/f"]),
        ("-maxdepth 0 -empty", 0, []),
        ("-maxdepth 1 -empty", 0, ["/.hidden"]),
        ("-maxdepth 2 -empty", 1, ["/.hidden", "/d/f"]),
    ],
)
def test_find_may_be_forbidden_to_read_what_is_too_deep(
    plain_user, run, tree, words, status, found
):
    """As in find(1): a directory of which only the name is needed is not read."""
    (tree / "d" / "e").chmod(0)
    (tree / "d" / "f").mkdir()
    try:
        complaint = "ftp: /d/e: permission denied\n" * status
        assert run(f"find / {words}") == (status, found, complaint)
    finally:
        (tree / "d" / "e").chmod(0o700)


def test_find_lists_no_tree_for_a_directory_alone(app, run, tree, monkeypatch):
    requests = []
    submit = Connection.submit

    def submit_noted(self, call, request, *cost):
        requests.append(request)
        submit(self, call, request, *cost)

    monkeypatch.setattr(Connection, "submit", submit_noted)
    assert run("find / d/e -maxdepth 0 -empty") == (0, [], "")
    assert run("find / -maxdepth 1 -name d") == (0, ["/d"], "")
    assert run("mkdir new; find new -maxdepth 0 -empty") == (0, ["new"], "")
    listed = [one for one in requests if isinstance(one, List)]
    assert len(listed) == 4 and not any(one.recursive for one in listed)


# tree ---------------------------------------------------------------------------------------


def test_tree(run, tree):
    assert run("tree") == (
        0,
        [
            "/",
            "└── d/",
            "    ├── big.txt",
            "    ├── e/",
            "    │   ├── prog",
            "    │   └── small.txt",
            "    └── link -> e",
            "",
            "2 directories, 4 files",
        ],
        "",
    )


@pytest.mark.parametrize(
    ("line", "out"),
    [
        pytest.param("tree -L 1", ["/", "└── d/", "", "1 directory, 0 files"], id="levels"),
        pytest.param(
            "tree -aL1", ["/", "├── .hidden", "└── d/", "", "1 directory, 1 file"], id="hidden"
        ),
        pytest.param("tree -d d", ["/d", "└── e/", "", "1 directory"], id="directories"),
        pytest.param(
            "tree -s d/e",
            ["/d/e", "├── [0] prog", "└── [1] small.txt", "", "0 directories, 2 files"],
            id="sizes",
        ),
        pytest.param("tree d/big.txt", ["/d/big.txt", "", "0 directories, 0 files"], id="file"),
    ],
)
def test_tree_with_options(run, tree, line, out):
    assert run(line) == (0, out, "")


def test_tree_for_programs(run, tree):
    records = [json.loads(line) for line in run("tree --json d")[1]]
    assert [(record["path"], record["depth"]) for record in records] == [
        ("/d", 0),
        ("/d/big.txt", 1),
        ("/d/e", 1),
        ("/d/e/prog", 2),
        ("/d/e/small.txt", 2),
        ("/d/link", 1),
    ]


def test_tree_without_line_drawing(app, tree, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    assert run_line(app, "tree d") == 0
    out.flush()
    assert out.buffer.getvalue().splitlines()[1:4] == [b"|-- big.txt", b"|-- e/", b"|   |-- prog"]


def test_tree_does_not_list_what_it_does_not_show(run, app, tree, monkeypatch):
    listed = []
    real = app.client.list_dir
    monkeypatch.setattr(
        app.client, "list_dir", lambda path, **more: listed.append(path) or real(path, **more)
    )
    run("tree -L 1")
    assert listed == [b"/"]


# ls, and other names ------------------------------------------------------------------------


@pytest.mark.parametrize("letters", ["-lh", "-la", "-lart", "-lAh", "-laF", "-ltr", "-1F", "-lSr"])
def test_letters_of_ls(run, tree, letters):
    status, out, err = run(f"ls {letters} d")
    assert (status, err) == (0, "")
    assert len(out) == 3


def test_marks_of_ls(run, tree):
    assert run("ls -F d d/e")[1] == [
        *("/d:", "big.txt", "e/", "link@"),
        *("", "/d/e:", "prog*", "small.txt"),
    ]
    assert run("ls -lF d")[1][2].endswith(" link -> e")


def test_columns_in_a_pipe(run, tree):
    assert run("ls -C d")[1] == ["big.txt  e/       link"]


@pytest.mark.parametrize("letters", ["", "-l ", "-1 ", "-C "])
def test_names_have_the_colours_of_ls_colors(run, tree, monkeypatch, letters):
    monkeypatch.setenv("LS_COLORS", "di=34:*.txt=35:*.tar.gz=36:or=41:ln=target:junk:*.b=\x1b[9m")
    (tree / "d" / "gone").symlink_to("nowhere")
    (tree / "d" / "e" / "a.tar.gz").touch()
    (tree / "d" / "e" / "a.b").touch()
    shown = "\n".join(run(f"ls {letters}--color d d/e")[1])
    for painted in (
        "\x1b[35mbig.txt\x1b[0m",
        "\x1b[34me\x1b[0m/",
        "\x1b[01;36mlink\x1b[0m",
        "\x1b[41mgone\x1b[0m",
        "\x1b[01;32mprog\x1b[0m",
        "\x1b[36ma.tar.gz\x1b[0m",
    ):
        assert painted in shown
    assert "9m" not in shown and "\x1b[0ma.b" not in shown


@pytest.mark.parametrize(
    "words", ["ls d", "ls --color=auto d", "ls --color=never d", "ls --json d"]
)
def test_a_pipe_has_no_colours(run, tree, words):
    assert "\x1b" not in "".join(run(words)[1])


def test_colours_line_up(run, tree, monkeypatch):
    from ftpclient.cli import render

    plain = list(render.columns(["a", "long/", "b"], 12))
    painted = list(render.columns(["a", "\x1b[34mlong\x1b[0m/", "b"], 12))
    assert [line.replace("\x1b[34m", "").replace("\x1b[0m", "") for line in painted] == plain


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("--sort=name", ["b.c", "e/", "none", "x.a"]),
        ("--sort=size", ["x.a", "b.c", "e/", "none"]),
        ("-S", ["x.a", "b.c", "e/", "none"]),
        ("--sort=ext", ["e/", "none", "x.a", "b.c"]),
        ("-X -r", ["b.c", "x.a", "none", "e/"]),
        ("--sort=time", ["none", "b.c", "e/", "x.a"]),
    ],
)
def test_orders_of_ls(run, files, order, names):
    (files / "o" / "e").mkdir(parents=True)
    for at, (name, size) in enumerate({"x.a": 9, "e": 0, "b.c": 2, "none": 0}.items()):
        if name != "e":
            (files / "o" / name).write_bytes(b"x" * size)
        os.utime(files / "o" / name, ns=(0, at))
    assert run(f"ls {order} o")[1] == names
    assert sorted(run("ls -U o")[1]) == sorted(names)


@pytest.mark.parametrize(
    ("line", "out"),
    [
        pytest.param("ls e big.txt", ["big.txt", "", "/d/e:", "prog", "small.txt"], id="file-last"),
        pytest.param("ls big.txt e/prog", ["big.txt", "e/prog"], id="files"),
        pytest.param("ls -r big.txt e/prog", ["e/prog", "big.txt"], id="reversed"),
        pytest.param("ls -S e/prog ./big.txt", ["./big.txt", "e/prog"], id="by-size"),
        pytest.param("ls e/*", ["e/prog", "e/small.txt"], id="pattern"),
        pytest.param("ls /d/e/*", ["/d/e/prog", "/d/e/small.txt"], id="absolute"),
        pytest.param("ls e/s*", ["e/small.txt"], id="one-match"),
        pytest.param("ls ../.h*", ["../.hidden"], id="above"),
        pytest.param("ls e/prog", ["e/prog"], id="one"),
        pytest.param("ls e/p*g ../d/e/s*", ["../d/e/small.txt", "e/prog"], id="roundabout"),
        pytest.param("ls -d e big.txt", ["big.txt", "e"], id="itself"),
        pytest.param("ls -dF e", ["e/"], id="itself-marked"),
        pytest.param(
            "ls link big.txt", ["big.txt", "", "/d/link:", "prog", "small.txt"], id="link"
        ),
        pytest.param(
            "ls e link",
            ["/d/e:", "prog", "small.txt", "", "/d/link:", "prog", "small.txt"],
            id="two",
        ),
    ],
)
def test_ls_of_several(run, tree, line, out):
    """As ls(1): files first, without a heading, by the names that were typed."""
    run("cd d")
    assert run(line) == (0, out, "")


def test_several_of_which_some_can_not_be_listed(run, tree):
    status, out, err = run("ls nope d/big.txt d/e")
    assert (status, out) == (1, ["d/big.txt", "", "/d/e:", "prog", "small.txt"])
    assert "nope" in err
    assert run("ls nope nope2")[0] == 5
    assert run("ls nope*")[0] == 5
    records = [json.loads(line) for line in run("ls --json d/big.txt d/e")[1]]
    assert [one["path"] for one in records] == ["/d/big.txt", "/d/e/prog", "/d/e/small.txt"]


@pytest.mark.parametrize("letter", ["-Q", "-b", "-lQ"])
def test_quoted_names_are_read_back(run, tree, letter):
    """What is printed is pasted."""
    names = [
        "a b",
        "~",
        "-x",
        "#c",
        "new\nline",
        "it's",
        "$'x",
        "*?[",
        "a;b&c",
        os.fsdecode(b"\xff"),
    ]
    (tree / "q").mkdir()
    for name in names:
        (tree / "q" / name).touch()
    (tree / "q" / "d d").mkdir()
    run("cd q")
    _, out, _ = run(f"ls {letter}")
    words = [line[line.index(":") + 4 :] if letter == "-lQ" else line for line in out]
    assert len(words) == len(names) + 1
    for word in words:
        assert run(f"rm -r {word}") == (0, [], ""), word
    assert os.listdir(tree / "q") == []


def test_what_can_not_be_listed_has_no_heading(run, tree):
    status, out, err = run("ls nope d/e")
    assert (status, out) == (1, ["/d/e:", "prog", "small.txt"])
    assert "/nope: no such file" in err


def test_directories_have_no_size(run, tree):
    assert run("ls -l")[1][0].split()[1] == "-"
    assert json.loads(run("ls --json d")[1][-1])["type"] == "link"
    (record,) = (json.loads(line) for line in run("stat d --json")[1])
    assert record["size"] is None
    assert not any("size" in line for line in run("stat d")[1])


def test_df_takes_h(run):
    assert run("df -h") == run("df")


def test_other_names_of_commands(run, tree):
    assert run("dir d") == run("ls d")
    assert run("quit")[0] == 0


def test_mget_and_mput_take_sources_only(run, tree):
    assert run("mget d/big.txt d/e/*.txt")[0] == 0
    assert sorted(os.listdir()) == ["big.txt", "small.txt"]
    assert run("mput big.txt *.txt")[0] == 0
    assert {"big.txt", "small.txt"} <= set(os.listdir(tree))


def test_mget_and_mput_with_a_target(run, tree):
    os.mkdir("there")
    assert run("mget d/big.txt d/e/prog there")[0] == 0
    assert run("mget d/*.txt d/e/* new/")[0] == 0
    assert sorted(os.listdir("there")) == ["big.txt", "prog"]
    assert sorted(os.listdir("new")) == ["big.txt", "prog", "small.txt"]
    assert run("mput new/* there/prog d/e")[0] == 1  # there is one of its name in new
    assert run("mput new/* d/e")[0] == 0
    assert (tree / "d" / "e" / "big.txt").exists()


def test_help_names_the_other_names(run):
    text = " ".join(run("help --all")[1])
    for alias in ALIASES:
        assert f"{alias} (" in text


def test_lmkdir(run):
    assert run("lmkdir a 'b c'") == (0, [], "")
    assert run("lmkdir -p a d/e") == (0, [], "")
    assert sorted(os.listdir()) == ["a", "b c", "d"]
    assert run("lmkdir no/ne/x") == (1, [], "ftp: no: no such directory (lmkdir -p creates it)\n")
    assert run("lmkdir a")[2] == "ftp: a: already exists (a directory)\n"
    status, _, err = run("lmkdir a x")
    assert status == 1
    assert err.startswith("ftp: a: ") and err.count("\n") == 1
    assert os.path.isdir("x")


# what is empty, and removing what was found ---------------------------------------------------


@pytest.fixture
def partly_empty(files):
    for directory in ("e/empty", "e/full", "e/a"):
        (files / directory).mkdir(parents=True)
    for name in ("e/full/none", "e/full/one", "e/a/none"):
        (files / name).touch()
    (files / "e" / "full" / "one").write_bytes(b"1")
    (files / "e" / "link").symlink_to("nowhere")
    return files / "e"


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("-empty", {"/e/empty", "/e/full/none", "/e/a/none"}),
        ("-empty -type d", {"/e/empty"}),
        ("-empty -maxdepth 1", {"/e/empty"}),
        ("-empty -mindepth 2", {"/e/full/none", "/e/a/none"}),
        ("-empty -name one", set()),
    ],
)
def test_what_is_empty(run, partly_empty, words, found):
    status, out, _ = run(f"find /e {words}")
    assert (status, set(out)) == (0, found)


def test_results_are_sorted_and_a_directory_comes_before_its_contents(run, files):
    for name in ("b/z", "b/a/x", "b!/f", "a/f", "Z", "b\x01"):
        (files / name).parent.mkdir(parents=True, exist_ok=True)
        (files / name).touch()
    for number in range(150):
        (files / "b" / f"d{number:03}" / "sub").mkdir(parents=True)
    many = [f"./b/d{number:03}{name}" for number in range(150) for name in ("", "/sub")]
    expected = [".", "./Z", "./a", "./a/f", "./b", "./b/a", "./b/a/x", *many, "./b/z"]
    expected += ["./b\\x01", "./b!", "./b!/f"]
    assert run("find") == (0, expected, "")
    assert run("find --json -type f")[1] == [
        line for line in run("find --json")[1] if '"type": "file"' in line
    ]
    empty = [path for path in expected if path.endswith(("/sub", "Z", "/f", "/x", "/z", "x01"))]
    assert run("find -empty") == (0, empty, "")


def test_json_has_the_stored_digests(user):
    user.run("mkdir", "/d")
    user.run("put", "-", "/d/f", given=b"x")
    lines = ("ls /d", "find /d -type f", "find /d -type f -maxdepth 1", "find /d/f")
    digests = [user.run(*line.split(), "--json").records[-1]["digest"] for line in lines]
    assert digests[0] and digests == digests[:1] * 4


def test_an_empty_place_to_begin_at(run, partly_empty):
    assert run("find /e/empty /e/full/none /e/full/one -empty")[1] == ["/e/empty", "/e/full/none"]


def test_what_is_found_is_removed_with_what_is_in_it(run, partly_empty):
    assert run("find e/full e/a -delete") == (0, [], "")
    assert sorted(one.name for one in partly_empty.iterdir()) == ["empty", "link"]


def test_only_what_meets_the_criteria_is_removed(run, partly_empty):
    status, out, _ = run("find /e -name none -delete -print")
    assert (status, out) == (0, ["/e/full/none", "/e/a/none"])
    assert sorted(one.name for one in partly_empty.rglob("*")) == [
        *("a", "empty", "full", "link", "one"),
    ]


def test_a_directory_in_which_something_is_left_stays(run, partly_empty):
    status, out, err = run("find e -type d -delete --json")
    *reported, summary = map(json.loads, out)
    gone = [one["path"] for one in reported if one["status"] == "done"]
    assert status == 1 and gone == ["/e/empty"]
    assert (summary["deleted"], summary["failed"], summary["status"]) == (1, 3, 1)
    assert all(f'"path": "/e{path}"' in err for path in ("/full", "/a", ""))
    assert (partly_empty / "full" / "one").read_bytes() == b"1"


def test_the_home_and_the_directory_that_one_is_in_stay(run, partly_empty, files):
    assert run("cd e/a")[0] == 0
    assert run("find . -delete") == (0, [], "")
    assert run("find / -delete -print0")[0] == 0
    assert set(run("find /")[1]) == {"/", "/e", "/e/a"}


def test_a_link_is_removed_and_never_what_it_leads_to(run, partly_empty):
    (partly_empty / "far").symlink_to("full")
    assert run("find e/far e/link -delete")[0] == 0
    assert (partly_empty / "full" / "one").exists() and not (partly_empty / "far").is_symlink()


def test_what_has_changed_since_it_was_found_stays(run, partly_empty, monkeypatch):
    go_on = Removal.run

    def changed_first(removal, removed):
        (partly_empty / "full" / "one").write_bytes(b"1, and more")
        (partly_empty / "link").unlink()
        (partly_empty / "link").symlink_to("elsewhere")
        go_on(removal, removed)

    monkeypatch.setattr(Removal, "run", changed_first)
    status, out, err = run("find e -size +0 -delete -print; find e/link -delete")
    assert (status, out) == (1, [])
    assert err == (
        "ftp: /e/full/one: changed since it was found; not removed\n"
        "ftp: /e/link: changed since it was found; not removed\n"
    )
    assert (partly_empty / "full" / "one").read_bytes() == b"1, and more"
    assert (partly_empty / "link").is_symlink()


def test_thousands_are_removed_without_a_round_trip_for_each(app, run, files, monkeypatch):
    for number in range(1000):
        (files / f"file{number}").touch()
    waits = []
    pump = Connection.pump
    monkeypatch.setattr(Connection, "pump", lambda *what: (waits.append(1), pump(*what))[1])
    assert run("find / -type f -delete") == (0, [], "")
    assert not list(files.glob("file*"))
    assert len(waits) < 500
