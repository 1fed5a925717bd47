"""Rules for path prefixes: how they are written, and which one decides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpserver.storage.permissions import Action, Permissions, Rights, Rule
from ftpwire import paths
from ftpwire.errors import BadAccount, Forbidden


def permissions(text: str) -> Permissions:
    return Permissions.parse(text)


def split(path: str) -> tuple[bytes, ...]:
    return paths.split(path.encode())


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("all", "all"),
        ("read-only", "read-only"),
        ("/=read-only", "read-only"),
        ("/a=none read-only", "read-only /a=none"),
        ("/a/b=all /a=none", "/a=none /a/b=all"),
        ("//a/./b/../=all", "/a=all"),
        ("/a%20b=all", "/a%20b=all"),
        ("/a=b=all", "/a%3Db=all"),
        ("/%ff%0a=none", "/%FF%0A=none"),
        ("/ä=none", "/%C3%A4=none"),
        ("/a=all /a=none", "/a=none"),
    ],
)
def test_rules_as_they_are_written(written, shown):
    assert str(permissions(written)) == shown
    assert permissions(shown) == permissions(written)


@pytest.mark.parametrize(
    "written",
    ["some", "ALL", "a=all", "=all", "/a=", "/a", "/.ftpd-staging=all", "/%00=all", "all,none"],
)
def test_what_is_no_rule(written):
    with pytest.raises(BadAccount):
        permissions(written)


_name = st.binary(min_size=1, max_size=6).filter(
    lambda name: paths.is_name(name) and b"\0" not in name
)
_prefix = st.lists(_name, max_size=4).map(tuple)
_rules = st.dictionaries(_prefix, st.sampled_from(Rights), max_size=6).map(
    lambda rules: Permissions(
        tuple(
            sorted(
                (Rule(prefix, rights) for prefix, rights in rules.items()),
                key=lambda rule: -len(rule.prefix),
            )
        )
    )
)


@given(_rules)
def test_any_rules_are_read_as_they_are_shown(rules):
    read = Permissions.parse(str(rules))
    assert set(read.rules) == (set(rules.rules) or {Rule((), Rights.ALL)})
    assert str(read) == str(Permissions.parse(str(read)))
    assert read.unlimited == rules.unlimited


@given(_rules, _prefix)
def test_the_longest_prefix_decides(rules, path):
    matching = [rule for rule in rules.rules if path[: len(rule.prefix)] == rule.prefix]
    expected = max(matching, key=lambda rule: len(rule.prefix), default=Rule((), Rights.ALL))
    assert rules.rule_for(path) == expected
    for action in Action:
        assert rules.allows(action, path) == (action in expected.rights.actions)


@given(_rules, _prefix, st.sampled_from(Action))
def test_the_whole_is_permitted_only_where_every_part_is(rules, path, action):
    below = [rule for rule in rules.rules if rule.prefix[: len(path)] == path]
    permitted = rules.allows(action, path) and all(action in rule.rights.actions for rule in below)
    try:
        rules.require(action, path, whole=True)
        assert permitted
    except Forbidden:
        assert not permitted


@given(_rules, _prefix, _prefix, _prefix, st.sampled_from(Action))
def test_a_link_that_is_followed_helps_nobody(rules, requested, found, below, action):
    try:
        rules.check_link(requested, found)
    except Forbidden:
        return
    assert rules.allows(action, requested + below) == rules.allows(action, found + below)


@pytest.mark.parametrize(
    ("rules", "action", "path", "text"),
    [
        (
            *("read-only", Action.CREATE, "/x"),
            "read-only account: /x cannot be changed (rule: /=read-only)",
        ),
        (
            *("/pub=read-only", Action.DELETE, "/pub/a b"),
            "read-only below /pub: /pub/a b cannot be changed (rule: /pub=read-only)",
        ),
        (
            *("/in=upload-only", Action.READ, "/in/x"),
            "upload-only below /in: /in/x cannot be read (rule: /in=upload-only)",
        ),
        (
            *("no-delete", Action.REPLACE, "/x"),
            "no-delete account: /x cannot be replaced (rule: /=no-delete)",
        ),
        (
            *("/a%20b=none", Action.SEE, "/a b"),
            "closed below /a b: /a b cannot be looked at (rule: /a%20b=none)",
        ),
        (
            *("/a/b=no-delete", Action.DELETE, "/a"),
            "no-delete below /a/b: /a cannot be removed as a whole (rule: /a/b=no-delete)",
        ),
    ],
)
def test_a_refusal_names_the_rule(rules, action, path, text):
    with pytest.raises(Forbidden) as refused:
        permissions(rules).require(action, split(path), whole=True)
    assert str(refused.value) == text


def test_a_refusal_is_printable():
    rules = permissions("/%1b%0a=none")
    with pytest.raises(Forbidden) as refused:
        rules.require(Action.READ, (b"\x1b\n", b"\xff\r"))
    assert str(refused.value).isprintable()
