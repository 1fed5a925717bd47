"""One line of the shell as a tree, and in which order its parts run.

Lives here: the grammar, the tree, `&&` and `||`. Lives elsewhere: quotes and operators (lexer.py),
running a command, its output into files and local commands (running.py).

    LINE    = ["-"] ("!" REST | [LIST])
    LIST    = ANDOR {";" ANDOR} [";"]
    ANDOR   = PIPE {("&&" | "||") PIPE}
    PIPE    = COMMAND [(">" | ">>") FILE]
            | COMMAND "|" LOCAL
    COMMAND = WORD {WORD}

A line is parsed whole before anything of it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ftpclient.shell.lexer import Local, Mistake, Operator, Token, Word, tokens


@dataclass(frozen=True)
class Redirect:
    """Where the output of a command goes: a local file.

    Attributes:
        append: After what is in it.
    """

    file: str
    append: bool


@dataclass(frozen=True)
class Pipe:
    """One command.

    Attributes:
        words: Its name and its arguments.
        redirect: The file that its output goes to.
        local: The local command line that its output goes to.
        line: In which line of several it begins, from 1 on.
        column: And where in that line, from 1 on.
    """

    words: tuple[Word, ...]
    redirect: Redirect | None = None
    local: str | None = None
    line: int = field(default=1, compare=False)
    column: int = field(default=1, compare=False)

    @property
    def name(self) -> str:
        """The first word."""
        return self.words[0].text


@dataclass(frozen=True)
class AndOr:
    """Commands of which each depends on the status of what ran before it."""

    first: Pipe
    rest: tuple[tuple[Operator, Pipe], ...] = ()


@dataclass(frozen=True)
class Line:
    """What one line says.

    Attributes:
        items: What runs, one after another.
        local: A local command line, instead of these; an empty one is the local shell itself.
    """

    items: tuple[AndOr, ...] = ()
    local: str | None = None

    @property
    def pipes(self) -> Iterator[Pipe]:
        """All commands, as they were written."""
        for item in self.items:
            yield item.first
            for _, pipe in item.rest:
                yield pipe


def parse(text: str) -> Line:
    """The tree of a line. Raises Mistake."""
    return _Parser(text).line()


def is_forgiven(text: str) -> bool:
    """Whether the failure of a line, or a mistake in it, is no failure."""
    begin = text.lstrip()
    return begin.startswith(Operator.FORGIVE) and not begin.startswith("--")


def run(
    items: tuple[AndOr, ...], run_pipe: Callable[[Pipe], int], ends: Callable[[int], bool]
) -> int:
    """Run a list; the status of the last command that ran.

    Args:
        run_pipe: Runs one command; returns its status.
        ends: Whether nothing more is to run after a status.
    """
    status = 0
    for item in items:
        status = run_pipe(item.first)
        for operator, pipe in item.rest:
            if ends(status):
                break
            if (status == 0) == (operator is Operator.AND):
                status = run_pipe(pipe)
        if ends(status):
            break
    return status


_BETWEEN = (Operator.THEN, Operator.AND, Operator.OR, Operator.LATER)


class _Parser:
    """Takes one line apart."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self._next = 0

    def line(self) -> Line:
        """All of it. Raises Mistake."""
        self._take(Operator.FORGIVE)
        token = self._peek()
        if token is not None and isinstance(token.what, Local):
            self._next += 1
            self._expect_end()
            return Line(local=token.what.text)
        items = []
        while self._peek() is not None:
            items.append(self._and_or())
            if not self._take(Operator.THEN):
                break
        self._expect_end()
        return Line(tuple(items))

    def _and_or(self) -> AndOr:
        first = self._pipe()
        rest = []
        while (token := self._peek()) is not None and token.what in (Operator.AND, Operator.OR):
            self._next += 1
            assert isinstance(token.what, Operator)
            rest.append((token.what, self._pipe(after=token)))
        return AndOr(first, tuple(rest))

    def _pipe(self, after: Token | None = None) -> Pipe:
        begin = self._peek()
        words = []
        while (token := self._peek()) is not None and isinstance(token.what, Word):
            words.append(token.what)
            self._next += 1
        if not words or begin is None:
            raise self._missing(after)
        if words[0].text.startswith("-"):
            raise self._mistake("options come after the command, as in ls --json", begin)
        line = self._text.count("\n", 0, begin.at) + 1
        column = begin.at - self._text.rfind("\n", 0, begin.at)
        if (token := self._peek()) is not None and token.what is Operator.PIPE:
            return Pipe(tuple(words), local=self._local(token), line=line, column=column)
        redirect = self._redirect()
        return Pipe(tuple(words), redirect, line=line, column=column)

    def _missing(self, after: Token | None) -> Mistake:
        token = self._peek()
        if token is not None:
            return self._mistake(f"a command is missing before '{token.what}'", token)
        assert after is not None, "a list without anything is not asked for a command"
        return self._mistake(f"a command is missing after '{after.what}'", after)

    def _local(self, operator: Token) -> str:
        self._next += 1
        token = self._peek()
        assert token is not None and isinstance(token.what, Local), "so the lexer has it"
        if not token.what.text:
            raise self._mistake("a local command is missing after '|'", operator)
        self._next += 1
        return token.what.text

    def _redirect(self) -> Redirect | None:
        operator = self._peek()
        if operator is None or operator.what not in (Operator.INTO, Operator.APPEND):
            return None
        self._next += 1
        token = self._peek()
        if token is None or not isinstance(token.what, Word) or not token.what.text:
            raise self._mistake(
                f"the name of a local file is missing after '{operator.what}'", operator
            )
        self._next += 1
        file = token.what
        if file.text.startswith(":"):
            name = file.text[1:] or "NAME"
            raise self._mistake(
                f"a file here is meant; put - {name} stores what a pipe brings", token
            )
        if any(character in "*?[" for character in _unquoted(file)):
            raise self._mistake(f"'{operator.what}' takes one file: quote the pattern", token)
        return Redirect(file.text, operator.what is Operator.APPEND)

    def _expect_end(self) -> None:
        token = self._peek()
        if token is None:
            return
        if token.what is Operator.LATER:
            raise self._mistake("jobs come later: '&' has no meaning yet, quote it", token)
        if token.what is Operator.NEWLINE:
            raise self._mistake("one line at a time", token)
        if isinstance(token.what, Operator) and token.what not in _BETWEEN:
            raise self._mistake(f"'{token.what}' comes after the file of another", token)
        raise self._mistake("nothing of a command may follow the file that it writes to", token)

    def _take(self, operator: Operator) -> bool:
        token = self._peek()
        if token is None or token.what is not operator:
            return False
        self._next += 1
        return True

    def _peek(self) -> Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _mistake(self, reason: str, token: Token) -> Mistake:
        return Mistake(reason, self._text, token.at)


def _unquoted(word: Word) -> str:
    """The characters of a word's pattern that match something else than themselves."""
    return word.pattern.replace("[*]", "").replace("[?]", "").replace("[[]", "")
