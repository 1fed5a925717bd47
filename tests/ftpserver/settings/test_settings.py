"""Settings, and what the command line makes of options, variables and a file."""

from __future__ import annotations

import dataclasses
import json
import sys
import tomllib
from ipaddress import ip_network
from pathlib import Path

import pytest

from ftpserver.cli import main, start
from ftpserver.cli.config import ConfigError, read_again, read_settings
from ftpserver.errors import StateError
from ftpserver.settings.table import DEFAULT_PORT, TABLE, Settings, Startups, cautions, state_of


@pytest.fixture
def settings_of(monkeypatch):
    """The settings that a command line starts the server with."""
    seen = []
    monkeypatch.setattr(start, "serve", lambda settings, **_: seen.append(settings) or 0)

    def parse(*arguments: str) -> Settings:
        with pytest.raises(SystemExit) as ended:
            main.cli.main(["start", *arguments], prog_name="ftpd")
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
        "TRASH_DAYS": "3",
        "TRASH_MAX": "none",
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
        trash_days=3,
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
    monkeypatch.setattr(start, "serve", lambda *_, **__: pytest.fail("it must not start"))
    with pytest.raises(SystemExit) as ended:
        main.cli.main(["start", *arguments], prog_name="ftpd")
    assert ended.value.code == 2
    assert "Error" in capsys.readouterr().err


def test_where_the_state_is():
    assert Settings(Path("/srv/files")).state == state_of(Path("/srv/files"))
    assert state_of(Path("/srv/files")) == Path("/srv/files/.ftpd")


# the file ------------------------------------------------------------------------------------


@pytest.fixture
def ftpd(monkeypatch, capsys):
    """Runs a command line; gives exit status, output and errors."""

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ftpd", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return command


@pytest.fixture
def file(tmp_path):
    """Writes tmp_path/root/.ftpd/ftpd.toml."""

    def write(text: str) -> Path:
        path = tmp_path / "root" / ".ftpd" / "ftpd.toml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def shown(ftpd, tmp_path):
    """By the name of each setting, its value, and where that is from."""

    def show(*words: str) -> dict[str, tuple[object, str, str]]:
        status, out, _ = ftpd("config", "show", "--json", "--root", str(tmp_path / "root"), *words)
        assert status == 0
        records = map(json.loads, out.splitlines())
        return {one["name"]: (one["value"], one["from"], one["where"]) for one in records}

    return show


def test_flags_above_variables_above_the_file_above_defaults(tmp_path, file, shown, monkeypatch):
    path = file("port = 1\nstall = 1\ngrace = 1\n")
    for name, value in {"PORT": "2", "STALL": "2", "ROOT": "elsewhere", "BAN_AFTER": ""}.items():
        monkeypatch.setenv(f"FTPD_{name}", value)
    found = shown("--port", "3")
    assert {name: found[name] for name in ("root", "port", "stall", "grace", "ban-after")} == {
        "root": (str(tmp_path / "root"), "flag", ""),
        "port": (3, "flag", "--port"),
        "stall": (2, "variable", "FTPD_STALL"),
        "grace": (1, "file", f"{path}:3"),
        "ban-after": (10, "default", ""),
    }


EVERYTHING = """
# comments stay
host = "::1"
port = 5
plaintext = true
certificate = "c.pem"
key = "/k.pem"
durability = "none"
grace = "2m"
login-grace = 2.5
stall = 3
idle_timeout = 4
max-startups = "1:2:3"
max-sessions = 5
max-user-sessions = 6
max-address-sessions = "7"
ban-after = 8
ban-time = "1h"
limit-rate = "10MiB"
staging-days = 1.5
trash-days = 30
trash-versions = 0
trash-reserve = 0
trash-items = 10
trash-max = 20
open-registration = true
default-quota = 1024
audit-size = 0
audit-keep = 0
log-format = "json"
"""


