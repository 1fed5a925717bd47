"""`ftp diff` in the real program: no end of it leaves a copy behind."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest


@pytest.mark.parametrize("end", ["TERM", "HUP", "INT"])
def test_a_signal_removes_the_copy(user, end):
    place = user.home / "temporary"
    place.mkdir()
    (user.home / "a").write_text("1\n")
    user.run("put", "a", "/a")
    (user.home / "a").write_text("2\n")
    # $PPID is ftp; SIGINT goes to both, as from a terminal
    program = f'ls "$2" >copy; kill -{end} $PPID; kill -{end} $$; :'
    settings = {"DIFF": program, "TMPDIR": str(place)}
    diffs = replace(user, environment=user.environment | settings)
    status = 130 if end == "INT" else -signal.Signals[f"SIG{end}"]
    diffs.run("diff", "a", ":/a", status=status)
    assert (user.home / "copy").read_text().startswith(str(place))
    assert list(place.iterdir()) == []
