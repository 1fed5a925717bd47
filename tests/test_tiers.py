"""The tiers of tests: plain `pytest` is quick, `-m system` and `-m long` have no test in common."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import FAST
from tests.conftest import pytest_collection_modifyitems as sort_into_tiers

HERE = Path(__file__).parent


class Item:
    """As much of a collected test as the sorting looks at."""

    def __init__(self, path: str, *marks: str) -> None:
        path, *self.fixturenames = path.split(" + ")
        self.path = HERE / path
        self.nodeid = path
        self.marks = set(marks)

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.marks else None

    def add_marker(self, name: str) -> None:
        self.marks.add(name)


@pytest.mark.parametrize(
    ("path", "marks", "tier"),
    [
        ("system/test_start.py", [], {"system"}),
        ("system/deeper/test_start.py", ["telling"], {"system", "telling"}),
        ("system/test_crash.py", ["long"], {"long"}),
        ("ftpwire/test_paths.py", [], set()),
        ("ftpwire/test_paths.py", ["long"], {"long"}),
        ("ftpserver/isolation/test_isolation.py", ["system"], {"system"}),
        ("systems/test_start.py", [], set()),
        ("examples/test_examples.py + programs", [], {"system"}),
        ("examples/test_examples.py + programs", ["long"], {"long"}),
    ],
)
def test_each_test_is_in_one_tier(path, marks, tier):
    item = Item(path, *marks)
    sort_into_tiers([item])
    assert item.marks == tier


@pytest.mark.parametrize("path", ["system/test_crash.py", "ftpwire/test_paths.py"])
def test_a_test_of_two_tiers_is_a_mistake(path):
    with pytest.raises(pytest.UsageError, match=path):
        sort_into_tiers([Item(path, "system", "long")])


def test_only_the_fast_tier_runs_by_itself(request):
    if request.config.option.markexpr != FAST:
        pytest.skip("run with another -m")
    for item in request.session.items:
        assert not item.get_closest_marker("system") and not item.get_closest_marker("long")
        assert not item.path.is_relative_to(HERE / "system")


def test_the_fast_tier_is_what_runs_by_itself(request):
    assert FAST in request.config.getini("addopts")
