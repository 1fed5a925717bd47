"""Lines as trees: the grammar, against another implementation of it.

`Reference` was written from this alone, and shares no code with the shell:

    LINE    = BLANKS ["-"] BLANKS ("!" REST | [LIST]) [COMMENT]
    LIST    = ANDOR {(";" | "&") ANDOR} [";" | "&"]
    ANDOR   = PIPE {("&&" | "||") PIPE}
    PIPE    = COMMAND [(">" | ">>") FILE] | COMMAND "|" LOCAL
    COMMAND = WORD {WORD}        the first one doesn't begin with - or an unquoted !
    WORD    = (ORDINARY | "\\" ANY | "'" … "'" | '"' … '"' | "$'" … "'")+
    FILE    = WORD               not empty, without a colon before it or an unquoted * ? [
    COMMENT = "#" …              where a word could begin

ORDINARY is none of ``;&|<>()` ``, blanks and quotes, and no $ before a parenthesis. A WORD of
digits only does not stand directly before ">". LOCAL reaches to the first unquoted ";", "&" or
"||", which isn't between parentheses, or to a COMMENT; of what is in double quotes there, $( and
${ are closed. "&&" is never two "&".
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from hypothesis import event, example, given
from hypothesis import strategies as st

from ftpclient.cli import main
from ftpclient.cli.app import App
from ftpclient.cli.quoting import quote
from ftpclient.shell import background, grammar
from ftpclient.shell.grammar import AndOr, Line, Pipe, Redirect, parse
from ftpclient.shell.lexer import Mistake, Operator, Word
from ftpclient.shell.running import run_line

QUOTED = r"""\\[\s\S]|'[^']*'|"(?:\\[\s\S]|[^"\\])*"|\$'(?:\\[\s\S]|[^'\\])*'"""
WORD = re.compile(rf"""(?!#)(?:{QUOTED}|\$(?![('])|[^ \t\r;&|<>()`'"\\$])+""")
BLANKS = re.compile(r"[ \t\r]*")
LOCAL_PIECE = re.compile(rf"""{QUOTED}|[^'"\\]""")


class Wrong(Exception):
    """No line of the grammar."""


class Reference:
    """Takes a line apart from left to right, by regular expressions."""

    def __init__(self, line: str) -> None:
        self.line = line
        self.at = 0

    def parse(self) -> object:
        self.blanks()
        if self.line[self.at : self.at + 1] == "-" and self.line[self.at + 1 : self.at + 2] != "-":
            self.at += 1
            self.blanks()
        if self.sees("!"):
            return "!", self.line[self.at + 1 :].strip()
        found = []
        while not self.done():
            found.append(self.and_or())
            if self.done():
                break
            if self.sees("&"):
                found[-1].append("&")
            elif not self.sees(";"):
                raise Wrong
            self.at += 1
        return found

    def and_or(self) -> list:
        found: list = [self.pipe()]
        while self.sees("&&") or self.sees("||"):
            found.append(self.line[self.at : self.at + 2])
            self.at += 2
            self.blanks()
            found.append(self.pipe())
        return found

    def pipe(self) -> tuple:
        if self.sees("!"):
            raise Wrong
        words = []
        while (word := self.word()) is not None:
            words.append(word)
        if not words or words[0].startswith("-"):
            raise Wrong
        if self.sees("|") and not self.sees("||"):
            self.at += 1
            return words, "|", self.local()
        if self.sees(">"):
            sign = ">>" if self.sees(">>") else ">"
            self.at += len(sign)
            begin = self.skip_blanks(self.at)
            file = self.word()
            if not file or file.startswith(":"):
                raise Wrong
            bare = re.sub(QUOTED, "", self.line[begin : self.at])
            if re.search(r"[*?[]", bare):
                raise Wrong
            self.blanks()
            return words, sign, file
        return words, "", ""

    def word(self) -> str | None:
        self.blanks()
        match = WORD.match(self.line, self.at)
        if match is None:
            return None
        if match[0].isdecimal() and self.line[match.end() : match.end() + 1] == ">":
            raise Wrong
        self.at = match.end()
        return re.sub(rf"{QUOTED}|[\s\S]", lambda piece: unquoted(piece[0]), match[0])

    def local(self) -> str:
        begin, depth, inside = self.at, 0, False
        while self.at < len(self.line) and (inside or not self.sees("#")):
            if self.line[self.at] in ";&" or self.sees("||"):
                if depth > 0 or self.line[self.at - 1 : self.at + 1] == ">&":
                    raise Wrong
                break
            piece = LOCAL_PIECE.match(self.line, self.at)
            if piece is None:
                raise Wrong
            if piece[0][0] == '"':
                check_closed(piece[0])
            depth += (piece[0] == "(") - (piece[0] == ")")
            inside = piece[0] not in tuple(" \t\r|<>()`")
            self.at = piece.end()
        text = self.line[begin : self.at].strip()
        if not text:
            raise Wrong
        return text

    def done(self) -> bool:
        self.blanks()
        return self.at == len(self.line) or self.sees("#")

    def sees(self, text: str) -> bool:
        return self.line.startswith(text, self.at)

    def blanks(self) -> None:
        self.at = self.skip_blanks(self.at)

    def skip_blanks(self, at: int) -> int:
        match = BLANKS.match(self.line, at)
        assert match is not None
        return match.end()


def check_closed(text: str) -> None:
    if text.count("$(") > text.count(")") or text.count("${") > text.count("}"):
        raise Wrong
    if re.sub(r"\\`", "", text).count("`") % 2:
        raise Wrong


CODES = re.compile(r"\\(?:x([0-9a-f]{0,2})|([0-7]{1,3})|([\s\S]))")


def coded(match: re.Match[str]) -> str:
    """What stands for something else in $'…'."""
    digits = match[1] if match[1] is not None else match[2]
    if digits is None:
        known = dict(zip("nrtabefv", "\n\r\t\a\b\x1b\f\v", strict=True))
        return known.get(match[3], match[3] if match[3] in "\\'\"?" else match[0])
    number = int(digits or "0", 16 if match[2] is None else 8)
    if not number:
        raise Wrong  # a NUL character
    return chr(number) if number < 0x80 else chr(0xDC00 + number)


def unquoted(piece: str) -> str:
    """What a piece of a word says."""
    if piece.startswith("$'") and len(piece) > 2:
        return re.sub(CODES, coded, piece[2:-1])
    if piece.startswith("'") and len(piece) > 1:
        return piece[1:-1]
    if piece.startswith('"') and len(piece) > 1:
        return re.sub(r'\\(["\\$`])', r"\1", piece[1:-1])
    return piece[1:] if piece.startswith("\\") else piece


def plain(line: Line) -> object:
    """A tree as the reference has it."""
    if line.local is not None:
        return "!", line.local
    return [
        [part for step in (("", item.first), *item.rest) for part in pair(*step)]
        + ["&"] * item.is_job
        for item in line.items
    ]


def pair(operator: str, pipe: Pipe) -> list:
    words = [word.text for word in pipe.words]
    shown: tuple = (words, "", "")
    if pipe.local is not None:
        shown = (words, "|", pipe.local)
    elif pipe.redirect is not None:
        shown = (words, ">>" if pipe.redirect.append else ">", pipe.redirect.file)
    return [str(operator), shown] if operator else [shown]


def expected(text: str) -> object:
    """What the reference says; None of what is no line."""
    try:
        return Reference(text).parse()
    except Wrong:
        return None


def found(text: str) -> object:
    try:
        return plain(parse(text))
    except Mistake:
        return None


pieces = st.sampled_from(
    ["ls", "rm", "x", "a b", "2", "*", ":y", "--", "-", "!", "#", "$", "$(", "${", "}", "`"]
    + [";", ";", "&&", "||", "|", ">", ">>", "&", "&", "<", "(", ")"]
    + ["'", '"', "$'", "\\", "'a;b'", '"a;b"', "\\;", "$'\\n'", " ", " ", " ", "\t"]
)


@given(st.lists(pieces, max_size=14).map("".join))
@example('cat f | grep "$(echo "x; rm y")"')
@example("cat f | (a; b)")
@example("ls > 'a'2>b")
@example("ls | x>#c; y")
@example("ls | \\;#c")
@example("- !ls 'a")
def test_random_lines(text):
    meant = expected(text)
    event("no line" if meant is None else "a line")
    assert found(text) == meant


words = st.sampled_from(["ls", "rm -r", "cd x", "pwd 'a;b'", "cat f > out", "cat f | wc -l"])


@given(
    words, st.lists(st.tuples(st.sampled_from(["; ", ";", "&&", " || ", " & "]), words), max_size=5)
)
def test_lines_without_mistakes(first, rest):
    """Of random pieces few are lines."""
    text = first + "".join(operator + command for operator, command in rest)
    assert expected(text) is not None
    assert found(text) == expected(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("", Line(), id="nothing"),
        pytest.param(" # ; it's", Line(), id="comment"),
        pytest.param(" -  # ; it's", Line(), id="forgiven-nothing"),
        pytest.param("!a; b # c", Line(local="a; b # c"), id="local"),
        pytest.param("!", Line(local=""), id="local-shell"),
        pytest.param(
            "ls | a > b | 'c;d' ; x",
            Line(
                (
                    AndOr(Pipe((Word("ls", "ls"),), local="a > b | 'c;d'")),
                    AndOr(Pipe((Word("x", "x"),))),
                )
            ),
            id="pipe",
        ),
        pytest.param(
            "a&&b||c>>d;",
            Line(
                (
                    AndOr(
                        Pipe((Word("a", "a"),)),
                        (
                            (Operator.AND, Pipe((Word("b", "b"),))),
                            (Operator.OR, Pipe((Word("c", "c"),), Redirect("d", True))),
                        ),
                    ),
                )
            ),
            id="and-or",
        ),
    ],
)
def test_trees(text, line):
    assert parse(text) == line


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("put x &", [("put x", True)]),
        ("- put x & # no", [("put x", True)]),
        ("ls; put 'a & b' && rm c&", [("ls", False), ("put 'a & b' && rm c", True)]),
        ("rm c&get d", [("rm c", True), ("get d", False)]),
        ("cat f | wc -l > n & ls", [("cat f | wc -l > n", True), ("ls", False)]),
        ("cat f >> 'n' &", [("cat f >> 'n'", True)]),
        ("get R\\&B &", [("get R\\&B", True)]),
    ],
)
def test_jobs(text, parts):
    assert [(item.text, item.is_job) for item in parse(text).items] == parts