def test_settings_can_be_in_the_file(tmp_path, file):
    path = file(EVERYTHING)
    assert read_settings(tmp_path / "root") == Settings(
        root=tmp_path / "root",
        host="::1",
        port=5,
        plaintext=True,
        certificate=path.parent / "c.pem",
        key=Path("/k.pem"),
        durable=False,
        grace=120.0,
        login_grace=2.5,
        stall=3.0,
        idle_timeout=4.0,
        max_startups=Startups(1, 2, 3),
        max_sessions=5,
        max_user_sessions=6,
        max_address_sessions=7,
        ban_after=8,
        ban_time=3600.0,
        limit_rate=10 * 2**20,
        staging_seconds=36 * 3600,
        trash_days=30,
        trash_versions=0,
        trash_reserve=0,
        trash_items=10,
        trash_max=20,
        open_registration=True,
        default_quota=1024,
        audit_size=0,
        audit_keep=0,
        log_format="json",
    )


@pytest.mark.parametrize("name", sorted(TABLE))
def test_every_default_can_be_written(tmp_path, file, shown, name):
    written = TABLE[name].kind.show(getattr(Settings, name))
    file(f"{TABLE[name].name} = {json.dumps('none' if written is None else written)}\n")
    assert getattr(read_settings(tmp_path / "root"), name) == getattr(Settings, name)
    assert shown()[TABLE[name].name][1] == "file"


def test_every_setting_is_an_option_with_help(ftpd):
    status, out, _ = ftpd("start", "--help", "--all")
    assert status == 0
    for setting in TABLE.values():
        assert f"--{setting.name}" in out
        assert setting.help


def test_a_flag_switches_off_what_the_file_switches_on(settings_of, tmp_path, file):
    file('plaintext = true\nhost = "::1"\nmax-sessions = 3\n')
    root = ("--root", str(tmp_path / "root"))
    assert settings_of(*root).plaintext
    found = settings_of(*root, "--no-plaintext", "--host", "none", "--max-sessions", "none")
    assert (found.plaintext, found.host, found.max_sessions) == (False, None, None)


def test_a_file_of_another_place(settings_of, tmp_path, monkeypatch):
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc" / "server.toml"
    path.write_text('root = "../srv"\nport = 9\n')
    found = settings_of("--config", str(path))
    assert (found.port, found.root.resolve()) == (9, tmp_path / "srv")
    monkeypatch.setenv("FTPD_CONFIG", str(path))
    found = settings_of("--root", str(tmp_path / "other"))
    assert (found.port, found.root) == (9, tmp_path / "other")


@pytest.mark.parametrize(
    ("text", "line", "reported"),
    [
        pytest.param("\nprot = 1\n", 2, "did you mean port?", id="typo"),
        pytest.param("port = 1\nport = 2\n", 2, "overwrite", id="twice"),
        pytest.param("login-grace = 1\nlogin_grace = 2\n", 2, "twice", id="twice-written"),
        pytest.param("port = 70000\n", 1, "0 to 65535", id="range"),
        pytest.param("port = true\n", 1, "whole number", id="type"),
        pytest.param("port = 1.5\n", 1, "whole number", id="fraction"),
        pytest.param('x = 1\n[limits]\nport = "1"\n', 2, "unknown table", id="table"),
        pytest.param("port = \n", 1, "invalid value", id="syntax"),
        pytest.param('host = "', 1, "unterminated", id="end"),
        pytest.param('\n\nplaintext = "maybe"\n', 3, "true nor false", id="flag"),
        pytest.param('durability = "maybe"', 1, "commit, none", id="choice"),
        pytest.param("grace = -1", 1, "out of range", id="negative"),
        pytest.param("grace = nan", 1, "not a finite number", id="nan"),
        pytest.param("login-grace = 0", 1, "above 0", id="zero"),
        pytest.param('audit-size = "much"', 1, "not a size", id="size"),
        pytest.param("host = 1", 1, "is not text", id="text"),
        pytest.param('max-startups = "1:2"', 1, "BEGIN", id="startups"),
        pytest.param("trash-days = -1", 1, "0 to 36500", id="trash-days"),
        pytest.param("trash-days = 0.5", 1, "whole number", id="half-a-day"),
        pytest.param("trash-reserve = 101", 1, "0 to 100", id="percent"),
        pytest.param("trash-items = 0", 1, "at least 1", id="trash-items"),
        pytest.param('trash-max = "10GiB"', 1, "whole number", id="trash-max"),
        pytest.param('root = "x"', 1, "own file", id="root"),
        pytest.param('certificate = "x"', 0, "must be set together", id="half"),
    ],
)
def test_what_is_wrong_is_reported_with_its_line(tmp_path, file, ftpd, text, line, reported):
    path = file(text)
    for command in (("config", "check"), ("config", "show"), ("start",)):
        status, out, err = ftpd(*command, "--root", str(tmp_path / "root"))
        assert (status, out) == (2, "")
        assert all(one.startswith("ftpd: ") for one in err.splitlines())
        wrong = [one for one in err.splitlines() if reported in one]
        assert len(wrong) == 1 and wrong[0].isprintable()
        assert f"{path}:{line}: " in wrong[0] or not line


