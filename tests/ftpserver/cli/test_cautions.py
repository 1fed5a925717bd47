"""Settings that leave a server open to strangers: where an administrator is told of them.

The start tells it in its log: tests/system/test_start.py.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ftpserver.settings.table import cautions

OPEN = {"open_registration": True}
BOUNDED = OPEN | {"default_quota": 2**30}
REPORTED = "open-registration without default-quota"

each = pytest.mark.parametrize(
    ("given", "warned"),
    [
        pytest.param(OPEN, True, id="open"),
        pytest.param(BOUNDED, False, id="with-quota"),
        pytest.param({}, False, id="closed"),
    ],
)


@each
def test_config_check(ftpd, root, given, warned):
    (root / ".ftpd").mkdir(mode=0o700, parents=True, exist_ok=True)
    lines = [f"{name.replace('_', '-')} = {json.dumps(value)}" for name, value in given.items()]
    (root / ".ftpd" / "ftpd.toml").write_text("\n".join(lines))
    status, out, err = ftpd("config", "check")
    assert status == 0 and out.endswith("no problems found\n")
    assert (REPORTED in err) is warned


@each
def test_status(ftpd, start_server, given, warned):
    start_server(**given)
    status, out, err = ftpd("status")
    assert (status, err) == (0, "")
    assert [REPORTED in line for line in out.splitlines() if line.startswith("warning")] == (
        [True] if warned else []
    )
    assert bool(json.loads(ftpd("status", "--json")[1])["warnings"]) is warned


def test_reload(start_server, caplog, ftpd):
    """It warns each time; and `ftpd status` tells what holds since then."""
    server = start_server()
    for given, warned in ((OPEN, True), (BOUNDED, False), (OPEN, True), (OPEN, True)):
        changed = {"open_registration": False, "default_quota": None} | given
        server.load_settings = lambda changed=changed: replace(server.settings, **changed)
        caplog.clear()
        server.reload()
        assert (REPORTED in caplog.text) is warned
        assert (REPORTED in ftpd("status")[1]) is warned
        assert bool(cautions(server.settings)) is warned
