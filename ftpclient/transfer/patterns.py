"""gitignore patterns, from options and from .ftpignore files.

Lives here: the rules, and which of them decides about a name.
Lives elsewhere: leaving out parts of a tree (selection.py), reading the files
(sync/local_reader.py, sync/remote_reader.py).

As in git, the last pattern of a source that matches decides; options take precedence over files,
and the file of a directory over those above it. Everything in an excluded directory is excluded.
Unlike in git, names are matched as text: `?` stands for one character.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

import msgspec

from ftpwire import paths
from ftpwire.errors import CommandError

IGNORE_FILE = b".ftpignore"
MAX_IGNORE_FILE = 64 * 1024
"""Maximum size of an .ftpignore file in bytes: a server is not trusted to send a short one."""
MAX_PATTERNS = 1000
"""Maximum number of patterns in an .ftpignore file: each is compared with each name."""
_LONGEST_NAME = 255
"""A pattern that requires more characters than this matches no name."""
_CHECK_EACH = 16


class _Rule(msgspec.Struct, frozen=True):
    """One pattern.

    Attributes:
        excludes: False if it begins with ``!``.
        only_directories: True if it ended with a slash.
        parts: The patterns of the path's components, in order; None matches any number of
            components. A pattern without an inner slash has one part, for the name.
        whole_path: True if it has an inner slash, and so applies to the path, not the name.
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
        lines: The lines of a .gitignore file. As in git, invalid lines are ignored.
    """

    def __init__(self, lines: Iterable[str]) -> None:
        rules = [rule for line in lines if (rule := _rule(line)) is not None]
        self._last_first = rules[::-1]

    def __len__(self) -> int:
        return len(self._last_first)

    def decide(
        self, path: str, name: str, is_directory: bool, check: Callable[[], None]
    ) -> bool | None:
        """Return whether ``path``, relative to the patterns' directory, is excluded.

        Args:
            check: Called regularly; may raise to end the work.

        Returns:
            None if no pattern matches.
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
        parts.append(_part("*"))  # the contents of a directory, not the directory itself
    return _Rule(tuple(parts), not bare.startswith("!"), bare != text, whole_path)


def _match_parts(parts: Sequence[re.Pattern[str] | None], names: Sequence[str]) -> bool:
    """Return whether the components match.

    The number of steps is at most the product of both lengths: on a mismatch only the last None is
    extended.
    """
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
    """Return the pattern of one component, or None if the word is not a valid pattern.

    Everything but a star stands for one character, so the first match of the text between two
    stars is as suitable as any later one. Atomic groups keep ``re`` from trying the others, which
    could take exponential time.
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
    """Return a regular expression for the bracket expression after a ``[``, and where it ends.

    None if it doesn't end.
    """
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
        return stripped + " "  # the first blank was quoted by a backslash
    return stripped


def as_line(excludes: bool, pattern: str) -> str:
    """Return the .gitignore line for the pattern of an --exclude or --include option."""
    line = "\\" + pattern if pattern.startswith("#") else pattern
    if excludes:
        return line
    return line[1:] if line.startswith("!") else "!" + line


def option_rules(patterns: Iterable[tuple[bool, str]]) -> Rules:
    """Return the rules for ``--exclude`` (True) and ``--include`` (False) options, in order.

    Raises:
        ValueError: A pattern is not valid.
    """
    lines = []
    for excludes, pattern in patterns:
        line = as_line(excludes, pattern)
        if _rule(line) is None:
            raise ValueError(f"{paths.show(pattern)!r} is not a valid pattern")
        lines.append(line)
    return Rules(lines)


def bounded(data: bytes) -> bytes:
    """Return the data read from an .ftpignore file. Raises CommandError if it is too large."""
    if len(data) > MAX_IGNORE_FILE:
        raise CommandError(f"{paths.show(IGNORE_FILE)}: larger than {MAX_IGNORE_FILE} bytes")
    return data


def _lines_of(data: bytes) -> list[str]:
    return paths.to_text(data.removeprefix(b"\xef\xbb\xbf")).split("\n")


def pattern_lines(data: bytes) -> list[str]:
    """Return the valid patterns in a file, for `option_rules`. Ignores all other lines."""
    return [line for line in _lines_of(data) if _rule(line) is not None]


def file_rules(data: bytes) -> Rules:
    """Return the rules of an .ftpignore file.

    Raises:
        CommandError: It has too many patterns.
    """
    rules = Rules(_lines_of(data))
    if len(rules) > MAX_PATTERNS:
        raise CommandError(f"{paths.show(IGNORE_FILE)}: more than {MAX_PATTERNS} patterns")
    return rules
