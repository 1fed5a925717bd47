"""What patterns leave out: the rules of gitignore, compared with git itself where there is one."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftpclient.transfer.patterns import Rules, file_rules, option_rules
from ftpclient.transfer.selection import Filter


def excluded(filter_: Filter, path: str) -> bool:
    """Whether a path is left out, by itself or by a directory it is in. A directory ends in /."""
    *above, name = path.rstrip("/").split("/")
    for part in above:
        if filter_.excludes(os.fsencode(part), is_directory=True):
            return True
        filter_ = filter_.below(os.fsencode(part))
    return filter_.excludes(os.fsencode(name), is_directory=path.endswith("/"))


@pytest.mark.parametrize(
    ("lines", "out", "stays"),
    [
        pytest.param(["*.o"], ["a.o", "d/a.o", "d.o/", "d.o/x"], ["a.c", "a.o.c"], id="suffix"),
        pytest.param(["build/"], ["build/", "d/build/", "build/x"], ["build"], id="directory"),
        pytest.param(["/top"], ["top", "top/x"], ["d/top"], id="anchored"),
        pytest.param(["d/x"], ["d/x", "d/x/y"], ["x", "e/d/x"], id="slash-inside-anchors"),
        pytest.param(["**/x"], ["x", "d/x", "e/d/x"], ["xx"], id="anywhere"),
        pytest.param(["d/**"], ["d/x", "d/e/x"], ["d/", "x"], id="everything-in"),
        pytest.param(["a/**/b"], ["a/b", "a/x/b", "a/x/y/b"], ["b", "ab"], id="any-depth"),
        pytest.param(["***/b"], ["b", "x/y/b"], ["a"], id="more-stars"),
        pytest.param(["?"], ["a", "é"], ["ab"], id="one-character"),
        pytest.param(["[a-c]x", "[!a]y"], ["ax", "by"], ["dx", "ay"], id="ranges"),
        pytest.param(["[[:digit:]]*"], ["1", "1a"], ["a1"], id="character-class"),
        pytest.param(["*.x", "!keep.x"], ["a.x"], ["keep.x", "d/keep.x"], id="later-wins"),
        pytest.param(["!keep.x", "*.x"], ["keep.x"], [], id="earlier-loses"),
        pytest.param(["d/", "!d/x"], ["d/x"], [], id="nothing-back-from-inside"),
        pytest.param(["d/*", "!d/x"], ["d/y"], ["d/x"], id="back-from-beside"),
        pytest.param(["*", "!*/", "!*.c"], ["a.o", "d/a.o"], ["a.c", "d/a.c"], id="only-some"),
        pytest.param(["*", "!d/"], ["x", "d/x"], ["d/"], id="directory-back"),
        pytest.param(["#x", "", "  ", "/", "!"], [], ["#x", "x"], id="no-patterns"),
        pytest.param(["\\#x", "\\!y"], ["#x", "!y"], ["x", "y"], id="quoted"),
        pytest.param(["x  ", "y\\ "], ["x", "y "], ["x  ", "y"], id="trailing-blanks"),
        pytest.param([" x"], [" x"], ["x"], id="leading-blank"),
        pytest.param(["y /"], ["y /"], ["y/", "y "], id="blank-before-the-slash"),
        pytest.param(["x\r"], ["x"], ["x\r"], id="carriage-return"),
        pytest.param(["a*"], ["a\nb", "a\n"], ["\na"], id="newline-in-a-name"),
        pytest.param(["a"], ["a"], ["a\n", "A"], id="whole-name"),
        pytest.param(["**/x"], ["a\nb/x"], [], id="newline-in-a-directory"),
        pytest.param(["*.\udcff"], ["a.\udcff"], ["a.x"], id="no-text"),
        pytest.param(["[a[]x"], ["ax", "[x"], ["bx"], id="bracket-in-brackets"),
        pytest.param(["[x"], [], ["[x", "x"], id="open-bracket"),
        pytest.param(["a\\"], [], ["a", "a\\"], id="ends-with-a-backslash"),
    ],
)
def test_rules(lines, out, stays):
    filter_ = Filter(Rules(lines))
    assert [path for path in out if not excluded(filter_, path)] == []
    assert [path for path in stays if excluded(filter_, path)] == []


def test_a_file_below_overrides_those_above():
    top = Filter(None).with_rules(file_rules(b"*.log\n/only-top\n"))
    inside = top.below(b"d").with_rules(file_rules(b"!keep.log\n/here\n"))

    assert top.excludes(b"keep.log", is_directory=False)
    assert not inside.excludes(b"keep.log", is_directory=False)
    assert inside.excludes(b"other.log", is_directory=False)
    assert inside.excludes(b"here", is_directory=False)
    assert not inside.below(b"e").excludes(b"here", is_directory=False)
    assert not inside.excludes(b"only-top", is_directory=False)


def test_options_override_files():
    rules = option_rules([(True, "*.tmp"), (False, "keep.me")])
    inside = Filter(rules).below(b"d").with_rules(file_rules(b"!*.tmp\nkeep.me\n*.log\n"))

    assert inside.excludes(b"a.tmp", is_directory=False)
    assert not inside.excludes(b"keep.me", is_directory=False)
    assert inside.excludes(b"a.log", is_directory=False)


@pytest.mark.parametrize(
    ("patterns", "out", "stays"),
    [
        pytest.param([(True, "*.x"), (False, "a.x")], ["b.x"], ["a.x"], id="later-include"),
        pytest.param([(False, "a.x"), (True, "*.x")], ["a.x"], [], id="later-exclude"),
        pytest.param([(True, "#x")], ["#x"], ["x"], id="no-comments-here"),
        pytest.param([(True, "*"), (False, "#x")], ["x"], ["#x"], id="nor-in-include"),
        pytest.param([(True, "*"), (True, "!x")], ["y"], ["x"], id="negated-exclude"),
        pytest.param([(True, "x"), (False, "!x")], ["x"], [], id="negated-include"),
        pytest.param([(True, "sub/dir")], ["sub/dir/x"], ["dir/x"], id="from-the-root"),
    ],
)
def test_options_in_their_order(patterns, out, stays):
    filter_ = Filter(option_rules(patterns))
    assert [path for path in out if not excluded(filter_, path)] == []
    assert [path for path in stays if excluded(filter_, path)] == []


@pytest.mark.parametrize("pattern", ["", " ", "/", "!", "a\\", "[x"])
def test_options_that_are_no_pattern(pattern):
    with pytest.raises(ValueError, match="not a valid pattern"):
        option_rules([(True, pattern)])


def test_nothing_to_leave_out_costs_nothing():
    filter_ = Filter(option_rules([]))
    assert not filter_.active
    assert filter_.below(b"d") is filter_
    assert filter_.with_rules(file_rules(b"\n# nothing\n")) is filter_


def test_a_byte_order_mark_is_no_part_of_a_pattern():
    assert Filter(file_rules(b"\xef\xbb\xbfx\n")).excludes(b"x", is_directory=False)


# git is the judge ----------------------------------------------------------------------------

_NAMES = ["a", "b", "foo", "bar", "x.o", "#h", "!n", " s", "s ", "a\nb", "[q]", "*", "-", "a\\b"]
_PARTS = ["a", "b", "foo", "*", "**", "*.o", "?", "f?o", "[ab]", "[!a]", "fo*", "b*", "!n", "\\#h"]
_PARTS += ["\\!n", "s\\ ", "s ", "#h", "[[:alpha:]]", "a\\\\b", "***", "**a", "[a-f]", "[]q[]"]

_line = st.builds(
    lambda start, parts, end: start + "/".join(parts) + end,
    st.sampled_from(["", "", "", "/", "!", "!/"]),
    st.lists(st.sampled_from(_PARTS), min_size=1, max_size=3),
    st.sampled_from(["", "", "/"]),
)
_path = st.lists(st.sampled_from(_NAMES), min_size=1, max_size=4).map("/".join)
_git = shutil.which("git")


@pytest.mark.skipif(_git is None, reason="no git here to compare with")
@settings(max_examples=settings().max_examples // 2)
@given(
    files=st.sets(_path, min_size=1, max_size=20),
    ignores=st.dictionaries(_path | st.just(""), st.lists(_line, max_size=4), max_size=3),
)
def test_the_same_as_git(tmp_path_factory, files, ignores):
    top = tmp_path_factory.mktemp("repository")
    environment = {"PATH": os.environ["PATH"], "HOME": str(top), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run([_git, "init", "-q", top], check=True, env=environment)
    for path in files:
        if _can_be_made(top / path):
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            (top / path).touch()
    for directory, lines in ignores.items():
        if (top / directory).is_dir():
            (top / directory / ".gitignore").write_text("\n".join([*lines, ""]))
    listed = subprocess.run(
        [_git, "ls-files", "-o", "-z", "--exclude-per-directory=.gitignore"],
        cwd=top,
        check=True,
        capture_output=True,
        env=environment,
    )
    found = {name for name in listed.stdout.decode().split("\0") if name}

    assert found - {n for n in found if n.endswith(".gitignore")} == set(_walk(top, "", Filter()))


def _can_be_made(path) -> bool:
    above = [one for one in path.parents if one.exists()]
    return above[0].is_dir() and not path.exists()


def _walk(top, below, filter_):
    directory = top / below
    if (directory / ".gitignore").exists():
        filter_ = filter_.with_rules(file_rules((directory / ".gitignore").read_bytes()))
    for path in directory.iterdir():
        if path.name in (".git", ".gitignore"):
            continue
        name = os.fsencode(path.name)
        if filter_.excludes(name, is_directory=path.is_dir()):
            continue
        if path.is_dir():
            yield from _walk(top, f"{below}{path.name}/", filter_.below(name))
        else:
            yield below + path.name
