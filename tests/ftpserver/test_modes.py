"""Modes of the state: mended where it is ours, told of, and refused where others can write."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from ftpserver import modes
from ftpserver.daemon.control_server import Commands
from ftpserver.errors import StateError
from ftpserver.settings.table import Settings


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def settings(tmp_path) -> Settings:
    """Of a root as a first start leaves it."""
    root = tmp_path / "above" / "root"
    (root / ".ftpd" / "tls").mkdir(parents=True)
    for name, mode in {".ftpd": 0o700, ".ftpd/tls": 0o700, ".": 0o755, "..": 0o755}.items():
        (root / name).chmod(mode)
    for name, mode in {"state.db": 0o600, "tls/key.pem": 0o600, "tls/cert.pem": 0o644}.items():
        path = root / ".ftpd" / name
        path.touch()
        path.chmod(mode)
    return Settings(root)


@pytest.fixture
def no_modes(monkeypatch):
    """A file system that keeps no modes: setting one changes nothing."""
    monkeypatch.setattr(os, "fchmod", lambda fd, mode: None)


def test_what_a_first_start_leaves_is_right(settings):
    assert list(modes.find(settings)) == []
    assert modes.mend(settings) == []


@pytest.mark.parametrize(
    ("name", "mode", "mended"),
    [
        pytest.param(".ftpd", 0o777, 0o750, id="state"),
        pytest.param(".ftpd", 0o755, 0o750, id="state-readable"),
        pytest.param(".ftpd/tls/key.pem", 0o644, 0o640, id="key"),
        pytest.param(".ftpd/tls", 0o777, 0o750, id="keys"),
        pytest.param(".ftpd/tls/cert.pem", 0o666, 0o644, id="certificate"),
        pytest.param(".ftpd/state.db", 0o666, 0o640, id="accounts"),
        pytest.param(".", 0o777, 0o1777, id="root"),
        pytest.param("..", 0o777, 0o1777, id="above"),
    ],
)
def test_what_is_ours_is_mended_with_a_warning(settings, name, mode, mended):
    path = settings.root / name
    path.chmod(mode)
    (warning,) = modes.mend(settings)
    assert f"{mode:04o}" in warning and f"{mended:04o}" in warning
    assert mode_of(path) == mended
    assert modes.mend(settings) == []


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        pytest.param(".ftpd", 0o750, id="state-of-a-group"),
        pytest.param(".ftpd/tls/key.pem", 0o640, id="key-of-a-group"),
        pytest.param(".", 0o1777, id="sticky-root"),
        pytest.param(".", 0o2750, id="setgid-root"),
    ],
)
def test_what_is_right(settings, name, mode):
    (settings.root / name).chmod(mode)
    assert modes.mend(settings) == []
    assert mode_of(settings.root / name) == mode


@pytest.mark.parametrize("name", [".ftpd", ".", ".."])
def test_a_start_is_refused_where_others_can_write(settings, no_modes, name):
    (settings.root / name).chmod(0o777)
    with pytest.raises(StateError, match=r"others can write.*chmod.*allow-loose-modes") as caught:
        modes.mend(settings)
    assert "\n" not in str(caught.value)
    loose = Settings(settings.root, allow_loose_modes=True)
    (warning,) = modes.mend(loose)
    assert "others can write" in warning


@pytest.mark.parametrize("name", [".ftpd/tls/key.pem", ".ftpd/state.db"])
def test_what_can_only_be_read_is_a_warning(settings, no_modes, name):
    (settings.root / name).chmod(0o644)
    (warning,) = modes.mend(settings)
    assert "others can read" in warning


@pytest.mark.parametrize(
    ("mode", "reported"), [(0o600, False), (0o640, False), (0o644, True), (0o660, True)]
)
def test_a_key_that_is_named_is_only_reported(settings, tmp_path, mode, reported):
    key = tmp_path / "elsewhere.pem"
    key.touch()
    key.chmod(mode)
    named = Settings(settings.root, key=key, certificate=key)
    assert len(modes.mend(named)) == reported
    assert mode_of(key) == mode
    assert modes.mend(Settings(settings.root, key=key, certificate=key, plaintext=True)) == []


def test_a_link_in_the_place_of_a_file_is_left_alone(settings, tmp_path):
    other = tmp_path / "another's"
    other.touch()
    other.chmod(0o644)
    (settings.state / "first-login").symlink_to(other)
    assert modes.mend(settings) == []
    assert mode_of(other) == 0o644


def test_a_server_mends_and_reports(start_server, tmp_path, caplog):
    root = tmp_path / "root"
    (root / ".ftpd").mkdir(parents=True)
    (root / ".ftpd").chmod(0o777)
    server = start_server()
    assert mode_of(root / ".ftpd") == 0o750
    assert len(server.warnings) == 1 and server.warnings[0] in caplog.text
    assert Commands(server, None).status().warnings == server.warnings


def test_a_server_does_not_start_where_others_can_write(start_server, tmp_path, no_modes):
    (tmp_path / "root" / ".ftpd").mkdir(parents=True)
    (tmp_path / "root" / ".ftpd").chmod(0o777)
    with pytest.raises(StateError, match="others can write"):
        start_server()
    shutil.rmtree(tmp_path / "root")
    assert start_server().warnings == []


@pytest.mark.parametrize("command", [["check"], ["config", "check"]], ids=" ".join)
def test_both_checks_report(ftpd, root, accounts, command):
    (root / ".ftpd" / "tls").mkdir(mode=0o700, exist_ok=True)
    key = root / ".ftpd" / "tls" / "key.pem"
    key.touch()
    key.chmod(0o644)
    status, out, err = ftpd(*command)
    assert status == 8 and "key.pem" in out + err and "0644" in out + err
    assert mode_of(key) == 0o644  # nothing is changed
    (root / ".ftpd" / "ftpd.toml").write_text("allow-loose-modes = true\n")
    assert ftpd(*command)[0] == 0
    (root / ".ftpd" / "ftpd.toml").unlink()
    key.chmod(0o600)
    assert ftpd(*command)[0] == 0


def test_a_link_on_the_way_to_the_root_can_be_swapped_as_well(settings, tmp_path, no_modes):
    by = tmp_path / "open" / "root"
    by.parent.mkdir()
    by.symlink_to(settings.root)
    assert modes.mend(Settings(by)) == []
    by.parent.chmod(0o777)
    with pytest.raises(StateError, match="open: others can write to it"):
        modes.mend(Settings(by))
