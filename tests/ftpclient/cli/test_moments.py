"""Moments and spans as people write and read them."""

from __future__ import annotations

import time
from datetime import datetime, timedelta

import pytest

from ftpclient.cli import moments

NS = 10**9
NOW = 1_900_000_000


@pytest.fixture
def now(monkeypatch):
    """The clock stands still; the zone is two hours east, as in a summer of Berlin."""
    monkeypatch.setenv("TZ", "XYZ-2")
    time.tzset()
    monkeypatch.setattr(time, "time", lambda: float(NOW))
    monkeypatch.setattr(time, "time_ns", lambda: NOW * NS)
    yield NOW
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2h", 7200),
        ("2 h ago", 7200),
        ("2 hours ago", 7200),
        ("1 day ago", 86400),
        ("10 minutes", 600),
        ("10min", 600),
        ("10 min ago", 600),
        ("90s", 90),
        ("3d", 3 * 86400),
        ("1w", 7 * 86400),
        ("now", 0),
        (f"@{NOW - 5}", 5),
    ],
)
def test_a_moment_that_is_over(now, text, seconds):
    assert moments.past(text) == (now - seconds) * NS


def test_days_begin_at_midnight_here(now):
    today = datetime.fromtimestamp(moments.past("today") // NS)
    yesterday = datetime.fromtimestamp(moments.past("yesterday") // NS)
    assert (today.hour, today.minute) == (0, 0) and today - yesterday == timedelta(days=1)
    assert moments.past("18:30") == moments.past("today") + (18 * 60 + 30) * 60 * NS
    assert moments.past("2030-01-02") == moments.past("2030-01-01T22:00Z")


@pytest.mark.parametrize(
    "text", ["", "2", "2x", "24:00", "-2h", "tomorrow", "2030-13-01", "@x", "h"]
)
def test_what_is_no_moment(text):
    with pytest.raises(ValueError, match=r"is not a time|write @"):
        moments.past(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (200_000, "2 d")],
)
def test_spans(now, seconds, text):
    assert moments.span(seconds) == text
    assert moments.ago((now - seconds) * NS) == (f"{text} ago" if seconds else "just now")


def test_what_the_servers_clock_says_too_early_is_just_now(now):
    assert moments.ago((now + 100) * NS) == "just now"


def test_until_when(now):
    day = datetime.fromtimestamp(now + 3 * 86400)
    assert moments.until(now + 3 * 86400) == f"until {day:%b} {day.day}"
    assert moments.until(now + 60) == f"until {datetime.fromtimestamp(now + 60):%H:%M}"
    assert moments.until(None) == "for ever"
    assert moments.until(2**60) == f"until @{2**60}"
