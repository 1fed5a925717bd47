"""gitignore patterns, from options and from .ftpignore files.

Lives here: the rules, and which of them decides about a name. Lives elsewhere: what is left out of
a tree (selection.py), reading the files (sync/local_reader.py, sync/remote_reader.py).

As in git, the last pattern of a source that matches decides; the options come before the files,
and a file in a directory before those above it; what is in a directory that is left out is left
out with it. Unlike git, a name is matched as text: `?` stands for one character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import msgspec

from ftpwire import paths
from ftpwire.errors import CommandError

IGNORE_FILE = b".ftpignore"
MAX_IGNORE_FILE = 64 * 1024
"""Bytes of an .ftpignore file that are read: one from a server is not trusted to be short."""
MAX_PATTERNS = 1000
"""Patterns of an .ftpignore file, each of which is compared with each name."""
_LONGEST_NAME = 255
"""A pattern that stands for more characters matches no name."""
_CHECK_EACH = 16


class _Rule(msgspec.Struct, frozen=True):
    """One pattern.

    Attributes:
        excludes: False for one that begins with ``!``.
        only_directories: It ended with a slash.
        parts: What the components of the path must match, one after another: None stands for any
            number of them. Of a pattern without a slash inside, the one of the name.
        whole_path: It has a slash inside: it is about the path, else about the name.
    """

    parts: tuple[re.Pattern[str] | None, ...]
    excludes: bool
    only_directories: bool
    whole_path: bool

    def matches(self, path: str, name: str) -> bool:
        if self.whole_path:
            return _match_parts(self.parts, path.split("/"))
        (part,) = self.parts
        return part is None or part.match(name) is not None


class Rules:
    """Patterns in order, of one .ftpignore file or of the options.

    Args:
        lines: As in a .gitignore file. Lines that are no patterns are passed over, as git does.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        rules = [rule for line in lines if (rule := _rule(line)) is not None]
        self._last_first = rules[::-1]

    def __len__(self) -> int:
        return len(self._last_first)

    def decide(
        self, path: str, name: str, is_directory: bool, check: Callable[[], None]
    ) -> bool | None:
        """Whether ``path``, relative to where the patterns hold, is excluded; None: not said.

        Args:
            check: Called now and then; it raises what ends the work.
        """
        for number, rule in enumerate(self._last_first):
            if rule.only_directories and not is_directory:
                continue
            if rule.whole_path or not number % _CHECK_EACH:
                check()
            if rule.matches(path, name):
                return rule.excludes
        return None


_CLASSES = {
    "alnum": "a-zA-Z0-9",
    "alpha": "a-zA-Z",
    "blank": r" \t",
    "cntrl": r"\x01-\x1f\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": r"!-/:-@\[-`{-~",
    "space": r" \t\n\r\f\v",
    "upper": "A-Z",
    "xdigit": "0-9a-fA-F",
}
_NEVER = r"(?!)"


def _rule(line: str) -> _Rule | None:
    text = _without_trailing_blanks(line.rstrip("\r\n"))
    bare = text.rstrip("/")
    pattern = bare.removeprefix("!")
    if not pattern or text.startswith("#"):
        return None
    whole_path = "/" in pattern
    words = pattern.removeprefix("/").split("/") if whole_path else [pattern]
    parts: list[re.Pattern[str] | None] = []
    for word in words:
        if len(word) > 1 and not word.strip("*"):
            if not parts or parts[-1] is not None:
                parts.append(None)
            continue
        part = _part(word)
        if part is None:
            return None
        parts.append(part)
    if whole_path and parts[-1] is None:
        parts.append(_part("*"))  # what is in a directory, not the directory itself
    return _Rule(tuple(parts), not bare.startswith("!"), bare != text, whole_path)


def _match_parts(parts: Sequence[re.Pattern[str] | None], names: Sequence[str]) -> bool:
    """Whether components match, in steps as many as the product of the two lengths: only where
    the last None begins is ever gone back to."""
    part = name = 0
    any_from = begun = -1
    while name < len(names):
        if part < len(parts) and parts[part] is None:
            any_from, begun = part, name
            part += 1
        elif part < len(parts) and (one := parts[part]) is not None and one.match(names[name]):
            part += 1
            name += 1
        elif any_from >= 0:
            begun += 1
            part, name = any_from + 1, begun
        else:
            return False
    return all(one is None for one in parts[part:])