MEANINGLESS = "has no meaning here: quote it, or use !"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("cat < x", f"'<' {MEANINGLESS} (column 5)", id="less"),
        pytest.param("cat x 2>y", f"'2>' {MEANINGLESS} (column 7)", id="descriptor"),
        pytest.param("cat x &> y", f"'&>' {MEANINGLESS} (column 7)", id="both"),
        pytest.param("cat x>& y", f"'>&' {MEANINGLESS} (column 6)", id="to-descriptor"),
        pytest.param("cat x>| y", f"'>|' {MEANINGLESS} (column 6)", id="clobber"),
        pytest.param("cat `x`", f"'`' {MEANINGLESS} (column 5)", id="backtick"),
        pytest.param("cat a$(x)", f"'$(' {MEANINGLESS} (column 6)", id="substitution"),
        pytest.param("(ls)", f"'(' {MEANINGLESS} (column 1)", id="subshell"),
        pytest.param("ls x)", f"')' {MEANINGLESS} (column 5)", id="parenthesis"),
        pytest.param("& ls", "a command is missing before '&' (column 1)", id="before-&"),
        pytest.param("ls & ; ls", "a command is missing before ';' (column 6)", id="after-&"),
        pytest.param("ls & && ls", "a command is missing before '&&' (column 6)", id="&-&&"),
        pytest.param("; ls", "a command is missing before ';' (column 1)", id="before"),
        pytest.param("ls;; ls", "a command is missing before ';' (column 4)", id="between"),
        pytest.param("ls && # x", "a command is missing after '&&' (column 4)", id="after"),
        pytest.param("ls |", "a local command is missing after '|' (column 4)", id="no-local"),
        pytest.param("ls | ;", "a local command is missing after '|' (column 4)", id="no-local-;"),
        pytest.param(
            "ls >", "the name of a local file is missing after '>' (column 4)", id="no-file"
        ),
        pytest.param(
            "ls >> ''", "the name of a local file is missing after '>>' (column 4)", id="empty-file"
        ),
        pytest.param(
            "ls > :x",
            "'>' writes a local file (ftp put - x uploads from a pipe) (column 6)",
            id="remote-file",
        ),
        pytest.param(
            "ls > *", "'>' needs the name of one file: quote the pattern (column 6)", id="pattern"
        ),
        pytest.param(
            "ls > a b",
            "arguments cannot follow a redirection (column 8)",
            id="behind-the-file",
        ),
        pytest.param("ls > a > b", "'>' cannot follow a redirection (column 8)", id="twice"),
        pytest.param(
            "ls; -rm x", "options come after the command, e.g. ls --json (column 5)", id="option"
        ),
        pytest.param(
            "ls; !pwd",
            "'!' is only allowed at the beginning of a line (column 5)",
            id="local-inside",
        ),
        pytest.param(
            "cat x | wc 2>&1",
            "'>&' has no meaning here: quote the local command: sh -c '…' (column 13)",
            id="descriptor-of-local",
        ),
        pytest.param(
            "cat x | (a; b)",
            "';' would end the local command: quote it: sh -c '…' (column 11)",
            id="inside-of-local",
        ),
        pytest.param(
            'cat x | a "$(b "c;d")"',
            "nested quotes in $(…): quote the local command: sh -c '…' (column 11)",
            id="quotes-inside",
        ),
        pytest.param("put 'a\nb' <", f"'<' {MEANINGLESS} (line 2, column 4)", id="second-line"),
        pytest.param("ls\npwd", "only one line is allowed here (column 3)", id="two-lines"),
    ],
)
def test_mistakes(text, complaint):
    with pytest.raises(Mistake) as caught:
        parse(text)
    assert str(caught.value) == complaint


