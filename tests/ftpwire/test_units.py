"""Sizes as people write and read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ftpwire.units import human, iso, parse_duration, parse_moment, parse_past, parse_size, span


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("007", 7),
        ("1B", 1),
        ("1.9B", 1),
        ("1K", 1024),
        ("1KiB", 1024),
        ("1kib", 1024),
        (" 10 MiB ", 10 * 2**20),
        ("1.5G", 3 * 2**29),
        ("0.1T", 2**40 // 10),
        ("1.000000000000000000000000000001K", 1024),
        ("9007199254740993", 2**53 + 1),
        ("8388607.5T", 2**63 - 2**39),
        ("9223372036854775807", 2**63 - 1),
        ("0" * 500 + "1", 1),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "K",
        "-1",
        "+1",
        "1e3",
        "1,5G",
        "1_000",
        ".5",
        "1.",
        "10MB",
        "10Kb",
        "10 i",
        "1PiB",
        "inf",
        "nan",
        "٣",
        "1 2",
        "9223372036854775808",
        "8388608T",
        "9" * 400,
        "9" * 10_000,
    ],
)
def test_what_is_no_size(text):
    with pytest.raises(ValueError) as caught:
        parse_size(text)
    assert len(str(caught.value)) < 12_000 and "\n" not in str(caught.value)


@given(st.integers(0, 2**63 - 1))
def test_bytes_are_exact(size):
    assert parse_size(str(size)) == size
    assert parse_size(f"{size}B") == size


@given(st.text(max_size=30))
def test_anything_is_a_size_or_refused(text):
    try:
        assert 0 <= parse_size(text) < 2**63
    except ValueError:
        pass


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (999 * 1024, "999.0 KiB"),
        (1000 * 1024, "1.0 MiB"),
        (2**20 - 1, "1.0 MiB"),
        (1008 * 2**30, "1.0 TiB"),
        (2**20, "1.0 MiB"),
        (5 * 2**30, "5.0 GiB"),
        (2**40, "1.0 TiB"),
        (2**63 - 1, "8388608.0 TiB"),
    ],
)
def test_shown_to_people(size, shown):
    assert human(size) == shown


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("90s", 90), ("15m", 900), ("12 h", 43200), (" 30D ", 2592000), ("2w", 1209600)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5h", "1y", "1d2h", "9" * 10 + "s"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("2030-12-31", "2030-12-31T00:00:00Z"),
        ("2030-12-31T18:30", "2030-12-31T18:30:00Z"),
        ("2030-12-31T18:30:00+02:00", "2030-12-31T16:30:00Z"),
        ("2030-12-31T18:30:00Z", "2030-12-31T18:30:00Z"),
        ("2d", "1970-01-03T00:16:40Z"),
    ],
)
def test_moments(text, reported):
    assert iso(parse_moment(text, now=1000)) == reported


@pytest.mark.parametrize("text", ["", "soon", "31.12.2030", "2030-13-01", "30", "never"])
def test_what_is_no_moment(text):
    with pytest.raises(ValueError, match="not a date"):
        parse_moment(text)


def test_a_moment_beyond_all_calendars_can_be_reported():
    assert iso(2**60) == str(2**60)


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        ("now", "2026-11-29T13:10:00Z"),
        ("today", "2026-11-29T00:00:00Z"),
        ("Yesterday", "2026-11-28T00:00:00Z"),
        ("2h", "2026-11-29T11:10:00Z"),
        ("2 hours ago", "2026-11-29T11:10:00Z"),
        ("1 day ago", "2026-11-28T13:10:00Z"),
        ("90 seconds ago", "2026-11-29T13:08:30Z"),
        ("9:05", "2026-11-29T09:05:00Z"),
        ("09:05:30", "2026-11-29T09:05:30Z"),
        ("2026-01-02", "2026-01-02T00:00:00Z"),
        ("2026-01-02T18:00", "2026-01-02T18:00:00Z"),
    ],
)
def test_moments_of_the_past(text, reported):
    now = parse_moment("2026-11-29T13:10:00Z")
    assert iso(int(parse_past(text, now=now))) == reported


@pytest.mark.parametrize("text", ["", "tomorrow", "24:00", "9:60", "2 hours", "ago", "-2h", "1y"])
def test_what_is_no_moment_of_the_past(text):
    with pytest.raises(ValueError, match="is not a time: use 2h, yesterday, 18:00, 2030-12-31"):
        parse_past(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.9, "0 s"),
        (59, "59 s"),
        (60, "1:00"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (86399, "23:59:59"),
        (86400, "1 d 0 h"),
        (10**7, "115 d 17 h"),
    ],
)
def test_spans(seconds, text):
    assert span(seconds) == text
