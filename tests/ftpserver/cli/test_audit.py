"""What `ftpd` commands leave in the audit log, and how `ftpd log` tells it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ftpserver.accounts.penalties import Offence
from ftpserver.audit.files import FILE_NAME
from ftpserver.audit.reader import AuditReader
from ftpserver.audit.record import Record
from ftpserver.cli import main, tables, users
from ftpserver.cli.audit import AUDITED
from ftpserver.cli.log import Columns, fields
from ftpserver.daemon import control
from ftpserver.errors import StateError
from ftpwire import standard
from ftpwire.cells import cells


@pytest.fixture
def ftpd(root, monkeypatch, capsys, quick_passwords):
    """Runs a command line on the root; gives exit status, output and errors."""
    monkeypatch.setenv("FTPD_PASSWORD", "the secret itself")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["ftpd", *arguments, "--root", str(root)])
        status = 0
        try:
            main.main()
        except SystemExit as ended:
            status = ended.code or 0
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def records(root):
    def read() -> list[dict]:
        return [json.loads(line) for line in (root / ".ftpd" / FILE_NAME).read_text().splitlines()]

    return read


def test_every_command_that_is_named_exists():
    for words in AUDITED:
        command = main.cli
        for word in words.split():
            assert isinstance(command, click.Group)
            command = command.commands[word]
        assert hasattr(command.callback, "__wrapped__"), words


LOOKING = {
    *("status", "sessions", "bans", "log", "why", "check", "service", "fingerprint", "completion"),
    *("config check", "config show", "user list", "user show", "token list"),
    "trash list",
    "certificate request",  # of the key that is there
    "start",  # the server records it
}
"""Commands that change nothing, or are recorded elsewhere."""


def words_of(command: click.Command, *words: str) -> Iterator[str]:
    """All commands below one, by their words."""
    if not isinstance(command, click.Group):
        yield " ".join(words)
        return
    for name, one in command.commands.items():
        yield from words_of(one, *words, name)


def test_every_command_that_changes_something_is_recorded():
    assert set(words_of(main.cli)) == LOOKING | AUDITED.keys()


def test_administration_is_recorded(ftpd, records):
    ftpd("user", "add", "alice", "--quota", "10MiB")
    ftpd("user", "set", "alice", "--max-sessions", "3", "--json")
    ftpd("user", "passwd", "alice")
    ftpd("user", "list")
    ftpd("user", "show", "alice")
    assert ftpd("user", "set", "nobody", "--quota", "1MiB")[0] == 5
    assert ftpd("user", "nonsense")[0] == 2
    added, changed, password, failed = records()
    assert (added["event"], added["user"], added["outcome"]) == ("user-add", "alice", "ok")
    assert added["by"] and added["details"] == {"quota": 10 * 2**20}
    assert changed["details"] == {"max_sessions": 3}
    assert password["event"] == "user-passwd" and "details" not in password
    assert (failed["user"], failed["outcome"], failed["code"]) == ("nobody", "failed", "not-found")


def test_no_secret_is_in_it(ftpd, root, records):
    ftpd("user", "add", "alice")
    status, out, _ = ftpd("invite", "--uses", "2", "--json")
    assert status == 0
    text = (root / ".ftpd" / FILE_NAME).read_text()
    assert "secret" not in text
    assert json.loads(out)["code"] not in text
    assert records()[1]["details"] == {"uses": 2, "id": json.loads(out)["id"]}


def test_looking_leaves_nothing(ftpd, root):
    ftpd("user", "list")
    ftpd("invite", "--list")
    ftpd("log")
    assert not (root / ".ftpd" / FILE_NAME).exists()


def test_the_log_is_reported_and_filtered(ftpd, root):
    ftpd("user", "add", "alice", "--quota", "10MiB")
    ftpd("user", "add", "bob")
    ftpd("user", "remove", "carol")
    status, out, err = ftpd("log")
    lines = out.splitlines()
    assert (status, err, len(lines)) == (0, "", 3)
    first, last = lines[0].split("\t"), lines[2].split("\t")
    assert first[1:5] == ["user-add", "ok", "alice", "-"] and "quota=10485760" in first[-1]
    assert len(first) == len(last) == 14
    assert last[1:4] == ["user-remove", "failed", "carol"]
    assert last[-3:-1] == ["not-found", "carol: no such account"]
    assert ftpd("log", "--user", "bob")[1].splitlines() == [lines[1]]
    assert ftpd("log", "--event", "user-remove")[1].splitlines() == [lines[2]]
    assert ftpd("log", "--failed")[1].splitlines() == [lines[2]]
    assert ftpd("log", "--lines", "2")[1].splitlines() == lines[1:]
    assert ftpd("log", "--since", "1h")[1].splitlines() == lines
    assert ftpd("log", "--since", "2030-01-01")[1] == ""
    stored = (root / ".ftpd" / FILE_NAME).read_text()
    assert ftpd("log", "--json")[1] == stored


def test_lines_that_are_torn_are_reported(ftpd, root):
    ftpd("user", "add", "alice")
    with (root / ".ftpd" / FILE_NAME).open("a") as file:
        file.write('{"time":\n')
    status, out, err = ftpd("log")
    assert (status, out.count("\n")) == (0, 1)
    assert err == "ftpd: skipped 1 invalid line\n"


def test_where_no_server_was_ever_started(ftpd, root):
    status, out, err = ftpd("log")
    assert (status, out) == (1, "") and "no server has been started" in err


def test_a_wrong_moment(ftpd):
    assert ftpd("log", "--since", "yesterdayish")[0] == 2


def test_the_file_stays_the_server_s(ftpd, root, monkeypatch):
    """Whoever administers as root leaves a file that the server's own user can go on with."""
    owners = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda fd, *owner: owners.append(owner))
    ftpd("user", "add", "alice")
    state = (root / ".ftpd").stat()
    assert owners == [(state.st_uid, state.st_gid)]


