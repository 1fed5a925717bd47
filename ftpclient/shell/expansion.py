"""Aliases of the shell: which lines can be one, and the words that one stands for.

Lives here: replacing an alias by its words. Lives elsewhere: defining one
(cli/commands/comfort.py), other names that every shell has (cli/aliases.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from ftpclient.cli.app import UsageError
from ftpclient.shell import grammar
from ftpclient.shell.lexer import Word


def check_command(line: str) -> None:
    """Refuse a line that isn't a single command, and so cannot be an alias. Raises UsageError."""
    if _words_of(line) is None:
        raise UsageError("an alias stands for one command and its arguments, e.g. ll='ls -l'")


def _words_of(line: str) -> tuple[Word, ...] | None:
    """Return the words of a line; None if it isn't a single command. Raises Mistake."""
    parsed = grammar.parse(line)
    if parsed.local is not None or len(parsed.items) != 1 or grammar.is_forgiven(line):
        return None
    (item,) = parsed.items
    if item.rest or item.first.local is not None or item.first.redirect is not None:
        return None
    return item.first.words


def expanded(aliases: Mapping[str, str], words: tuple[Word, ...]) -> tuple[Word, ...]:
    """Return the words of a command, with an alias replaced by its words."""
    alias = aliases.get(words[0].text)
    if alias is None:
        return words
    meant = _words_of(alias)
    assert meant is not None, "checked when the alias was defined"
    return (*meant, *words[1:])
