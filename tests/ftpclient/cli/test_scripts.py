"""Lines that were written beforehand: -c, batch, source, and what they end with."""

from __future__ import annotations

import json
import os

import pytest

from ftpclient.shell.running import run_line


@pytest.fixture
def at(user):
    """Alice at a command line; her remote files."""
    user.run("mkdir", "-p", "/docs/tmp")
    (user.on_server / "docs" / "few").write_text("3\n1\n2\n")
    return user


def script(user, text: str, name: str = "lines.ftp") -> str:
    (user.home / name).write_text(text)
    return name


# -c -----------------------------------------------------------------------------------------


def test_lines_as_options(at):
    assert at.run("-c", "cd docs; ls", "-c", "pwd").text == "few\ntmp/\n/docs\n"
    assert at.run("-c", "ls nope; pwd").text == "/\n"
    assert at.run("-c", "pwd\ncd docs; pwd").text == "/\n/docs\n"
    assert at.run("-c", "").text == ""


STATUSES = [
    (["ls nope", "pwd"], 5, ""),
    (["-ls nope", "pwd"], 0, "/\n"),
    (["pwd", "ls <"], 2, "/\n"),
    (["pwd; exit 7; pwd", "pwd"], 7, "/\n"),
    (["exit", "pwd"], 0, ""),
    (["ls nope || exit 3"], 3, ""),
    (["login"], 2, ""),
    (["pwd", "ls 'a", "b'; pwd"], 2, "/\n"),
    (["pwd \\", "; pwd"], 2, ""),
]


def test_statuses_of_lines(at):
    for lines, status, text in STATUSES:
        options = [word for line in lines for word in ("-c", line)]
        assert at.run(*options, status=status).text == text


def test_standard_input_is_free_for_data(at):
    """As none of the lines comes from there."""
    at.run("-c", "put - typed && cat typed > here", given=b"data")
    assert (at.on_server / "typed").read_bytes() == (at.home / "here").read_bytes() == b"data"
    assert at.run("-c", "!cat", given=b"data").text  # the local command reads it
    name = script(at, "put - again")
    at.run("batch", name, given=b"data")
    assert (at.on_server / "again").read_bytes() == b"data"


def test_a_mistake_needs_no_server(at):
    nobody = at.at("127.0.0.1:1")
    assert nobody.run("-c", "rm x <", status=2).complaint == (
        "ftp: '<' has no meaning here: quote it, or use ! (column 6)"
    )
    assert nobody.run("-c", "lpwd > /dev/null", "-c", "!true")
    assert nobody.run("batch", "--check", script(at, "ls\n")).text == ""


def test_lines_and_a_command(at):
    script(at, "pwd\n")
    for words in ("-c pwd pwd", "-b lines.ftp pwd", "-c pwd -b lines.ftp"):
        done = at.run(*words.split(), status=2)
        complaint = "ftp: -c, -b and a command cannot be used together (see ftp --help)"
        assert (done.text, done.complaint) == ("", complaint)


def test_no_command(at):
    assert at.run("-q", status=2).complaint == "ftp: missing command (see ftp --help)"


# batch --------------------------------------------------------------------------------------

LINES = """\
# it's a comment
pwd

ls 'no
pe'; ls \\
  nope
pwd
"""


def test_complaints_have_the_line(at):
    for words in (["batch"], ["-b"], ["-f"]):
        done = at.run(*words, script(at, LINES), status=5)
        assert done.text == "/\n"
        assert done.err.splitlines() == [
            "lines.ftp:4: /no\\npe: no such file or directory",
            "lines.ftp:5: /nope: no such file or directory",
        ]


def test_standard_input_as_a_batch(at):
    done = at.run("batch", "-", given=LINES.encode(), status=5)
    assert done.text == "/\n"
    assert done.err.startswith("-:4: ")
    done = at.run("connect", given=LINES.encode(), status=5)
    assert done.text == "/\n"
    assert done.err.startswith("ftp: /no")


def test_complaints_in_json_have_the_line(at):
    done = at.run("--json", "batch", script(at, "\n-ls nope\nls <\n"), status=2)
    assert [json.loads(line) for line in done.err.splitlines()] == [
        {"error": "not-found", "message": "/nope: no such file or directory", "path": "/nope"}
        | {"exit": 5, "line": 2},
        {"error": "usage", "path": None, "exit": 2, "line": 3}
        | {"message": "'<' has no meaning here: quote it, or use ! (column 4)"},
    ]


