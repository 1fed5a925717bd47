"""Permissions: what an account may do at which path, as rules for path prefixes.

Lives here: the rights, parsing and formatting rules, and which rule applies to a path.
Lives elsewhere: which right each request needs (serving/commands/__init__.py), the permission bits
of the file system (commit.py).

The longest prefix at or above a path decides. In text form, ``RIGHTS`` for everything is followed
by ``PREFIX=RIGHTS`` for parts: ``read-only /inbox=upload-only``. In a prefix, spaces, percent signs
and bytes that are not UTF-8 are written as in a URL (``%20``).

A rule for a deeper path protects it: acting on a tree as a whole (moving, copying or removing it,
even an empty directory) is refused if a rule below forbids that for a part. A link is followed only
if the same rights apply where it leads, and below (`Permissions.check_link`). So no link in a
permitted directory gives access elsewhere, and a rule for a link protects what the link leads to.
Names are compared as bytes: rules do not ignore case, even where a file system does.
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
    """An action of a request on a path. ``SEE``: learn that a directory exists."""

    SEE = "see"
    LIST = "list"
    READ = "read"
    CREATE = "create"
    REPLACE = "replace"
    DELETE = "delete"


class Rights(enum.Enum):
    """The actions permitted below a prefix.

    ``upload-only`` is a drop box: files and directories can be added. What exists cannot be read,
    replaced or removed; only directories are visible, by their names. ``no-delete`` protects what
    exists: it can be read and added to. ``none`` hides everything.
    """

    ALL = "all"
    READ_ONLY = "read-only"
    UPLOAD_ONLY = "upload-only"
    NO_DELETE = "no-delete"
    NONE = "none"

    @property
    def actions(self) -> frozenset[Action]:
        """The actions that it permits."""
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
    """Rights below a prefix. The prefix is the parts of a path; it is empty for the whole home."""

    prefix: Parts
    rights: Rights

    def __str__(self) -> str:
        return self.text if self.prefix else self.rights.value

    @property
    def text(self) -> str:
        """The rule with its prefix, even if that is the whole home."""
        return f"/{quote_from_bytes(b'/'.join(self.prefix))}={self.rights.value}"


@dataclass(frozen=True)
class Permissions:
    """The rules of one account, longest prefix first."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse rules separated by spaces. Raises BadAccount."""
        return cls.of(text.split())

    @classmethod
    def of(cls, words: Iterable[str]) -> Self:
        """Parse rules given one by one. The last rule for a prefix wins. Raises BadAccount."""
        found = {rule.prefix: rule for rule in map(_parse_rule, words)}
        return cls(tuple(sorted(found.values(), key=lambda rule: -len(rule.prefix))))

    def __str__(self) -> str:
        shown = sorted(self.rules, key=lambda rule: (len(rule.prefix), rule.prefix))
        return " ".join(map(str, shown)) or Rights.ALL.value

    def without(self, closed: Iterable[Parts]) -> Permissions:
        """Return these permissions without any rights at or below some paths."""
        hidden = set(closed)
        kept = [
            rule
            for rule in self.rules
            if not any(rule.prefix[: len(parts)] == parts for parts in hidden)
        ]
        rules = [*kept, *(Rule(parts, Rights.NONE) for parts in hidden)]
        return Permissions(tuple(sorted(rules, key=lambda rule: -len(rule.prefix))))

    @cached_property
    def unlimited(self) -> bool:
        """True if everything is permitted."""
        return all(rule.rights is Rights.ALL for rule in self.rules)

    def rule_for(self, parts: Parts) -> Rule:
        """Return the rule that decides about a path."""
        for rule in self.rules:
            if parts[: len(rule.prefix)] == rule.prefix:
                return rule
        return _EVERYTHING

    def rules_below(self, parts: Parts) -> list[Rule]:
        """Return the rules that decide about some part of what is below a path."""
        count = len(parts)
        return [
            rule for rule in self.rules if len(rule.prefix) > count and rule.prefix[:count] == parts
        ]

    def allows(self, action: Action, parts: Parts) -> bool:
        """Return whether an action on a path is permitted."""
        return action in self.rule_for(parts).rights.actions

    def require(self, action: Action, parts: Parts, *, whole: bool = False) -> None:
        """Raise Forbidden, which names the rule, unless an action on a path is permitted.

        Args:
            whole: True to require it for everything below the path too.
        """
        rule = self.rule_for(parts)
        if action not in rule.rights.actions:
            raise _refusal(rule, action, parts)
        if whole:
            for rule in self.rules_below(parts):
                if action not in rule.rights.actions:
                    raise _refusal(rule, action, parts)

    def require_somewhere(self, action: Action) -> None:
        """Raise Forbidden, which names the rule for the home, unless an action is permitted on
        any path."""
        whole = self.rule_for(())
        if not any(action in rule.rights.actions for rule in (whole, *self.rules)):
            raise _refusal(whole, action, ())

    def shows(self, parts: Parts) -> bool:
        """Return whether a listing shows a path. In an upload-only directory it shows just that the
        directory exists, not what is in it."""
        rule = self.rule_for(parts)
        actions = rule.rights.actions
        return Action.LIST in actions or (Action.SEE in actions and rule.prefix == parts)

    def check_link(self, parts: Parts, resolved: Parts) -> None:
        """Raise Forbidden if a link makes a path lead to where other rights apply.

        Args:
            parts: The path in the request.
            resolved: The path that it leads to, links resolved.
        """
        requested, found = self.rule_for(parts), self.rule_for(resolved)
        rights = requested.rights
        other = [
            rule
            for rule in (found, *self.rules_below(resolved), *self.rules_below(parts))
            if rule.rights is not rights
        ]
        if other:
            deciding = other[0] if requested.rights is Rights.ALL else requested
            raise Forbidden(
                f"{_shown(parts)}: a link leads to where other rights apply "
                f"(rule: {deciding.text})",
                path=paths.join(*parts),
                rule=deciding.text,
            )


_EVERYTHING = Rule((), Rights.ALL)
UNLIMITED = Permissions()


def _refusal(rule: Rule, action: Action, parts: Parts) -> Forbidden:
    """Return the error for a refusal: ``read-only account: /x cannot be changed (rule: …)``."""
    rights = rule.rights
    verb = "changed" if rights is Rights.READ_ONLY and action in _CHANGES else _VERBS[action]
    if len(rule.prefix) > len(parts):
        verb += " as a whole"
    kind = "closed" if rights is Rights.NONE else rights.value
    where = f"below {_shown(rule.prefix)}" if rule.prefix else "account"
    text = f"{kind} {where}: {_shown(parts)} cannot be {verb} (rule: {rule.text})"
    return Forbidden(text, path=paths.join(*parts), rule=rule.text)


def _shown(parts: Parts) -> str:
    return paths.show(paths.join(*parts))


def _parse_rule(word: str) -> Rule:
    prefix, equals, name = word.rpartition("=")
    try:
        rights = Rights(name)
    except ValueError:
        known = ", ".join(one.value for one in Rights)
        raise BadAccount(f"{name!r} is not a permission (use one of: {known})") from None
    if not equals:
        return Rule((), rights)
    try:
        return Rule(tuple(paths.split(unquote_to_bytes(paths.from_text(prefix)))), rights)
    except CommandError as error:
        raise BadAccount(f"{word!r}: {error}") from None
