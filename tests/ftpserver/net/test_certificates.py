"""Keys and dates from a process of their own, and from this one."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from ftpserver.errors import StateError
from ftpserver.net import certificates, tls

YEAR = 365 * 24 * 3600


@pytest.fixture(params=["here", pytest.param("elsewhere", marks=pytest.mark.system)])
def where(request, monkeypatch) -> str:
    """Whether this process has the library for it."""
    module = "sys" if request.param == "here" else "no such module"
    monkeypatch.setattr(certificates, "_HEAVY", module)
    return request.param


def test_a_key_and_its_certificate(where, tmp_path):
    key, certificate = certificates.new_key("example.org")
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "cert").write_bytes(certificate)
    assert tls.make_context(tmp_path / "cert", tmp_path / "key")
    dates = certificates.dates_of(certificate)
    assert dates.since < time.time() and dates.until > time.time() + 19 * YEAR


def test_no_certificate(where):
    with pytest.raises(StateError, match="not a certificate"):
        certificates.dates_of(b"rubbish")


@pytest.mark.system
def test_a_process_that_cant_be_started(monkeypatch):
    monkeypatch.setattr(certificates, "_HEAVY", "no such module")
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(StateError, match="no process can be started: No such file"):
        certificates.new_key("example.org")


@pytest.mark.system
def test_a_server_that_makes_its_key_does_without_the_library(tmp_path):
    """It would keep the memory for as long as it runs."""
    code = (
        "import sys; from pathlib import Path; from ftpserver.net import tls\n"
        "assert tls.warnings_about(tls.ensure_key(Path(sys.argv[1]))[0]) == []\n"
        "print('cryptography' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, check=True)
    assert done.stdout == b"False\n"
