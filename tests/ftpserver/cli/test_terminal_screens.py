"""What a terminal shows of `ftpd log` and `ftpd user list` at several widths.

The screens are kept in docs/screens/terminal.
"""

from __future__ import annotations

import pytest

from ftpserver.audit.record import Record
from ftpserver.cli import account_output, tables
from ftpserver.cli.log import Columns
from tests import screens

WIDTHS = [30, 60, 100, 200]
NAME = "/reports/2026/annual-report-of-the-whole-company-2026-final.tar.gz"

pytestmark = pytest.mark.parametrize("columns", WIDTHS)


@pytest.fixture(autouse=True)
def colours(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_log(columns):
    alice = {"user": "alice", "address": "192.0.2.17"}
    reason = f"{NAME}: 20.0 MiB needed, 7.0 MiB free of a quota of 10.0 MiB"
    found = [
        ("login", "ok", alice | {"seconds": 0.012, "details": {"with": "password"}}),
        ("put", "ok", alice | {"path": NAME, "size": 12_345_678, "seconds": 1.5}),
        ("put", "refused", alice | {"path": NAME, "code": "quota", "reason": reason}),
        ("move", "ok", alice | {"path": "/日本語", "target": "/a\x1b[31m\nb"}),
        ("remove", "ok", alice | {"path": "/docs", "files": 300, "size": 2**40}),
        ("login", "refused", {"user": "bob", "address": "2001:db8:1234:5678:9abc::1"}),
        ("user-add", "ok", {"user": "carol", "by": "root", "details": {"quota": 10485760}}),
        ("token-revoke", "failed", {"user": "carol", "by": "root", "sudo_user": "dave"}),
    ]
    drawn = Columns(columns)
    lines = [drawn.head()]
    for minute, (event, outcome, fields) in enumerate(found):
        lines.append(
            drawn.line(Record(f"2026-11-29T13:{minute:02}:07.123Z", event, outcome, **fields))
        )
    screens.check(f"terminal/log-{columns}", "\n".join(lines), columns=columns)


def test_user_list(columns):
    rows = [
        ("alice", "57.0 MiB", "1.2 MiB", "2.0 GiB", "never", "open", "all", "/srv/ftpd/alice"),
        ("bob", "0 B", "0 B", "unlimited", "2026-12-31", "disabled", "no-delete", "/srv/bob"),
        (
            "a-name-of-as-many-letters-as-possible"[:32],
            "999.9 GiB",
            "0 B",
            "1.0 TiB",
            "2020-01-01",
            "expired",
            "/docs=read-only;/in=drop-box",
            "/srv/elsewhere/日本語/a-directory-of-many-letters",
        ),
    ]
    lines = tables.lines(account_output.COLUMNS, rows, columns)
    screens.check(f"terminal/user-list-{columns}", "\n".join(lines), columns=columns)
