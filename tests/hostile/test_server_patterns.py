"""An .ftpignore that a server has, made to keep the client busy.

Lives here: patterns that take long, too many of them, Ctrl-C meanwhile.
Lives elsewhere: what patterns mean (tests/ftpclient/transfer/test_patterns.py).
"""

from __future__ import annotations

import os

import pytest

from ftpclient.sync.job import Options as SyncOptions
from ftpclient.transfer.patterns import MAX_IGNORE_FILE, MAX_PATTERNS, Rules, file_rules
from ftpclient.transfer.selection import Filter
from ftpwire.errors import CommandError, Interrupted
from ftpwire.messages import Page
from tests.lying_server import LyingServer, file_entry, send_file

STARS = "*a" * 100 + "b"
DEEP = "**/" + "*a/**/" * 60 + "b"
LONG_NAME = b"a" * 250


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        pytest.param(STARS, LONG_NAME, id="stars"),
        pytest.param("?*" * 120 + "b", LONG_NAME, id="question-marks"),
        pytest.param("*[a-z]" * 120 + "b", LONG_NAME, id="classes"),
        pytest.param("x/" + STARS, LONG_NAME, id="path"),
    ],
)
def test_a_pattern_of_many_stars_ends(pattern, name):
    """`re` tries more ways than there are atoms. Seen to hang without the atomic groups."""
    rules = Filter(Rules([pattern])).below(b"x")
    assert not rules.excludes(name, is_directory=False)
    assert rules.excludes(name + b"b", is_directory=False)  # the control


def test_a_pattern_of_many_depths_ends():
    rules = Filter(Rules([DEEP]))
    for _ in range(200):
        rules = rules.below(b"aa")
    assert not rules.excludes(b"aa", is_directory=False)
    assert rules.excludes(b"b", is_directory=False)  # the control


def test_a_pattern_longer_than_any_name_is_no_work():
    (rule,) = Rules(["*" + "?" * (MAX_IGNORE_FILE - 1)])._last_first
    (part,) = rule.parts
    assert part is not None and len(part.pattern) < 10
    assert Filter(Rules(["?" * 255])).excludes(b"x" * 255, is_directory=False)  # the control


@pytest.mark.parametrize("pattern", ["*.o", "a/*.o"])
def test_ctrl_c_ends_the_comparing(pattern):
    """It comes while one name is compared, which may take long with many patterns."""
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 5:
            raise Interrupted("interrupted")

    rules = Filter(Rules([pattern] * MAX_PATTERNS), check)
    with pytest.raises(Interrupted):
        rules.below(b"x").excludes(b"name", is_directory=False)
    few = Filter(Rules([pattern]), lambda: None)
    assert not few.below(b"x").excludes(b"name", is_directory=False)  # the control


def test_as_many_patterns_as_are_allowed():
    assert len(file_rules(b"# a comment\n" + b"x\n" * MAX_PATTERNS)) == MAX_PATTERNS
    with pytest.raises(CommandError, match="1000 patterns"):
        file_rules(b"x\n" * (MAX_PATTERNS + 1))


@pytest.mark.parametrize(
    ("rules", "is_obeyed"),
    [
        pytest.param(STARS.encode() + b"\nkept\n", True, id="slow"),
        pytest.param(b"kept\n", True, id="control"),
        pytest.param(b"x\n" * (MAX_PATTERNS + 1), False, id="many"),
        pytest.param(b"#" * (MAX_IGNORE_FILE + 1), False, id="large"),
    ],
)
def test_a_sync_from_a_server_with_such_a_file(fake, connect, tmp_path, rules, is_obeyed):
    """What cannot be read protects all: nothing is known of what it would have left out."""
    long_name = os.fsdecode(LONG_NAME)
    for name in ("kept", "extra", long_name):
        (tmp_path / name).write_bytes(b"mine")
    entries = [file_entry(b".ftpignore", size=len(rules))]

    def get(peer, number: int) -> None:
        send_file(peer, number, rules)

    pages = [Page(b"", entries, [], True)]
    client = connect(fake(LyingServer(pages=pages, get=get)), retries=0)
    options = SyncOptions(delete=True, force=is_obeyed)
    summary = client.sync(b":/tree", os.fsencode(tmp_path), options)
    assert bool(summary.failed) is not is_obeyed
    assert (tmp_path / "kept").exists()
    assert (tmp_path / "extra").exists() is (tmp_path / long_name).exists() is not is_obeyed
