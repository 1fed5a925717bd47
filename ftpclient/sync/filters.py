"""What a sync leaves out: gitignore patterns from options and from .ftpignore files.

Lives here: the rules, and which of them decides about a name. Lives elsewhere: reading the files
and walking the trees (plan.py), turning a pattern into a regular expression (pathspec).

As in git, the last pattern of a source that matches decides; the options come before the files,
and a file in a directory before those above it; what is in a directory that is left out is left
out with it. Unlike git, a name is matched as text: `?` stands for one character.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

from ftpwire import paths

IGNORE_FILE = b".ftpignore"
MAX_IGNORE_FILE = 1024 * 1024
"""Bytes of an .ftpignore file that are read: one from a server is not trusted to be short."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """One pattern.

    Attributes:
        excludes: False for one that begins with ``!``.
        only_directories: It ended with a slash.
        whole_path: It has a slash inside: it is about the path, else about the name.
    """

    regex: re.Pattern[str]
    excludes: bool
    only_directories: bool
    whole_path: bool


class Rules:
    """Patterns in order, of one .ftpignore file or of the options.

    Args:
        lines: As in a .gitignore file. Lines that are no patterns are passed over, as git does.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        rules = [rule for line in lines if (rule := _rule(line)) is not None]
        self._last_first = rules[::-1]

    def __bool__(self) -> bool:
        return bool(self._last_first)

    def decide(self, path: str, name: str, is_directory: bool) -> bool | None:
        """Whether ``path``, relative to where the patterns hold, is excluded; None: not said."""
        for rule in self._last_first:
            if rule.only_directories and not is_directory:
                continue
            match = rule.regex.search(path if rule.whole_path else name)
            # pathspec also matches what lies below a directory that the pattern is about, and
            # marks that with a group; here the directory itself was asked about before
            if match is not None and match.lastgroup is None:
                return rule.excludes
        return None


_STARS = re.compile(r"(?<!\\)\*{3,}")
_CLASS = re.compile(r"\[:(\w+):\]")
_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": " \t",
    "digit": "0-9",
    "lower": "a-z",
    "space": " \t\n\r\f\v",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}


def _rule(line: str) -> _Rule | None:
    text = _without_trailing_blanks(line.rstrip("\r\n"))
    bare = text.rstrip("/")
    if not bare or text.startswith("#"):
        return None
    # imported here: most syncs leave nothing out
    from pathspec import GitIgnoreSpec
    from pathspec.pattern import RegexPattern

    # what git reads as well, and pathspec doesn't: [[:alpha:]], and more than two stars
    readable = _CLASS.sub(lambda match: _CLASSES.get(match[1], match[0]), bare)
    readable = _STARS.sub("**", readable)
    if readable.endswith(" ") and not readable.endswith("\\ "):  # before the slash of a directory
        readable = readable.rstrip(" ") + "\\ " * (len(readable) - len(readable.rstrip(" ")))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of re, about a bracket inside brackets
            (pattern,) = GitIgnoreSpec.from_lines([readable]).patterns
    except ValueError:
        return None
    if not isinstance(pattern, RegexPattern) or pattern.regex is None or pattern.include is None:
        return None
    return _Rule(pattern.regex, pattern.include, bare != text, "/" in bare.removeprefix("!"))


def _without_trailing_blanks(text: str) -> str:
    stripped = text.rstrip(" ")
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    if backslashes % 2 and stripped != text:
        return stripped + " "  # the first of them was quoted
    return stripped


def option_rules(patterns: Iterable[tuple[bool, str]]) -> Rules:
    """The rules of ``--exclude`` (True) and ``--include`` (False) options, in their order.

    Raises:
        ValueError: One is no pattern.
    """
    lines = []
    for excludes, pattern in patterns:
        line = "\\" + pattern if pattern.startswith("#") else pattern
        if not excludes:
            line = line[1:] if line.startswith("!") else "!" + line
        if _rule(line) is None:
            raise ValueError(f"{paths.show(pattern)!r} is not a pattern")
        lines.append(line)
    return Rules(lines)


def file_rules(data: bytes) -> Rules:
    """The rules of an .ftpignore file."""
    return Rules(paths.to_text(data.removeprefix(b"\xef\xbb\xbf")).split("\n"))


class Filter:
    """What is left out of one directory.

    Attributes:
        active: Whether anything could be.
    """

    def __init__(self, rules: Rules | None = None) -> None:
        self._levels: tuple[tuple[Rules, str], ...] = ((rules, ""),) if rules else ()
        self._options = len(self._levels)
        self.active = bool(rules)

    def with_rules(self, rules: Rules) -> Filter:
        """The same directory, after its .ftpignore file was read."""
        if not rules:
            return self
        levels = (*self._levels[: self._options], (rules, ""), *self._levels[self._options :])
        return self._with(levels)

    def below(self, name: bytes) -> Filter:
        """That of a directory in this one, before its own .ftpignore file was read."""
        if not self.active:
            return self
        text = _text(name) + "/"
        return self._with(tuple((rules, prefix + text) for rules, prefix in self._levels))

    def _with(self, levels: tuple[tuple[Rules, str], ...]) -> Filter:
        new = Filter()
        new._levels, new._options, new.active = levels, self._options, True
        return new

    def excludes(self, name: bytes, *, is_directory: bool) -> bool:
        """Whether something in this directory is left out."""
        text = _text(name)
        for rules, prefix in self._levels:
            decided = rules.decide(prefix + text, text, is_directory)
            if decided is not None:
                return decided
        return False


def _text(name: bytes) -> str:
    """A name to be matched. A newline becomes NUL, which no name has: ``.`` and ``$`` of regular
    expressions take it for nothing special."""
    return paths.to_text(name).replace("\n", "\0")
