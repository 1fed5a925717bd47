"""One line of the shell as words, quoted as in a POSIX shell.

Lives here: splitting, quoting back, and what the last word looks like while it is typed.
Lives elsewhere: what the words mean (cli/commands/), what could follow (completion.py).

``\\`` escapes one character, ``'…'`` and ``"…"`` hold words together, ``$'…'`` writes what can't be
typed (``\\n``, ``\\xff``). Nothing is expanded but patterns, and those only where no quote holds
them: that is why a word has two forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ftpclient.cli.app import UsageError

_BLANKS = " \t\r\n"
_MAGIC = "*?["
_ESCAPED_IN_DOUBLE = '"\\$`'
_NAMED = {"n": 10, "r": 13, "t": 9, "a": 7, "b": 8, "e": 27, "E": 27, "f": 12, "v": 11}
_NAMES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "'": "\\'"}
_HEX = frozenset("0123456789abcdefABCDEF")
_OCTAL = frozenset("01234567")


class Quote(StrEnum):
    """Which quotes are open."""

    NONE = ""
    SINGLE = "'"
    DOUBLE = '"'
    CODED = "$'"


@dataclass(frozen=True)
class Word:
    """One word of a line.

    Attributes:
        text: What it says.
        pattern: The same, with quoted ``*``, ``?`` and ``[`` in brackets, so that they match
            themselves only.
    """

    text: str
    pattern: str


@dataclass(frozen=True)
class Typed:
    """A line up to the cursor, for completion.

    Attributes:
        words: Those that are finished.
        directory: What the current word says up to its last slash, slash included.
        name: What it says after that.
        start: Where in the line the name begins, behind a quote that opens there.
        quote: Which quotes were open there.
    """

    words: list[Word]
    directory: str
    name: str
    start: int
    quote: Quote


def split(line: str) -> list[Word]:
    """The words of a line.

    Raises:
        UsageError: A quote is open at its end, or it has a NUL character.
    """
    scanner = _Scanner(line)
    scanner.scan()
    if scanner.quote is not Quote.NONE:
        raise UsageError(f"a quote is open: {scanner.quote}")
    if scanner.dangling:
        raise UsageError("nothing follows the last backslash")
    scanner.end_word()
    if any("\0" in word.text for word in scanner.words):
        raise UsageError("a NUL character can't be part of a command")
    return scanner.words


def split_typed(text: str) -> Typed:
    """What was typed so far, finished or not."""
    scanner = _Scanner(text)
    scanner.scan()
    word = "".join(scanner.text)
    cut = word.rfind("/") + 1
    return Typed(scanner.words, word[:cut], word[cut:], scanner.start, scanner.start_quote)


class _Scanner:
    """Walks over a line once. What it knows of the current word is public while it does."""

    def __init__(self, line: str) -> None:
        self.words: list[Word] = []
        self.quote = Quote.NONE
        self.dangling = False
        self.text: list[str] = []
        self.start = 0
        self.start_quote = Quote.NONE
        self._line = line
        self._at = 0
        self._pattern: list[str] = []
        self._in_word = False
        self._fresh = True  # nothing of the current name was said yet

    def scan(self) -> None:
        """Read to the end of the line; the last word stays open."""
        while self._at < len(self._line):
            character = self._line[self._at]
            self._at += 1
            if self.quote is Quote.NONE:
                self._plain(character)
            elif character == self.quote[-1]:
                self._open(Quote.NONE)
            elif character == "\\" and self.quote is not Quote.SINGLE:
                self._backslash()
            else:
                self._say(character, quoted=True)
        if not self._in_word:
            self.start, self.start_quote = len(self._line), Quote.NONE

    def end_word(self) -> None:
        """Close the current word, if there is one."""
        if self._in_word:
            self.words.append(Word("".join(self.text), "".join(self._pattern)))
        self.text, self._pattern = [], []
        self._in_word, self._fresh = False, True

    def _plain(self, character: str) -> None:
        if character in _BLANKS:
            self.end_word()
            return
        if not self._in_word:
            self._in_word = True
            self.start, self.start_quote = self._at - 1, Quote.NONE
        if character == "\\":
            self._backslash()
        elif character in "'\"":
            self._open(Quote(character))
        elif character == "$" and self._line[self._at : self._at + 1] == "'":
            self._at += 1
            self._open(Quote.CODED)
        else:
            self._say(character, quoted=False)

    def _open(self, quote: Quote) -> None:
        """Go on in other quotes; a name that has not begun yet begins behind them."""
        self.quote = quote
        if self._fresh:
            self.start, self.start_quote = self._at, quote

    def _backslash(self) -> None:
        if self._at == len(self._line):
            self.dangling = True
            return
        character = self._line[self._at]
        self._at += 1
        if self.quote is Quote.CODED:
            self._say(self._decode(character), quoted=True)
        elif self.quote is Quote.DOUBLE and character not in _ESCAPED_IN_DOUBLE:
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
            # no such character (or half of one): shown as such, rather than an error
            return "\ufffd" if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF else chr(number)
        if character in _OCTAL:
            return _byte(character + self._digits(_OCTAL, 2), 8)
        return character if character in "\\'\"?" else "\\" + character

    def _digits(self, allowed: frozenset[str], most: int) -> str:
        begin = self._at
        while self._at < min(len(self._line), begin + most) and self._line[self._at] in allowed:
            self._at += 1
        return self._line[begin : self._at]

    def _say(self, text: str, *, quoted: bool) -> None:
        if quoted and text == "~" and not self.text:
            text = "./~"  # a quoted tilde is a name, not somebody's home
        self.text.append(text)
        self._pattern += (f"[{c}]" if quoted and c in _MAGIC else c for c in text)
        self._fresh = text == "/"
        if self._fresh:
            self.start, self.start_quote = self._at, self.quote


def _byte(digits: str, base: int) -> str:
    """A byte as Python's text form of a file name has it."""
    number = int(digits, base) & 0xFF
    return chr(number) if number < 0x80 else chr(0xDC00 + number)


def quote(text: str, style: Quote = Quote.NONE, *, close: bool = True, first: bool = False) -> str:
    """Write ``text`` so that ``split`` reads it back, after ``style`` was opened already.

    Args:
        close: Close the quotes at the end; else more can be typed inside them.
        first: It begins a word, where a tilde means something.
    """
    if not text.isprintable():
        return _coded(text, style, close)
    if style is Quote.NONE:
        return _escaped(text, first)
    if style is Quote.SINGLE:
        inside = text.replace("'", "'\\''")
    elif style is Quote.DOUBLE:
        inside = "".join("\\" + c if c in _ESCAPED_IN_DOUBLE else c for c in text)
    else:
        inside = "".join(_code(c) for c in text)
    return inside + (style[-1] if close else "")


def _escaped(text: str, first: bool) -> str:
    special = _BLANKS + _MAGIC + "'\"\\"
    result = "".join(
        "\\" + c if c in special or (c == "$" and text[at + 1 : at + 2] == "'") else c
        for at, c in enumerate(text)
    )
    return "\\" + result if first and text.startswith("~") else result


def _coded(text: str, style: Quote, close: bool) -> str:
    """As ``$'…'``; other quotes that are open are closed first, and stay so."""
    inside = "".join(_code(c) for c in text)
    if style is Quote.CODED:
        return inside + ("'" if close else "")
    return f"{style}$'{inside}'"


def _code(character: str) -> str:
    if character in _NAMES:
        return _NAMES[character]
    if character.isprintable():
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        return f"\\{number - 0xDC00:03o}"
    return f"\\{number:03o}" if number < 0x80 else f"\\U{number:08x}"