KEEP_GOING = [
    ("ls nope\nls <\nfrob\npwd\n", 1, "/\n"),
    ("-ls nope\npwd\n", 0, "/\n"),
    ("ls nope\nexit\npwd\n", 1, ""),
    ("ls nope\nexit 4\npwd\n", 4, ""),
    ("pwd\n!exit 130\npwd\n", 130, "/\n"),
]


def test_keep_going(at):
    for text, status, printed in KEEP_GOING:
        assert at.run("batch", "--keep-going", script(at, text), status=status).text == printed


def test_check_reports_all_mistakes_and_runs_nothing(at):
    text = "rm -r docs\nls <\nedit 'a\nb' &\nfrob\n-cat `x`\n!anything (\nls | cat\nedit x | cat\n'"
    done = at.run("batch", "--check", script(at, text), status=2)
    assert done.text == ""
    assert done.err.splitlines() == [
        "lines.ftp:2: '<' has no meaning here: quote it, or use ! (column 4)",
        "lines.ftp:3: edit needs the terminal: it cannot be a job",
        "lines.ftp:5: unknown command 'frob' (help lists all)",
        "lines.ftp:6: '`' has no meaning here: quote it, or use ! (column 6)",
        "lines.ftp:9: edit cannot be used before '|': it needs the terminal",
        "lines.ftp:10: unclosed quote: ' (column 1)",
    ]
    assert (at.on_server / "docs" / "few").exists()
    many = "".join(f"ls <{number}\n" for number in range(20))
    done = at.run("batch", "--check", script(at, many), status=2)
    assert len(done.err.splitlines()) == 20


def test_files_from_windows(at):
    (at.home / "lines.ftp").write_bytes(b"\xef\xbb\xbfcd \\\r\n docs\r\nls | sort\r\npwd > x\r\n")
    assert at.run("batch", "lines.ftp").text == "few\ntmp/\n"
    assert "x" in os.listdir(at.home)


def test_a_batch_that_isn_t_there(at):
    assert at.run("batch", "nope", status=5).complaint == "ftp: nope: no such file or directory"


# source -------------------------------------------------------------------------------------


def test_source(at):
    script(at, "cd docs\nls nope\npwd\n", "inner")
    done = at.run("-c", "source inner || pwd; pwd")
    assert done.text == "/docs\n/docs\n"
    done = at.run("batch", script(at, "\nsource inner\npwd\n"), status=5)
    assert done.complaint == "inner:2: /docs/nope: no such file or directory"
    assert at.run("-c", "source inner > out", status=5).text == ""
    script(at, "pwd\nexit 3\npwd\n", "leaving")
    assert at.run("-c", "source leaving; pwd", status=3).text == "/\n"
    assert at.run("-c", "source nope", status=5).complaint == "ftp: nope: no such file or directory"


def test_output_of_a_source(at):
    script(at, "pwd\nls | cat > other\nls docs > third\n", "inner")
    assert at.run("-c", "source inner > out; source inner | wc -l").text.strip() == "1"
    assert (at.home / "out").read_text() == "/\n"
    assert (at.home / "third").read_text() == "few\ntmp/\n"


def test_source_is_not_too_deep(at):
    for number in range(1, 9):
        script(at, f"pwd\nsource {number + 1}\n", str(number))
    script(at, "whoami\n", "9")
    done = at.run("-c", "source 1", status=2)
    assert done.text == "/\n" * 8
    assert done.complaint == "8:2: source: nested more than 8 levels deep"
    assert at.run("-c", "source 2").text == "/\n" * 7 + "alice\n"


def test_source_at_a_prompt(app, local, run):
    """The shell goes on as before, also when it fails."""
    (local / "lines").write_text("mkdir a\ncd a\nls nope\npwd\n")
    assert run("source lines") == (5, "", "lines:3: /a/nope: no such file or directory\n")
    assert not app.shell.batch
    assert app.shell.where is None
    assert run("pwd; ls <") == (
        2,
        "",
        "ftp: '<' has no meaning here: quote it, or use ! (column 9)\n",
    )
    assert run("pwd") == (0, "/a\n", "")


def test_leaving_with_a_status(app):
    assert run_line(app, "exit 300") == 2
    assert not app.shell.leaving
    assert run_line(app, "pwd; exit 3; rm x") == 3
    assert app.shell.leaving
    assert app.shell.status == 3
