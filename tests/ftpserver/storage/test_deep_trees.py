"""Walks of deep trees hold a few descriptors, and what is moved meanwhile leads nowhere."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ftpserver.isolation import homes
from ftpserver.isolation.sandbox import Identity
from ftpserver.storage.home_staging import Tally
from ftpserver.storage.listing import Item
from ftpserver.storage.walk import stored, walk
from ftpwire.beneath import MOST_OPEN, OPEN_DIRECTORY
from ftpwire.errors import SourceChanged
from ftpwire.messages import Entry, Problem
from tests.few_descriptors import few_descriptors, mark_dead

DEPTH = 150
MORE = MOST_OPEN + 8


@pytest.fixture
def alice(root):
    (root / "alice").mkdir(exist_ok=True)
    return root / "alice"


def listed(items: list[Item]) -> tuple[set[bytes], list[tuple[bytes, Problem]]]:
    """The paths that a listing named, and its problems."""
    paths, problems = set(), []
    for directory, item in items:
        if isinstance(item, Entry):
            paths.add(directory + b"/" + item.path if directory else item.path)
        elif isinstance(item, Problem):
            problems.append((directory, item))
    return paths, problems


def all_of(depth: int) -> set[bytes]:
    """The paths of what `mark_dead` makes."""
    found = set()
    for count in range(1, depth + 1):
        way = b"/".join([b"d"] * count)
        found |= {way, way + b"/other", way + b"/f"}
    return found


@pytest.mark.parametrize("follow", [False, True])
def test_a_deep_listing_holds_few_descriptors(home, alice, follow):
    mark_dead(alice, DEPTH)
    with few_descriptors(MORE):
        items = list(home.list(b"/", recursive=True, follow=follow, digest=False))
    assert listed(items) == (all_of(DEPTH), [])


def test_links_on_the_way_down_are_no_way_up(home, alice):
    """The directory that a link leads to lies elsewhere: the way back is looked up again."""
    mark_dead(alice, DEPTH // 2)
    (alice / "deep").symlink_to("/".join(["d"] * (DEPTH // 2)))
    bottom = alice.joinpath(*["d"] * (DEPTH // 2))
    (bottom / "more").symlink_to("/side")
    (alice / "side").mkdir()
    mark_dead(alice / "side", 2 * MOST_OPEN)
    with few_descriptors(MORE):
        items = list(home.list(b"/d", recursive=True, follow=True, digest=False))
    paths, problems = listed(items)
    assert not problems
    more = b"/".join([b"d"] * (DEPTH // 2 - 1)) + b"/more"
    assert {more + b"/" + path for path in all_of(2 * MOST_OPEN)} <= paths


def down_to(walking, depth: int) -> list[Item]:
    """Go on with a listing until it is so deep."""
    items = []
    for item in walking:
        items.append(item)
        if item[0].count(b"/") + 1 == depth and item[1] is None:
            return items
    raise AssertionError("it never was so deep")


class Sorted:
    """As os.scandir, by name: a listing goes down before it comes to what is beside."""

    def __init__(self, real, place) -> None:
        self._found = real(place)

    def __enter__(self):
        return iter(sorted(self._found, key=lambda entry: entry.name))

    def __exit__(self, *_) -> None:
        self._found.close()


@pytest.mark.parametrize("trap", ["nothing", "link", "directory"])
def test_a_way_back_that_was_moved_is_a_problem(home, alice, canary, trap, monkeypatch):
    """What comes into its place isn't gone into, and what is left there is told."""
    real = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: Sorted(real, place))
    mark_dead(alice, 60)
    (alice / "elsewhere").mkdir()
    walking = home.list(b"/", recursive=True, follow=False, digest=False)
    items = down_to(walking, 50)
    first, lower = alice / "d", alice.joinpath(*["d"] * 30)
    lower.rename(alice / "elsewhere" / "low")  # so that .. of it leads to another place
    first.rename(alice / "elsewhere" / "high")
    if trap == "link":
        first.symlink_to(canary)
    elif trap == "directory":
        mark_dead(alice, 40, file=b"trap")
    items += walking
    paths, problems = listed(items)
    assert {one for one in paths if not one.startswith(b"elsewhere")} == all_of(60)
    changed = {directory for directory, problem in problems if problem.code == SourceChanged.code}
    assert changed and len(changed) == len(problems)
    assert changed <= {b"/".join([b"d"] * count) + b"/other" for count in range(1, 30)}
    assert all((directory, None) in items for directory in changed)


