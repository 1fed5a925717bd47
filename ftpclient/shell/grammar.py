"""The grammar of a shell line, its syntax tree, and the order in which its parts run.

Lives here: the grammar, the tree, `&&` and `||`. Lives elsewhere: quotes and operators (lexer.py),
running a command, redirecting its output (running.py), jobs (background.py).

    LINE    = ["-"] ("!" REST | [LIST])
    LIST    = ANDOR {(";" | "&") ANDOR} [";" | "&"]
    ANDOR   = PIPE {("&&" | "||") PIPE}
    PIPE    = COMMAND [(">" | ">>") FILE]
            | COMMAND "|" LOCAL
    COMMAND = WORD {WORD}

The whole line is parsed before any part of it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from ftpclient.shell.lexer import Local, Mistake, Operator, Token, Word, tokens


@dataclass(frozen=True)
class Redirect:
    """The redirection of a command's output to a local file.

    Attributes:
        append: True to append to the file.
    """

    file: str
    append: bool


@dataclass(frozen=True)
class Pipe:
    """A command and where its output goes.

    Attributes:
        words: The command's name and arguments.
        redirect: The file to which its output goes, if any.
        local: The local command line to which its output goes, if any.
        line: The line in which it begins, starting at 1.
        column: The column in which it begins, starting at 1.
        text: What was typed.
    """

    words: tuple[Word, ...]
    redirect: Redirect | None = None
    local: str | None = None
    line: int = field(default=1, compare=False)
    column: int = field(default=1, compare=False)
    text: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """The first word, which is the command's name."""
        return self.words[0].text


@dataclass(frozen=True)
class AndOr:
    """Commands of which each runs or not depending on the status of the one before.

    Attributes:
        is_job: True if they run in the background, as a job.
        text: What was typed, without the operator after it.
    """

    first: Pipe
    rest: tuple[tuple[Operator, Pipe], ...] = ()
    is_job: bool = False
    text: str = field(default="", compare=False)

    @property
    def pipes(self) -> Iterator[Pipe]:
        """The commands, in the order of the line."""
        yield self.first
        for _, pipe in self.rest:
            yield pipe


@dataclass(frozen=True)
class Line:
    """A parsed line.

    Attributes:
        items: The parts that run one after another.
        local: A local command line instead of ``items``; empty to start a local shell.
    """

    items: tuple[AndOr, ...] = ()
    local: str | None = None

    @property
    def pipes(self) -> Iterator[Pipe]:
        """All commands, in the order of the line."""
        for item in self.items:
            yield from item.pipes


def parse(text: str) -> Line:
    """Parse a line. Raises Mistake."""
    return _Parser(text).line()


def is_forgiven(text: str) -> bool:
    """Return whether a line begins with ``-``, so that its failure is ignored."""
    begin = text.lstrip()
    return begin.startswith(Operator.FORGIVE) and not begin.startswith("--")


def run(
    items: tuple[AndOr, ...],
    run_pipe: Callable[[Pipe], int],
    start_job: Callable[[AndOr], int],
    ends: Callable[[int], bool],
) -> int:
    """Run the parts of a line and return the status of the last command that ran.

    Args:
        run_pipe: A function that runs one command and returns its status.
        start_job: A function that starts a job and returns 0 if it could.
        ends: A function that returns True if the line must end after a status.
    """
    status = 0
    for item in items:
        if item.is_job:
            status = start_job(item)
            if ends(status):
                break
            continue
        status = run_pipe(item.first)
        for operator, pipe in item.rest:
            if ends(status):
                break
            if (status == 0) == (operator is Operator.AND):
                status = run_pipe(pipe)
        if ends(status):
            break
    return status


_BETWEEN = (Operator.THEN, Operator.AND, Operator.OR, Operator.JOB)


class _Parser:
    """A recursive descent parser of one line."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self._next = 0

    def line(self) -> Line:
        """Parse the whole line. Raises Mistake."""
        self._take(Operator.FORGIVE)
        token = self._peek()
        if token is not None and isinstance(token.what, Local):
            self._next += 1
            self._expect_end()
            return Line(local=token.what.text)
        items = []
        while self._peek() is not None:
            item = self._and_or()
            is_job = self._take(Operator.JOB)
            items.append(replace(item, is_job=is_job))
            if not is_job and not self._take(Operator.THEN):
                break
        self._expect_end()
        return Line(tuple(items))

    def _and_or(self) -> AndOr:
        begin = self._peek()
        assert begin is not None, "an empty list is never parsed"
        first = self._pipe()
        rest = []
        while (token := self._peek()) is not None and token.what in (Operator.AND, Operator.OR):
            self._next += 1
            assert isinstance(token.what, Operator)
            rest.append((token.what, self._pipe(after=token)))
        return AndOr(first, tuple(rest), text=self._since(begin))

    def _pipe(self, after: Token | None = None) -> Pipe:
        begin = self._peek()
        words = []
        while (token := self._peek()) is not None and isinstance(token.what, Word):
            words.append(token.what)
            self._next += 1
        if not words or begin is None:
            raise self._missing(after)
        if words[0].text.startswith("-"):
            raise self._mistake("options come after the command, e.g. ls --json", begin)
        line = self._text.count("\n", 0, begin.at) + 1
        column = begin.at - self._text.rfind("\n", 0, begin.at)
        if (token := self._peek()) is not None and token.what is Operator.PIPE:
            local = self._local(token)
            text = self._since(begin)
            return Pipe(tuple(words), local=local, line=line, column=column, text=text)
        redirect = self._redirect()
        return Pipe(tuple(words), redirect, line=line, column=column, text=self._since(begin))

    def _since(self, begin: Token) -> str:
        """Return what was typed from a token up to the next one."""
        end = self._peek()
        return self._text[begin.at : None if end is None else end.at].strip()

    def _missing(self, after: Token | None) -> Mistake:
        token = self._peek()
        if token is not None:
            return self._mistake(f"a command is missing before '{token.what}'", token)
        assert after is not None, "an empty list is never parsed"
        return self._mistake(f"a command is missing after '{after.what}'", after)

    def _local(self, operator: Token) -> str:
        self._next += 1
        token = self._peek()
        assert token is not None and isinstance(token.what, Local), "the lexer ensures this"
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
                f"'{operator.what}' writes a local file (ftp put - {name} uploads from a pipe)",
                token,
            )
        if any(character in "*?[" for character in _unquoted(file)):
            raise self._mistake(
                f"'{operator.what}' needs the name of one file: quote the pattern", token
            )
        return Redirect(file.text, operator.what is Operator.APPEND)

    def _expect_end(self) -> None:
        token = self._peek()
        if token is None:
            return
        if token.what is Operator.NEWLINE:
            raise self._mistake("only one line is allowed here", token)
        if isinstance(token.what, Operator) and token.what not in _BETWEEN:
            raise self._mistake(f"'{token.what}' cannot follow a redirection", token)
        raise self._mistake("arguments cannot follow a redirection", token)

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
    """Return a word's pattern without its quoted special characters."""
    return word.pattern.replace("[*]", "").replace("[?]", "").replace("[[]", "")