def test_the_document_has_the_grammar():
    text = (Path(__file__).parents[3] / "docs" / "shell.md").read_text()
    written = text.partition("<!-- grammar -->\n```text\n")[2].partition("```")[0]
    assert grammar.__doc__ is not None
    assert textwrap.indent(written, "    ") in grammar.__doc__
    blocks = re.findall(r"\n```text\n(.*?)```", text, re.DOTALL)
    lines = [line for block in blocks if block != written for line in block.splitlines()]
    assert len(lines) > 4
    for line in lines:
        assert found(line) is not None


# what runs ----------------------------------------------------------------------------------


def outcome(tree: object, status_of) -> tuple[list[str], int]:
    """What the reference runs, and the last status."""
    ran, status = [], 0
    assert isinstance(tree, list)
    for item in tree:
        skip = False
        for part in item:
            if isinstance(part, str):
                skip = (status != 0) if part == "&&" else (status == 0)
            elif not skip:
                ran.append(part[0][0])
                status = status_of(part[0][0])
    return ran, status


names = st.sampled_from(["a", "b", "c", "d"])


def no_job(item: AndOr) -> int:
    raise AssertionError(item)


@given(
    names,
    st.lists(st.tuples(st.sampled_from([";", "&&", "||"]), names), max_size=6),
    st.fixed_dictionaries({name: st.sampled_from([0, 1, 5]) for name in "abcd"}),
)
def test_the_order_of_what_runs(first, rest, statuses):
    text = first + "".join(operator + command for operator, command in rest)
    ran = []

    def run_pipe(pipe: Pipe) -> int:
        ran.append(pipe.name)
        return statuses[pipe.name]

    status = grammar.run(parse(text).items, run_pipe, no_job, lambda status: False)
    assert (ran, status) == outcome(expected(text), statuses.__getitem__)


