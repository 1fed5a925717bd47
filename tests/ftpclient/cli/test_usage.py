"""`du`: what is added up, and in which order it is printed."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpclient.cli.commands.usage import added_up
from ftpwire.messages import Entry

SIZES = {"a/one": 1, "a/b/two": 2, "a/b/four": 4, "a/c/eight": 8, "z": 16}


@pytest.fixture
def tree(user):
    for name, size in SIZES.items():
        path = user.on_server / "t" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)
    return user.on_server / "t"


def lines(reported):
    return [tuple(line.split(None, 1)) for line in reported.lines]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("-s", [("31", "/t")]),
        ("-d 0", [("31", "/t")]),
        ("-d 1 --sort=name", [("31", "/t"), ("15", "/t/a")]),
        ("--sort=size", [("31", "/t"), ("15", "/t/a"), ("8", "/t/a/c"), ("6", "/t/a/b")]),
        ("-S --sort=name", [("16", "/t"), ("1", "/t/a"), ("6", "/t/a/b"), ("8", "/t/a/c")]),
        ("-a -d 1 --sort=size", [("31", "/t"), ("16", "/t/z"), ("15", "/t/a")]),
        ("-s -c", [("31", "/t"), ("31", "total")]),
        ("-S -s -c", [("16", "/t"), ("31", "total")]),
        ("-x a --sort=name", [("16", "/t")]),
        ("-x b/ -x z --sort=name", [("9", "/t"), ("9", "/t/a"), ("8", "/t/a/c")]),
        ("-a -x * --include /z --sort=name", [("16", "/t"), ("16", "/t/z")]),
        ("-s -x one", [("30", "/t")]),
    ],
)
def test_what_is_added_up(user, tree, words, expected):
    assert lines(user.run("du", *words.split(), "/t")) == expected


def test_total_of_several_as_json(user, tree):
    records = user.run("du", "--json", "-sc", "/t/a", "/t/z").records
    assert [record.get("path", "total") for record in records] == ["/t/a", "/t/z", "total"]
    assert records[-1] == {"total": True, "size": 31, "files": 5}


def test_names_are_sorted_and_a_directory_comes_after_its_contents(user, tree):
    for name in ("a!", "a\x01", "Z", "\xff"):
        (tree / name).mkdir()
        (tree / name / "b").touch()
    shown = [path for _, path in lines(user.run("du", "-a", "/t"))]
    assert shown == [
        *("/t/Z/b", "/t/Z", "/t/a/b/four", "/t/a/b/two", "/t/a/b", "/t/a/c/eight", "/t/a/c"),
        *("/t/a/one", "/t/a", "/t/a\\x01/b", "/t/a\\x01", "/t/a!/b", "/t/a!"),
        *("/t/z", "/t/\xff/b", "/t/\xff", "/t"),
    ]


@pytest.mark.skipif(shutil.which("du") is None, reason="there is no du")
@pytest.mark.parametrize("words", ["", "-a", "-S", "-aS", "-d1", "-ad1", "-s"])
def test_the_sums_are_those_of_gnu_du(user, tree, words):
    """Of directories GNU du counts the names, too: --apparent-size and their sizes taken off."""
    options = [words] if words else []
    theirs = subprocess.run(
        ["du", "--apparent-size", "-b", *options, "t"],
        cwd=user.on_server,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = {}
    for line in theirs.stdout.splitlines():
        size, path = line.split("\t")
        inside = (
            [path] if "S" in words else [above for above, _, _ in os.walk(user.on_server / path)]
        )
        names = sum(os.stat(user.on_server / one).st_size for one in inside)
        is_file = (user.on_server / path).is_file()
        expected[f"/{path}"] = int(size) - (0 if is_file else names)
    ours = {path: int(size) for size, path in lines(user.run("du", *options, "/t"))}
    assert ours == expected


NAMES = st.sampled_from([b"a", b"ab", b"b"])


@given(st.recursive(st.integers(0, 9), lambda inner: st.dictionaries(NAMES, inner), max_leaves=9))
def test_against_a_plain_sum(tree):
    tree = tree if isinstance(tree, dict) else {b"f": tree}

    def blocks(directory, content):
        yield (
            directory,
            [
                Entry(
                    name,
                    "dir" if isinstance(one, dict) else "file",
                    0 if isinstance(one, dict) else one,
                    0,
                    0,
                )
                for name, one in content.items()
            ],
        )
        for name, one in content.items():
            if isinstance(one, dict):
                yield from blocks(directory + b"/" + name if directory else name, one)

    def plain(content):
        return sum(plain(one) if isinstance(one, dict) else one for one in content.values())

    def at(path):
        found = tree
        for name in filter(None, path.split(b"/")):
            found = found[name]
        return found

    sums = list(added_up(blocks(b"", tree)))
    assert sums[-1].path == b""
    assert all(one.size == plain(at(one.path)) for one in sums)
    assert all(one.depth == len(list(filter(None, one.path.split(b"/")))) for one in sums)
