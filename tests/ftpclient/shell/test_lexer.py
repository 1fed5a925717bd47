"""Lines as words: quotes, patterns, and what is still being typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpclient.cli.app import UsageError
from ftpclient.cli.quoting import Quote, quote
from ftpclient.shell.lexer import Word, goes_on, split_typed, tokens, whole_lines


def split(line: str) -> list[Word]:
    """The words of a line behind a command."""
    command, *words = [token.what for token in tokens("x " + line)]
    assert command == Word("x", "x")
    return words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        pytest.param("", [], id="nothing"),
        pytest.param(" \t ls \t -l\r", ["ls", "-l"], id="blanks"),
        pytest.param(r"get my\ file", ["get", "my file"], id="backslash"),
        pytest.param(r"'a b' 'c\d'", ["a b", r"c\d"], id="single"),
        pytest.param(r'"a b" "c\"d\\e\$f\`" "g\h"', ["a b", 'c"d\\e$f`', r"g\h"], id="double"),
        pytest.param("a'b c'\"d e\"f", ["ab cd ef"], id="quotes-inside-a-word"),
        pytest.param("rm ''", ["rm", ""], id="empty"),
        pytest.param("'it'\\''s'", ["it's"], id="apostrophe"),
        pytest.param(
            "ls a# \\#b $HOME $ #c", ["ls", "a#", "#b", "$HOME", "$"], id="nothing-is-expanded"
        ),
        pytest.param(r"$'a\n\t\e\\\'\"\?\q'", ["a\n\t\x1b\\'\"?\\q"], id="coded-names"),
        pytest.param(r"$'\xff\xe9z\x4' $'\101\7\1019'", ["\udcff\udce9z\x04", "A\aA9"], id="bytes"),
        pytest.param(r"$'\u20ac\U0001f600\ud800\UFFFFFFFF'", ["€😀\ufffd\ufffd"], id="characters"),
        pytest.param("cd ~/x ~", ["cd", "~/x", "~"], id="tilde"),
        pytest.param(r"""put \~ '~x' a~""", ["put", "./~", "./~x", "a~"], id="quoted-tilde"),
        pytest.param("'a\nb'", ["a\nb"], id="newline-in-quotes"),
    ],
)
def test_split(line, words):
    assert [word.text for word in split(line)] == words


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        pytest.param("a*?[b]", "a*?[b]", id="plain"),
        pytest.param("'a*?[b]'", "a[*][?][[]b]", id="quoted"),
        pytest.param(r"\**", "[*]*", id="escaped"),
        pytest.param("\"a*\"'b?'c*", "a[*]b[?]c*", id="mixed"),
        pytest.param(r"$'\*\x3f'", r"\[*][?]", id="coded"),
    ],
)
def test_quoted_patterns_match_themselves_only(line, pattern):
    (word,) = split(line)
    assert word.pattern == pattern


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        pytest.param("ls 'a", "unclosed quote: ' (column 4)", id="single"),
        pytest.param('ls "a\\"', 'unclosed quote: " (column 4)', id="double"),
        pytest.param("ls b$'a", "unclosed quote: $' (column 5)", id="coded"),
        pytest.param("ls a\\", "nothing follows the final backslash (column 5)", id="backslash"),
        pytest.param("ls a\0", "a NUL character cannot be part of a command (column 4)", id="nul"),
        pytest.param(
            r"ls $'\0'", "a NUL character cannot be part of a command (column 4)", id="coded-nul"
        ),
    ],
)
def test_what_is_no_line(line, complaint):
    with pytest.raises(UsageError) as caught:
        tokens(line)
    assert str(caught.value) == complaint


names = st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"\0", b"?")) | st.text(
    st.sampled_from("ab'\"\\$ *?[~\n\t\x1b€é#!-;&|<>()`2"), min_size=1, max_size=8
).map(str.encode)


@given(names, st.sampled_from(Quote), st.booleans())
def test_what_is_quoted_is_read_back(name, style, first):
    text = name.decode("utf-8", "surrogateescape")
    line = style + quote(text, style, first=first)
    if text.startswith("~") and (first or line[0] != "~"):
        text = "./" + text
    (word,) = split(line)
    assert word.text == text
    assert word.pattern == "".join(f"[{c}]" if c in "*?[" else c for c in text)


@given(names, st.sampled_from([Quote.SINGLE, Quote.DOUBLE, Quote.CODED]))
def test_open_quotes_can_be_typed_into(name, style):
    text = "a" + name.decode("utf-8", "surrogateescape")
    typed = split_typed(style + quote(text, style, close=False))
    assert typed.directory + typed.name == text


@given(st.text(st.sampled_from("ab/ '\"\\$~xn"), max_size=20))
def test_whatever_is_typed_has_a_last_word(text):
    typed = split_typed(text)
    assert 0 <= typed.start <= len(text)
    assert typed.words == split_typed(text + "z").words


@pytest.mark.parametrize(
    ("text", "words", "directory", "name", "start", "style"),
    [
        pytest.param("", [], "", "", 0, Quote.NONE, id="nothing"),
        pytest.param("ls ", ["ls"], "", "", 3, Quote.NONE, id="next-word"),
        pytest.param("ls a/b", ["ls"], "a/", "b", 5, Quote.NONE, id="below"),
        pytest.param(r"ls my\ d/f", ["ls"], "my d/", "f", 9, Quote.NONE, id="escaped"),
        pytest.param("ls 'my d/f", ["ls"], "my d/", "f", 9, Quote.SINGLE, id="open-quote"),
        pytest.param("ls 'my d/'f", ["ls"], "my d/", "f", 10, Quote.NONE, id="closed-quote"),
        pytest.param('ls d/"f g', ["ls"], "d/", "f g", 6, Quote.DOUBLE, id="quote-after-slash"),
        pytest.param('ls f" g', ["ls"], "", "f g", 3, Quote.NONE, id="quote-inside-the-name"),
        pytest.param("ls '", ["ls"], "", "", 4, Quote.SINGLE, id="only-a-quote"),
        pytest.param(r"ls $'d\n/f", ["ls"], "d\n/", "f", 9, Quote.CODED, id="coded"),
        pytest.param("ls a\\", ["ls"], "", "a", 3, Quote.NONE, id="backslash-at-the-end"),
    ],
)
def test_split_typed(text, words, directory, name, start, style):
    typed = split_typed(text)
    assert [word.text for word in typed.words] == words
    assert (typed.directory, typed.name, typed.start) == (directory, name, start)
    assert typed.quote is style


@pytest.mark.parametrize(
    ("text", "more"),
    [
        pytest.param("ls 'a", True, id="single"),
        pytest.param('ls "a', True, id="double"),
        pytest.param("ls $'a\\'", True, id="coded"),
        pytest.param("ls \\", True, id="backslash"),
        pytest.param("ls | grep 'a", True, id="local"),
        pytest.param("ls a", False, id="finished"),
        pytest.param("ls \\\\", False, id="escaped-backslash"),
        pytest.param("ls # it's", False, id="comment"),
        pytest.param("# it's \\", False, id="comment-line"),
        pytest.param("!echo it's", False, id="whole-rest"),
        pytest.param("ls < 'a", False, id="wrong-already"),
        pytest.param("ls\nls 'a", True, id="only-the-last"),
        pytest.param("ls 'a\nb'", False, id="closed-in-the-second"),
        pytest.param("!echo it's\nls", False, id="after-a-local-one"),
    ],
)
def test_where_a_line_goes_on(text, more):
    assert goes_on(text) is more


def test_lines_are_put_together_with_their_numbers():
    parts = ["ls", "put 'a", "b' \\", "c", "# it's", "!echo it's", "", "cat 'x"]
    assert list(whole_lines(parts)) == [
        (1, "ls"),
        (2, "put 'a\nb' \\\nc"),
        (5, "# it's"),
        (6, "!echo it's"),
        (7, ""),
        (8, "cat 'x"),
    ]
    assert list(whole_lines(["ls < 'a", "rm x", "' \\"])) == [(1, "ls < 'a\nrm x\n' \\")]
    assert [word.text for word in split(" 'a\nb' \\\nc \"d\\\ne\"")] == ["a\nb", "c", "de"]


@given(st.text(st.sampled_from("ab'\"\\ \n$#!;|"), max_size=20))
def test_putting_lines_together_loses_nothing(text):
    found = list(whole_lines(text.split("\n")))
    assert "\n".join(line for _, line in found) == text
    for number, line in found:
        assert text.split("\n")[number - 1] == line.split("\n")[0]


def test_a_word_is_its_text_and_its_pattern():
    assert split("'a'") == [Word("a", "a")]