@pytest.mark.parametrize(
    ("text", "ran"), [("a; b; c", "ab"), ("a || b || c", "ab"), ("b && a", "b"), ("a; a", "aa")]
)
def test_what_ends_a_line(text, ran):
    done = []
    status = {"a": 1, "b": 130, "c": 0}

    def run_pipe(pipe: Pipe) -> int:
        done.append(pipe.name)
        return status[pipe.name]

    grammar.run(parse(text).items, run_pipe, no_job, lambda status: status == 130)
    assert "".join(done) == ran


def test_jobs_are_started_in_their_turn():
    done = []

    def run_pipe(pipe: Pipe) -> int:
        done.append(pipe.name)
        return 5

    def start_job(item: AndOr) -> int:
        done.append(item.text)
        return 2 if item.first.name == "bad" else 0

    def run(text: str) -> int:
        return grammar.run(parse(text).items, run_pipe, start_job, lambda status: False)

    assert run("a; b && c & d && e") == 5
    assert done == ["a", "b && c", "d"]
    assert run("a; bad &") == 2
    assert run("a & b &") == 0


known = st.sampled_from(
    ["rm x", "ls", "pwd", "cd /", "exit", "less f", "frobnicate", "-x", "!ls", "'rm'"]
    + [";", "&&", "||", "|", ">", "<", "&", "(", "'", "\\", "file", ":f", "#"]
)