def _part(word: str) -> re.Pattern[str] | None:
    """What one component has to match; None for a word that is no pattern.

    Everything but a star stands for one character, so the first place where what is between two
    stars is found is as good as any later one. Atomic groups keep ``re`` from trying the others,
    which takes time without bound.
    """
    runs: list[list[str]] = [[]]
    at = 0
    while at < len(word):
        char = word[at]
        at += 1
        if char == "*":
            if runs[-1] or len(runs) == 1:
                runs.append([])
        elif char == "?":
            runs[-1].append(".")
        elif char == "[":
            found = _bracket(word, at)
            if found is None:
                return None
            one, at = found
            runs[-1].append(one)
        else:
            if char == "\\":
                if at == len(word):
                    return None
                char = word[at]
                at += 1
            runs[-1].append(re.escape(char))
    if sum(len(run) for run in runs) > _LONGEST_NAME:
        return re.compile(_NEVER)
    first, *others = ("".join(run) for run in runs)
    if not others:
        return re.compile(first + r"\Z", re.DOTALL)
    middle = "".join(f"(?>.*?{one})" for one in others[:-1])
    return re.compile(f"{first}{middle}.*{others[-1]}\\Z", re.DOTALL)


def _bracket(word: str, at: int) -> tuple[str, int] | None:
    """What is after a ``[`` as a regular expression for one character, and where it ends; None if
    it doesn't end."""
    begin = at
    items: list[str] = []
    negated = word[at : at + 1] in ("!", "^")
    begin = at = at + negated
    while at < len(word) and (word[at] != "]" or at == begin):
        if word.startswith("[:", at) and (end := word.find(":]", at)) >= 0:
            known = _CLASSES.get(word[at + 2 : end])
            if known is None:
                return None
            items.append(known)
            at = end + 2
            continue
        low, at = _literal(word, at)
        if word.startswith("-", at) and at + 1 < len(word) and word[at + 1] != "]":
            high, at = _literal(word, at + 1)
            if low <= high:
                items.append(f"{re.escape(low)}-{re.escape(high)}")
        else:
            items.append(re.escape(low))
    if at >= len(word):
        return None
    if not items:
        return "." if negated else "(?!)", at + 1
    return f"[{'^' if negated else ''}{''.join(items)}]", at + 1


def _literal(word: str, at: int) -> tuple[str, int]:
    if word[at] == "\\" and at + 1 < len(word):
        at += 1
    return word[at], at + 1


def _without_trailing_blanks(text: str) -> str:
    stripped = text.rstrip(" ")
    backslashes = len(stripped) - len(stripped.rstrip("\\"))
    if backslashes % 2 and stripped != text:
        return stripped + " "  # the first of them was quoted
    return stripped


def as_line(excludes: bool, pattern: str) -> str:
    """The line of a .gitignore file for the pattern of an --exclude or --include option."""
    line = "\\" + pattern if pattern.startswith("#") else pattern
    if excludes:
        return line
    return line[1:] if line.startswith("!") else "!" + line


def option_rules(patterns: Iterable[tuple[bool, str]]) -> Rules:
    """The rules of ``--exclude`` (True) and ``--include`` (False) options, in their order.

    Raises:
        ValueError: One is no pattern.
    """
    lines = []
    for excludes, pattern in patterns:
        line = as_line(excludes, pattern)
        if _rule(line) is None:
            raise ValueError(f"{paths.show(pattern)!r} is not a pattern")
        lines.append(line)
    return Rules(lines)


def bounded(data: bytes) -> bytes:
    """What was read of an .ftpignore file. Raises CommandError when that is not all of it."""
    if len(data) > MAX_IGNORE_FILE:
        raise CommandError(f"a {paths.show(IGNORE_FILE)} file is too large for a list of patterns")
    return data


def _lines_of(data: bytes) -> list[str]:
    return paths.to_text(data.removeprefix(b"\xef\xbb\xbf")).split("\n")


def pattern_lines(data: bytes) -> list[str]:
    """The patterns in a file of them, for `option_rules`; lines that are none are passed over."""
    return [line for line in _lines_of(data) if _rule(line) is not None]


def file_rules(data: bytes) -> Rules:
    """The rules of an .ftpignore file.

    Raises:
        CommandError: It has too many patterns.
    """
    rules = Rules(_lines_of(data))
    if len(rules) > MAX_PATTERNS:
        raise CommandError(f"{paths.show(IGNORE_FILE)}: more than {MAX_PATTERNS} patterns")
    return rules
