"""What `pip install` brings: the manual pages, where man(1) looks for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("ftp.1", "ftpd.1")
pytest.importorskip("setuptools", reason="needs setuptools to build")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A directory with a source archive in dist/, and with what is installed beside the modules in
    env/. It is of a copy of the tree: building writes into it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("ftpwire", "ftpclient", "ftpserver", "man"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-c", "from setuptools import setup; setup()"]
    for words in (["sdist"], ["install_data", "--install-dir", "env"]):
        subprocess.run([*build, *words], cwd=source, check=True, capture_output=True, timeout=240)
    return source


def test_the_archive_has_the_pages(built):
    (path,) = (built / "dist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {f"man/{page}" for page in PAGES}


def test_the_pages_are_found(built):
    """With -M, and without it where the environment's bin is in PATH: man looks beside it."""
    manuals = built / "env" / "share" / "man"
    assert {one.name for one in (manuals / "man1").iterdir()} == set(PAGES)
    for page in PAGES:
        assert (manuals / "man1" / page).read_bytes() == (ROOT / "man" / page).read_bytes()
    if shutil.which("man") is None:
        pytest.skip("needs man (Debian's man-db)")
    bin_directory = built / "env" / "bin"
    bin_directory.mkdir()
    beside = {**os.environ, "PATH": f"{bin_directory}:{os.environ['PATH']}"}
    beside.pop("MANPATH", None)
    for words, environment in ((("-M", str(manuals)), os.environ), ((), beside)):
        for page in PAGES:
            found = subprocess.run(
                ["man", *words, "-w", page.removesuffix(".1")],
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            assert found.stdout.splitlines()[0] == str(manuals / "man1" / page)