@given(st.lists(known, max_size=9).map(" ".join))
@example("rm x ; frobnicate")
@example("rm x && less f > file")
@example("rm x ; cat 'f")
@example("rm x &")
@example("ls && pwd &")
def test_a_rejected_line_runs_nothing(text):
    """A spy in the place of all commands, and of local programs."""
    ran: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "run", lambda app, words, prog_name: ran.append(words[0]) or 0)
        for name in ("run_program", "_run_into_local", "_run_into_file"):
            patch.setattr(f"ftpclient.shell.running.{name}", lambda *_, name=name, **__: spy(name))

        def spy(name: str) -> int:
            ran.append(name)
            return 0

        patch.setattr(background, "start", lambda *_, **__: ran.append("a job"))
        app = App(interactive=True)
        try:
            status = run_line(app, text)
        finally:
            app.interrupt.close()
    tree = expected(text)
    event("no line" if tree is None else "a line")
    unknown = tree is None or (
        isinstance(tree, list)
        and any(
            part[0][0] not in ("rm", "ls", "pwd", "cd", "exit", "less")
            or (part[1] and part[0][0] in ("cd", "exit", "less"))
            or (item[-1] == "&" and part[0][0] not in ("rm", "ls"))
            for item in tree
            for part in item
            if not isinstance(part, str)
        )
    )
    if unknown:
        assert ran == []
        assert status == (0 if text.startswith("-") else 2)
    else:
        assert status == 0
        assert ran or tree == []


@given(st.lists(st.text(st.sampled_from("ab;&|<>()`#!$'\"\\ *-\n"), min_size=1), min_size=1))
def test_words_are_read_back(given_words):
    line = parse("x " + " ".join(quote(word) for word in given_words))
    (pipe,) = line.pipes
    assert [word.text for word in pipe.words[1:]] == given_words
