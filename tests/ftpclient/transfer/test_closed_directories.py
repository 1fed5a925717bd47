"""Trees over trees whose directories their owner cannot write to: as cp -r and rsync have it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.ftpclient.sync.test_sync import TIME, write


def tree(top: Path, text: str, mode: int) -> Path:
    """A tree with a closed directory."""
    for name in ("ro/f", "ro/inner/g", "h"):
        write(top / name, text, time=TIME)
    for directory in ("ro/inner", "ro"):
        (top / directory).chmod(mode)
    return top


def changed(top: Path, mode: int) -> None:
    """The same with other bytes, and one file more."""
    for directory in ("ro", "ro/inner"):
        (top / directory).chmod(0o755)
    write(top / "ro" / "new", "new")
    for name in ("ro/f", "ro/inner/g", "h"):
        write(top / name, "changed", time=TIME + 10**9)
    for directory in ("ro/inner", "ro"):
        (top / directory).chmod(mode)


def check(top: Path, mode: int) -> None:
    modes = {name: (top / name).stat().st_mode & 0o777 for name in ("ro", "ro/inner")}
    (top / "ro").chmod(0o755)
    (top / "ro" / "inner").chmod(0o755)
    for name in ("ro/f", "ro/inner/g", "h"):
        assert (top / name).read_text() == "changed"
    assert (top / "ro" / "new").read_text() == "new"
    assert set(modes.values()) == {mode}


@pytest.mark.parametrize("mode", [0o555, 0o500])
@pytest.mark.parametrize(
    "options", [{}, {"resume": False}, {"parallel": 3}], ids=["", "no-resume", "parallel"]
)
def test_put_over_a_closed_directory(plain_user, client, files, tmp_path, options, mode):
    source = tree(tmp_path / "t", "old", mode)
    assert client.put([source], "/t", recursive=True, **options).exit_code == 0
    changed(source, mode)
    summary = client.put([f"{source}/."], "/t", recursive=True, **options)
    assert (summary.exit_code, summary.failed) == (0, 0)
    check(files / "t", mode)
    check(source, mode)


def test_get_over_a_closed_directory(plain_user, client, files, tmp_path):
    source = tree(files / "t", "old", 0o555)
    assert client.get(["/t"], tmp_path / "t", recursive=True).exit_code == 0
    changed(source, 0o555)
    assert client.get(["/t/."], tmp_path / "t", recursive=True).exit_code == 0
    check(tmp_path / "t", 0o555)
    check(source, 0o555)


def test_cp_over_a_closed_directory(plain_user, client, files):
    source = tree(files / "t", "old", 0o555)
    assert client.copy("/t", "/copy", recursive=True).problems == []
    changed(source, 0o555)
    assert client.copy("/t", "/copy", recursive=True).problems == []
    check(files / "copy", 0o555)
    check(source, 0o555)


def test_a_closed_directory_stays_closed_to_single_files(plain_user, client, files, tmp_path):
    tree(files / "t", "old", 0o555)
    client.make_dir("/t/ro", parents=True)
    assert client.put([write(tmp_path / "x")], "/t/ro/x").exit_code == 6
    assert (files / "t" / "ro").stat().st_mode & 0o777 == 0o555
    (files / "t" / "ro").chmod(0o755)
    (files / "t" / "ro" / "inner").chmod(0o755)


def test_a_closed_directory_of_somebody_else(plain_user, client, files, tmp_path, monkeypatch):
    from ftpwire import beneath

    def refuse(fd: int, mode: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    source = tree(tmp_path / "t", "old", 0o755)
    write(files / "t" / "ro" / "f")
    (files / "t" / "ro").chmod(0o555)
    monkeypatch.setattr(beneath, "chmod_pinned", refuse)
    summary = client.put([f"{source}/."], "/t", recursive=True)
    assert summary.failed and (files / "t" / "h").read_text() == "old"
    (files / "t" / "ro").chmod(0o755)