def test_everything_that_is_wrong_is_reported_at_once(tmp_path, file, monkeypatch):
    file("prot = 1\nstall = 0\n")
    monkeypatch.setenv("FTPD_GRACE", "never")
    monkeypatch.setenv("FTPD_BAN_AFTER", "1")
    with pytest.raises(ConfigError) as caught:
        read_settings(tmp_path / "root")
    assert len(caught.value.problems) == 3
    assert "FTPD_GRACE" in caught.value.problems[2]


@pytest.mark.parametrize("command", ["config check", "start"])
def test_each_problem_has_a_line(tmp_path, file, ftpd, command):
    path = file("prot = 1\nstall = 0\n")
    words = (*command.split(), "--root", str(tmp_path / "root"))
    status, out, err = ftpd(*words)
    first, second = err.splitlines()
    assert (status, out) == (2, "")
    assert first.startswith(f"ftpd: {path}:1: ") and second.startswith(f"ftpd: {path}:2: ")
    status, _, err = ftpd(*words, "--json")
    record = json.loads(err)
    assert status == record["exit"] == 2 and record["error"] == "configuration"
    assert [f"ftpd: {one}" for one in record["problems"]] == [first, second]


@pytest.mark.parametrize("above", [(), ("--port", "5")], ids=["alone", "below-an-option"])
def test_a_variable_that_is_wrong(ftpd, tmp_path, monkeypatch, above):
    monkeypatch.setenv("FTPD_PORT", "http")
    status, _, err = ftpd("config", "check", "--root", str(tmp_path), *above)
    assert (status, err) == (2, "ftpd: FTPD_PORT: 'http' is not a whole number\n")


@pytest.mark.parametrize(("text", "plain"), [("YES", True), ("off", False), ("y", None)])
def test_a_variable_for_a_flag(tmp_path, monkeypatch, text, plain):
    """These words, and not all that click takes."""
    monkeypatch.setenv("FTPD_PLAINTEXT", text)
    if plain is None:
        with pytest.raises(ConfigError, match="FTPD_PLAINTEXT: 'y' is neither true nor false"):
            read_settings(tmp_path)
    else:
        assert read_settings(tmp_path).plaintext is plain


def test_only_what_has_the_option_takes_the_variable_of_another_file(tmp_path, file, monkeypatch):
    """What is asked for a root (its fingerprint, its backup) is in that root's own file."""
    file("port = 5\n")
    other = tmp_path / "other.toml"
    other.write_text("port = 6\n")
    monkeypatch.setenv("FTPD_CONFIG", str(other))
    assert read_settings(tmp_path / "root").port == 5
    assert read_settings(tmp_path / "root", other).port == 6


def test_settings_are_read_again_as_the_server_was_started(tmp_path, file, monkeypatch):
    """Options stay above the file, which may have changed. What is wrong ends no running server."""
    words = ("--root", "root", "--port", "7", "--no-plaintext")
    monkeypatch.chdir(tmp_path)
    file("port = 5\ngrace = 1\nplaintext = true\n")
    before = read_again(main.start, words)
    assert (before.port, before.grace, before.plaintext) == (7, 1, False)
    file("port = 5\ngrace = 2\n")
    assert read_again(main.start, words) == dataclasses.replace(before, grace=2)
    path = file("grace = x\n")
    with pytest.raises(StateError, match=f"{path}:1: invalid value"):
        read_again(main.start, words)
    path.unlink()
    path.parent.rmdir()
    path.parent.parent.rmdir()
    path.parent.parent.write_text("")
    with pytest.raises(StateError, match="is a file"):
        read_again(main.start, words)


