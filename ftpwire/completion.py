"""Completion of `ftp` and `ftpd` in bash, zsh and fish: the shell scripts, and the replies to them.

Lives here: what `ftp completion SHELL` prints, which word the cursor is in, and how an offer is
written for it.
Lives elsewhere: what is offered (click; ftpclient/cli/offers.py, ftpserver/cli).

The shell's script runs the program with the command line in its environment. The program prints one
line for each offer: its kind, and the text to insert. ``plain`` ends the word, ``part`` does not.
For ``file`` and ``dir``, the shell itself offers local names.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

PART = "part"
"""The kind of an offer that does not end its word, such as a directory or a server's name."""

_BASH = r"""%(complete_func)s() {
    local kind value line
    while IFS=, read -r kind value; do
        case $kind in
            dir) COMPREPLY=(); compopt -o dirnames ;;
            file) COMPREPLY=(); compopt -o default ;;
            part) COMPREPLY+=("$value"); compopt -o nospace ;;
            plain) COMPREPLY+=("$value") ;;
        esac
    done < <(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" \
        COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = r"""#compdef %(prog_name)s

%(complete_func)s() {
    local -a response plain plain_shown part part_shown
    local kind value shown
    (( $+commands[%(prog_name)s] )) || return 1
    response=("${(@f)$(env COMP_WORDS="${(j: :)words[1,CURRENT]}" COMP_CWORD=$((CURRENT - 1)) \
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}")
    for kind value shown in "${response[@]}"; do
        case $kind in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            part) part+=("$value"); part_shown+=("$shown") ;;
            plain) plain+=("$value"); plain_shown+=("$shown") ;;
        esac
    done
    (( $#part )) && compadd -V offers -S '' -d part_shown -a part
    (( $#plain )) && compadd -V offers -l -d plain_shown -a plain
    return 0
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = r"""function %(complete_func)s
    for line in (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp | string collect) \
            COMP_CWORD=(commandline -ct | string collect) %(prog_name)s 2>/dev/null)
        set -l offer (string split -m 1 , -- $line)
        switch $offer[1]
            case dir
                __fish_complete_directories $offer[2]
            case file
                __fish_complete_path $offer[2]
            case plain part
                printf '%%s\n' $offer[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments '(%(complete_func)s)'
"""


class _Quietly(ShellComplete):
    """Base class that offers nothing if an error occurs: no error text belongs in a prompt."""

    def complete(self) -> str:
        try:
            return super().complete()
        except Exception:
            return ""


class _Bash(_Quietly, BashComplete):
    """bash also splits words at colons, at-signs and others: it replaces only what follows."""

    source_template = _BASH

    def source(self) -> str:
        # without the check of the installed bash: the script may be for another machine
        return ShellComplete.source(self)

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before that at the cursor, without the program's name; and that one."""
        line = os.environ.get("COMP_LINE", "")
        if not line:
            return super().get_completion_args()
        at = last_word(line).begin
        return split_arg_string(line[:at])[1:], "".join(split_arg_string(line[at:]))

    def format_completion(self, item: CompletionItem[str]) -> str:
        if item.type not in ("plain", PART):
            return f"{item.type},"
        line = os.environ.get("COMP_LINE", "")
        word = last_word(line)
        kept = word.kept(line, os.environ.get("COMP_WORDBREAKS", ""))
        return f"{item.type},{quoted(item.value.removeprefix(kept), word.quote)}"


class _Zsh(_Quietly, ZshComplete):
    source_template = _ZSH

    def complete(self) -> str:
        self._width = 0
        return super().complete()

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        offers = _of_one_line(super().get_completions(args, incomplete))
        self._width = max((len(one.value) for one in offers if one.help), default=0)
        return offers

    def format_completion(self, item: CompletionItem[str]) -> str:
        shown = (
            f"{item.value:<{self._width}}  -- {_one_line(item.help)}" if item.help else item.value
        )
        return f"{item.type}\n{item.value}\n{shown or '_'}"


class _Fish(_Quietly, FishComplete):
    source_template = _FISH

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        return _of_one_line(super().get_completions(args, incomplete))

    def format_completion(self, item: CompletionItem[str]) -> str:
        text = f"\t{_one_line(item.help)}" if item.help else ""
        return f"{item.type},{item.value}{text}"


def _of_one_line(offers: list[CompletionItem[str]]) -> list[CompletionItem[str]]:
    """Return only the offers that fit into a line and that these shells need not quote."""
    return [one for one in offers if one.value.isprintable()]


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


_CLASSES: dict[str, type[ShellComplete]] = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}
SHELLS = tuple(_CLASSES)


def register() -> None:
    """Register these classes with click."""
    for name, kind in _CLASSES.items():
        add_completion_class(kind, name)


def script(group: click.Command, program: str, shell: str) -> str:
    """Return the script that makes a shell complete the words of a program."""
    variable = f"_{program.upper()}_COMPLETE"
    return _CLASSES[shell](group, {}, program, variable).source()


# words of bash ------------------------------------------------------------------------------


@dataclass(frozen=True)
class LastWord:
    """The word at the end of a line, as bash sees it.

    Attributes:
        begin: Index where it begins.
        quote: The quote that is open at its end; empty for none.
        quoted_from: Index after that quote.
    """

    begin: int
    quote: str
    quoted_from: int

    def kept(self, line: str, breaks: str) -> str:
        """Return the part of this word that bash keeps. It replaces the rest by an offer."""
        if self.quote:
            return "".join(split_arg_string(line[self.begin : self.quoted_from - 1]))
        raw, end, at = line[self.begin :], 0, 0
        while at < len(raw):
            if raw[at] == "\\":
                at += 1
            elif raw[at] in breaks and not raw[at].isspace() and raw[at] not in "'\"":
                # bash replaces from an at-sign on (rl_special_prefixes of readline)
                end = at if raw[at] == "@" else at + 1
            at += 1
        return "".join(split_arg_string(raw[:end]))


def last_word(line: str) -> LastWord:
    """Return the word at the end of a line. It may be empty, or have an open quote."""
    begin, quote, quoted_from, at = 0, "", 0, 0
    while at < len(line):
        character = line[at]
        if character == "\\" and quote != "'":
            at += 1
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote, quoted_from = character, at + 1
        elif character.isspace():
            begin = at + 1
        at += 1
    return LastWord(begin, quote, quoted_from)


_SPECIAL = re.compile(r"([^\w@%+=:,./~^{}-])")


def quoted(text: str, quote: str = "") -> str:
    """Return a text quoted for bash, to follow ``quote`` if that is already open."""
    if not text.isprintable():
        coded = "".join(map(_coded, text))
        return f"{quote}$'{coded}'"
    if quote == "'":
        return text.replace("'", "'\\''")
    if quote:
        return re.sub(r'(["\\$`])', r"\\\1", text)
    return _SPECIAL.sub(r"\\\1", text)


def _coded(character: str) -> str:
    if character in "'\\":
        return "\\" + character
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))
