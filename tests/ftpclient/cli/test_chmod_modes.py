"""Modes as chmod takes them. The expected ones are what chmod of GNU coreutils makes."""

from __future__ import annotations

import os

import pytest

from ftpclient.cli.chmod_modes import ModeChange


@pytest.fixture(autouse=True)
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        pytest.param("644", 0o777, 0o644, id="octal"),
        pytest.param("0600", 0o777, 0o600, id="octal-with-a-zero"),
        pytest.param("0", 0o777, 0o000, id="nothing"),
        pytest.param("u+x", 0o644, 0o744, id="add"),
        pytest.param("go-rw", 0o666, 0o600, id="take"),
        pytest.param("u=rw,go=r", 0o777, 0o644, id="set-in-clauses"),
        pytest.param("a+x", 0o644, 0o755, id="all"),
        pytest.param("+x", 0o644, 0o755, id="nobody-named"),
        pytest.param("+w", 0o444, 0o644, id="the-umask-spares"),
        pytest.param("-w", 0o666, 0o466, id="the-umask-spares-when-taking"),
        pytest.param("=r", 0o777, 0o444, id="nobody-named-set"),
        pytest.param("g=u", 0o640, 0o660, id="as-the-user"),
        pytest.param("o+g", 0o750, 0o755, id="add-what-the-group-has"),
        pytest.param("u+r-x", 0o100, 0o400, id="two-actions"),
        pytest.param("go=", 0o777, 0o700, id="nothing-for-them"),
        pytest.param("a+X", 0o644, 0o644, id="X-of-a-plain-file"),
        pytest.param("a+X", 0o744, 0o755, id="X-of-a-program"),
        pytest.param("ug+rw,o-rwx", 0o107, 0o760, id="mixed"),
    ],
)
def test_of_a_file(text, before, after):
    assert ModeChange.parse(text).apply(before, is_dir=False) == after


def test_X_of_a_directory():
    assert ModeChange.parse("a+rX").apply(0o600, is_dir=True) == 0o755


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        pytest.param("755", 0o2700, 0o2755, id="octal-keeps-it"),
        pytest.param("00755", 0o2700, 0o755, id="five-digits-clear-it"),
        pytest.param("2755", 0o700, 0o2755, id="octal"),
        pytest.param("g+s", 0o755, 0o2755, id="add"),
        pytest.param("g-s", 0o2755, 0o755, id="take"),
        pytest.param("ug-s", 0o2755, 0o755, id="take-both"),
        pytest.param("g+ws,o=", 0o755, 0o2770, id="with-others"),
        pytest.param("g=rx", 0o2775, 0o2755, id="set-keeps-it"),
        pytest.param("u+x", 0o2644, 0o2744, id="others-keep-it"),
    ],
)
def test_setgid_of_a_directory(text, before, after):
    assert ModeChange.parse(text).apply(before, is_dir=True) == after


def test_setgid_of_a_file_is_left_out_of_trees():
    assert ModeChange.parse("g+s").apply(0o644, is_dir=False) == 0o644
    assert ModeChange.parse("2775").apply(0o644, is_dir=False) == 0o775


def test_setuid_of_the_old_mode_is_dropped():
    assert ModeChange.parse("u+x").apply(0o4644, is_dir=False) == 0o744


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param("", "is not a mode", id="empty"),
        pytest.param("888", "is not a mode", id="not-octal"),
        pytest.param("u+y", "is not a mode", id="no-such-right"),
        pytest.param("x", "is not a mode", id="no-sign"),
        pytest.param("u+x,", "is not a mode", id="half-a-list"),
        pytest.param("u+gx", "is not a mode", id="copy-and-letters"),
        pytest.param("4755", "keeps no setuid", id="setuid-octal"),
        pytest.param("u+s", "keeps no setuid", id="setuid"),
        pytest.param("+t", "keeps no setuid", id="sticky"),
    ],
)
def test_no_modes(text, why):
    with pytest.raises(ValueError, match=why):
        ModeChange.parse(text)
