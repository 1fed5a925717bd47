#!/usr/bin/env python3
"""Look for phrasings that the project does without, in what people read.

    .ci/wording.py [FILE...]

Without FILE: all Python modules of the packages, benchmarks and examples, and all Markdown pages.
In modules, docstrings, comments and string literals of several words are looked at. Prints
``FILE:LINE: 'phrase': write …`` for each phrase found; the exit status is 1 if there are any.
The phrases are listed in phrases.toml.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LOOKED_AT = ("ftpclient/**.py", "ftpserver/**.py", "ftpwire/**.py", "benchmarks/**.py",
             "examples/**.py", "*.md")  # fmt: skip


class Text(NamedTuple):
    """A piece of prose, the line where it begins, and whether it is a docstring."""

    line: int
    text: str
    is_docstring: bool = False


class Found(NamedTuple):
    """A phrase that was found, and the advice for it."""

    line: int
    phrase: str
    instead: str


class Phrases:
    """The list of phrases.

    Args:
        path: A TOML file with two tables of pattern and advice, ``openings`` and ``anywhere``.
    """

    def __init__(self, path: Path) -> None:
        tables = tomllib.loads(path.read_text())
        self._openings = [(re.compile(p), a) for p, a in tables["openings"].items()]
        self._anywhere = [
            (re.compile(p.replace(" ", r"\s+")), a) for p, a in tables["anywhere"].items()
        ]

    def find(self, texts: Iterator[Text]) -> Iterator[Found]:
        """All phrases in the texts, in order."""
        for one in texts:
            if one.is_docstring:
                begin = len(one.text) - len(one.text.lstrip())
                for pattern, advice in self._openings:
                    if match := pattern.match(one.text, begin):
                        yield Found(one.line, match[0], advice)
            text = re.sub(r"``[^`]+``|`[^`]+`", _blank, one.text)  # code is no prose
            for pattern, advice in self._anywhere:
                for match in pattern.finditer(text):
                    line = one.line + text.count("\n", 0, match.start())
                    yield Found(line, " ".join(match[0].split()), advice)


def _blank(code: re.Match[str]) -> str:
    return re.sub(r"\S", "`", code[0])


def texts_of_module(source: str) -> Iterator[Text]:
    """Docstrings, comments (those of several lines as one text) and strings of several words."""
    docstrings = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                docstrings.add(node.lineno)
                yield Text(node.lineno, node.value.value, is_docstring=True)
    comment: list[str] = []
    begin = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if comment and line >= begin + len(comment) and token.type != tokenize.NL:
            if token.type != tokenize.COMMENT or line > begin + len(comment):
                yield Text(begin, "\n".join(comment))
                comment = []
        if token.type == tokenize.COMMENT:
            if not comment:
                begin = line
            comment.append(token.string.lstrip("#: "))
        elif token.type == tokenize.STRING and line not in docstrings and " " in token.string:
            yield Text(line, token.string)
    if comment:
        yield Text(begin, "\n".join(comment))


def texts_of_page(source: str) -> Iterator[Text]:
    """The paragraphs of a Markdown page, without blocks of code."""
    paragraph: list[str] = []
    begin, is_code = 1, False
    for number, line in enumerate([*source.splitlines(), ""], 1):
        if line.lstrip().startswith("```"):
            is_code = not is_code
            line = ""
        if is_code or not line.strip():
            if paragraph:
                yield Text(begin, "\n".join(paragraph))
            paragraph = []
        else:
            if not paragraph:
                begin = number
            paragraph.append(line)


def check(path: Path, phrases: Phrases) -> list[Found]:
    """The phrases in a file, by line."""
    source = path.read_text()
    read = texts_of_page if path.suffix == ".md" else texts_of_module
    return sorted(phrases.find(read(source)))


def main(names: list[str]) -> int:
    """Check the files, or all. Returns the exit status."""
    if not names:
        listed = subprocess.run(
            ["git", "ls-files", "-z", *LOOKED_AT], cwd=ROOT, check=True, capture_output=True
        )
        names = [str(ROOT / name) for name in listed.stdout.decode().split("\0") if name]
    phrases = Phrases(Path(__file__).with_name("phrases.toml"))
    count = 0
    for name in names:
        for found in check(Path(name), phrases):
            print(f"{name}:{found.line}: {found.phrase!r}: write {found.instead}")
            count += 1
    if count:
        print(f"{count} phrasings to replace", file=sys.stderr)
    return min(count, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
