"""Looking after a server: settings, the audit log, backups, running under a supervisor."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from tests.system.programs import (
    PATIENCE,
    Server,
    clean_environment,
    eventually,
    finish,
    program,
)

MIB = 1024 * 1024


def audit(server: Server) -> list[dict]:
    """What is in the audit log by now, without torn lines."""
    path = server.root / ".ftpd" / "audit.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if "\n" in line]


def recorded(server: Server, event: str, **fields) -> dict:
    """Wait for a record; it must stay the only one of its kind."""

    def found() -> list[dict]:
        return [
            record
            for record in audit(server)
            if record["event"] == event
            and all(record.get(name) == value for name, value in fields.items())
        ]

    (record,) = eventually(found, f"{event} {fields}")
    return record


# the audit log -------------------------------------------------------------------------------


def test_who_did_what(server, alice):
    alice.run("put", "-", "dir-less", given=b"12345")
    alice.run("mkdir", "d")
    alice.run("mv", "dir-less", "d/file")
    alice.run("cat", "d/file")
    alice.run("rm", "d/file")
    server.add_user("bob", "--quota", "10B")
    server.user("bob", "password of bob").run("put", "-", "big", given=b"x" * 11, status=7)
    server.user("bob", "wrong").run("ls", status=3)

    stored = recorded(server, "put", path="/dir-less")
    assert (stored["user"], stored["address"], stored["bytes"]) == ("alice", server.seen_from, 5)
    assert len(stored["digest"]) == 64
    assert recorded(server, "move")["target"] == "/d/file"
    assert recorded(server, "get")["path"] == "/d/file"
    assert recorded(server, "remove")["bytes"] == 5
    refused = recorded(server, "put", user="bob")
    assert (refused["outcome"], refused["code"]) == ("refused", "quota")
    assert recorded(server, "login", outcome="refused")["user"] == "bob"
    assert recorded(server, "user-add")["details"] == {"quota": 10}
    assert "password of" not in (server.root / ".ftpd" / "audit.jsonl").read_text()

    reported = server.admin.run("log", "--user", "bob", "--since", "1h").lines
    assert any(line.split("\t")[2] == "refused" and "\tquota\t" in line for line in reported)
    assert server.admin.run("log", "--event", "put", "--json").records == [stored, refused]
    server.stop()
    assert audit(server)[-1]["event"] == "stop"


@pytest.fixture
def audit_disk(tmp_path, admin):
    """A disk of 64 KiB that has nothing but the audit log of a server with one account."""
    admin.run("user", "add", "alice", "--password-stdin", given=b"correct-horse\n")
    disk, log = tmp_path / "disk", tmp_path / "root" / ".ftpd" / "audit.jsonl"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted: {mounted.stderr.decode().strip()}")
    try:
        shutil.copy(log, disk / "log")
        subprocess.run(["mount", "--bind", str(disk / "log"), str(log)], check=True)
        try:
            yield disk
        finally:
            subprocess.run(["umount", "--lazy", str(log)], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_uploads_go_on_while_the_log_has_no_space(audit_disk, start_server, tmp_path):
    server = start_server()
    alice = server.user("alice", "correct-horse")
    (tmp_path / "tree").mkdir()
    for number in range(400):
        (tmp_path / "tree" / f"{number}-{'long' * 40}").write_bytes(b"x")

    alice.run("put", "-r", tmp_path / "tree", "/")

    assert len(os.listdir(server.home() / "tree")) == 400
    eventually(lambda: "events are only counted" in server.log)
    free = ["mount", "-o", "remount,size=4m", str(audit_disk)]
    subprocess.run(free, check=True)
    alice.run("put", "-", "/after", given=b"x")
    server.stop()
    lines = (audit_disk / "log").read_text().splitlines()
    whole = [json.loads(line) for line in lines if line.endswith("}")]
    assert len(whole) >= len(lines) - 1, "at most the line that filled the disk is torn"
    assert "/after" in [record.get("path") for record in whole]
    stored = sum(str(record.get("path")).startswith("/tree/") for record in whole)
    dropped = sum(record.get("count", 0) for record in whole if record["event"] == "dropped")
    assert stored + dropped >= 400 - 1


def test_json_on_stderr(start_server):
    server = start_server("--log-format", "json")
    server.first_user().run("ls")
    server.stop()

    records = [json.loads(line) for line in server.log.splitlines()]
    assert {"time", "level", "logger", "message"} <= records[0].keys()
    assert any("logged in" in record["message"] for record in records)


# settings ------------------------------------------------------------------------------------


def test_settings_from_a_file_and_a_reload(start_server, tmp_path):
    path = tmp_path / "root" / ".ftpd" / "ftpd.toml"
    path.parent.mkdir(parents=True)
    path.write_text('plaintext = true\nlog-format = "json"\naudit-size = 0\n')
    server = start_server()
    server.plaintext = True
    alice = server.first_user()
    alice.run("ls")
    assert not (server.root / ".ftpd" / "audit.jsonl").exists()

    path.write_text("plaintext = true\nmax-user-sessions = 1\nport = 1\n")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "max-user-sessions: 1" in server.log, "it is reloaded")
    eventually(lambda: "log-format: text takes effect after a restart" in server.log)
    assert "port: 1 takes effect after a restart" not in server.log, "a flag stands above it"

    path.write_text("plaintext = maybe\n")
    server.process.send_signal(signal.SIGHUP)
    eventually(lambda: "not reloaded" in server.log, "it is refused")
    alice.run("ls")


def test_settings_that_can_not_be_used(programs, tmp_path):
    (tmp_path / "ftpd.toml").write_text("port = 1\n\nprot = 2\n")
    for words in (["start"], ["config", "check"], ["config", "show"]):
        ended = programs.run(
            [*program("ftpd"), *words, "--config", "ftpd.toml"],
            status=2,
            cwd=tmp_path,
            env=clean_environment(tmp_path),
        )
        assert ended.complaint.endswith("ftpd.toml:3: unknown key prot: did you mean port?")
    assert not (tmp_path / "home").exists()


# backups -------------------------------------------------------------------------------------


def test_a_backup_while_files_come_in(server, alice, start_server, tmp_path, roomy):
    upload = alice.start("put", "-", "big")
    upload.stdin.write(b"x" * MIB)
    eventually(server.staged, "an upload under way")
    copy = tmp_path / "copy"
    server.admin.run("backup", str(copy))
    finish(upload, given=b"y" * MIB)

    assert server.admin.run("check", "--root", str(copy)).text.endswith("the copy is complete\n")
    (copy / ".ftpd" / "tls" / "key.pem").chmod(0o600)
    shown = server.admin.run("fingerprint").text
    assert server.admin.run("fingerprint", "--root", str(copy)).text == shown
    server.admin.run("backup", str(copy), status=1)  # it isn't written over
    recorded(server, "backup", outcome="ok")
    server.stop()

    (copy / "alice").mkdir()  # the files are backed up by other means
    restored = start_server(root=copy)
    again = restored.user("alice", alice.password)
    again.run("put", "-", "new", given=b"after")
    assert again.run("ls").lines == ["new"]
    restored.stop()


def test_a_backup_that_is_killed_is_none(server, alice, programs, tmp_path):
    """It dies in the middle: nothing bears its name, and the next one works."""
    before = "_copy"
    code = (
        "import os, signal; from ftpserver.admin import backup; from ftpserver.cli import main\n"
        f"backup.{before} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "main.main()\n"
    )
    place = tmp_path / "backups" / "one"
    programs.run(
        [sys.executable, "-c", code, "backup", str(place), "--root", str(server.root)],
        status=-signal.SIGKILL,
        cwd=tmp_path,
        env=clean_environment(tmp_path),
    )
    assert not place.exists()
    server.admin.run("backup", str(place))
    server.admin.run("check", "--root", str(place))


# under a supervisor --------------------------------------------------------------------------


def test_the_supervisor_is_informed(start_server, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(PATIENCE)
        server = start_server(environment={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        ready = listening.recv(1000).decode().splitlines()
        server.stop()
        stopping = listening.recv(1000).decode().splitlines()

    assert ready == ["READY=1", f"STATUS=listening on {server.address}"]
    assert stopping[0] == "STOPPING=1"


def test_a_socket_that_the_supervisor_opened(programs, tmp_path):
    launcher = (
        "import os, sys\n"
        "fd = int(sys.argv[1])\n"
        "if fd != 3: os.dup2(fd, 3)\n"
        "os.set_inheritable(3, True)\n"
        "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}\n"
        "os.execv(sys.argv[2], sys.argv[2:])\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with open(tmp_path / "server.log", "wb") as log:
            process = programs.start(
                [sys.executable, "-c", launcher, str(listening.fileno()), *program("ftpd")]
                + ["start", "--root", str(tmp_path / "root"), "--plaintext"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=tmp_path,
                env=clean_environment(tmp_path),
                pass_fds=[listening.fileno()],
            )
    # this end is closed: only the server listens now
    assert process.stdout.readline().decode() == f"listening on 127.0.0.1:{port}\n"
    first = tmp_path / "root" / ".ftpd" / "first-login"
    eventually(first.exists)
    name, password = first.read_text().split()
    got = programs.run(
        [*program("ftp"), "--plaintext", "-s", f"{name}@127.0.0.1:{port}", "whoami"],
        cwd=tmp_path,
        env=clean_environment(tmp_path, FTP_PASSWORD=password),
    )
    assert got.lines == [name]
    process.terminate()
    finish(process)