PEOPLE = [
    pytest.param(
        {"user": "alice", "address": "10.0.0.1", "path": "/a b", "size": 2048, "seconds": 0.5},
        "put           alice         10.0.0.1            2.0 KiB  /a b  0.500 s",
        "put\tok\talice\t10.0.0.1\t/a b\t-\t2048\t-\t0.5\t-\t-\t-\t-",
        id="put",
    ),
    pytest.param(
        {"event": "move", "user": "alice", "path": "/a", "target": "/b"},
        "move          alice         -                            /a -> /b",
        "move\tok\talice\t-\t/a\t/b\t-\t-\t-\t-\t-\t-\t-",
        id="move",
    ),
    pytest.param(
        {"path": "/\x1b[2J\u202e\t", "outcome": "refused", "code": "quota", "reason": "a\nb\t"},
        "put           -             -                            "
        "refused  /\\x1b[2J\\u202e\\t  (a\\nb\\t)",
        "put\trefused\t-\t-\t/\\x1b[2J\\u202e\\t\t-\t-\t-\t-\t-\tquota\ta\\nb\\t\t-",
        id="escapes",
    ),
    pytest.param(
        {"path": "/\ufffd", "path_b64": "L/8="},
        "put           -             -                            /\\xff",
        "put\tok\t-\t-\t/\\xff\t-\t-\t-\t-\t-\t-\t-\t-",
        id="no-utf-8",
    ),
    pytest.param(
        {"event": "remove", "path": "/d", "files": 12, "size": 0},
        "remove        -             -                       0 B  /d  12 files",
        "remove\tok\t-\t-\t/d\t-\t0\t12\t-\t-\t-\t-\t-",
        id="tree",
    ),
    pytest.param(
        {"event": "dropped", "count": 7, "outcome": "failed"},
        "dropped       -             -                            failed  7 others not recorded",
        "dropped\tfailed\t-\t-\t-\t-\t-\t-\t-\t-\t-\t-\t7 others not recorded",
        id="dropped",
    ),
    pytest.param(
        {"event": "user-set", "by": "ftpd", "sudo_user": "carol", "login_user": "dave"},
        "user-set      -             -                            "
        "for carol (sudo)  for dave (logged in)  by ftpd",
        "user-set\tok\t-\t-\t-\t-\t-\t-\t-\tftpd\t-\t-\tfor carol (sudo) for dave (logged in)",
        id="sudo",
    ),
    pytest.param(
        {"event": "user-set", "by": "ftpd", "sudo_user": "dave", "login_user": "dave"},
        "user-set      -             -                            for dave (sudo)  by ftpd",
        "user-set\tok\t-\t-\t-\t-\t-\t-\t-\tftpd\t-\t-\tfor dave (sudo)",
        id="sudo-as-logged-in",
    ),
    pytest.param(
        {"event": "user-set", "user": "a", "by": "root", "details": {"x": ["1", "\x07"]}},
        "user-set      a             -                            x=1,\\x07  by root",
        "user-set\tok\ta\t-\t-\t-\t-\t-\t-\troot\t-\t-\tx=1,\\x07",
        id="details",
    ),
]


