"""What an account may do, and where: rules for path prefixes.

Lives here: the rights, reading and showing rules, and which rule decides about a path.
Lives elsewhere: which request needs what (commands/__init__.py), the file system's own
permission bits (homes.py).

The longest prefix that a path lies at or below decides. Written as text, ``RIGHTS`` for
everything, then ``PREFIX=RIGHTS`` for parts: ``read-only /inbox=upload-only``. In a prefix, spaces
and what is no UTF-8 are written as in a URL (``%20``), and so is the percent sign.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ftpwire import paths
from ftpwire.errors import BadAccount, CommandError


class Action(enum.Enum):
    """What a request does to a path."""

    LIST = "list"
    READ = "read"
    CREATE = "create"
    REPLACE = "replace"
    DELETE = "delete"


class Rights(enum.Enum):
    """What may be done below a prefix.

    ``upload-only`` is a drop box: files and directories can be put in, and nothing of what is
    there can be seen, replaced or removed. ``no-delete`` keeps what is there: it can be read and
    added to. ``none`` hides a part altogether.
    """

    ALL = "all"
    READ_ONLY = "read-only"
    UPLOAD_ONLY = "upload-only"
    NO_DELETE = "no-delete"
    NONE = "none"

    @property
    def actions(self) -> frozenset[Action]:
        """What it permits."""
        return _ACTIONS[self]


_ACTIONS = {
    Rights.ALL: frozenset(Action),
    Rights.READ_ONLY: frozenset({Action.LIST, Action.READ}),
    Rights.UPLOAD_ONLY: frozenset({Action.CREATE}),
    Rights.NO_DELETE: frozenset({Action.LIST, Action.READ, Action.CREATE}),
    Rights.NONE: frozenset(),
}


@dataclass(frozen=True)
class Rule:
    """Rights below a prefix; the prefix is a path's parts, without any for the whole home."""

    prefix: tuple[bytes, ...]
    rights: Rights

    def __str__(self) -> str:
        if not self.prefix:
            return self.rights.value
        return f"/{quote_from_bytes(b'/'.join(self.prefix))}={self.rights.value}"


@dataclass(frozen=True)
class Permissions:
    """The rules of one account, longest prefix first."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read rules as they are written. Raises BadAccount."""
        return cls.of(text.split())

    @classmethod
    def of(cls, words: Iterable[str]) -> Self:
        """Read rules, each by itself; of two for one prefix the later holds. Raises BadAccount."""
        found = {rule.prefix: rule for rule in map(_parse_rule, words)}
        return cls(tuple(sorted(found.values(), key=lambda rule: -len(rule.prefix))))

    def __str__(self) -> str:
        return " ".join(str(rule) for rule in reversed(self.rules)) or Rights.ALL.value

    @property
    def unlimited(self) -> bool:
        """Whether there is nothing to check."""
        return all(rule.rights is Rights.ALL for rule in self.rules)

    def rule_for(self, parts: tuple[bytes, ...]) -> Rule:
        """The rule that decides about a path."""
        for rule in self.rules:
            if parts[: len(rule.prefix)] == rule.prefix:
                return rule
        return Rule((), Rights.ALL)


def _parse_rule(word: str) -> Rule:
    prefix, equals, name = word.rpartition("=")
    try:
        rights = Rights(name)
    except ValueError:
        known = ", ".join(one.value for one in Rights)
        raise BadAccount(f"{name!r} is no right: {known}") from None
    if not equals:
        return Rule((), rights)
    try:
        return Rule(tuple(paths.split(unquote_to_bytes(prefix))), rights)
    except CommandError as error:
        raise BadAccount(f"{word!r}: {error}") from None
