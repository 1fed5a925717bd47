"""The tokens of a shell line, with the quotes of a POSIX shell.

Lives here: splitting a line, joining continued lines, and the unfinished last word while it is
typed. Lives elsewhere: quoting a name (cli/quoting.py), the grammar (grammar.py), the commands
(cli/commands/), completions (completion.py).

``\\`` escapes one character, ``'…'`` and ``"…"`` quote text, ``$'…'`` has escapes for characters
that cannot be typed (``\\n``, ``\\xff``). Only patterns are expanded, and only where they aren't
quoted: so a word has two forms, its text and its pattern. The text after ``|``, or after a ``!`` at
the beginning, is for the local shell; here, only its quotes matter, which show where it ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from ftpclient.cli.app import UsageError
from ftpclient.cli.quoting import BLANKS, ESCAPED_IN_DOUBLE, MAGIC, OPERATORS, Quote

_HOLDS_TOGETHER = frozenset("'\"\\")
"""Characters of which a line must have one to continue in the next line."""
_NAMED = {"n": 10, "r": 13, "t": 9, "a": 7, "b": 8, "e": 27, "E": 27, "f": 12, "v": 11}
_HEX = frozenset("0123456789abcdefABCDEF")
_OCTAL = frozenset("01234567")
_SUBSTITUTIONS = (("$(", ")"), ("${", "}"))


class Operator(StrEnum):
    """Operators, which are not part of a word unless quoted."""

    FORGIVE = "-"
    THEN = ";"
    AND = "&&"
    OR = "||"
    PIPE = "|"
    INTO = ">"
    APPEND = ">>"
    JOB = "&"
    NEWLINE = "\n"


@dataclass(frozen=True)
class Word:
    """A word of a line.

    Attributes:
        text: The word without quotes.
        pattern: The text with quoted ``*``, ``?`` and ``[`` in brackets, so that they only match
            themselves.
    """

    text: str
    pattern: str


@dataclass(frozen=True)
class Local:
    """A command line for the local shell, as it was typed."""

    text: str


@dataclass(frozen=True)
class Token:
    """A part of a line.

    Attributes:
        at: The index in the line at which it begins.
    """

    what: Word | Operator | Local
    at: int


class WordRole(StrEnum):
    """The part of a line to which a word belongs."""

    COMMAND = "command"
    FILE = "the file of > or >>"
    LOCAL = "a command line for the local shell"


@dataclass(frozen=True)
class Typed:
    """A line up to the cursor, for completion.

    Attributes:
        words: The finished words of the current command.
        directory: The current word up to and including its last slash.
        name: The rest of the current word.
        start: The index in the line at which the name begins, after an opening quote.
        quote: The quotes that are open there.
        role: The part of the line to which the current word belongs.
    """

    words: list[Word]
    directory: str
    name: str
    start: int
    quote: Quote
    role: WordRole = WordRole.COMMAND


class Mistake(UsageError):
    """A syntax error in a line.

    Attributes:
        reason: The description of the error.
        line: The number of the line, starting at 1; a quote may span several lines.
        column: The column in that line, starting at 1.
    """

    def __init__(self, reason: str, text: str, at: int) -> None:
        self.reason = reason
        self.line = text.count("\n", 0, at) + 1
        self.column = at - (text.rfind("\n", 0, at) + 1) + 1
        line = f"line {self.line}, " if self.line > 1 else ""
        super().__init__(f"{reason} ({line}column {self.column})")


def tokens(line: str) -> list[Token]:
    """Return the tokens of a line.

    Raises:
        Mistake: A quote is not closed, or the line has unsupported syntax.
    """
    scanner = _Scanner()
    scanner.feed(line)
    return scanner.finish()


def whole_lines(parts: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Join continued lines, and yield each with the number of its first line, starting at 1.

    A line continues in the next one after an open quote or a final backslash.

    Args:
        parts: The lines of a file, without their ends.
    """
    scanner: _Scanner | None = None
    first, held = 1, ""
    for number, part in enumerate(parts, 1):
        if scanner is None and _HOLDS_TOGETHER.isdisjoint(part):
            yield number, part
            continue
        if scanner is None:
            scanner, first, held = _Scanner(), number, part
        else:
            held += "\n" + part
        if scanner.quote is not Quote.NONE and scanner.quote[-1] not in part:
            continue  # the quote doesn't end here, and may span the rest of a long file
        scanner.feed(held)
        held = ""
        if not scanner.goes_on:
            yield first, scanner.line
            scanner = None
    if scanner is not None:
        yield first, scanner.line + held


def goes_on(text: str) -> bool:
    """Return whether the last line of a text continues in the next, and has no error so far."""
    *_, (_, last) = whole_lines(text.split("\n"))
    scanner = _Scanner()
    scanner.feed(last)
    return scanner.goes_on and not scanner.is_wrong


def split_typed(text: str) -> Typed:
    """Split an unfinished line for completion."""
    scanner = _Scanner()
    scanner.feed(text)
    word = "".join(scanner.text)
    cut = word.rfind("/") + 1
    return Typed(
        scanner.words, word[:cut], word[cut:], scanner.start, scanner.start_quote, scanner.role
    )


class _Scanner:
    """A scanner that reads a line once. Its public attributes describe the current word.

    Attributes:
        line: The text read so far.
        words: The finished words of the current command.
        role: The part of the line to which the current word belongs.
        quote: The quotes that are open.
        text: The characters of the current word.
        start: The index at which the current word's last name begins.
        start_quote: The quotes that were open there.
    """

    def __init__(self) -> None:
        self.line = ""
        self.words: list[Word] = []
        self.role = WordRole.COMMAND
        self.quote = Quote.NONE
        self.text: list[str] = []
        self.start = 0
        self.start_quote = Quote.NONE
        self._tokens: list[Token] = []
        self._mistake: tuple[str, int] | None = None
        self._at = 0
        self._pattern: list[str] = []
        self._in_word = False
        self._word_at = 0
        self._quoted = False  # a part of the current word is quoted
        self._fresh = True  # the current name has no characters yet
        self._begun = False  # the line has more than blanks and a minus
        self._comment = False
        self._dangling = False
        self._quote_at = 0
        self._local_at = -1
        self._nesting = 0  # open parentheses in a local command
        self._whole_rest = False  # the line began with !, so all of it is a local command

    @property
    def goes_on(self) -> bool:
        """True if the line continues in the next one.

        This doesn't depend on errors: otherwise quoted text might be run as commands.
        """
        if self._whole_rest:
            return False
        return self.quote is not Quote.NONE or self._dangling

    @property
    def is_wrong(self) -> bool:
        """True if there is an error that no continuation can correct."""
        return self._mistake is not None

    def feed(self, more: str) -> None:
        """Read more text. The last word stays unfinished."""
        self.line += more
        if self._dangling:
            self._dangling = False
            self._at -= 1  # read the backslash again, now with the character after it
        while self._at < len(self.line):
            character = self.line[self._at]
            self._at += 1
            if self._comment:
                if character == "\n":
                    self._newline()
            elif self.quote is Quote.NONE:
                self._plain(character)
            elif character == self.quote[-1]:
                self._close()
            elif character == "\\" and self.quote is not Quote.SINGLE:
                self._backslash()
            elif self._whole_rest and character == "\n":
                self._newline()
            else:
                self._say(character, quoted=True)
        if not self._in_word:
            self.start, self.start_quote = len(self.line), Quote.NONE

    def finish(self) -> list[Token]:
        """Finish the line and return its tokens. Raises Mistake."""
        if not self._whole_rest and self._mistake is None:
            if self.quote is not Quote.NONE:
                self._wrong(f"unclosed quote: {self.quote}", self._quote_at)
            elif self._dangling:
                self._wrong("nothing follows the final backslash", len(self.line) - 1)
        self._end_word()
        self._end_local(len(self.line))
        if self._mistake is not None:
            reason, at = self._mistake
            raise Mistake(reason, self.line, at)
        return self._tokens

    def _wrong(self, reason: str, at: int) -> None:
        if self._mistake is None:
            self._mistake = reason, at

    def _meaningless(self, what: str, at: int) -> None:
        self._wrong(f"'{what}' has no meaning here: quote it, or use !", at)

    # outside of quotes ---------------------------------------------------------------------

    def _plain(self, character: str) -> None:
        at = self._at - 1
        following = self.line[self._at : self._at + 1]
        if character == "\n":
            self._newline()
        elif character in BLANKS:
            self._end_word()
        elif character == "\\" and following in ("", "\n"):
            self._at += len(following)  # drop both, and continue with the next line
            self._dangling = not following
        elif character == "#" and not self._in_word and not self._whole_rest:
            self._end_local(at)
            self._comment = True
        elif not self._begun and not self._in_word and self._opening(character, following):
            pass
        elif self.role is WordRole.LOCAL:
            self._locally(character, following, at)
        elif character in OPERATORS:
            self._operator(character, following, at)
        elif character == "$" and following == "(":
            self._meaningless("$(", at)
        elif character == "!" and not self._in_word and not self.words:
            self._wrong("'!' is only allowed at the beginning of a line", at)
        else:
            self._of_word(character, following)

    def _opening(self, character: str, following: str) -> bool:
        """Handle characters that have a meaning only at the beginning of a line."""
        if character == "-" and not self._tokens and following != "-":
            self._emit(Operator.FORGIVE, self._at - 1)
            return True
        self._begun = True
        if character != "!":
            return False
        self.role, self._whole_rest, self._local_at = WordRole.LOCAL, True, self._at
        return True

    def _of_word(self, character: str, following: str) -> None:
        if not self._in_word:
            self._in_word, self._word_at = True, self._at - 1
            self.start, self.start_quote = self._at - 1, Quote.NONE
        if character == "\\":
            self._backslash()
        elif character in "'\"":
            self._open(Quote(character))
        elif character == "$" and following == "'":
            self._at += 1
            self._open(Quote.CODED)
        else:
            self._say(character, quoted=False)

    def _operator(self, character: str, following: str, at: int) -> None:
        pair = character + following
        if pair in ("&>", ">&", ">|") or character in "<()`":
            self._meaningless(pair if pair in ("&>", ">&", ">|") else character, at)
            self._end_word()
        elif character == ">" and self._in_word and self._is_number():
            self._meaningless("".join(self.text) + ">", self._word_at)
            self._end_word()
        elif character == ">":
            self._emit(Operator.APPEND if pair == ">>" else Operator.INTO, at)
            self.role = WordRole.FILE
        else:
            self._emit_between(pair, at)

    def _is_number(self) -> bool:
        """Return whether the current word is a descriptor's number, as in ``2>`` elsewhere."""
        return not self._quoted and "".join(self.text).isdecimal()

    def _emit_between(self, pair: str, at: int) -> None:
        """Add an operator between two commands; a new command begins after it."""
        known = pair in ("&&", "||")
        operator = Operator(pair if known else pair[0])
        self._emit(operator, at)
        self.words, self.role = [], WordRole.COMMAND
        if operator is Operator.PIPE:
            self.role, self._local_at, self._nesting = WordRole.LOCAL, self._at, 0

    def _emit(self, operator: Operator, at: int) -> None:
        self._end_word()
        self._tokens.append(Token(operator, at))
        self._at = at + len(operator)

    def _newline(self) -> None:
        self._end_word()
        self._end_local(self._at - 1)
        self._tokens.append(Token(Operator.NEWLINE, self._at - 1))
        self.words, self.role, self.quote = [], WordRole.COMMAND, Quote.NONE
        self._begun = self._comment = self._whole_rest = False

    # for the local shell -------------------------------------------------------------------

    def _locally(self, character: str, following: str, at: int) -> None:
        """Read a character of a local command. Its words only matter for completion."""
        ends = character in ";&" or character + following == "||"
        if ends and not self._whole_rest:
            if character == "&" and self.line[at - 1 : at] == ">":
                self._wrong("'>&' has no meaning here: quote the local command: sh -c '…'", at - 1)
            if self._nesting > 0:
                what = character + following if character + following in ("&&", "||") else character
                self._wrong(f"'{what}' would end the local command: quote it: sh -c '…'", at)
            self._end_word()
            self._end_local(at)
            self._emit_between(character + following, at)
        elif character in OPERATORS:
            self._end_word()
            self._nesting += (character == "(") - (character == ")")
            if character in ";&|(`":
                self.words = []
        else:
            self._of_word(character, following)

    def _end_local(self, at: int) -> None:
        if self._local_at >= 0:
            text = self.line[self._local_at : at].strip()
            self._tokens.append(Token(Local(text), self._local_at))
            if "\0" in text:
                self._wrong("a NUL character cannot be part of a command", self._local_at)
            self._local_at = -1
            self.words, self.role = [], WordRole.COMMAND

    def _check_nested(self) -> None:
        """Refuse a quote that ends here, but not in the local shell, where $(…) nests quotes."""
        inside = self.line[self._quote_at : self._at]
        halves = inside.replace("\\`", "").count("`") % 2
        if halves or any(inside.count(a) > inside.count(b) for a, b in _SUBSTITUTIONS):
            self._wrong(
                "nested quotes in $(…): quote the local command: sh -c '…'",
                self._quote_at,
            )

    # words ---------------------------------------------------------------------------------

    def _end_word(self) -> None:
        """Finish the current word, if there is one."""
        if self._in_word:
            word = Word("".join(self.text), "".join(self._pattern))
            if self.role is not WordRole.LOCAL:
                self._tokens.append(Token(word, self._word_at))
                if "\0" in word.text:
                    self._wrong("a NUL character cannot be part of a command", self._word_at)
            self.words.append(word)
        self.text, self._pattern = [], []
        self._in_word, self._fresh, self._quoted = False, True, False

    def _open(self, quote: Quote) -> None:
        """Open quotes. A name that has no characters yet begins after them."""
        self.quote, self._quote_at, self._quoted = quote, self._at - len(quote), True
        self._begin_name(quote)

    def _close(self) -> None:
        if self.quote is Quote.DOUBLE and self._local_at >= 0 and not self._whole_rest:
            self._check_nested()
        self.quote = Quote.NONE
        self._begin_name(Quote.NONE)

    def _begin_name(self, quote: Quote) -> None:
        if self._fresh:
            self.start, self.start_quote = self._at, quote

    def _backslash(self) -> None:
        if self._at == len(self.line):
            self._dangling = True
            return
        character = self.line[self._at]
        self._at += 1
        self._quoted = True
        if self.quote is Quote.CODED:
            self._say(self._decode(character), quoted=True)
        elif self.quote is Quote.DOUBLE and character == "\n":
            pass  # drop both, and continue with the next line
        elif self.quote is Quote.DOUBLE and character not in ESCAPED_IN_DOUBLE:
            self._say("\\", quoted=True)
            self._say(character, quoted=True)
        else:
            self._say(character, quoted=True)

    def _decode(self, character: str) -> str:
        if character in _NAMED:
            return chr(_NAMED[character])
        if character == "x":
            return _byte(self._digits(_HEX, 2) or "0", 16)
        if character in "uU":
            number = int(self._digits(_HEX, 4 if character == "u" else 8) or "0", 16)
            # not a valid character: replaced rather than refused
            return "\ufffd" if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF else chr(number)
        if character in _OCTAL:
            return _byte(character + self._digits(_OCTAL, 2), 8)
        return character if character in "\\'\"?" else "\\" + character

    def _digits(self, allowed: frozenset[str], most: int) -> str:
        begin = self._at
        while self._at < min(len(self.line), begin + most) and self.line[self._at] in allowed:
            self._at += 1
        return self.line[begin : self._at]

    def _say(self, text: str, *, quoted: bool) -> None:
        if quoted and text == "~" and not self.text:
            text = "./~"  # a quoted tilde is a name, not the home
        self.text.append(text)
        self._pattern += (f"[{c}]" if quoted and c in MAGIC else c for c in text)
        self._fresh = text == "/"
        if self._fresh:
            self.start, self.start_quote = self._at, self.quote


def _byte(digits: str, base: int) -> str:
    """Return a byte as a character, with surrogateescape as in Python's file names."""
    number = int(digits, base) & 0xFF
    return chr(number) if number < 0x80 else chr(0xDC00 + number)
