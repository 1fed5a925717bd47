"""Remote paths: the one parser, and names that are safe to print."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ftpwire import paths
from ftpwire.errors import InvalidPath
from ftpwire.paths import (
    MAX_DEPTH,
    MAX_NAME,
    MAX_PATH,
    ROOT,
    STAGING,
    RemotePath,
    check_name,
    child,
    from_text,
    join,
    name_of,
    parent_of,
    plain_text,
    printable,
    resolve,
    show,
    split,
    to_text,
)

LONGEST = b"n" * MAX_NAME

ODD_NAMES = {
    "space": b"a b",
    "only-space": b" ",
    "newline": b"a\nb",
    "carriage-return": b"a\rb",
    "tab": b"\t",
    "escape-sequence": b"\x1b[2J\x1b[31mred",
    "bell": b"\x07",
    "delete": b"\x7f",
    "not-utf-8": b"caf\xe9",
    "only-stray-bytes": b"\xff\xfe\x80",
    "utf-8": "café ☕ 日本".encode(),
    "overlong-slash": b"\xc0\xaf",
    "surrogate-in-utf-8": b"\xed\xa0\x80",
    "control-in-utf-8": b"\xc2\x85",
    "right-to-left-override": "\u202egnp.exe".encode(),
    "line-separator": "a\u2028b".encode(),
    "beyond-16-bits": "\U000e0001".encode(),
    "backslash": b"..\\..\\etc",
    "backslash-n": b"a\\nb",
    "backslash-x": b"\\xe9",
    "three-dots": b"...",
    "dots-and-space": b".. ",
    "hidden": b".hidden",
    "leading-dash": b"-rf",
    "tilde": b"~root",
    "drive": b"C:",
    "star": b"*",
    "quote": b"'\"",
    "dollar": b"$HOME",
    "longest": LONGEST,
    "staging-and-more": STAGING + b"x",
    "staging-in-capitals": STAGING.upper(),
    "almost-staging": STAGING[1:],
}
odd_names = pytest.mark.parametrize("name", ODD_NAMES.values(), ids=ODD_NAMES)

BAD_NAMES = {
    "empty": b"",
    "dot": b".",
    "dot-dot": b"..",
    "slash": b"/",
    "with-slash": b"a/b",
    "escape": b"../a",
    "nul": b"\0",
    "with-nul": b"a\0",
    "too-long": LONGEST + b"n",
    "reserved": STAGING,
}


@odd_names
def test_odd_names_are_names(name):
    assert check_name(name) == name
    assert split(b"/" + name) == (name,)
    assert split(b"/d/" + name + b"/f") == (b"d", name, b"f")


@pytest.mark.parametrize("name", BAD_NAMES.values(), ids=BAD_NAMES)
def test_bad_names(name):
    with pytest.raises(InvalidPath) as caught:
        check_name(name)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        pytest.param(b"/", (), id="root"),
        pytest.param(b"//", (), id="root-twice"),
        pytest.param(b"/.", (), id="root-dot"),
        pytest.param(b"/..", (), id="above-the-root"),
        pytest.param(b"/../../..", (), id="far-above-the-root"),
        pytest.param(b"/../etc/passwd", (b"etc", b"passwd"), id="absolute-escape"),
        pytest.param(b"/a/../../../etc", (b"etc",), id="escape-from-a-directory"),
        pytest.param(b"/a/..", (), id="down-and-up"),
        pytest.param(b"/a/b/../c", (b"a", b"c"), id="up-in-the-middle"),
        pytest.param(b"/a/./b", (b"a", b"b"), id="dot-in-the-middle"),
        pytest.param(b"/a/b/", (b"a", b"b"), id="trailing-slash"),
        pytest.param(b"/a/b/.", (b"a", b"b"), id="trailing-dot"),
        pytest.param(b"///a////b", (b"a", b"b"), id="many-slashes"),
        pytest.param(b"/.../x", (b"...", b"x"), id="three-dots"),
        pytest.param(b"/..a/b..", (b"..a", b"b.."), id="dots-in-names"),
        pytest.param(b"/ /a", (b" ", b"a"), id="space"),
        pytest.param(b"/" + LONGEST, (LONGEST,), id="longest-name"),
        pytest.param(b"/a" * MAX_DEPTH, (b"a",) * MAX_DEPTH, id="deepest"),
        pytest.param(b"/a" * (MAX_DEPTH + 5) + b"/.." * 5, (b"a",) * MAX_DEPTH, id="deep-then-up"),
        pytest.param(b"/" * MAX_PATH, (), id="longest-path"),
    ],
)
def test_split(path, parts):
    assert split(path) == parts


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"a", id="relative"),
        pytest.param(b"./a", id="relative-dot"),
        pytest.param(b"../a", id="relative-escape"),
        pytest.param(b"~/a", id="tilde"),
        pytest.param(b"\\a", id="backslash"),
        pytest.param(b"C:/a", id="drive"),
        pytest.param(b"/a\0b", id="nul"),
        pytest.param(b"/a/\0", id="nul-alone"),
        pytest.param(b"/a\0/..", id="nul-then-up"),
        pytest.param(b"/" * (MAX_PATH + 1), id="path-too-long"),
        pytest.param(b"/" + LONGEST + b"n", id="name-too-long"),
        pytest.param(b"/" + LONGEST + b"n/..", id="name-too-long-then-up"),
        pytest.param(b"/a" * (MAX_DEPTH + 1), id="too-deep"),
        pytest.param(b"/" + STAGING, id="reserved"),
        pytest.param(b"/" + STAGING + b"/", id="reserved-slash"),
        pytest.param(b"/a/" + STAGING + b"/b", id="reserved-in-the-middle"),
        pytest.param(b"/" + STAGING + b"/../a", id="reserved-then-up"),
        pytest.param(b"/a/../" + STAGING, id="up-then-reserved"),
    ],
)
def test_split_refuses(path):
    with pytest.raises(InvalidPath) as caught:
        split(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


# Bytes that a path is likely to be cut at, and anything else.
pieces = st.sampled_from([b"/", b"/", b"..", b".", b"a", b"bc", b"\n", b"\xff", b"\0", STAGING])
any_path = st.lists(pieces | st.binary(max_size=6), max_size=30).map(b"".join)


@given(path=any_path.map(lambda path: b"/" + path) | any_path)
def test_split_leaves_only_names(path):
    try:
        parts = split(path)
    except InvalidPath as error:
        assert str(error).isprintable()
        return
    assert not {b"", b".", b"..", STAGING} & set(parts)
    assert not any(b"/" in part or b"\0" in part or len(part) > MAX_NAME for part in parts)
    assert split(join(*parts)) == parts  # nothing is left to resolve


@given(current=any_path, typed=any_path)
def test_resolve_leaves_only_names(current, typed):
    try:
        current = join(*split(b"/" + current))
        found = resolve(current, typed)
    except InvalidPath:
        return
    assert found == join(*split(found))
    assert resolve(found, b"") == resolve(found, b".") == found
    assert resolve(found, b"..") == parent_of(found)
    assert resolve(current, found) == found


@pytest.mark.parametrize(
    ("current", "typed", "found"),
    [
        pytest.param(b"/", b"", b"/", id="nothing"),
        pytest.param(b"/a", b"", b"/a", id="nothing-in-a-directory"),
        pytest.param(b"/a", b"b", b"/a/b", id="relative"),
        pytest.param(b"/", b"b", b"/b", id="relative-in-the-root"),
        pytest.param(b"/a", b"/b", b"/b", id="absolute"),
        pytest.param(b"/a/b", b"..", b"/a", id="up"),
        pytest.param(b"/a", b"../../../etc", b"/etc", id="above-the-root"),
        pytest.param(b"/a", b"./b/../c/", b"/a/c", id="all-at-once"),
        pytest.param(b"/a", b"~", b"/a/~", id="tilde-is-a-name"),
        pytest.param(b"/a", b"b\nc", b"/a/b\nc", id="newline"),
    ],
)
def test_resolve(current, typed, found):
    assert resolve(RemotePath(current), typed) == found


@pytest.mark.parametrize("typed", [b"a\0b", STAGING, b"x/" + STAGING, b"a/" * 3000])
def test_resolve_refuses(typed):
    with pytest.raises(InvalidPath):
        resolve(ROOT, typed)


@pytest.mark.parametrize(
    ("path", "parent", "name"),
    [
        pytest.param(b"/", b"/", b"", id="root"),
        pytest.param(b"//", b"/", b"", id="root-twice"),
        pytest.param(b"/a", b"/", b"a", id="in-the-root"),
        pytest.param(b"/a/b", b"/a", b"b", id="deeper"),
        pytest.param(b"/a/b/", b"/a", b"b", id="trailing-slash"),
        pytest.param(b"/a\n/\xff", b"/a\n", b"\xff", id="odd"),
    ],
)
def test_parent_and_name(path, parent, name):
    assert parent_of(path) == parent
    assert name_of(path) == name
    if name:
        assert child(parent, name) == path.rstrip(b"/")


@pytest.mark.parametrize(
    ("parts", "path"),
    [((), b"/"), ((b"a",), b"/a"), ((b"a", b"b c"), b"/a/b c")],
    ids=["root", "one", "two"],
)
def test_join(parts, path):
    assert join(*parts) == path
    assert split(path) == parts


@odd_names
def test_text_and_back(name):
    assert from_text(to_text(name)) == name


@given(name=st.binary(max_size=60))
def test_text_and_back_of_any_bytes(name):
    assert from_text(to_text(name)) == name
    plain_text(name).encode()  # JSON takes it


@pytest.mark.parametrize(
    ("name", "text"),
    [(b"caf\xe9", "caf\ufffd"), ("café".encode(), "café"), (b"\xff\xff", "\ufffd\ufffd")],
    ids=["stray-byte", "utf-8", "two-stray-bytes"],
)
def test_plain_text(name, text):
    assert plain_text(name) == text


# Showing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(b"plain.txt", "plain.txt", id="plain"),
        pytest.param("café ☕".encode(), "café ☕", id="utf-8"),
        pytest.param(b"a\nb", r"a\nb", id="newline"),
        pytest.param(b"a\rb\tc", r"a\rb\tc", id="return-and-tab"),
        pytest.param(b"a\\nb", r"a\\nb", id="backslash"),
        pytest.param(b"\x1b[31m", r"\x1b[31m", id="escape"),
        pytest.param(b"\x00\x7f", r"\x00\x7f", id="control"),
        pytest.param(b"caf\xe9", r"caf\xe9", id="stray-byte"),
        pytest.param("\x85\xa0".encode(), r"\u0085\u00a0", id="control-in-utf-8"),
        pytest.param("\u202e".encode(), r"\u202e", id="right-to-left-override"),
        pytest.param("\u2028".encode(), r"\u2028", id="line-separator"),
        pytest.param("\U000e0001".encode(), r"\U000e0001", id="beyond-16-bits"),
        pytest.param("\ud800", r"\ud800", id="lone-surrogate"),
        pytest.param("te\nxt", r"te\nxt", id="text"),
        pytest.param("👩\u200d👩\u200d👧", "👩\u200d👩\u200d👧", id="a-joined-family"),
        pytest.param("🏳\ufe0f\u200d🌈", "🏳\ufe0f\u200d🌈", id="a-joined-flag"),
        pytest.param("👩🏽\u200d🚀", "👩🏽\u200d🚀", id="of-any-skin"),
        pytest.param("a\u200db\u200d👩\u200d", r"a\u200db\u200d👩\u200d", id="joined-letters"),
        pytest.param(b"", "", id="empty"),
    ],
)
def test_show(name, text):
    assert show(name) == text


@odd_names
def test_shown_names_fit_on_one_line(name):
    assert show(name).isprintable()


awkward = st.lists(
    st.sampled_from(
        [
            b"\\",
            b"x",
            b"u",
            b"0",
            b"8",
            b"5",
            b"n",
            b"\n",
            b"\x85",
            b"\xc2\x85",
            b"\xc2",
            b"\xe9",
            b"\x1b",
        ]
    )
    | st.text(max_size=3).map(lambda text: text.encode("utf-8", "surrogatepass")),
    max_size=8,
).map(b"".join)


@given(one=awkward | st.binary(max_size=12), other=awkward | st.binary(max_size=12))
@example(one=b"\x85", other=b"\xc2\x85")
@example(one=b"\xe9", other="é".encode())
@example(one=b"\n", other=b"\\n")
@example(one=b"\x1b", other=b"\\x1b")
@example(one=b"\xc2\xa0", other=b"\\u00a0")
def test_different_names_are_shown_differently(one, other):
    assert show(one).isprintable()
    assert (show(one) == show(other)) == (one == other)


def unshow(text: str) -> bytes:
    """What ``show`` was given, read back from what it shows: so nothing can be shown alike."""
    found = bytearray()
    characters = iter(text)
    letters = {"n": b"\n", "r": b"\r", "t": b"\t", "\\": b"\\"}
    for character in characters:
        if character != "\\":
            found += character.encode()
            continue
        kind = next(characters)
        if kind in letters:
            found += letters[kind]
            continue
        digits = "".join(next(characters) for _ in range({"x": 2, "u": 4, "U": 8}[kind]))
        number = int(digits, 16)
        found += bytes([number]) if kind == "x" else chr(number).encode()
    return bytes(found)


@given(
    name=awkward
    | st.binary(max_size=40)
    | st.text().map(lambda text: text.encode("utf-8", "replace"))
)
def test_shown_names_can_be_read_back(name):
    assert unshow(show(name)) == name


@given(text=st.text())
def test_shown_text_is_printable(text):
    assert show(text).replace("\u200d", "").isprintable()  # pictures may be joined


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("a sentence.", "a sentence.", id="plain"),
        pytest.param(r"a\nb: not found", r"a\nb: not found", id="a-name-that-is-shown-already"),
        pytest.param("👩\u200d👧: gone", "👩\u200d👧: gone", id="joined-pictures"),
        pytest.param("a\nb\x1b[2J", r"a\nb\x1b[2J", id="control-characters"),
        pytest.param("a\\b\nc", r"a\b\nc", id="backslash-stays"),
        pytest.param("\udce9", r"\xe9", id="stray-byte"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown


@given(
    text=st.text(st.characters()) | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape"))
)
def test_printable_is_printable_and_settled(text):
    once = printable(text)
    assert once.isprintable()
    assert printable(once) == once
    once.encode()  # any terminal's, any log's


def test_the_reserved_name_fits():
    assert len(STAGING) <= MAX_NAME
    assert paths.PARTIAL_PREFIX and paths.PARTIAL_SUFFIX


_ODD = [b"", b".", b"..", b"...", b"a/b", b"/", b"a\0", b"x" * 255, b"x" * 256, *paths.RESERVED]


@given(st.lists(st.one_of(st.sampled_from([b"a", b"b", *_ODD]), st.binary(max_size=4))))
@example([])
@example([b"", b""])
@example([b"a", b"..", b"b"])
def test_names_are_names_together_when_each_of_them_is(names):
    assert paths.are_names(names) == all(paths.is_name(name) for name in names)


@given(st.binary(max_size=3) | st.binary(min_size=254, max_size=257))
@example(b"/")
@example(b"a\0")
@example(b"x" * 255)
@example(b"x" * 256)
def test_a_prefix_is_what_some_name_begins_with(begin):
    could_be = paths.is_name(begin) or begin in (b"", b".", b"..") or begin in paths.RESERVED
    assert paths.is_prefix(begin) == could_be