def test_none_is_a_name_where_a_name_has_to_be(settings_of, tmp_path):
    found = settings_of("--root", str(tmp_path), "--session-user", "none", "--host", "none")
    assert (found.session_user, found.host) == ("none", None)


def test_a_variable_that_means_nothing_is_a_warning(ftpd, tmp_path, monkeypatch):
    monkeypatch.setenv("FTPD_PLAINTEX", "1")
    status, out, err = ftpd("config", "check", "--root", str(tmp_path))
    assert status == 0 and "no problems found" in out
    assert "FTPD_PLAINTEX" in err and "FTPD_PLAINTEXT?" in err


@pytest.mark.parametrize("make", ["missing", "directory", "binary"])
def test_a_file_that_can_not_be_read(ftpd, tmp_path, make):
    path = tmp_path / "ftpd.toml"
    if make == "directory":
        path.mkdir()
    elif make == "binary":
        path.write_bytes(b"port = 1\nhost = '\xff'\n")
    status, _, err = ftpd("config", "check", "--config", str(path), "--root", str(tmp_path))
    assert status == 2 and str(path) in err and err.count("\n") == 1
    assert make != "binary" or f"{path}:2: not UTF-8" in err


def test_a_file_that_nobody_may_see_is_not_taken_for_none(tmp_path, file, ftpd, plain_user):
    path = file("port = 5\n")
    path.parent.chmod(0)
    try:
        status, _, err = ftpd("config", "check", "--root", str(tmp_path / "root"))
    finally:
        path.parent.chmod(0o700)
    assert status == 2 and "cannot be read: permission denied" in err


def test_show_reports_where_each_value_is_from(ftpd, tmp_path, file, monkeypatch):
    path = file('host = "é\\u0085\\"x"\n')
    monkeypatch.setenv("FTPD_GRACE", "5")
    arguments = ("config", "show", "--root", str(tmp_path / "root"), "--port", "7")
    status, out, _ = ftpd(*arguments)
    assert status == 0
    reported = {line.split(" ")[0]: line.partition("  # ")[2].strip() for line in out.splitlines()}
    assert (reported["host"], reported["grace"], reported["port"]) == (
        f"{path}:1",
        "FTPD_GRACE",
        "--port",
    )
    assert reported["stall"] == "default"
    assert tomllib.loads(out)["host"] == 'é\u0085"x', "it can be used as a file"
    assert all(line.isprintable() for line in out.splitlines())

    records = {r["name"]: r for r in map(json.loads, ftpd(*arguments, "--json")[1].splitlines())}
    assert records["port"] == {"name": "port", "value": 7, "from": "flag", "where": "--port"}
    assert records["max-sessions"]["value"] is None
    assert len(records) == len(TABLE) + 1


def test_what_is_shown_means_the_same(ftpd, tmp_path, file):
    path = file(EVERYTHING)
    shown = ftpd("config", "show", "--root", str(tmp_path / "root"))[1]
    before = read_settings(tmp_path / "root")
    other = tmp_path / "other.toml"
    other.write_text(shown)
    assert read_settings(None, other) == before
    assert path.exists()


def test_every_field_is_described():
    fields = {field.name for field in dataclasses.fields(Settings)} - {"root"}
    assert fields == TABLE.keys()


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0"])
def test_proxies_everywhere_are_warned_of(tmp_path, network):
    """Then everybody may claim any address. The control: a network of some."""
    wide = Settings(root=tmp_path, proxy_from=(ip_network(network),))
    assert ["proxy-from" in caution for caution in cautions(wide)] == [True]
    assert not cautions(dataclasses.replace(wide, proxy_from=(ip_network("192.0.2.0/24"),)))