def test_a_request_is_distinguished_from_what_it_asks_for():
    record = Record("2030-01-01T00:00:00.000Z", "reload-asked", "ok", by="root")
    words = Columns(200).line(record).split()
    assert words[2:] == ["reload", "-", "-", "requested", "by", "root"]
    assert fields(record)[1] == "reload-asked"


@pytest.mark.parametrize(("values", "line", "raw"), PEOPLE)
def test_a_record(capsys, monkeypatch, values, line, raw):
    monkeypatch.setenv("NO_COLOR", "1")
    stamp = {"time": "2030-01-01T00:00:00.000Z", "event": "put", "outcome": "ok"}
    record = Record(**(stamp | values))
    assert Columns(200).line(record) == f"2030-01-01 00:00:00  {line}"
    tables.print_fields(*fields(record))
    assert capsys.readouterr().out == f"2030-01-01T00:00:00.000Z\t{raw}\n"


@pytest.mark.parametrize("width", [20, 30, 59, 60, 79, 80, 99, 100, 119, 120, 200])
@pytest.mark.parametrize("name", ["/short", "/" + "long/" * 40, "/日本語" * 20, "/e\u0301" * 90])
def test_a_record_fits(monkeypatch, width, name):
    monkeypatch.setenv("NO_COLOR", "1")
    record = Record(
        "2030-01-01T00:00:00.000Z",
        "token-revoke",
        "refused",
        user="日本語の名前",
        address="2001:db8:1234:5678::1",
        path=name,
        size=2**40,
    )
    columns = Columns(width)
    assert cells(columns.line(record)) <= width
    assert cells(columns.head()) <= width


