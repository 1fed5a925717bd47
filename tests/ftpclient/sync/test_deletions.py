"""What a sync deletes with a directory, and how much of all that it may."""

from __future__ import annotations

from contextlib import closing

import pytest

from ftpclient.sync.deletions import check_limits, kept_back, may_delete_before
from ftpclient.sync.directories import EXTRA, IN_THE_WAY, Deletion, deletion_step
from ftpclient.sync.plan import Options, Plan
from ftpwire.errors import CommandError, SafetyLimit
from ftpwire.messages import Entry


def file(name: bytes, size: int = 10) -> Entry:
    return Entry(name, "file", size, 0o644, 0)


@pytest.fixture
def plan():
    """A plan that deletes two files."""
    with closing(Plan()) as plan:
        plan.source_is_empty = False
        for name in (b"a", b"b"):
            plan.remove(deletion_step(name, file(name)))
        yield plan


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        pytest.param(Options(delete=True), True, id="no-limit"),
        pytest.param(Options(delete=True, max_delete=2), True, id="as-many-as-allowed"),
        pytest.param(Options(delete=True, max_delete=1), False, id="one-too-many"),
        pytest.param(Options(delete=True, max_delete=1, force=True), False, id="also-with-force"),
    ],
)
def test_max_delete(plan, options, allowed):
    if allowed:
        check_limits(plan, options, "src")
        return
    with pytest.raises(SafetyLimit, match="2 entries would be deleted, but --max-delete is 1"):
        check_limits(plan, options, "src")


@pytest.mark.parametrize("what", ["empty", "unreadable"])
def test_a_source_that_may_not_be_whole(plan, what):
    if what == "empty":
        plan.source_is_empty = True
    else:
        plan.cannot_read(CommandError("why"))
    with pytest.raises(SafetyLimit, match=r"src.*2 entries would be deleted.*--force to delete"):
        check_limits(plan, Options(delete=True), "src")
    check_limits(plan, Options(delete=True, force=True), "src")


def test_what_deletes_nothing_has_no_limits():
    with closing(Plan()) as plan:
        check_limits(plan, Options(max_delete=0), "src")


@pytest.mark.parametrize(
    ("count", "reported"), [(1, "1 entry was not deleted"), (2, "2 entries were not deleted")]
)
def test_what_was_kept_back(count, reported):
    assert str(kept_back(count)).startswith(reported)


def test_deleting_first_is_offered_where_it_makes_space(plan):
    assert may_delete_before(plan, Options(delete=True))
    assert not may_delete_before(plan, Options(delete=True, delete_before=True))
    assert not may_delete_before(plan, Options())


# a directory that goes -------------------------------------------------------------------------


def test_a_directory_goes_with_all_that_is_in_it():
    with (
        closing(Deletion(b"d", None, keep_steps=False)) as deletion,
        closing(Deletion(b"d/in", None, keep_steps=False)) as inner,
    ):
        inner.add(deletion_step(b"d/in/x", file(b"x", 5)))
        deletion.take(inner)
        deletion.add(deletion_step(b"d/y", file(b"y", 7)))
        step = deletion.step()
        assert (step.path, step.count, step.size, step.why) == (b"d", 4, 12, EXTRA)


def test_of_one_with_something_to_keep_the_rest_goes_one_by_one():
    with (
        closing(Deletion(b"d", None, keep_steps=True)) as deletion,
        closing(Deletion(b"d/in", None, keep_steps=True)) as inner,
    ):
        inner.add(deletion_step(b"d/in/x", file(b"x")))
        inner.protected = True
        deletion.add(deletion_step(b"d/y", file(b"y")))
        deletion.take(inner)
        assert deletion.protected
        assert [step.path for step in deletion.steps()] == [b"d/y", b"d/in/x"]


def test_one_that_makes_way_is_not_searched_for_renamed_files():
    with closing(Deletion(b"d", file(b"d"), keep_steps=False)) as deletion:
        assert not deletion.movable
        assert deletion.step().why == IN_THE_WAY
