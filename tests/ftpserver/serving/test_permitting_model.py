"""Whatever an account with whatever rules asks for: what happens on the disk, and what it is told,
is what the rules permit at the place where it happens. Links included."""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ftpserver.storage.permissions import Action, Permissions, Rights, Rule
from ftpwire import digests, paths
from ftpwire.frames import Kind
from ftpwire.messages import (
    BeginTree,
    Copy,
    EndTree,
    Get,
    Hash,
    Hashed,
    List,
    MakeDir,
    MakeLink,
    Move,
    Put,
    Remove,
    Sent,
    SetAttributes,
    Stat,
)

NAMES = (b"a", b"b", b"link")
PLACES = [parts for count in (1, 2, 3, 0) for parts in itertools.product(NAMES, repeat=count)]
DIRECTORIES = [
    parts for count in (1, 2, 0) for parts in itertools.product((b"a", b"b"), repeat=count)
]

_numbers = itertools.count(1)
_dir = st.sampled_from(DIRECTORIES)
_link = _dir.map(lambda parts: (*parts, b"link"))
_place = _dir | _dir | st.sampled_from(PLACES)
_path = _place.map(lambda parts: paths.join(*parts))
_file = _place.map(lambda parts: paths.join(*parts, b"file"))
_new = _place.map(lambda parts: paths.join(*parts, b"new"))
_any = _path | _file
_there = _dir.map(lambda parts: paths.join(*parts)) | _dir.map(
    lambda parts: paths.join(*parts, b"file")
)
_free = _dir.map(lambda parts: paths.join(*parts, b"new")) | _link.map(
    lambda parts: paths.join(*parts, b"new")
)
_target = _any | st.sampled_from([b"..", b".", b"../..", b"../a", b"a/../b", b"file", b"../b/file"])
_rules = st.dictionaries(
    st.sampled_from(DIRECTORIES[:-1]) | _place, st.sampled_from(Rights), min_size=1, max_size=2
).map(lambda rules: Permissions.of(str(Rule(*rule)) for rule in rules.items()))
_request = st.one_of(
    st.builds(Stat, _any, st.booleans()),
    st.builds(List, _path, st.booleans(), st.booleans()),
    st.builds(Hash, _file),
    st.builds(Get, _file),
    st.builds(lambda path, parents: Put(path, 3, parents=parents), _file, st.booleans()),
    st.builds(MakeDir, _path | _new, st.just(0o755), st.booleans()),
    st.builds(lambda path, target: MakeLink(path, target), _file | _new, _target),
    st.builds(SetAttributes, _any, st.sampled_from([None, 0o640, 0o600]), st.none()),
    st.builds(BeginTree, _path | _new),
    st.builds(EndTree, st.booleans()),
    st.builds(Remove, _any, st.booleans()),
    st.builds(Move, _there, _free | _there),
    st.builds(Copy, _there, _free | _there, st.just(True)),
    st.builds(Move, _any, _any | _new),
    st.builds(Copy, _any, _any | _new, st.booleans()),
)


def snapshot(home: Path) -> dict[tuple[bytes, ...], tuple]:
    """What is where, links not followed: type, contents, and the mode of files."""
    found = {}
    todo = [()]
    while todo:
        parts = todo.pop()
        with os.scandir(os.path.join(os.fsencode(home), *parts)) as entries:
            for entry in entries:
                if entry.name == paths.STAGING:
                    continue
                path = (*parts, entry.name)
                info = entry.stat(follow_symlinks=False)
                if entry.is_symlink():
                    found[path] = ("link", os.readlink(entry.path))
                elif entry.is_dir():
                    found[path] = ("dir",)
                    todo.append(path)
                else:
                    with open(entry.path, "rb") as file:
                        found[path] = ("file", file.read(), stat.S_IMODE(info.st_mode))
    return found


