"""What an account may do, and where: rules for path prefixes.

Lives here: the rights, reading and showing rules, and which rule decides about a path.
Lives elsewhere: which request needs what (serving/commands/__init__.py), the file system's own
permission bits (commit.py).

The longest prefix that a path lies at or below decides. Written as text, ``RIGHTS`` for
everything, then ``PREFIX=RIGHTS`` for parts: ``read-only /inbox=upload-only``. In a prefix, spaces
and what is no UTF-8 are written as in a URL (``%20``), and so is the percent sign.

A rule for a deeper path protects it: what acts on a tree as a whole (moving, copying or removing
it, also an empty directory) is refused when a rule below forbids it for a part. A link is followed
only to where the same rights hold, there and below (`Permissions.check_link`); so no link from a
permitted place helps, and a prefix that is a link itself shuts off what it leads to. Names are
compared as bytes: where a file system ignores case, rules do not.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Self
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ftpwire import paths
from ftpwire.errors import BadAccount, CommandError, Forbidden

Parts = tuple[bytes, ...]


class Action(enum.Enum):
    """What a request does to a path. ``SEE``: find out that a directory is there."""

    SEE = "see"
    LIST = "list"
    READ = "read"
    CREATE = "create"
    REPLACE = "replace"
    DELETE = "delete"


class Rights(enum.Enum):
    """What may be done below a prefix.

    ``upload-only`` is a drop box: files and directories can be put in, and of what is there
    nothing can be read, replaced or removed, nor seen but directories by their names.
    ``no-delete`` keeps what is there: it can be read and added to. ``none`` hides a part.
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
    Rights.READ_ONLY: frozenset({Action.SEE, Action.LIST, Action.READ}),
    Rights.UPLOAD_ONLY: frozenset({Action.SEE, Action.CREATE}),
    Rights.NO_DELETE: frozenset({Action.SEE, Action.LIST, Action.READ, Action.CREATE}),
    Rights.NONE: frozenset(),
}

_VERBS = {
    Action.SEE: "looked at",
    Action.LIST: "listed",
    Action.READ: "read",
    Action.CREATE: "written to",
    Action.REPLACE: "replaced",
    Action.DELETE: "removed",
}
_CHANGES = frozenset({Action.CREATE, Action.REPLACE, Action.DELETE})


@dataclass(frozen=True)
class Rule:
    """Rights below a prefix; the prefix is a path's parts, without any for the whole home."""

    prefix: Parts
    rights: Rights

    def __str__(self) -> str:
        return self.text if self.prefix else self.rights.value

    @property
    def text(self) -> str:
        """Written with its prefix, also when that is the whole home."""
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
        shown = sorted(self.rules, key=lambda rule: (len(rule.prefix), rule.prefix))
        return " ".join(map(str, shown)) or Rights.ALL.value

    def without(self, closed: Iterable[Parts]) -> Permissions:
        """The same, but for some places, at and below which nothing is permitted."""
        places = set(closed)
        kept = [
            rule
            for rule in self.rules
            if not any(rule.prefix[: len(place)] == place for place in places)
        ]
        rules = [*kept, *(Rule(place, Rights.NONE) for place in places)]
        return Permissions(tuple(sorted(rules, key=lambda rule: -len(rule.prefix))))

    @cached_property
    def unlimited(self) -> bool:
        """Whether there is nothing to check."""
        return all(rule.rights is Rights.ALL for rule in self.rules)

    def rule_for(self, parts: Parts) -> Rule:
        """The rule that decides about a path."""
        for rule in self.rules:
            if parts[: len(rule.prefix)] == rule.prefix:
                return rule
        return _EVERYTHING

    def rules_below(self, parts: Parts) -> list[Rule]:
        """The rules that decide about a part of what is below a path."""
        count = len(parts)
        return [
            rule for rule in self.rules if len(rule.prefix) > count and rule.prefix[:count] == parts
        ]

    def allows(self, action: Action, parts: Parts) -> bool:
        """Whether something may be done to a path."""
        return action in self.rule_for(parts).rights.actions

    def require(self, action: Action, parts: Parts, *, whole: bool = False) -> None:
        """Raise Forbidden, with the rule, unless something may be done to a path.

        Args:
            whole: Also to everything below it.
        """
        rule = self.rule_for(parts)
        if action not in rule.rights.actions:
            raise _refusal(rule, action, parts)
        if whole:
            for rule in self.rules_below(parts):
                if action not in rule.rights.actions:
                    raise _refusal(rule, action, parts)

    def require_somewhere(self, action: Action) -> None:
        """Raise Forbidden, with the rule for the whole home, unless something may be done to some
        path."""
        whole = self.rule_for(())
        if not any(action in rule.rights.actions for rule in (whole, *self.rules)):
            raise _refusal(whole, action, ())

    def shows(self, parts: Parts) -> bool:
        """Whether a listing tells of a path: where things can be put is known, though not what
        is there."""
        rule = self.rule_for(parts)
        actions = rule.rights.actions
        return Action.LIST in actions or (Action.SEE in actions and rule.prefix == parts)

    def check_link(self, parts: Parts, resolved: Parts) -> None:
        """Raise Forbidden if a link makes a path lead to where other rights hold.

        Args:
            parts: As it was asked for.
            resolved: Where it leads, links resolved.
        """
        asked, found = self.rule_for(parts), self.rule_for(resolved)
        rights = asked.rights
        other = [
            rule
            for rule in (found, *self.rules_below(resolved), *self.rules_below(parts))
            if rule.rights is not rights
        ]
        if other:
            deciding = other[0] if asked.rights is Rights.ALL else asked
            raise Forbidden(
                f"{_shown(parts)}: a link leads to where other rights hold (rule: {deciding.text})",
                path=paths.join(*parts),
                rule=deciding.text,
            )


_EVERYTHING = Rule((), Rights.ALL)
UNLIMITED = Permissions()


def _refusal(rule: Rule, action: Action, parts: Parts) -> Forbidden:
    """Why something can't be done: ``read-only account: /x can't be changed (rule: …)``."""
    rights = rule.rights
    verb = "changed" if rights is Rights.READ_ONLY and action in _CHANGES else _VERBS[action]
    if len(rule.prefix) > len(parts):
        verb += " as a whole"
    kind = "closed" if rights is Rights.NONE else rights.value
    where = f"below {_shown(rule.prefix)}" if rule.prefix else "account"
    text = f"{kind} {where}: {_shown(parts)} can't be {verb} (rule: {rule.text})"
    return Forbidden(text, path=paths.join(*parts), rule=rule.text)


def _shown(parts: Parts) -> str:
    return paths.show(paths.join(*parts))


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
        return Rule(tuple(paths.split(unquote_to_bytes(paths.from_text(prefix)))), rights)
    except CommandError as error:
        raise BadAccount(f"{word!r}: {error}") from None
