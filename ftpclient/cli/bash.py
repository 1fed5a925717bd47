"""Completion in bash, whose words end at every colon and at-sign, as addresses never do.

Lives here: what `_FTP_COMPLETE=bash_source ftp` prints, and how words are told from it.
Lives elsewhere: everything else that bash, zsh and fish are offered (click, reachable.py).
"""

from __future__ import annotations

import os

from click.shell_completion import BashComplete, add_completion_class, split_arg_string

# bash puts an offer in the place of what is behind the last character that ends a word for it; an
# at-sign ends one, too, but is replaced itself (rl_special_prefixes of readline)
_SOURCE = r"""
%(complete_func)s() {
    local IFS=$'\n'
    local response line typed breaks kept
    line="${COMP_LINE:0:COMP_POINT}"
    typed="${line##*[[:space:]]}"
    breaks="${COMP_WORDBREAKS//[^@:]/}"
    if [[ -n $breaks ]]; then
        kept="${typed%%"${typed##*[$breaks]}"}"
        kept="${kept%%@}"
    fi

    response=$(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD COMP_LINE="$line" \
        %(complete_var)s=bash_complete $1)

    for completion in $response; do
        IFS=',' read type value <<< "$completion"

        if [[ $type == 'dir' ]]; then
            COMPREPLY=()
            compopt -o dirnames
        elif [[ $type == 'file' ]]; then
            COMPREPLY=()
            compopt -o default
        elif [[ $type == 'plain' ]]; then
            COMPREPLY+=("${value#"$kept"}")
        fi
    done

    return 0
}

%(complete_func)s_setup() {
    complete -o nosort -F %(complete_func)s %(prog_name)s
}

%(complete_func)s_setup;
"""


class WholeWords(BashComplete):
    """Takes the words from the line as it was typed."""

    source_template = _SOURCE

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is begun, without the program's; and that one."""
        line = os.environ.get("COMP_LINE", "")
        if not line:
            return super().get_completion_args()
        words = split_arg_string(line)[1:]
        begun = words.pop() if words and not line[-1].isspace() else ""
        return words, begun


def register() -> None:
    """Have click complete so in bash."""
    add_completion_class(WholeWords)
