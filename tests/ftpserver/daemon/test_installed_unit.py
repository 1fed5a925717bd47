"""`ftpd service --check`: an installed unit is read as systemd reads it, drop-ins included."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ftpserver.daemon.installed_unit import differences, drop_ins
from ftpserver.errors import StateError

WANTED = "[Service]\nUser=ftpd\nReadWritePaths=/srv\nAmbientCapabilities=\nTimeoutStopSec=25\n"

FIRST, SECOND, THIRD = (f"{one}/systemd/system" for one in ("etc", "run", "usr/lib"))
DROP_INS = {
    f"{THIRD}/ftpd-a-b.service.d/05.conf": True,
    f"{SECOND}/service.d/10.conf": True,
    f"{FIRST}/ftpd-.service.d/15.conf": True,
    f"{FIRST}/service.d/15.conf": False,  # that of the name counts
    f"{SECOND}/ftpd-a-b.service.d/15.conf": False,  # the first directory counts
    f"{FIRST}/ftpd-a-b.service.d/20.conf": True,
    f"{FIRST}/ftpd-a-.service.d/20.conf": False,  # the whole name counts
    f"{FIRST}/ftpd-a-b.service.d/.30.conf": False,
    f"{FIRST}/ftpd-a-b.service.d/30.conf.bak": False,
    f"{FIRST}/ftpd-a.service.d/30.conf": False,
    f"{FIRST}/ftpd-a-b.socket.d/30.conf": False,
    f"{SECOND}/ftpd-a-.service.d/9.conf": True,
}
"""Where drop-ins of ftpd-a-b.service could be, and whether they count; in the order of reading."""


@pytest.fixture
def tree(tmp_path) -> Path:
    """A tree with a unit, and with all these drop-ins. Each has a key that systemd doesn't know."""
    for number, name in enumerate(DROP_INS):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"[Service]\nOdd{number}=1\n")
    (tmp_path / FIRST / "ftpd-a-b.service").write_text("[Service]\nExecStart=/bin/true\n")
    return tmp_path


def read_by_systemd(tree: Path) -> list[str]:
    """The files that it names when it complains of their keys."""
    directories = ":".join(str(tree / one) for one in (FIRST, SECOND, THIRD))
    ran = subprocess.run(
        ["systemd-analyze", "verify", tree / FIRST / "ftpd-a-b.service"],
        env=os.environ | {"SYSTEMD_UNIT_PATH": directories},
        capture_output=True,
        text=True,
    )
    found = re.findall(r"^(.*\.conf):2: Unknown key", ran.stderr, re.MULTILINE)
    if not found:
        pytest.skip(ran.stderr)
    return [str(Path(one).relative_to(tree)) for one in found]


def test_drop_ins_are_found_where_systemd_finds_them(tree):
    directories = tuple(tree / one for one in (FIRST, SECOND, THIRD))
    found = drop_ins(tree / FIRST / "ftpd-a-b.service", directories)
    assert [str(one.relative_to(tree)) for one in found] == [k for k, v in DROP_INS.items() if v]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_finds_them_there(tree):
    assert read_by_systemd(tree) == [name for name, counts in DROP_INS.items() if counts]


def test_of_a_unit_that_is_elsewhere_only_those_beside_it_count(tree):
    found = drop_ins(tree / FIRST / "ftpd-a-b.service", (tree / SECOND,))
    assert [one.name for one in found] == ["15.conf", "20.conf"]
    assert drop_ins(tree / "ftpd.service") == []


def test_a_template_s_drop_ins_are_those_of_its_instances(tmp_path):
    (tmp_path / "ftpd@.service.d").mkdir()
    (tmp_path / "ftpd@.service.d" / "a.conf").touch()
    assert [one.name for one in drop_ins(tmp_path / "ftpd@one.service")] == ["a.conf"]


@pytest.mark.parametrize(
    ("text", "reported"),
    [
        pytest.param("Environment=A=1\n# User=x", [], id="other-things"),
        pytest.param("User=x", [("User", "x ({})", "ftpd")], id="last"),
        pytest.param("User=x\nUser=ftpd", [], id="the-last-counts"),
        pytest.param("User=", [("User", "nothing", "ftpd")], id="none"),
        pytest.param(
            "ReadWritePaths=/mnt",
            [("ReadWritePaths", "/srv, /mnt ({})", "/srv")],
            id="added",
        ),
        pytest.param("ReadWritePaths=\nReadWritePaths=/srv", [], id="set-anew"),
        pytest.param("", [], id="empty"),
    ],
)
def test_the_drop_in_stands_above_the_unit(tmp_path, text, reported):
    unit, drop_in = tmp_path / "ftpd.service", tmp_path / "ftpd.service.d" / "local.conf"
    unit.write_text(WANTED)
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Service]\n{text}")
    assert differences(unit, WANTED) == [
        f"{key}: the unit has {had.format(drop_in)}, the settings require {wanted}"
        for key, had, wanted in reported
    ]


def test_a_drop_in_that_hides_another_is_read_in_its_place(tmp_path):
    """A link to /dev/null is how systemd.unit(5) has one switched off."""
    first, second = tmp_path / "etc", tmp_path / "lib"
    for one in (first, second):
        (one / "ftpd.service.d").mkdir(parents=True)
    (second / "ftpd.service").write_text(WANTED)
    (second / "ftpd.service.d" / "a.conf").write_text("[Service]\nUser=x\n")
    assert len(differences(second / "ftpd.service", WANTED, (first, second))) == 1
    (first / "ftpd.service.d" / "a.conf").symlink_to("/dev/null")
    assert differences(second / "ftpd.service", WANTED, (first, second)) == []


def test_what_can_not_be_read_is_reported(tmp_path):
    unit, drop_in = tmp_path / "ftpd.service", tmp_path / "ftpd.service.d" / "a.conf"
    with pytest.raises(StateError, match=f"{unit}: cannot be read: no such file"):
        differences(unit, WANTED)
    unit.write_text(WANTED)
    drop_in.parent.mkdir()
    drop_in.write_bytes(b"\xff")
    with pytest.raises(StateError, match=f"{drop_in}: cannot be read: not text"):
        differences(unit, WANTED)


def test_the_command_reads_them(ftpd, root, accounts, tmp_path):
    unit = tmp_path / "ftpd.service"
    unit.write_text(ftpd("service")[1])
    assert ftpd("service", "--installed", str(unit))[0] == 0
    drop_in = tmp_path / "ftpd.service.d" / "limits.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("[Service]\nTimeoutStopSec=1\n")
    status, out, err = ftpd("service", "--installed", str(unit))
    assert status == 1
    assert out == f"TimeoutStopSec: the unit has 1 ({drop_in}), the settings require 25\n"
    reported = "does not match the settings: print it again, or change its drop-ins"
    assert err == f"ftpd: {unit}: {reported}\n"
