"""Words that were probably meant, for messages about unknown ones.

A wrong guess is worse than none: somebody may type it. So only a misspelling counts, never a mere
likeness, and no guess leads to what removes something.

Lives here: which word of several is meant. Lives elsewhere: what other tools call our commands and
options, which the command lines know (ftpclient/cli/group.py, ftpserver/cli/help.py).
"""

from __future__ import annotations

from collections.abc import Iterable

_SHORTEST = 3
"""Letters; a shorter word is one mistake away from too many others."""
_LONG = 6
"""Letters from which on two mistakes are allowed."""
_REMOVING = frozenset(
    {
        *("rm", "rmdir", "remove", "purge", "forget", "logout", "revoke", "empty"),
        *("kick", "stop", "drain", "delete", "delete-before", "drop", "force", "yes", "all"),
        *("remove-source", "remove-source-files", "take-home", "retire"),
    }
)
"""Commands and options, without their dashes, that remove something or end somebody's work."""


def probably_meant(word: str, known: Iterable[str]) -> str | None:
    """The one of ``known`` that ``word`` is a misspelling or the beginning of, or None.

    A misspelling has one mistake (a letter missing, added, replaced, or two neighbours swapped),
    or two in a word of six letters or more. Leading dashes don't count as letters. Where two words
    are equally near, the one of the same letters is meant; else none is.
    """
    typed = word.lstrip("-")
    if len(typed) < _SHORTEST:
        return None
    candidates = {one for one in known if one.lstrip("-") not in _REMOVING}
    begun = [one for one in candidates if one.startswith(word)]
    if len(begun) == 1:
        return begun[0]
    most = 2 if len(typed) >= _LONG else 1
    distances = {one: distance(word, one) for one in candidates}
    least = min(distances.values(), default=most + 1)
    if least > most:
        return None
    nearest = [one for one, mistakes in distances.items() if mistakes == least]
    swapped = [one for one in nearest if sorted(one) == sorted(word)]
    return (swapped or nearest)[0] if len(swapped or nearest) == 1 else None


def hint(word: str, known: Iterable[str]) -> str:
    """What to add to a message about an unknown word: ``: did you mean …?``, or nothing."""
    meant = probably_meant(word, known)
    return "" if meant is None else f": did you mean {meant}?"


def distance(one: str, other: str) -> int:
    """How many mistakes make one word the other: the optimal string alignment distance.

    The Damerau-Levenshtein distance, where no part is changed twice (Boytsov, *Indexing methods for
    approximate dictionary searching*, 2011, section 2.2).
    """
    before, last = [0] * (len(other) + 1), list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(last[j] + 1, row[-1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and b == one[i - 2]:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
