"""Words of bash: where the last one of a line begins, and how an offer is written for it."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from ftpwire.completion import last_word, quoted

BREAKS = " \t\n\"'@><=;|&(:"
"""COMP_WORDBREAKS, as bash has it where host names are completed."""


@pytest.mark.parametrize(
    ("line", "begin", "kept"),
    [
        pytest.param("ftp ls ", 7, "", id="nothing"),
        pytest.param("ftp ls /do", 7, "", id="path"),
        pytest.param("ftp ls files:/do", 7, "files:", id="colon"),
        pytest.param("ftp ls al@files", 7, "al", id="at-sign"),
        pytest.param("ftp ls al@files:/d=x", 7, "al@files:/d=", id="equals"),
        pytest.param(r"ftp ls files:a\ b/c", 7, "files:", id="escaped-blank"),
        pytest.param(r"ftp ls a\:b", 7, "", id="escaped-colon"),
        pytest.param('ftp ls "files:a b', 7, "", id="in-quotes"),
        pytest.param("ftp ls files:'a b", 7, "files:", id="quotes-in-the-middle"),
        pytest.param("ftp ls 'x y' z", 13, "", id="quotes-before"),
    ],
)
def test_where_the_last_word_begins(line, begin, kept):
    word = last_word(line)
    assert (word.begin, word.kept(line, BREAKS)) == (begin, kept)


WORDS = ["plain", "a b", "it's", 'say "x"', "$HOME `id` \\", "a;b|c&d", "*?[x]", "~x", "é", "#c"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_bash_reads_an_offer_as_it_is_meant(quote):
    words = [*WORDS, "tab\there", "two\nlines", "byte\udcff"]
    line = " ".join(f"x{quote}{quoted(one, quote)}{_closing(one, quote)}" for one in words)
    script = f"printf '%s\\0' {line}".encode("utf-8", "surrogateescape")
    out = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    read = out.decode("utf-8", "surrogateescape").split("\0")[:-1]
    assert read == [f"x{one}" for one in words]


def _closing(text: str, quote: str) -> str:
    return quote if text.isprintable() else ""  # the others are in quotes of their own
