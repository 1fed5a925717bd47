"""Settings, and what the command line makes of options and variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftpserver import cli, run
from ftpserver.config import DEFAULT_PORT, Settings, state_of


@pytest.fixture
def settings_of(monkeypatch):
    """The settings that a command line starts the server with."""
    seen = []
    monkeypatch.setattr(run, "serve", lambda settings, **_: seen.append(settings) or 0)

    def parse(*arguments: str) -> Settings:
        with pytest.raises(SystemExit) as ended:
            cli.cli.main(["start", *arguments], prog_name="ftpd")
        assert ended.value.code == 0
        return seen.pop()

    return parse


def test_defaults(settings_of, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = settings_of()
    assert found == Settings(tmp_path / "home")
    assert (found.host, found.port, found.plaintext, found.durable) == (
        None,
        DEFAULT_PORT,
        False,
        True,
    )
    assert found.staging_seconds == 7 * 24 * 3600
    assert DEFAULT_PORT == 1234


def test_options(settings_of, tmp_path):
    found = settings_of(
        *("--root", str(tmp_path), "--host", "::1", "--port", "0", "--plaintext"),
        *("--durability", "none", "--grace", "1.5", "--staging-days", "0.5"),
        *("--limit-rate", "10MiB"),
    )
    assert found == Settings(
        tmp_path,
        host="::1",
        port=0,
        plaintext=True,
        durable=False,
        grace=1.5,
        staging_seconds=12 * 3600,
        limit_rate=10 * 2**20,
    )


def test_variables_and_options_above_them(settings_of, tmp_path, monkeypatch):
    for name, value in {
        "ROOT": str(tmp_path),
        "HOST": "10.0.0.1",
        "PORT": "4321",
        "PLAINTEXT": "1",
        "DURABILITY": "none",
        "GRACE": "3",
        "STAGING_DAYS": "1",
    }.items():
        monkeypatch.setenv(f"FTPD_{name}", value)
    found = settings_of("--port", "5", "--durability", "commit")
    assert found == Settings(
        tmp_path,
        host="10.0.0.1",
        port=5,
        plaintext=True,
        durable=True,
        grace=3.0,
        staging_seconds=24 * 3600,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--port", "65536"),
        ("--port", "-1"),
        ("--port", "http"),
        ("--durability", "maybe"),
        ("--grace", "-1"),
        ("--limit-rate", "fast"),
        ("--root", __file__),
        ("--nonsense",),
        ("argument",),
    ],
    ids=" ".join,
)
def test_wrong_usage(monkeypatch, capsys, arguments):
    monkeypatch.setattr(run, "serve", lambda *_, **__: pytest.fail("it must not start"))
    with pytest.raises(SystemExit) as ended:
        cli.cli.main(["start", *arguments], prog_name="ftpd")
    assert ended.value.code == 2
    assert "Error" in capsys.readouterr().err


def test_where_the_state_is():
    assert Settings(Path("/srv/files")).state == state_of(Path("/srv/files"))
    assert state_of(Path("/srv/files")) == Path("/srv/files/.ftpd")
