"""What find looks for."""

from __future__ import annotations

import pytest

from ftpclient.cli import find_criteria
from ftpwire.messages import Entry

DAY = 86_400
NOW_NS = 1_700_000_000 * 10**9


def entry(size: int = 0, kind: str = "file", age_seconds: float = 0.0) -> Entry:
    return Entry(b"name", kind, size, 0o644, NOW_NS - int(age_seconds * 10**9))


@pytest.mark.parametrize(
    ("pattern", "path", "meets"),
    [
        pytest.param("*.txt", b"/a/b.txt", True, id="star"),
        pytest.param("*.txt", b"/a.txt/b", False, id="only-the-last-part"),
        pytest.param("*", b"/a/.hidden", True, id="dots-as-well"),
        pytest.param("b", b"/a/bb", False, id="all-of-the-name"),
        pytest.param("[ab]?", b"/a1", True, id="set-and-mark"),
        pytest.param("A*", b"/abc", False, id="case"),
        pytest.param("\udcff*", b"/\xff\xfe", True, id="no-text"),
        pytest.param("a*", b"/a\nb", True, id="newline"),
        pytest.param("/", b"/", True, id="top"),
    ],
)
def test_names(pattern, path, meets):
    assert find_criteria.name_like(pattern)(path, entry()) is meets


def test_other_ways_of_names():
    assert find_criteria.name_like("A*", any_case=True)(b"/x/abc", entry())
    assert find_criteria.path_like("/a/*.txt")(b"/a/b/c.txt", entry())
    assert not find_criteria.path_like("/a/*.txt")(b"/b/a/c.txt", entry())


@pytest.mark.parametrize(
    ("text", "meets"),
    [("f", {"file"}), ("d", {"dir"}), ("l", {"link"}), ("f,l", {"file", "link"})],
)
def test_types(text, meets):
    criterion = find_criteria.of_type(text)
    kinds = ("file", "dir", "link", "other")
    assert {kind for kind in kinds if criterion(b"/x", entry(kind=kind))} == meets


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        pytest.param("+10", {11, 1024, 1025, 2048, 2 * 2**20}, id="more-than"),
        pytest.param("-11", {0, 1, 10}, id="less-than"),
        pytest.param("10", {10}, id="exactly"),
        pytest.param("1k", {1, 10, 11, 1024}, id="in-units-rounded-up"),
        pytest.param("+1k", {1025, 2048, 2 * 2**20}, id="more-than-a-unit"),
        pytest.param("-1k", {0, 1, 10, 11}, id="less-than-a-unit"),
        pytest.param("+1.5KiB", {2048, 2 * 2**20}, id="fractions"),
        pytest.param("+1M", {2 * 2**20}, id="capitals"),
        pytest.param("10c", {10}, id="c-are-bytes"),
        pytest.param("2b", {1024}, id="b-are-blocks"),
        pytest.param("0", {0}, id="empty"),
    ],
)
def test_sizes(text, sizes):
    criterion = find_criteria.of_size(text)
    tried = (0, 1, 10, 11, 1024, 1025, 2048, 2 * 2**20)
    assert {size for size in tried if criterion(b"/x", entry(size))} == sizes
    assert not criterion(b"/x", entry(10, "dir"))


@pytest.mark.parametrize(
    ("text", "days"),
    [
        pytest.param("-1", {-1, 0, 0.5}, id="less"),
        pytest.param("+1", {2, 2.5, 30}, id="more"),
        pytest.param("1", {1, 1.5}, id="in-that-day"),
        pytest.param("0", {0, 0.5}, id="today"),
    ],
)
def test_ages(text, days):
    criterion = find_criteria.of_age(text, DAY, NOW_NS)
    tried = (-1, 0, 0.5, 1, 1.5, 2, 2.5, 30)
    assert {age for age in tried if criterion(b"/x", entry(age_seconds=age * DAY))} == days


def test_newer():
    criterion = find_criteria.newer_than(NOW_NS)
    assert not criterion(b"/x", entry())
    assert criterion(b"/x", entry(age_seconds=-1))


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (find_criteria.of_type, "x"),
        (find_criteria.of_type, ""),
        (find_criteria.of_type, "f,"),
        (find_criteria.of_size, "large"),
        (find_criteria.of_size, "+"),
        (find_criteria.of_size, "1Z"),
        (find_criteria.of_size, "1.5.2"),
        (lambda text: find_criteria.of_age(text, DAY), "week"),
        (lambda text: find_criteria.of_age(text, DAY), "1.5"),
        (lambda text: find_criteria.of_age(text, DAY), "--1"),
    ],
)
def test_nonsense(read, text):
    with pytest.raises(ValueError, match=r"is not|a type is"):
        read(text)
