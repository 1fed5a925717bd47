"""Guessing the word that was meant, for messages about unknown ones.

A wrong guess is worse than none, because the user may type it. So only a misspelling counts, not
just any similar word, and a guess is never a command or option that removes something.

Lives here: which one of several words is meant.
Lives elsewhere: what other tools call our commands and options; the command lines know that
(ftpclient/cli/group.py, ftpserver/cli/help.py).
"""

from __future__ import annotations

from collections.abc import Iterable

_SHORTEST = 3
"""Fewest letters of a word to guess for: a shorter one is one mistake away from too many others."""
_LONG = 6
"""Fewest letters of a word that may have two mistakes."""
_REMOVING = frozenset(
    {
        *("rm", "rmdir", "remove", "purge", "forget", "logout", "revoke", "empty"),
        *("kick", "stop", "drain", "delete", "delete-before", "drop", "force", "yes", "all"),
        *("remove-source", "remove-source-files", "take-home", "retire"),
    }
)
"""Commands and options, without their dashes, that remove something or interrupt other users."""


def probably_meant(word: str, known: Iterable[str]) -> str | None:
    """Return the one of ``known`` that ``word`` is a misspelling or the beginning of, or None.

    A misspelling has one mistake (a letter missing, added, replaced, or two neighbours swapped), or
    two in a word of six letters or more. Leading dashes don't count as letters. If two words are
    equally near, one with the same letters is preferred; otherwise there is no guess.
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
    """Return what to add to a message about an unknown word: ``: did you mean …?``, or nothing."""
    meant = probably_meant(word, known)
    return "" if meant is None else f": did you mean {meant}?"


def distance(one: str, other: str) -> int:
    """Return how many mistakes turn one word into the other: the optimal string alignment distance.

    This is the Damerau-Levenshtein distance, where no part is changed twice (Boytsov, *Indexing
    methods for
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