def check_change(rules: Permissions, before: dict, after: dict) -> None:
    """What is another than before was permitted where it is."""
    for path in before.keys() | after.keys():
        was, now = before.get(path), after.get(path)
        if was == now:
            continue
        if was is None:
            action = Action.CREATE
        elif now is None:
            action = Action.DELETE
        else:
            action = Action.REPLACE
        assert rules.allows(action, path), (action, path, was, now)


class Talk:
    """One session; says of each request what it was told."""

    def __init__(self, peer, rules: Permissions, home: Path) -> None:
        self._peer = peer
        self._rules = rules
        self._home = home

    def ask(self, request) -> None:
        peer = self._peer
        number = peer.request(request)
        if isinstance(request, Put):
            peer.frame(Kind.DATA, number, b"new")
            peer.frame(Kind.END, number, Sent(3, digests.digest(b"new")))
        reported = []
        while True:
            frame = peer.read()
            if frame.kind == Kind.DATA:
                reported.append(frame.payload)
            elif frame.kind != Kind.NOTICE:
                if frame.kind in (Kind.END, Kind.ERROR):
                    break
                reported.append(frame.message)
                if not isinstance(request, (Get, List)):
                    break
        self._check(request, reported, failed=frame.kind == Kind.ERROR)

    def _check(self, request, reported: list, failed: bool) -> None:
        if isinstance(request, Get):
            assert failed or self._rules.allows(Action.READ, self._real(request.path))
        elif reported and isinstance(reported[0], Hashed):
            assert self._rules.allows(Action.READ, self._real(request.path))
        elif isinstance(request, List):
            for page in reported:
                for entry in page.entries:
                    path = b"/".join((request.path, page.directory, entry.path)).rstrip(b"/")
                    assert self._rules.shows(self._real(path, last=request.follow)), path
        elif isinstance(request, Stat) and reported:
            real = self._real(request.path, last=request.follow)
            assert self._rules.allows(Action.SEE, real)
            if reported[0].entry.type != "dir":
                assert self._rules.allows(Action.LIST, real)

    def _real(self, path: bytes, last: bool = True) -> tuple[bytes, ...]:
        """Where a path leads, with the home as the top; links at its end as asked for."""
        todo, found = list(reversed(paths.split(path))), []
        for _ in range(1000):
            if not todo:
                return tuple(found)
            name = todo.pop()
            if name == b"..":
                found = found[:-1]
            elif name not in (b"", b"."):
                place = os.path.join(os.fsencode(self._home), *found, name)
                if os.path.islink(place) and (todo or last):
                    target = os.readlink(place)
                    found = [] if target.startswith(b"/") else found
                    todo.extend(reversed(target.split(b"/")))
                else:
                    found.append(name)
        raise AssertionError("a loop was followed")


@pytest.fixture
def open_talk(server, dial):
    """Opens a session of somebody new, with a home that has a bit of everything."""

    def opened(rules: Permissions):
        name = f"user{next(_numbers)}"
        server.accounts.add(name, "secret", permissions=rules)
        home = server.settings.root / name
        for parts in DIRECTORIES:
            place = home.joinpath(*map(os.fsdecode, parts))
            place.mkdir(exist_ok=True)
            (place / "file").write_bytes(b"/".join(parts))
        peer = dial(server, logged_in=False)
        peer.log_in(name)
        return peer, Talk(peer, rules, home), home

    return opened


@settings(
    max_examples=settings().max_examples // 3,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    _rules,
    st.lists(st.tuples(_link, _target), min_size=1, max_size=4),
    st.lists(_request, min_size=20, max_size=40),
)
def test_only_what_is_permitted_happens(open_talk, rules, links, requests):
    peer, talk, home = open_talk(rules)
    for parts, target in links:
        place = os.path.join(os.fsencode(home), *parts)
        if not os.path.lexists(place) and os.path.isdir(os.path.dirname(place)):
            os.symlink(target, place)
    before = snapshot(home)
    for request in requests:
        talk.ask(request)
        after = snapshot(home)
        check_change(rules, before, after)
        before = after
    peer.close()