def test_what_went_wrong_is_red(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    record = Record("2030-01-01T00:00:00.000Z", "put", "refused", path="/a")
    assert Columns(80).line(record).endswith("\x1b[31mrefused\x1b[0m  /a")
    assert "\x1b" not in Columns(30).line(Record("2030-01-01T00:00:00.000Z", "put", "ok"))


def test_the_address_comes_before_details_and_a_code_only_without_a_reason(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    stamp = "2030-01-01T00:00:00.000Z"
    record = Record(stamp, "login", "refused", "alice", "192.0.2.1", details={"with": "password"})
    record.code = "login-refused"
    assert (
        Columns(115)
        .line(record)
        .endswith("  refused  (login-refused)  from 192.0.2.1  with=passwo…")
    )
    record.reason = "wrong password"
    assert (
        Columns(115)
        .line(record)
        .endswith("  refused  (wrong password)  from 192.0.2.1  with=passw…")
    )


# in a pager --------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch, root, engine):
    """Makes standard output a terminal, 100 columns wide, for a log of 120 records."""
    monkeypatch.setattr(tables, "on_terminal", lambda: True)
    monkeypatch.setattr(tables, "width", lambda: 100)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    with (root / ".ftpd" / FILE_NAME).open("w") as file:
        for number in range(120):
            stamp = f"2026-01-01T00:{number // 60:02}:{number % 60:02}.000Z"
            outcome = "refused" if number == 119 else "ok"
            record = {"time": stamp, "event": "put", "outcome": outcome, "path": f"/{number}"}
            file.write(json.dumps(record) + "\n")


def pager_to(path: Path, monkeypatch, before: str = "") -> None:
    monkeypatch.setenv("PAGER", f"{before}cat >{path}; echo LESS=$LESS >>{path}")


def test_the_last_fifty_are_shown_in_the_pager(ftpd, terminal, tmp_path, monkeypatch):
    pager_to(tmp_path / "shown", monkeypatch)
    monkeypatch.delenv("LESS", raising=False)
    status, out, err = ftpd("log")
    assert (status, out) == (0, "")
    assert err == "ftpd: showing the last 50 records (--lines or --since shows more)\n"
    head, *lines, variables = (tmp_path / "shown").read_text().splitlines()
    assert head.startswith("TIME (UTC)") and len(lines) == 50
    assert lines[0].endswith("  /70") and "\x1b[31mrefused\x1b[0m  /119" in lines[-1]
    assert variables == "LESS=FRX"


def test_all_records_are_shown_in_it_if_they_are_wanted(ftpd, terminal, tmp_path, monkeypatch):
    pager_to(tmp_path / "shown", monkeypatch)
    monkeypatch.setenv("LESS", "R")
    assert ftpd("log", "--since", "2020-01-01") == (0, "", "")
    lines = (tmp_path / "shown").read_text().splitlines()
    assert len(lines) == 122 and lines[-1] == "LESS=R", "the user's own options stay"


NO_PAGER = {
    "dumb": (("TERM", "dumb"), ()),
    "empty": (("PAGER", ""), ()),
    "cat": (("PAGER", "cat"), ()),
    "json": (("TERM", "xterm"), ("--json",)),
}


@pytest.mark.parametrize(("setting", "options"), NO_PAGER.values(), ids=NO_PAGER)
def test_where_no_pager_is_used(ftpd, terminal, tmp_path, monkeypatch, setting, options):
    pager_to(tmp_path / "shown", monkeypatch)
    monkeypatch.setenv(*setting)
    status, out, _ = ftpd("log", *options)
    assert status == 0 and len(out.splitlines()) == (120 if options else 51)
    assert not (tmp_path / "shown").exists()


def test_following_uses_no_pager(ftpd, terminal, tmp_path, monkeypatch):
    pager_to(tmp_path / "shown", monkeypatch)

    def interrupted(self, wanted, follow=False):
        if follow:
            raise KeyboardInterrupt
        return iter(())

    monkeypatch.setattr(AuditReader, "records", interrupted)
    status, out, _ = ftpd("log", "--follow")
    assert status == 0 and out.startswith("TIME (UTC)")
    assert not (tmp_path / "shown").exists()


def test_a_pager_that_is_left_early_ends_the_command_quietly(ftpd, terminal, monkeypatch):
    monkeypatch.setenv("PAGER", "exec <&-; true")
    monkeypatch.setattr(tables, "width", lambda: 20_000)
    monkeypatch.setattr(Columns, "line", lambda self, record: "x" * 100_000)  # fills any pipe
    assert ftpd("log", "--since", "2020-01-01") == (0, "", "")


def test_a_pager_that_does_not_exist_is_named(ftpd, terminal, monkeypatch):
    monkeypatch.setenv("PAGER", "exec /nowhere/pager 2>&-")
    status, out, err = ftpd("log")
    assert (status, out) == (1, "")
    assert err.splitlines()[1:] == [
        "ftpd: exec /nowhere/pager 2>&-: cannot be run (see the variable PAGER)"
    ]


def test_an_error_of_the_log_is_reported_after_the_pager(ftpd, terminal, tmp_path, monkeypatch):
    pager_to(tmp_path / "shown", monkeypatch)

    def failing(self, wanted):
        yield from ()
        raise OSError(5, "Input/output error", "audit.jsonl")

    monkeypatch.setattr(AuditReader, "records", failing)
    status, _, err = ftpd("log", "--since", "2020-01-01")
    assert (status, err) == (1, "ftpd: audit.jsonl: input/output error\n")
    assert (tmp_path / "shown").read_text().startswith("TIME (UTC)")


@pytest.mark.parametrize(
    ("event", "reported"),
    [
        ("logn", "unknown event logn: did you mean login?"),
        ("user-ad", "unknown event user-ad: did you mean user-add?"),
        ("xyzzy", "unknown event xyzzy"),
        ("\x1b[2J", "unknown event \\x1b[2J"),
    ],
)
def test_an_event_that_is_none(ftpd, engine, event, reported):
    status, out, err = ftpd("log", "--event", "login", "--event", event)
    assert (
        (status, out) == (2, "")
        and f"{reported} (see ftpd log --help)\n" in err
        and err.count("\n") == 1
    )


@pytest.mark.parametrize("event", ["login", "user-add", "reload-asked", "ban", "moved-on", "stat"])
def test_an_event_that_is_one(ftpd, engine, event):
    """Of other requests it is recorded that they were forbidden."""
    assert ftpd("log", "--event", event) == (0, "", "")


def test_the_log_is_asked_for_a_path_an_address_and_a_time(ftpd, root, engine):
    lines = [
        {"event": "put", "path": "/docs/a", "user": "alice", "address": "192.0.2.1"},
        {"event": "remove", "path": "/docs", "user": "alice", "address": "192.0.2.2", "files": 9},
        {"event": "ban", "address": "2001:db8::/64"},
    ]
    with (root / ".ftpd" / FILE_NAME).open("w") as file:
        for number, one in enumerate(lines):
            stamp = {"time": f"2026-01-0{number + 1}T00:00:00.000Z", "outcome": "ok"}
            file.write(json.dumps(stamp | one) + "\n")

    def events(*options: str) -> list[str]:
        status, out, err = ftpd("log", *options)
        assert (status, err) == (0, "")
        return [line.split("\t")[1] for line in out.splitlines()]

    assert events("--path", "/docs/a") == ["put", "remove"]
    assert events("--path", ":docs/./a/") == ["put", "remove"]
    assert events("--path", "/docs/a", "--user", "bob") == []
    assert events("--address", "192.0.2.1") == events("--address", "::ffff:192.0.2.1") == ["put"]
    assert events("--address", "192.0.2.0/24") == ["put", "remove"]
    assert events("--address", "2001:db8::7") == ["ban"]
    assert events("--until", "2026-01-02") == ["put", "remove"]
    assert events("--since", "2026-01-02", "--until", "2026-01-02") == ["remove"]


@pytest.mark.parametrize(
    "wrong",
    [
        ("--address", "nowhere"),
        ("--address", "192.0.2.1/24"),
        ("--until", "yesterdayish"),
        ("--until", "1h", "--follow"),
        ("--path", "/a\0b"),
    ],
)
def test_what_can_not_be_asked_for(ftpd, engine, wrong):
    status, out, err = ftpd("log", *wrong)
    assert (status, out) == (2, "") and err


# the running server ------------------------------------------------------------------------


def of(records, event: str) -> dict:
    (one,) = [one for one in records() if one["event"] == event]
    return one


def test_commands_to_the_server_name_who_gave_them(ftpd, records, start_server, monkeypatch):
    monkeypatch.setenv("SUDO_USER", "carol")
    server = start_server()
    server.service.limits.penalize("192.0.2.1", Offence.CRASH)
    assert ftpd("reload")[0] == 0
    assert ftpd("unban", "192.0.2.1")[0] == 0
    assert ftpd("kick", "user:nobody")[0] == 5
    requested = of(records, "reload-asked")
    assert (requested["sudo_user"], requested["outcome"]) == ("carol", "ok") and requested["by"]
    lifted = of(records, "unban")
    assert (lifted["address"], lifted["sudo_user"]) == ("192.0.2.1", "carol")
    kicked = of(records, "kick")
    assert (kicked["outcome"], kicked["user"]) == ("failed", "nobody")
    assert "for carol (sudo)" in ftpd("log", "--address", "192.0.2.1")[1]
    start_server.finish(server)
    assert of(records, "start")["sudo_user"] == "carol"


@pytest.mark.parametrize(
    ("command", "event"), [("stop", "stop-asked"), ("drain", "drain")], ids=["stop", "drain"]
)
def test_what_only_waits_is_recorded_before(ftpd, records, monkeypatch, engine, command, event):
    """Also when the waiting is given up."""
    seen: list[str] = []

    def ask(state, question):
        yield
        seen.extend(one["event"] for one in records())
        raise KeyboardInterrupt

    monkeypatch.setattr(control, "ask_until_end", ask)
    status, _, _ = ftpd(command)
    assert status and seen == [event]
    assert of(records, event)["outcome"] == "ok"


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [
        (KeyboardInterrupt(), "cut"),
        (StateError("the disk is gone"), "failed"),
        (OSError(5, "Input/output error"), "failed"),
        (standard.ReaderLeft(), "cut"),
        (SystemExit(6), "failed"),
        (SystemExit(0), "ok"),
    ],
    ids=["interrupted", "state", "os", "no-reader", "status-6", "status-0"],
)
def test_however_a_command_ends(ftpd, records, engine, monkeypatch, raised, outcome):
    def fail(*arguments, **options):
        raise raised

    monkeypatch.setattr(users, "open_accounts", fail)
    ftpd("user", "disable", "alice")
    assert of(records, "user-disable")["outcome"] == outcome