def test_a_tree_that_is_moved_as_a_whole_is_listed_whole(home, alice):
    """The control: the way up is that of the directories, wherever they are."""
    mark_dead(alice, 60)
    (alice / "elsewhere").mkdir()
    walking = home.list(b"/", recursive=True, follow=False, digest=False)
    items = down_to(walking, 50)
    (alice / "d").rename(alice / "elsewhere" / "high")
    items += walking
    paths, problems = listed(items)
    assert all_of(60) | {b"elsewhere"} <= paths
    assert not [one for one in problems if one[0].startswith(b"d/")]


def test_other_walks_of_a_deep_tree_hold_few_descriptors(home, alice):
    """Counting, removing, checking."""
    mark_dead(alice, 100)
    with few_descriptors(MORE):
        assert sum(1 for _ in walk(home.fd)) == 3 * 100
        assert stored(home.fd).files == 3 * 100
        tally = Tally()
        assert home.remove(b"/d", recursive=True, tick=lambda: None).files == 100
    assert tally == Tally() and os.listdir(alice) == [".ftpd-staging"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")
def test_a_deep_home_is_handed_over_with_few_descriptors(root):
    """All of it, also what lies under the reserved name."""
    home = root / "bob"
    home.mkdir()
    mark_dead(home, 100)
    mark_dead(home, 3, name=b".ftpd-staging")
    mark_dead(home / "d", 3, name=b".ftpd-staging")
    fd = os.open(home, OPEN_DIRECTORY)
    try:
        with few_descriptors(MORE):
            homes._hand_over_below(fd, os.geteuid(), Identity(12345, 12345))
        found = list(walk(fd, staging=True))
        owners = set()
        for one in walk(fd, staging=True):
            owners.add(one.entry.stat(follow_symlinks=False).st_uid)
        assert owners == {12345} and len(found) == 3 * 100 + 2 * 9
    finally:
        os.close(fd)


@pytest.mark.parametrize("replaced", [False, True])
def test_a_count_that_lost_its_way_back_is_not_short(home, alice, replaced):
    """Moved by somebody who heeds no lock; the control: what is only renamed is found."""
    for name in "cde":
        (alice / "a" / "b" / name).mkdir(parents=True)
        (alice / "a" / "b" / name / "file").touch()

    def disturbed(disturb) -> Iterator[bytes]:
        for found in walk(home.fd):
            if found.name == b"file" and disturb is not None:
                disturb(os.fsdecode(found.path.split(b"/")[2]))
                disturb = None
            yield found.name

    def rename(name: str) -> None:
        (alice / "a").rename(alice / "A")

    def take_away(name: str) -> None:
        (alice / "A" / "b" / name).rename(alice / name)
        (alice / "A" / "b").rename(alice / "A" / "moved")
        if replaced:
            (alice / "A" / "b").mkdir()

    assert list(disturbed(rename)).count(b"file") == 3
    with pytest.raises(OSError, match="moved meanwhile"):
        list(disturbed(take_away))


def test_a_count_that_fails_gives_closed_directories_their_mode_back(home, alice, plain_user):
    for name in "cd":
        (alice / "a" / "b" / name).mkdir(parents=True)
        (alice / "a" / "b" / name / "file").touch()
        (alice / "a" / "b" / name).chmod(0o000)
    moved = ""
    with pytest.raises(OSError, match="moved meanwhile"):
        for found in walk(home.fd, through_closed=True):
            if found.name == b"file":
                moved = os.fsdecode(found.path.split(b"/")[2])
                (alice / "a" / "b" / moved).rename(alice / "moved")
                (alice / "a" / "b").rename(alice / "b")
    assert (alice / "moved").stat().st_mode & 0o777 == 0
    (alice / "moved").chmod(0o700)
    for left in (alice / "b").iterdir():
        assert left.stat().st_mode & 0o777 == 0
        left.chmod(0o700)
